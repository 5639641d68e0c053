/*
 * scores_wgmma.cu - pooled scores on the matrix unit of sm_90a. Keys are the rows of the products, so that a key's score
 * is a sum along a thread's own registers. A block takes two neighbouring tiles of queries, one a warpgroup, past the
 * same keys; query rows stay in shared memory and their log-sum-exp in registers.
 */
#include "flash_wgmma.cuh"

#define SCORES_KEYS 4096u /* block_keys of the row */
#define SCORES_ROWS 128u  /* query rows of a turn and warpgroup */

template <class Type> struct scores_shape {
    typedef Type T;
    static constexpr bool values = false;
    static constexpr int stages = 4;
    static constexpr kas_u32 q_at = 0;
    static constexpr kas_u32 k_at = 2 * key_tile::bytes;
    static constexpr kas_u32 v_at = k_at + stages * key_tile::bytes;
    static constexpr kas_u32 lse_at = v_at;
    static constexpr kas_u32 flags_at = lse_at + 2 * SCORES_ROWS * 4;
    static constexpr kas_u32 barriers_at = flags_at + stages * 4 * 4;
    static constexpr int shared = barriers_at + 4 * stages * 8;
};

/* What one warpgroup works on: a tile's scores of keys below `end`; no keys: it only keeps step with the other. */
struct scores_job {
    kas_tile tile;
    kas_u32 end;
    float *target;
};

/* Tile `back` of the pair, counted from the later one, which has more keys. */
KAS_CU scores_job scores_job_of(const kas_work &w, const kas_sequence &s, kas_u32 back, kas_u32 begin)
{
    scores_job job = {};
    if (back >= w.call.tile_count)
        return job;
    const kas_u32 u = w.call.tile_begin + w.call.tile_count - 1u - back;
    job.tile = kas_load_tile(w, s, u);
    if (job.tile.query_begin == job.tile.query_end || begin >= job.tile.candidates ||
        (kas_has(w, KAS_CALL_SKIP_DENSE) && kas_tile_is_dense(job.tile)))
        return job;
    job.end = kas_min2(begin + SCORES_KEYS, job.tile.candidates);
    job.target = kas_scores_row(w, gridDim.y, blockIdx.y, u);
    return job;
}

/* The log-sum-exp (times log2(e)) of the rows that a thread's accumulators stand for: 8 n + 2 (lane % 4) + {0, 1}. */
KAS_CU void scores_load_lse(const kas_work &w, float *shared, const flash_rows &rows, kas_u32 first, float base[16][2])
{
    const kas_u32 local = threadIdx.x % 128u, row = first + local;
    shared[local] = row < rows.count
                        ? *kas_lse_at(w, flash_query(rows, row), flash_head(rows, row)) * KAS_LOG2_E
                        : -KAS_NEGATIVE_INFINITY;
    wide_finish_queries();
#pragma unroll
    for (int n = 0; n < 16; n++) {
        const float2 two = *(const float2 *)(shared + 8 * n + threadIdx.x % 4 * 2);
        base[n][0] = two.x;
        base[n][1] = two.y;
    }
}

/* Sums the weights of keys lane / 4 and lane / 4 + 8 of the warp's 16 and writes or adds them to the scores. */
KAS_CU void scores_write(const scores_job &job, const float logits[16][4], const float base[16][2], float factor,
                         bool capped, kas_u32 first_key, const kas_u32 *present, bool add)
{
    float sums[2][2] = {};
    if (capped) {
#pragma unroll
        for (int n = 0; n < 16; n++)
#pragma unroll
            for (int x = 0; x < 4; x++) {
                const float term = kas_exp2(fmaf(logits[n][x], factor, -base[n][x % 2]));
                sums[x / 2][x % 2] += term > 4.0f ? 4.0f : term;
            }
    } else {
#pragma unroll
        for (int n = 0; n < 16; n++)
#pragma unroll
            for (int x = 0; x < 4; x++)
                sums[x / 2][x % 2] += kas_exp2(fmaf(logits[n][x], factor, -base[n][x % 2]));
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float sum = sums[half][0] + sums[half][1];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        const kas_u32 local = threadIdx.x % 128u / 32u * 16u + 8 * half + threadIdx.x % 32u / 4u;
        const kas_u32 key = first_key + local;
        if (threadIdx.x % 4 == 0 && key < job.end) {
            const float before = add ? job.target[key] : 0.0f;
            job.target[key] = before + (present[local / 32u] >> local % 32u & 1u ? sum : 0.0f);
        }
    }
}

/* Runs the block's keys past the warpgroup's rows of one turn. */
template <class S>
KAS_CU void scores_turn(const kas_work &w, unsigned char *memory, const wide_barriers<S> &barriers,
                        ring_place<S::stages> &at, const scores_job &job, const float base[16][2], kas_u32 begin,
                        kas_u32 end, bool add)
{
    typedef typename S::T T;
    const kas_u32 q_at = kas_shared_address(memory + S::q_at) + threadIdx.x / 128u * key_tile::bytes;
    const kas_u32 k_at = kas_shared_address(memory + S::k_at);
    const float factor = kas_session_of(w).scale * KAS_LOG2_E;
    const bool capped = kas_has(w, KAS_CALL_ESTIMATED);
    wide_await(barriers.k_full(at.slot), at.turn);
    for (kas_u32 first = begin; first < end; first += WIDE_KEYS) {
        float upper[16][4], lower[16][4];
        const kas_u32 slot = at.slot, keys = k_at + slot * key_tile::bytes;
        kas_wgmma_product<T, key_tile, key_tile>(upper, keys, q_at);
        kas_wgmma_product<T, key_tile, key_tile>(lower, keys + 64u * 128u, q_at);
        const uint4 flags = *(const uint4 *)(memory + S::flags_at + slot * 16);
        const kas_u32 present[4] = {flags.x, flags.y, flags.z, flags.w};
        kas_wgmma_wait<1>();
        kas_wgmma_settle(upper);
        scores_write(job, upper, base, factor, capped, first, present, add);
        at.advance();
        if (first + WIDE_KEYS < end) /* here for the reason given in wide_attend */
            wide_await(barriers.k_full(at.slot), at.turn);
        kas_wgmma_wait<0>();
        kas_wgmma_settle(lower);
        wide_release(barriers.k_free(slot));
        scores_write(job, lower, base, factor, capped, first + 64u, present + 2, add);
    }
}

template <class S>
KAS_CU void scores_consume(const kas_work &w, unsigned char *memory, const wide_barriers<S> &barriers,
                           const scores_job &job, kas_u32 begin, kas_u32 end, kas_u32 turns)
{
    typedef typename S::T T;
    const kas_u32 first_head = kas_active_row(w, blockIdx.y), pool_heads = kas_session_of(w).pool_heads;
    const kas_u32 group = threadIdx.x / 128u;
    ring_place<S::stages> at = {};
    bool add = false;
    for (kas_u32 g = first_head; g < first_head + pool_heads; g++) {
        flash_rows rows = flash_tile_rows(w, job.tile, g);
        rows.queries = kas_max2(rows.queries, 1u);
        for (kas_u32 turn = 0; turn < turns; turn++) {
            float base[16][2];
            wide_copy_queries<T, SCORES_ROWS, 1>(w, kas_shared_address(memory + S::q_at) + group * key_tile::bytes, rows,
                                                 turn * SCORES_ROWS, threadIdx.x % 128u, 128u);
            scores_load_lse(w, (float *)(memory + S::lse_at) + group * SCORES_ROWS, rows, turn * SCORES_ROWS, base);
            scores_turn<S>(w, memory, barriers, at, job, base, begin, end, add);
            add = true;
            wide_consumers_meet(); /* the queries have been read */
        }
    }
}

template <class S>
KAS_CU void scores_produce(const kas_work &w, unsigned char *memory, const wide_barriers<S> &barriers, kas_u32 begin,
                           kas_u32 end, kas_u32 turns)
{
    const kas_u32 first_head = kas_active_row(w, blockIdx.y), pool_heads = kas_session_of(w).pool_heads;
    wide_producer<S> producer = {};
    for (kas_u32 g = first_head; g < first_head + pool_heads; g++)
        for (kas_u32 turn = 0; turn < turns; turn++)
            wide_produce<S>(w, memory, barriers, producer, kas_keys_all(end), g, begin / WIDE_KEYS);
    kas_copy_wait_all();
}

/* Every other tile of the x axis has a block that does nothing: its neighbour's takes both. */
template <class S> KAS_CU void scores_wgmma(const kas_work &w, unsigned char *memory)
{
    const kas_sequence s = kas_load_sequence(w);
    const kas_u32 back = blockIdx.x % w.call.tile_count, begin = blockIdx.x / w.call.tile_count * SCORES_KEYS;
    if (back % 2u != 0u)
        return;
    const scores_job later = scores_job_of(w, s, back, begin), earlier = scores_job_of(w, s, back + 1u, begin);
    const kas_u32 end = kas_max2(later.end, earlier.end);
    if (end == 0)
        return;
    const kas_u32 queries = kas_max2(later.tile.query_end - later.tile.query_begin,
                                     earlier.tile.query_end - earlier.tile.query_begin);
    const kas_u32 turns = kas_ceil_div(kas_session_of(w).group * queries, SCORES_ROWS);
    const wide_barriers<S> barriers = wide_prepare<S>(memory);
    if (threadIdx.x >= WIDE_CONSUMERS) {
        kas_lower_registers<64>();
        scores_produce<S>(w, memory, barriers, begin, end, turns);
    } else {
        kas_raise_registers<216>();
        const scores_job own = scores_job_of(w, s, back + threadIdx.x / 128u, begin);
        scores_consume<S>(w, memory, barriers, own, begin, end, turns);
    }
}

KAS_CUDA_KERNEL(scores_wgmma_f16_128, WIDE_THREADS, 1, (scores_shape<f16>::shared), scores_wgmma<scores_shape<f16>>)
KAS_CUDA_KERNEL(scores_wgmma_bf16_128, WIDE_THREADS, 1, (scores_shape<bf16>::shared), scores_wgmma<scores_shape<bf16>>)
