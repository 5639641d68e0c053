/*
 * pool.cu - decode: pooled scores of 1,024 keys from their logits and the merged partial sums of the row's query rows.
 */
#include "common.cuh"

#define POOL_THREADS 256
#define POOL_KEYS 1024 /* block_keys of the row */
#define POOL_SHARE (POOL_KEYS / POOL_THREADS)
#define POOL_ROWS 64 /* query rows whose log-sum-exp is held at a time */

/* The log-sum-exp of a query row from its partial sums, by one warp. */
KAS_CU float pool_row_lse(const float *ml, kas_u32 splits)
{
    kas_softmax own = kas_softmax_none();
    for (kas_u32 split = threadIdx.x % 32; split < splits; split += 32) {
        kas_softmax part = {ml[2 * split], ml[2 * split + 1]};
        own = kas_softmax_merge(own, part);
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
        kas_softmax other = {__shfl_xor_sync(0xffffffffu, own.greatest, step),
                             __shfl_xor_sync(0xffffffffu, own.sum, step)};
        own = kas_softmax_merge(own, other);
    }
    return kas_softmax_lse(own);
}

KAS_CU void pool_block(const kas_work &w, unsigned char *memory)
{
    const kas_session_block &session = kas_session_of(w);
    const kas_sequence s = kas_load_sequence(w);
    const kas_tile t = kas_load_tile(w, s, 0u);
    const kas_u32 begin = blockIdx.x * POOL_KEYS;
    if (begin >= t.candidates)
        return;
    float *lse = (float *)memory;
    const kas_u32 heads = gridDim.y * session.pool_heads; /* the y extent of logits */
    const kas_u32 rows = session.pool_heads * session.group * w.call.queries;
    const kas_u64 first_row = kas_query_row_index(w, heads, blockIdx.y * session.pool_heads, 0u);
    const float *ml = kas_slot<const float>(w, KAS_SLOT_PART_ML) + first_row * w.call.splits * 2;
    const float *logits = kas_slot<const float>(w, KAS_SLOT_LOGITS) + first_row * w.call.score_stride;
    float sum[POOL_SHARE] = {};
    for (kas_u32 chunk = 0; chunk < rows; chunk += POOL_ROWS) {
        const kas_u32 count = kas_min2(rows - chunk, POOL_ROWS);
        __syncthreads();
        for (kas_u32 row = threadIdx.x / 32; row < count; row += POOL_THREADS / 32) {
            float found = pool_row_lse(ml + (kas_u64)(chunk + row) * w.call.splits * 2, w.call.splits);
            if (threadIdx.x % 32 == 0)
                lse[row] = found;
        }
        __syncthreads();
#pragma unroll 4
        for (kas_u32 row = 0; row < count; row++) {
            if ((chunk + row) % w.call.queries >= s.queries)
                continue;
            const float *line = logits + (kas_u64)(chunk + row) * w.call.score_stride + begin;
#pragma unroll
            for (int x = 0; x < POOL_SHARE; x++) {
                kas_u32 key = threadIdx.x + x * POOL_THREADS;
                if (begin + key < t.candidates)
                    sum[x] += kas_softmax_weight(line[key], lse[row]);
            }
        }
    }
    float *target = kas_scores_row(w, gridDim.y, blockIdx.y, 0u) + begin;
#pragma unroll
    for (int x = 0; x < POOL_SHARE; x++) {
        kas_u32 key = threadIdx.x + x * POOL_THREADS;
        if (begin + key < t.candidates)
            target[key] = sum[x];
    }
}

KAS_CUDA_KERNEL(pool_generic, POOL_THREADS, 1, POOL_ROWS * 4, pool_block)
