/* merge.cu - decode: the partial results of a query token and head become its output and log-sum-exp. */
#include "common.cuh"

#define MERGE_THREADS 128
#define MERGE_WARPS (MERGE_THREADS / 32)
#define MERGE_SPLITS 256 /* splits whose weights are held at a time */

struct merge_memory {
    float weights[MERGE_SPLITS];
    float greatest[MERGE_WARPS];
    float sum[MERGE_WARPS];
};

/* The softmax of all splits; every thread gets it. */
KAS_CU kas_softmax merge_splits(const float *ml, kas_u32 splits, merge_memory *m)
{
    kas_softmax own = kas_softmax_none();
    for (kas_u32 split = threadIdx.x; split < splits; split += MERGE_THREADS) {
        kas_softmax part = {ml[2 * split], ml[2 * split + 1]};
        own = kas_softmax_merge(own, part);
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
        kas_softmax other = {__shfl_xor_sync(0xffffffffu, own.greatest, step),
                             __shfl_xor_sync(0xffffffffu, own.sum, step)};
        own = kas_softmax_merge(own, other);
    }
    if (threadIdx.x % 32 == 0) {
        m->greatest[threadIdx.x / 32] = own.greatest;
        m->sum[threadIdx.x / 32] = own.sum;
    }
    __syncthreads();
    kas_softmax total = kas_softmax_none();
#pragma unroll
    for (int warp = 0; warp < MERGE_WARPS; warp++) {
        kas_softmax part = {m->greatest[warp], m->sum[warp]};
        total = kas_softmax_merge(total, part);
    }
    return total;
}

/* The weighted sum of element d over all splits; d may lie past the last. */
KAS_CU float merge_element(const float *ml, const float *parts, kas_u32 splits, kas_u32 head_dim, kas_u32 d,
                           float greatest, merge_memory *m)
{
    float sum = 0.0f;
    for (kas_u32 first = 0; first < splits; first += MERGE_SPLITS) {
        const kas_u32 held = kas_min2(splits - first, MERGE_SPLITS);
        __syncthreads();
        for (kas_u32 x = threadIdx.x; x < held; x += MERGE_THREADS)
            m->weights[x] = ml[2 * (first + x) + 1] * kas_softmax_weight(ml[2 * (first + x)], greatest);
        __syncthreads();
        const float *part = parts + (kas_u64)first * head_dim + d;
        if (d < head_dim)
#pragma unroll 16
            for (kas_u32 x = 0; x < held; x++)
                sum += m->weights[x] * part[(kas_u64)x * head_dim];
    }
    return sum;
}

template <class T> KAS_CU void merge_token(const kas_work &w, unsigned char *memory)
{
    const kas_session_block &session = kas_session_of(w);
    const kas_sequence s = kas_load_sequence(w);
    const kas_u32 i = blockIdx.x, head = blockIdx.y, splits = w.call.splits;
    if (i >= s.queries)
        return;
    const kas_u64 index = (((kas_u64)blockIdx.z * gridDim.y + head) * w.call.queries + i) * splits;
    const float *ml = kas_slot<const float>(w, KAS_SLOT_PART_ML) + index * 2;
    const kas_softmax total = merge_splits(ml, splits, (merge_memory *)memory);
    if (kas_has(w, KAS_CALL_LSE) && threadIdx.x == 0)
        *kas_lse_at(w, i, head) = kas_softmax_lse(total);
    if (!kas_has(w, KAS_CALL_OUT))
        return;
    const float share = total.sum == 0.0f ? 0.0f : 1.0f / total.sum;
    const float *parts = kas_slot<const float>(w, KAS_SLOT_PART_O) + index * session.head_dim;
    T *out = kas_out_row<T>(w, i, head);
    for (kas_u32 first = 0; first < session.head_dim; first += MERGE_THREADS) {
        const kas_u32 d = first + threadIdx.x;
        const float sum = merge_element(ml, parts, splits, session.head_dim, d, total.greatest, (merge_memory *)memory);
        if (d < session.head_dim)
            kas_from_float(sum * share, out[d]);
    }
}

KAS_CUDA_KERNEL(merge_generic_f32, MERGE_THREADS, 1, sizeof(merge_memory), merge_token<f32>)
KAS_CUDA_KERNEL(merge_generic_f16, MERGE_THREADS, 1, sizeof(merge_memory), merge_token<f16>)
KAS_CUDA_KERNEL(merge_generic_bf16, MERGE_THREADS, 1, sizeof(merge_memory), merge_token<bf16>)
