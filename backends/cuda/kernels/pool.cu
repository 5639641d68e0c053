/*
 * pool.cu - decode: pooled scores of 4,096 keys from their logits and the merged partial sums of the row's query rows.
 */
#include "common.cuh"

#define POOL_THREADS 256
#define POOL_KEYS 4096 /* block_keys of the row */
#define POOL_QUADS (POOL_KEYS / POOL_THREADS / 4) /* a thread's keys, four neighbours at a time */
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

/* Four neighbouring logits of a row; those past `count` are -inf. */
KAS_CU float4 pool_load(const float *line, bool aligned, kas_u32 key, kas_u32 count)
{
    if (aligned && key + 4u <= count)
        return *(const float4 *)(line + key);
    float4 four;
    four.x = key < count ? line[key] : KAS_NEGATIVE_INFINITY;
    four.y = key + 1u < count ? line[key + 1u] : KAS_NEGATIVE_INFINITY;
    four.z = key + 2u < count ? line[key + 2u] : KAS_NEGATIVE_INFINITY;
    four.w = key + 3u < count ? line[key + 3u] : KAS_NEGATIVE_INFINITY;
    return four;
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
    const kas_u32 count = kas_min2(t.candidates - begin, POOL_KEYS);
    const bool aligned = w.call.score_stride % 4u == 0u;
    float sum[POOL_QUADS][4] = {};
    for (kas_u32 chunk = 0; chunk < rows; chunk += POOL_ROWS) {
        const kas_u32 held = kas_min2(rows - chunk, POOL_ROWS);
        __syncthreads();
        for (kas_u32 row = threadIdx.x / 32; row < held; row += POOL_THREADS / 32) {
            float found = pool_row_lse(ml + (kas_u64)(chunk + row) * w.call.splits * 2, w.call.splits);
            if (threadIdx.x % 32 == 0)
                lse[row] = found;
        }
        __syncthreads();
#pragma unroll 2
        for (kas_u32 row = 0; row < held; row++) {
            if ((chunk + row) % w.call.queries >= s.queries)
                continue;
            const float *line = logits + (kas_u64)(chunk + row) * w.call.score_stride + begin;
            const float base = lse[row];
#pragma unroll
            for (int x = 0; x < POOL_QUADS; x++) {
                const float4 four = pool_load(line, aligned, (threadIdx.x + x * POOL_THREADS) * 4u, count);
                sum[x][0] += kas_softmax_weight(four.x, base);
                sum[x][1] += kas_softmax_weight(four.y, base);
                sum[x][2] += kas_softmax_weight(four.z, base);
                sum[x][3] += kas_softmax_weight(four.w, base);
            }
        }
    }
    float *target = kas_scores_row(w, gridDim.y, blockIdx.y, 0u) + begin;
#pragma unroll
    for (int x = 0; x < POOL_QUADS; x++) {
        const kas_u32 key = (threadIdx.x + x * POOL_THREADS) * 4u;
        if (aligned && key + 4u <= count) {
            *(float4 *)(target + key) = make_float4(sum[x][0], sum[x][1], sum[x][2], sum[x][3]);
        } else {
#pragma unroll
            for (kas_u32 y = 0; y < 4; y++)
                if (key + y < count)
                    target[key + y] = sum[x][y];
        }
    }
}

KAS_CUDA_KERNEL(pool_generic, POOL_THREADS, 1, POOL_ROWS * 4, pool_block)
