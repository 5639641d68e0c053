/* merge.cu - decode: the partial results of a query token and head become its output and log-sum-exp. */
#include "common.cuh"

#define MERGE_THREADS 128
#define MERGE_WARPS (MERGE_THREADS / 32)

struct merge_memory {
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
    for (kas_u32 d = threadIdx.x; d < session.head_dim; d += MERGE_THREADS) {
        float sum = 0.0f;
#pragma unroll 8
        for (kas_u32 split = 0; split < splits; split++) {
            float weight = ml[2 * split + 1] * kas_softmax_weight(ml[2 * split], total.greatest);
            sum += weight * parts[(kas_u64)split * session.head_dim + d];
        }
        kas_from_float(sum * share, out[d]);
    }
}

KAS_CUDA_KERNEL(merge_generic_f32, MERGE_THREADS, 1, sizeof(merge_memory), merge_token<f32>)
KAS_CUDA_KERNEL(merge_generic_f16, MERGE_THREADS, 1, sizeof(merge_memory), merge_token<f16>)
KAS_CUDA_KERNEL(merge_generic_bf16, MERGE_THREADS, 1, sizeof(merge_memory), merge_token<bf16>)
