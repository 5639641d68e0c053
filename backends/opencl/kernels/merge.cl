/* merge.cl - decode: the splits' partial results of one query row to its output and log-sum-exp. */
#include "element.clh"

#define LANES KAS_ITEMS
#include "partials.clh"

#define DIMS_AN_ITEM ((KAS_HEAD_DIM + KAS_ITEMS - 1u) / KAS_ITEMS)

typedef struct merge_memory {
    partials_memory partials;
    float weights[KAS_ITEMS]; /* of as many splits */
} merge_memory;

/* Adds the weighted outputs of `count` splits, the first of which is number `at`. A split without weight may have none.
 */
static inline void add_outputs(const kas_work *w, const __local merge_memory *m, kas_u64 at, kas_u32 count, float *sums)
{
#pragma unroll 16
    for (kas_u32 split = 0u; split < count; split++) {
        float weight = m->weights[split];
#pragma unroll
        for (kas_u32 n = 0u; n < DIMS_AN_ITEM; n++) {
            kas_u32 d = kas_min2(KAS_U32(get_local_id(0)) + n * KAS_ITEMS, KAS_HEAD_DIM - 1u);
            float value = w->part_o[(at + split) * KAS_HEAD_DIM + d];
            sums[n] += weight == 0.0f ? 0.0f : weight * value;
        }
    }
}

static inline void merge_output(const kas_work *w, __local merge_memory *m, kas_u64 at, kas_softmax whole,
                                __global kas_element *out)
{
    kas_u32 item = KAS_U32(get_local_id(0));
    float sums[DIMS_AN_ITEM];
    for (kas_u32 n = 0u; n < DIMS_AN_ITEM; n++)
        sums[n] = 0.0f;
    for (kas_u32 first = 0u; first < w->call.splits; first += KAS_ITEMS) {
        barrier(CLK_LOCAL_MEM_FENCE);
        if (first + item < w->call.splits) {
            kas_softmax partial = load_partial(w, at + first + item);
            m->weights[item] = partial.sum * kas_softmax_weight(partial.greatest, whole.greatest);
        }
        barrier(CLK_LOCAL_MEM_FENCE);
        add_outputs(w, m, at + first, kas_min2(w->call.splits - first, KAS_ITEMS), sums);
    }
    for (kas_u32 n = 0u; n < DIMS_AN_ITEM; n++)
        if (item + n * KAS_ITEMS < KAS_HEAD_DIM)
            kas_store(out + item + n * KAS_ITEMS, whole.sum == 0.0f ? 0.0f : sums[n] / whole.sum);
}

KAS_KERNEL(kas_merge, merge_memory)
{
    kas_u32 i = KAS_U32(get_group_id(0));
    kas_u32 head = KAS_U32(get_group_id(1));
    kas_sequence s = kas_load_sequence(w);
    if (i < s.queries) {
        kas_u64 row = (kas_z() * (kas_u64)get_num_groups(1) + head) * w->call.queries + i;
        kas_softmax whole = merge_splits(w, &m->partials, row, 1);
        if (kas_has(w, KAS_CALL_OUT))
            merge_output(w, m, row * w->call.splits, whole, kas_out_row(w, i, head));
        if (kas_has(w, KAS_CALL_LSE) && get_local_id(0) == 0)
            *kas_lse_of(w, i, head) = kas_softmax_lse(whole);
    }
}
