/* merge.cl - decode: the splits' partial results of one query row to its output and log-sum-exp. */
#include "element.clh"

static inline kas_softmax load_partial(const kas_work *w, kas_u64 at)
{
    kas_softmax partial;
    partial.greatest = w->part_ml[at * 2u];
    partial.sum = w->part_ml[at * 2u + 1u];
    return partial;
}

/* Empty splits have no output and are left out. */
static inline void merge_output(const kas_work *w, kas_u64 at, kas_softmax whole, __global kas_element *out)
{
    for (kas_u32 d = get_local_id(0); d < KAS_HEAD_DIM; d += KAS_ITEMS) {
        float sum = 0.0f;
        for (kas_u32 split = 0u; split < w->call.splits; split++) {
            kas_softmax partial = load_partial(w, at + split);
            if (partial.sum != 0.0f)
                sum += partial.sum * kas_softmax_weight(partial.greatest, whole.greatest) *
                       w->part_o[(at + split) * KAS_HEAD_DIM + d];
        }
        kas_store(out + d, whole.sum == 0.0f ? 0.0f : sum / whole.sum);
    }
}

KAS_KERNEL(kas_merge, kas_no_memory)
{
    kas_u32 i = KAS_U32(get_group_id(0));
    kas_u32 head = KAS_U32(get_group_id(1));
    kas_sequence s = kas_load_sequence(w);
    if (i < s.queries) {
        kas_u64 row = (kas_z() * (kas_u64)get_num_groups(1) + head) * w->call.queries + i;
        kas_softmax whole = kas_softmax_none();
        for (kas_u32 split = 0u; split < w->call.splits; split++)
            whole = kas_softmax_merge(whole, load_partial(w, row * w->call.splits + split));
        if (kas_has(w, KAS_CALL_OUT))
            merge_output(w, row * w->call.splits, whole, kas_out_row(w, i, head));
        if (kas_has(w, KAS_CALL_LSE) && get_local_id(0) == 0)
            *kas_lse_of(w, i, head) = kas_softmax_lse(whole);
    }
}
