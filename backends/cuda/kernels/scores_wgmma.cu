/*
 * scores_wgmma.cu - pooled scores on the matrix unit of sm_90a. Keys are the rows of the products, so that a key's score
 * is a sum along a thread's own registers. A block takes two neighbouring tiles of queries past the same keys; query
 * rows and their log-sum-exp stay in shared memory.
 */
#include "flash_wgmma.cuh"

#define SCORES_KEYS 16384u /* block_keys of the row */
#define SCORES_ROWS 128u  /* query rows of a turn and tile */

template <class Type> struct scores_shape {
    typedef Type T;
    static constexpr bool values = false;
    static constexpr int pair = 256; /* consumer threads of a tile of queries: two warpgroups, half of the keys each */
    static constexpr int consumers = 2 * pair;
    static constexpr int threads = consumers + WIDE_PRODUCERS;
    static constexpr int consumer_registers = 104, producer_registers = 64;
    static constexpr int stages = 4;
    static constexpr kas_u32 q_at = 0;
    static constexpr kas_u32 k_at = 2 * key_tile::bytes;
    static constexpr kas_u32 v_at = k_at + stages * key_tile::bytes;
    static constexpr kas_u32 lse_at = v_at;
    static constexpr kas_u32 flags_at = lse_at + 2 * SCORES_ROWS * 4;
    static constexpr kas_u32 barriers_at = flags_at + stages * 4 * 4;
    static constexpr int shared = barriers_at + 4 * stages * 8;
};

/* What a pair of warpgroups works on: a tile's scores of keys below `end`; no keys: it only keeps step with the other
   pair. */
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

/* Brings a turn's query rows to shared memory, and their log-sum-exps times log2(e). */
template <class S>
KAS_CU void scores_load_queries(const kas_work &w, unsigned char *memory, const flash_rows &rows, kas_u32 first)
{
    typedef typename S::T T;
    const kas_u32 pair = threadIdx.x / S::pair, thread = threadIdx.x % S::pair;
    wide_copy_queries<T, SCORES_ROWS>(w, kas_shared_address(memory + S::q_at) + pair * key_tile::bytes, rows, first,
                                      thread, S::pair);
    if (thread < SCORES_ROWS)
        ((float *)(memory + S::lse_at))[pair * SCORES_ROWS + thread] =
            first + thread < rows.count ? *kas_lse_at(w, flash_query(rows, first + thread),
                                                      flash_head(rows, first + thread)) * KAS_LOG2_E
                                        : -KAS_NEGATIVE_INFINITY;
    wide_finish_queries<S>();
}

/*
 * Sums the weights of keys lane / 4 and lane / 4 + 8 of the warp's 16 and writes or adds them to the scores. A thread's
 * products are those of query rows 8 n + 2 (lane % 4) + {0, 1}. CAPPED: no weight counts for more than 4.
 */
template <bool CAPPED>
KAS_CU void scores_write(const scores_job &job, const float logits[16][4], const float *lse, float factor,
                         kas_u32 first_key, kas_u32 present, bool add)
{
    float sums[2][2] = {};
#pragma unroll
    for (int n = 0; n < 16; n++) {
        const float2 base = *(const float2 *)(lse + 8 * n + threadIdx.x % 4 * 2);
#pragma unroll
        for (int x = 0; x < 4; x++) {
            const float exponent = fmaf(logits[n][x], factor, x % 2 == 0 ? -base.x : -base.y);
            sums[x / 2][x % 2] += kas_exp2(CAPPED ? kas_min_or_nan(exponent, 2.0f) : exponent);
        }
    }
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float sum = sums[half][0] + sums[half][1];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        const kas_u32 local = threadIdx.x / 32u % 2u * 16u + 8 * half + threadIdx.x % 32u / 4u;
        const kas_u32 key = first_key + local;
        if (threadIdx.x % 4 == 0 && key < job.end) {
            const float before = add ? job.target[key] : 0.0f;
            job.target[key] = before + (present >> local & 1u ? sum : 0.0f);
        }
    }
}

/* Runs the block's keys past the rows of one turn; this warpgroup takes half of the keys of every tile. */
template <class S, bool CAPPED>
KAS_CU void scores_turn(const kas_work &w, unsigned char *memory, const wide_barriers<S> &barriers,
                        ring_place<S::stages> &at, const scores_job &job, kas_u32 begin, kas_u32 end, kas_u32 mapped,
                        bool add)
{
    typedef typename S::T T;
    const kas_u32 pair = kas_warpgroup() / 2u, half = kas_warpgroup() % 2u;
    const kas_u32 quarter = 2u * half + threadIdx.x / 64u % 2u; /* 32 keys of a tile */
    const kas_u32 q_at = kas_shared_address(memory + S::q_at) + pair * key_tile::bytes;
    const kas_u32 k_at = kas_shared_address(memory + S::k_at) + half * 64u * 128u;
    const kas_u32 *flags = (const kas_u32 *)(memory + S::flags_at) + quarter;
    const float *lse = (const float *)(memory + S::lse_at) + pair * SCORES_ROWS;
    const float factor = kas_session_of(w).scale * KAS_LOG2_E;
    for (kas_u32 first = begin; first < end; first += WIDE_KEYS) {
        float logits[16][4];
        wide_await(barriers.k_full(at.slot), at.turn, first < mapped);
        kas_wgmma_product<T, key_tile, key_tile>(logits, k_at + at.slot * key_tile::bytes, q_at);
        const kas_u32 present = first < mapped ? 0xffffffffu : wide_flag(flags + at.slot * 4);
        kas_wgmma_wait<0>();
        kas_wgmma_settle(logits);
        wide_release(barriers.k_free(at.slot));
        at.advance();
        scores_write<CAPPED>(job, logits, lse, factor, first + quarter * 32u, present, add);
    }
}

template <class S>
KAS_CU void scores_consume(const kas_work &w, const kas_key_maps &maps, unsigned char *memory,
                           const wide_barriers<S> &barriers, const scores_job &job, kas_u32 begin, kas_u32 end,
                           kas_u32 turns)
{
    const kas_u32 first_head = kas_active_row(w, blockIdx.y), pool_heads = kas_session_of(w).pool_heads;
    const kas_u32 mapped = wide_mapped_tiles<S>(maps, kas_keys_all(end)) * WIDE_KEYS;
    ring_place<S::stages> at = {};
    bool add = false;
    for (kas_u32 g = first_head; g < first_head + pool_heads; g++) {
        flash_rows rows = flash_tile_rows(w, job.tile, g);
        rows.queries = kas_max2(rows.queries, 1u);
        for (kas_u32 turn = 0; turn < turns; turn++) {
            scores_load_queries<S>(w, memory, rows, turn * SCORES_ROWS);
            if (kas_has(w, KAS_CALL_ESTIMATED))
                scores_turn<S, true>(w, memory, barriers, at, job, begin, end, mapped, add);
            else
                scores_turn<S, false>(w, memory, barriers, at, job, begin, end, mapped, add);
            add = true;
            wide_consumers_meet<S>(); /* the queries have been read */
        }
    }
}

template <class S>
KAS_CU void scores_produce(const kas_work &w, const kas_key_maps &maps, unsigned char *memory,
                           const wide_barriers<S> &barriers, kas_u32 begin, kas_u32 end, kas_u32 turns)
{
    const kas_u32 first_head = kas_active_row(w, blockIdx.y), pool_heads = kas_session_of(w).pool_heads;
    wide_producer<S> producer = {w, maps, memory, barriers};
    for (kas_u32 g = first_head; g < first_head + pool_heads; g++)
        for (kas_u32 turn = 0; turn < turns; turn++)
            wide_produce(producer, kas_keys_all(end), g, begin / WIDE_KEYS);
    kas_copy_wait_all();
}

/* Every other tile of the x axis has a block that does nothing: its neighbour's takes both. */
template <class S> KAS_CU void scores_wgmma(const kas_work &w, const kas_key_maps &maps, unsigned char *memory)
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
    if (threadIdx.x >= S::consumers) {
        kas_lower_registers<S::producer_registers>();
        scores_produce<S>(w, maps, memory, barriers, begin, end, turns);
    } else {
        kas_raise_registers<S::consumer_registers>();
        const scores_job own = scores_job_of(w, s, back + threadIdx.x / S::pair, begin);
        scores_consume<S>(w, maps, memory, barriers, own, begin, end, turns);
    }
}

FLASH_WGMMA_KERNELS(scores, scores_shape, scores_wgmma)
