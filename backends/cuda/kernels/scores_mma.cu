/*
 * scores_mma.cu - pooled scores on warp matrix instructions. Keys are the rows of the products, so that a key's score is
 * a sum along a thread's own registers: each warp takes 16 M keys at a time past the tile's query rows, which stay in
 * shared memory.
 */
#include "flash_mma.cuh"

#define SCORES_KEYS 2048u /* block_keys of the row */
#define SCORES_COLUMNS 8  /* matrix tiles of 8 query rows taken at a time */

template <class Type, int HEAD_DIM> struct scores_shape {
    typedef Type T;
    static constexpr int D = HEAD_DIM;
    static constexpr int M = D > 128 ? 1 : 2; /* matrix tiles of 16 keys a warp */
    static constexpr int rows = D > 128 ? 64 : 128; /* query rows of a turn */
    static constexpr int stage = 16 * M * row_layout<D>::pitch; /* of a warp */
    static constexpr int q_at = 2 * stage * FLASH_WARPS;
    static constexpr int lse_at = q_at + rows * row_layout<D>::pitch;
    static constexpr int shared = lse_at + rows * 4;
    static constexpr bool values = false;
};

/* Brings a turn's query rows and their log-sum-exp (times log2(e)) to shared memory. */
template <class S>
KAS_CU void scores_load_turn(const kas_work &w, unsigned char *memory, const flash_rows &rows, kas_u32 first)
{
    flash_load_queries<S>(w, memory, rows, first);
    kas_copy_commit();
    float *lse = (float *)(memory + S::lse_at);
    for (kas_u32 local = threadIdx.x; local < S::rows; local += FLASH_THREADS) {
        const kas_u32 row = first + local;
        lse[local] = row < rows.count
                         ? *kas_lse_at(w, flash_query(rows, row), flash_head(rows, row)) * KAS_LOG2_E
                         : -KAS_NEGATIVE_INFINITY;
    }
    kas_copy_wait<0>();
    __syncthreads();
}

/* Starts the copies of the warp's keys from entry `first` on; bit 16 m + x tells whether key 16 m + x exists. */
template <class S>
KAS_CU kas_u32 scores_load_keys(const kas_work &w, key_source<typename S::T, S::D, false> &source, unsigned char *memory,
                                kas_u32 stage, kas_u32 first, kas_u32 end)
{
    kas_u32 present = 0;
    const kas_u32 at = kas_shared_address(memory + (stage * FLASH_WARPS + threadIdx.x / 32) * S::stage);
#pragma unroll
    for (int m = 0; m < S::M; m++) {
        kas_look_up(w, source, first + 16 * m, end);
        present |= kas_load_keys(source, at + 16 * m * row_layout<S::D>::pitch, 0u) << (16 * m);
    }
    return present;
}

/* What the turn's rows give to the keys lane / 4 and lane / 4 + 8 of each matrix tile: this thread's part. */
template <class S>
KAS_CU void scores_sum(const unsigned char *memory, kas_u32 stage, float factor, bool capped, float sums[S::M][2])
{
    typedef row_layout<S::D> layout;
    const kas_u32 lane = threadIdx.x % 32;
    const kas_u32 k_at = kas_shared_address(memory + (stage * FLASH_WARPS + threadIdx.x / 32) * S::stage);
    const kas_u32 q_at = kas_shared_address(memory + S::q_at);
    const float *lse = (const float *)(memory + S::lse_at);
#pragma unroll 1
    for (int first = 0; first < S::rows; first += 8 * SCORES_COLUMNS) {
        float logits[S::M][SCORES_COLUMNS][4] = {};
#pragma unroll
        for (int k = 0; k < S::D / 16; k++) {
            kas_u32 a[S::M][4];
#pragma unroll
            for (int m = 0; m < S::M; m++)
                kas_load_matrices(k_at + layout::at(16 * m + lane % 16, 2 * k + lane / 16), a[m]);
#pragma unroll
            for (int n = 0; n < SCORES_COLUMNS; n += 2) {
                kas_u32 b[4];
                kas_load_matrices(q_at + layout::at(first + 8 * n + lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2), b);
#pragma unroll
                for (int m = 0; m < S::M; m++) {
                    kas_multiply_add(typename S::T(), logits[m][n], a[m], b[0], b[1]);
                    kas_multiply_add(typename S::T(), logits[m][n + 1], a[m], b[2], b[3]);
                }
            }
        }
#pragma unroll
        for (int n = 0; n < SCORES_COLUMNS; n++) {
            const float2 base = *(const float2 *)(lse + first + 8 * n + lane % 4 * 2);
#pragma unroll
            for (int m = 0; m < S::M; m++)
#pragma unroll
                for (int x = 0; x < 4; x++) {
                    float term = kas_exp2(fmaf(logits[m][n][x], factor, x % 2 == 0 ? -base.x : -base.y));
                    sums[m][x / 2] += capped && term > 4.0f ? 4.0f : term;
                }
        }
    }
}

/* Runs the block's keys begin .. end past a turn's rows; turns after the first add to what stands in `target`. */
template <class S>
KAS_CU void scores_turn(const kas_work &w, unsigned char *memory, kas_u32 g, kas_u32 begin, kas_u32 end, float *target,
                        bool add)
{
    const kas_u32 lane = threadIdx.x % 32, stride = FLASH_WARPS * 16 * S::M;
    const float factor = kas_session_of(w).scale * KAS_LOG2_E;
    const bool capped = kas_has(w, KAS_CALL_ESTIMATED);
    key_source<typename S::T, S::D, false> source;
    kas_open_keys(w, source, kas_keys_all(end), g);
    kas_u32 first = begin + threadIdx.x / 32 * 16 * S::M, stage = 0;
    kas_u32 present = first < end ? scores_load_keys<S>(w, source, memory, 0u, first, end) : 0u;
    kas_copy_commit();
    for (; first < end; first += stride, stage ^= 1u) {
        const kas_u32 next = first + stride;
        const kas_u32 next_present = next < end ? scores_load_keys<S>(w, source, memory, stage ^ 1u, next, end) : 0u;
        kas_copy_commit();
        kas_copy_wait<1>();
        __syncwarp();
        float sums[S::M][2] = {};
        scores_sum<S>(memory, stage, factor, capped, sums);
#pragma unroll
        for (int m = 0; m < S::M; m++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                float sum = sums[m][half];
                sum += __shfl_xor_sync(0xffffffffu, sum, 1);
                sum += __shfl_xor_sync(0xffffffffu, sum, 2);
                const kas_u32 key = 16 * m + 8 * half + lane / 4;
                if (lane % 4 == 0 && first + key < end) {
                    const float before = add ? target[first + key] : 0.0f;
                    target[first + key] = before + (present >> key & 1u ? sum : 0.0f);
                }
            }
        present = next_present;
        __syncwarp();
    }
    kas_copy_wait<0>();
}

template <class S> KAS_CU void scores_mma(const kas_work &w, unsigned char *memory)
{
    const kas_session_block &session = kas_session_of(w);
    const kas_sequence s = kas_load_sequence(w);
    const kas_u32 u = w.call.tile_begin + w.call.tile_count - 1u - blockIdx.x % w.call.tile_count;
    const kas_u32 begin = blockIdx.x / w.call.tile_count * SCORES_KEYS;
    const kas_tile t = kas_load_tile(w, s, u);
    if (t.query_begin == t.query_end || begin >= t.candidates ||
        (kas_has(w, KAS_CALL_SKIP_DENSE) && kas_tile_is_dense(t)))
        return;
    const kas_u32 end = kas_min2(begin + SCORES_KEYS, t.candidates);
    const kas_u32 queries = t.query_end - t.query_begin;
    const kas_u32 first_head = kas_active_row(w, blockIdx.y);
    float *target = kas_scores_row(w, gridDim.y, blockIdx.y, u);
    bool add = false;
    for (kas_u32 g = first_head; g < first_head + session.pool_heads; g++) {
        const flash_rows rows = {g * session.group, t.query_begin, queries, session.group * queries};
        for (kas_u32 first = 0; first < rows.count; first += S::rows) {
            __syncthreads();
            scores_load_turn<S>(w, memory, rows, first);
            scores_turn<S>(w, memory, g, begin, end, target, add);
            add = true;
        }
    }
}

#define SCORES_MMA_KERNEL(name, T, D)                                                                                  \
    KAS_CUDA_KERNEL(name, FLASH_THREADS, (D > 128 ? 1 : 2), (scores_shape<T, D>::shared), scores_mma<scores_shape<T, D>>)

SCORES_MMA_KERNEL(scores_mma_f16_64, f16, 64)
SCORES_MMA_KERNEL(scores_mma_f16_80, f16, 80)
SCORES_MMA_KERNEL(scores_mma_f16_96, f16, 96)
SCORES_MMA_KERNEL(scores_mma_f16_128, f16, 128)
SCORES_MMA_KERNEL(scores_mma_f16_256, f16, 256)
SCORES_MMA_KERNEL(scores_mma_bf16_64, bf16, 64)
SCORES_MMA_KERNEL(scores_mma_bf16_80, bf16, 80)
SCORES_MMA_KERNEL(scores_mma_bf16_96, bf16, 96)
SCORES_MMA_KERNEL(scores_mma_bf16_128, bf16, 128)
SCORES_MMA_KERNEL(scores_mma_bf16_256, bf16, 256)
