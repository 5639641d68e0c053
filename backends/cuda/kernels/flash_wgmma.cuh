/*
 * flash_wgmma.cuh - prefill on the matrix unit of sm_90a, head dimension 128: dense attention, log-sum-exp and attention
 * over lists share one engine. One warpgroup of a block, the producer, brings tiles of 128 keys to shared memory, row by
 * row from wherever a list or page table says they lie; two consumer warpgroups multiply. While the products of one
 * tile run, a consumer turns the logits of the next into weights.
 */
#ifndef KAS_CUDA_FLASH_WGMMA_CUH
#define KAS_CUDA_FLASH_WGMMA_CUH

#include "flash_mma.cuh"
#include "wgmma.cuh"

#define WIDE_D 128
#define WIDE_KEYS 128u   /* of a tile */
#define WIDE_CONSUMERS 256 /* threads; their warps come first */
#define WIDE_PRODUCERS 128
#define WIDE_THREADS 384
#define WIDE_WARPS 8 /* of consumers */

typedef wide_tile<128> key_tile;

/* VALUES: attention, 64 query rows a warpgroup. Otherwise log-sum-exp alone, 128 rows. */
template <class Type, bool VALUES> struct wide_shape {
    typedef Type T;
    static constexpr int D = WIDE_D;
    static constexpr int M = VALUES ? 1 : 2; /* blocks of 64 rows a warpgroup */
    static constexpr bool values = VALUES;
    static constexpr int rows = 128 * M;
    typedef wide_tile<rows> query_tile;
    static constexpr int stages = VALUES ? 2 : 4; /* of keys, and as many of values */
    static constexpr kas_u32 q_at = 0;
    static constexpr kas_u32 k_at = query_tile::bytes;
    static constexpr kas_u32 v_at = k_at + stages * key_tile::bytes;
    static constexpr kas_u32 flags_at = v_at + (VALUES ? stages * key_tile::bytes : 0);
    static constexpr kas_u32 barriers_at = flags_at + stages * 4 * 4;
    static constexpr int shared = barriers_at + 4 * stages * 8;
};

/* The barriers of a block: keys full, keys free, values full, values free, one each a stage. */
template <class S> struct wide_barriers {
    kas_u32 base;

    __device__ __forceinline__ kas_u32 k_full(kas_u32 slot) const
    {
        return base + slot * 8u;
    }
    __device__ __forceinline__ kas_u32 k_free(kas_u32 slot) const
    {
        return base + (S::stages + slot) * 8u;
    }
    __device__ __forceinline__ kas_u32 v_full(kas_u32 slot) const
    {
        return base + (2 * S::stages + slot) * 8u;
    }
    __device__ __forceinline__ kas_u32 v_free(kas_u32 slot) const
    {
        return base + (3 * S::stages + slot) * 8u;
    }
};

/* A full slot has one arrival of each producer thread's copies and one a warp, a free one an arrival a warp. Ends with
   all threads of the block together. */
template <class S> KAS_CU wide_barriers<S> wide_prepare(unsigned char *memory)
{
    wide_barriers<S> barriers = {kas_shared_address(memory + S::barriers_at)};
    if (threadIdx.x == 0)
        for (kas_u32 slot = 0; slot < S::stages; slot++) {
            kas_barrier_init(barriers.k_full(slot), WIDE_PRODUCERS + 4);
            kas_barrier_init(barriers.k_free(slot), WIDE_WARPS);
            kas_barrier_init(barriers.v_full(slot), WIDE_PRODUCERS + 4);
            kas_barrier_init(barriers.v_free(slot), WIDE_WARPS);
        }
    __syncthreads();
    return barriers;
}

/* ---- The producer ---------------------------------------------------------------------------------------------- */

/* Says that this warp's part of a slot is there once its copies have landed; plain stores are there already. */
KAS_CU void wide_announce(kas_u32 barrier)
{
    kas_barrier_arrive_copied(barrier);
    __syncwarp();
    if (threadIdx.x % 32 == 0)
        kas_barrier_arrive(barrier);
}

/* The places of a warp's 32 keys of a tile, one a lane, and which of them exist. */
struct wide_places {
    kas_place own;
    kas_u32 present;
};

KAS_CU wide_places wide_look_up(const kas_work &w, const kas_keys &keys, kas_u32 tile)
{
    const kas_u32 e = tile * WIDE_KEYS + threadIdx.x % 128u;
    wide_places places;
    places.own = kas_key_place(w, e < keys.total ? kas_key_position(w, keys, e) : KAS_ABSENT);
    places.present = __ballot_sync(0xffffffffu, places.own.page != KAS_ABSENT);
    if (places.own.page == KAS_ABSENT)
        places.own.page = places.own.token = 0u;
    return places;
}

/* Starts the copies of a warp's 32 rows of a tile; those of absent keys become zeros. */
template <class T>
KAS_CU void wide_copy(const T *tensor, const kas_rows &rows, const wide_places &places, bool aligned, kas_u32 tile)
{
    const kas_u32 lane = threadIdx.x % 32, chunk = lane % 16;
    const kas_u32 first = threadIdx.x % 128u / 32u * 32u;
    const kas_u64 own = kas_row_offset(rows, places.own);
    const T *base = tensor + chunk * 8u;
    if (aligned) {
#pragma unroll
        for (kas_u32 x = 0; x < 16; x += 4) { /* four sources at a time, so that their latencies overlap */
            const T *sources[4];
#pragma unroll
            for (kas_u32 y = 0; y < 4; y++)
                sources[y] = base + __shfl_sync(0xffffffffu, own, 2 * (x + y) + lane / 16);
#pragma unroll
            for (kas_u32 y = 0; y < 4; y++)
                asm volatile("" : "+l"(sources[y])); /* all of them before the first copy */
#pragma unroll
            for (kas_u32 y = 0; y < 4; y++) {
                const kas_u32 row = 2 * (x + y) + lane / 16;
                kas_copy16(tile + key_tile::at(first + row, chunk), sources[y], places.present >> row & 1u);
            }
        }
    } else {
#pragma unroll 1
        for (kas_u32 x = 0; x < 16; x++) {
            const kas_u32 row = 2 * x + lane / 16;
            kas_copy16_slowly(tile + key_tile::at(first + row, chunk), base + __shfl_sync(0xffffffffu, own, row),
                              places.present >> row & 1u);
        }
    }
}

KAS_CU bool wide_keys_are_aligned(const kas_call &c, bool values)
{
    return kas_rows_are_aligned(c.k_base, c.k_stride_seq, c.k_stride_token, c.k_stride_head) &&
           (!values || kas_rows_are_aligned(c.v_base, c.v_stride_seq, c.v_stride_token, c.v_stride_head));
}

/* What the producer keeps between turns. */
template <class S> struct wide_producer {
    ring_place<S::stages> k, v;
};

/* Brings the tiles of kv head g from first_tile on, of which there is at least one: keys of a tile, then the values of
   the tile before. */
template <class S>
KAS_CU void wide_produce(const kas_work &w, unsigned char *memory, const wide_barriers<S> &barriers,
                         wide_producer<S> &at, const kas_keys &keys, kas_u32 g, kas_u32 first_tile)
{
    typedef typename S::T T;
    const kas_rows k_rows = kas_k_rows(w, g), v_rows = kas_v_rows(w, g);
    const bool aligned = wide_keys_are_aligned(w.call, S::values);
    const kas_u32 tiles = kas_ceil_div(keys.total, WIDE_KEYS);
    const kas_u32 k_at = kas_shared_address(memory + S::k_at), v_at = kas_shared_address(memory + S::v_at);
    kas_u32 *flags = (kas_u32 *)(memory + S::flags_at) + threadIdx.x % 128u / 32u;
    wide_places next = wide_look_up(w, keys, first_tile), now = next;
    for (kas_u32 tile = first_tile; tile < tiles + (S::values ? 1u : 0u); tile++) {
        const wide_places before = now;
        now = next;
        if (tile < tiles) {
            next = wide_look_up(w, keys, tile + 1u);
            kas_barrier_wait(barriers.k_free(at.k.slot), at.k.turn ^ 1u);
            if (threadIdx.x % 32 == 0)
                flags[at.k.slot * 4] = now.present;
            wide_copy(kas_slot<const T>(w, KAS_SLOT_K), k_rows, now, aligned,
                      k_at + at.k.slot * key_tile::bytes);
            wide_announce(barriers.k_full(at.k.slot));
            at.k.advance();
        }
        if (S::values && tile > first_tile) {
            kas_barrier_wait(barriers.v_free(at.v.slot), at.v.turn ^ 1u);
            wide_copy(kas_slot<const T>(w, KAS_SLOT_V), v_rows, before, aligned,
                      v_at + at.v.slot * key_tile::bytes);
            wide_announce(barriers.v_full(at.v.slot));
            at.v.advance();
        }
    }
}

/* ---- Consumers ------------------------------------------------------------------------------------------------- */

/* Waits for a slot to be full. The fence stands here because nobody waits for the copies where they are started. */
KAS_CU void wide_await(kas_u32 barrier, kas_u32 turn)
{
    kas_barrier_wait(barrier, turn);
    kas_fence_matrices();
}

KAS_CU void wide_consumers_meet()
{
    asm volatile("barrier.cta.sync 1, %0;" ::"n"(WIDE_CONSUMERS) : "memory");
}

/* Says that this warp has read a slot. */
KAS_CU void wide_release(kas_u32 barrier)
{
    __syncwarp();
    if (threadIdx.x % 32 == 0)
        kas_barrier_arrive(barrier);
}

/* Where row `local` of a turn lies in the queries' tile, so that a warp's rows are those of flash_own_row. */
template <int M> KAS_CU kas_u32 wide_query_place(kas_u32 local)
{
    const kas_u32 warp = local / (16u * M), m = local / 16u % M;
    return warp / 4u * 64u * M + m * 64u + warp % 4u * 16u + local % 16u;
}

/* Starts the copies of a turn's query rows to a tile of R rows at `target`, by `threads` threads of which this is
   number `thread`. */
template <class T, int R, int M>
KAS_CU void wide_copy_queries(const kas_work &w, kas_u32 target, const flash_rows &rows, kas_u32 first, kas_u32 thread,
                              kas_u32 threads)
{
    const bool aligned = kas_rows_are_aligned(w.call.q_base, w.call.q_stride_seq, w.call.q_stride_token,
                                              w.call.q_stride_head);
    for (kas_u32 index = thread; index < R * 16u; index += threads) {
        const kas_u32 local = index / 16u, chunk = index % 16u;
        const bool exists = first + local < rows.count;
        const kas_u32 row = exists ? first + local : 0u;
        const T *q = kas_q_row<T>(w, flash_query(rows, row), flash_head(rows, row)) + chunk * 8u;
        const kas_u32 at = target + wide_tile<R>::at(wide_query_place<M>(local), chunk);
        if (aligned)
            kas_copy16(at, q, exists);
        else
            kas_copy16_slowly(at, q, exists);
    }
}

/* Waits until the queries of all consumers are there. */
KAS_CU void wide_finish_queries()
{
    kas_copy_commit();
    kas_copy_wait<0>();
    kas_fence_matrices();
    wide_consumers_meet();
}

/* What a consumer needs to know of the keys. */
struct wide_view {
    const kas_keys &keys;
    kas_u32 first_seen; /* positions up to this are seen by every row */
    float factor;       /* scale times log2(e) */
};

/* Takes out keys that do not exist or lie behind a row's own position. */
KAS_CU void wide_mask(const wide_view &view, const kas_u32 seen[2], kas_u32 tile, const kas_u32 present[4],
                      float logits[16][4])
{
#pragma unroll
    for (int n = 0; n < 16; n++)
#pragma unroll
        for (int x = 0; x < 2; x++) {
            const kas_u32 key = 8 * n + threadIdx.x % 4 * 2 + x;
            const bool exists = present[n / 4] >> key % 32 & 1u;
            const kas_u32 position = kas_masked_position(view.keys, tile * WIDE_KEYS + key);
#pragma unroll
            for (int half = 0; half < 2; half++)
                if (!exists || position > seen[half])
                    logits[n][2 * half + x] = KAS_NEGATIVE_INFINITY;
        }
}

/* The present keys of a slot, and whether a tile needs masking. */
KAS_CU bool wide_read_flags(const wide_view &view, const kas_u32 *flags, kas_u32 tile, kas_u32 present[4])
{
#pragma unroll
    for (int x = 0; x < 4; x++)
        present[x] = flags[x];
    return (present[0] & present[1] & present[2] & present[3]) != 0xffffffffu ||
           kas_last_position(view.keys, (tile + 1u) * WIDE_KEYS) > view.first_seen;
}

/* Logits become weights, `shrink` tells what earlier sums of a row were multiplied by. SHARED: threads of a row need the
   same maximum. */
template <bool SHARED>
KAS_CU void wide_weigh(float factor, float greatest_of[2], float sum_of[2], float logits[16][4], float shrink[2])
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int x = 2 * half;
        float greatest = fmaxf(logits[0][x], logits[0][x + 1]);
#pragma unroll
        for (int n = 1; n < 16; n++)
            greatest = fmaxf(greatest, fmaxf(logits[n][x], logits[n][x + 1]));
        if (SHARED) {
            greatest = fmaxf(greatest, __shfl_xor_sync(0xffffffffu, greatest, 1));
            greatest = fmaxf(greatest, __shfl_xor_sync(0xffffffffu, greatest, 2));
        }
        greatest = fmaxf(greatest_of[half], greatest * factor);
        const float base = greatest == KAS_NEGATIVE_INFINITY ? 0.0f : greatest;
        shrink[half] = kas_exp2(greatest_of[half] - base);
        greatest_of[half] = greatest;
        float sum[2] = {0.0f, 0.0f};
#pragma unroll
        for (int n = 0; n < 16; n++)
#pragma unroll
            for (int y = 0; y < 2; y++) {
                logits[n][x + y] = kas_exp2(fmaf(logits[n][x + y], factor, -base));
                sum[y] += logits[n][x + y];
            }
        sum_of[half] = fmaf(sum_of[half], shrink[half], sum[0] + sum[1]);
    }
}

/* Masks and weighs the logits of matrix block m. */
template <class S>
KAS_CU void wide_soften(const wide_view &view, flash_state<S> &state, int m, kas_u32 tile, const kas_u32 present[4],
                        bool masked, float logits[16][4], float shrink[2])
{
    if (masked)
        wide_mask(view, state.seen[m], tile, present, logits);
    if (view.factor < 0.0f) /* the greatest product must be the greatest logit */
#pragma unroll
        for (int x = 0; x < 64; x++)
            logits[x / 4][x % 4] = logits[x / 4][x % 4] == KAS_NEGATIVE_INFINITY ? KAS_NEGATIVE_INFINITY
                                                                                : -logits[x / 4][x % 4];
    wide_weigh<S::values>(fabsf(view.factor), state.greatest[m], state.sum[m], logits, shrink);
}

template <class T> KAS_CU void wide_pack(const float weights[16][4], kas_u32 packed[8][4])
{
#pragma unroll
    for (int k = 0; k < 8; k++)
#pragma unroll
        for (int x = 0; x < 4; x++)
            packed[k][x] = kas_pack(T(), weights[2 * k + x / 2][x % 2 * 2], weights[2 * k + x / 2][x % 2 * 2 + 1]);
}

/* Starts out += weights * values. */
template <class T> KAS_CU void wide_accumulate(float out[16][4], const kas_u32 packed[8][4], kas_u32 v_at)
{
    kas_wgmma_begin();
#pragma unroll
    for (kas_u32 k = 0; k < 8; k++)
        kas_wgmma_rows(T(), out, packed[k], key_tile::rows(v_at, k));
    kas_wgmma_commit();
}

KAS_CU void wide_shrink(float out[16][4], const float shrink[2])
{
#pragma unroll
    for (int n = 0; n < 16; n++)
#pragma unroll
        for (int x = 0; x < 4; x++)
            out[n][x] *= shrink[x / 2];
}

/* A consumer's places in the rings. */
template <class S> struct wide_cursor {
    ring_place<S::stages> k, v;
};

/* The logits of a tile have been multiplied: leaves its slot and makes weights of them. */
template <class S>
KAS_CU void wide_finish_logits(unsigned char *memory, const wide_barriers<S> &barriers, const wide_view &view,
                               kas_u32 tile, wide_cursor<S> &at, flash_state<S> &state, float logits[16][4],
                               float shrink[2])
{
    kas_u32 present[4];
    kas_wgmma_settle(logits);
    const bool masked = wide_read_flags(view, (const kas_u32 *)(memory + S::flags_at) + at.k.slot * 4, tile, present);
    wide_release(barriers.k_free(at.k.slot));
    at.k.advance();
    wide_soften<S>(view, state, 0, tile, present, masked, logits, shrink);
}

/* The products with a tile's values are done: leaves their slot. */
template <class S>
KAS_CU void wide_finish_values(const wide_barriers<S> &barriers, wide_cursor<S> &at, float out[16][4])
{
    kas_wgmma_settle(out);
    wide_release(barriers.v_free(at.v.slot));
    at.v.advance();
}

/* Attention of the turn's rows over all tiles, of which there is at least one. */
template <class S>
KAS_CU void wide_attend(unsigned char *memory, const wide_barriers<S> &barriers, const wide_view &view, kas_u32 tiles,
                        wide_cursor<S> &at, flash_state<S> &state)
{
    typedef typename S::T T;
    typedef typename S::query_tile queries;
    const kas_u32 q_at = kas_shared_address(memory + S::q_at) + threadIdx.x / 128u * 64u * 128u;
    const kas_u32 k_at = kas_shared_address(memory + S::k_at), v_at = kas_shared_address(memory + S::v_at);
    float (&out)[16][4] = state.out[0];
    float logits[16][4], shrink[2];
    kas_u32 packed[8][4];
    wide_await(barriers.k_full(at.k.slot), at.k.turn);
    kas_wgmma_product<T, queries, key_tile>(logits, q_at, k_at + at.k.slot * key_tile::bytes);
    kas_wgmma_wait<0>();
    wide_finish_logits<S>(memory, barriers, view, 0u, at, state, logits, shrink);
    wide_pack<T>(logits, packed);
    if (tiles > 1u)
        wide_await(barriers.k_full(at.k.slot), at.k.turn);
    for (kas_u32 tile = 1; tile < tiles; tile++) {
        kas_wgmma_product<T, queries, key_tile>(logits, q_at, k_at + at.k.slot * key_tile::bytes);
        wide_await(barriers.v_full(at.v.slot), at.v.turn);
        wide_accumulate<T>(out, packed, v_at + at.v.slot * key_tile::bytes);
        kas_wgmma_wait<1>();
        wide_finish_logits<S>(memory, barriers, view, tile, at, state, logits, shrink);
        /* Waiting for the next keys here keeps the assembler from waiting for the products before the weights are done. */
        if (tile + 1u < tiles)
            wide_await(barriers.k_full(at.k.slot), at.k.turn);
        kas_wgmma_wait<0>();
        wide_finish_values<S>(barriers, at, out);
        wide_shrink(out, shrink);
        wide_pack<T>(logits, packed);
    }
    wide_await(barriers.v_full(at.v.slot), at.v.turn);
    wide_accumulate<T>(out, packed, v_at + at.v.slot * key_tile::bytes);
    kas_wgmma_wait<0>();
    wide_finish_values<S>(barriers, at, out);
}

/* Log-sum-exp of the turn's rows over all tiles, of which there is at least one: two blocks of rows, one multiplied
   while the other is summed. */
template <class S>
KAS_CU void wide_sum(unsigned char *memory, const wide_barriers<S> &barriers, const wide_view &view, kas_u32 tiles,
                     wide_cursor<S> &at, flash_state<S> &state)
{
    typedef typename S::T T;
    typedef typename S::query_tile queries;
    const kas_u32 q_at = kas_shared_address(memory + S::q_at) + threadIdx.x / 128u * 128u * 128u;
    const kas_u32 k_at = kas_shared_address(memory + S::k_at);
    const kas_u32 *flags = (const kas_u32 *)(memory + S::flags_at);
    wide_await(barriers.k_full(at.k.slot), at.k.turn);
    for (kas_u32 tile = 0; tile < tiles; tile++) {
        float first[16][4], second[16][4], shrink[2];
        kas_u32 present[4];
        const kas_u32 slot = at.k.slot, keys = k_at + slot * key_tile::bytes;
        kas_wgmma_product<T, queries, key_tile>(first, q_at, keys);
        kas_wgmma_product<T, queries, key_tile>(second, q_at + 64u * 128u, keys);
        const bool masked = wide_read_flags(view, flags + slot * 4, tile, present);
        kas_wgmma_wait<1>();
        kas_wgmma_settle(first);
        wide_soften<S>(view, state, 0, tile, present, masked, first, shrink);
        at.k.advance();
        if (tile + 1u < tiles) /* here for the reason given in wide_attend */
            wide_await(barriers.k_full(at.k.slot), at.k.turn);
        kas_wgmma_wait<0>();
        kas_wgmma_settle(second);
        wide_release(barriers.k_free(slot));
        wide_soften<S>(view, state, S::M - 1, tile, present, masked, second, shrink);
    }
}

template <class S>
KAS_CU void wide_consume(const kas_work &w, unsigned char *memory, const wide_barriers<S> &barriers,
                         const kas_sequence &s, const flash_rows &rows, const kas_keys &keys, bool lse, bool out)
{
    const wide_view view = {keys, s.offset + rows.query, kas_session_of(w).scale * KAS_LOG2_E};
    const kas_u32 tiles = kas_ceil_div(keys.total, WIDE_KEYS);
    wide_cursor<S> at = {};
    for (kas_u32 first = 0; first < rows.count; first += S::rows) {
        flash_state<S> state;
        wide_copy_queries<typename S::T, S::rows, S::M>(w, kas_shared_address(memory + S::q_at), rows, first,
                                                        threadIdx.x, WIDE_CONSUMERS);
        wide_finish_queries();
        flash_begin<S>(s, rows, first, state);
        if (tiles == 0)
            ; /* a row without keys is zero */
        else if constexpr (S::values)
            wide_attend<S>(memory, barriers, view, tiles, at, state);
        else
            wide_sum<S>(memory, barriers, view, tiles, at, state);
        flash_write<S>(w, rows, first, state, lse, out);
        wide_consumers_meet(); /* the queries have been read */
    }
}

/* All turns of `rows` against `keys`, by a whole block. */
template <class S>
KAS_CU void flash_wgmma(const kas_work &w, unsigned char *memory, const kas_sequence &s, const flash_rows &rows,
                        const kas_keys &keys, kas_u32 g, bool lse, bool out)
{
    const wide_barriers<S> barriers = wide_prepare<S>(memory);
    if (threadIdx.x >= WIDE_CONSUMERS) {
        kas_lower_registers<64>();
        wide_producer<S> producer = {};
        for (kas_u32 first = 0; first < rows.count && keys.total > 0; first += S::rows)
            wide_produce<S>(w, memory, barriers, producer, keys, g, 0u);
        kas_copy_wait_all();
    } else {
        kas_raise_registers<216>();
        wide_consume<S>(w, memory, barriers, s, rows, keys, lse, out);
    }
}

#define FLASH_WGMMA_KERNELS(op, VALUES, BODY)                                                                          \
    KAS_CUDA_KERNEL(op##_wgmma_f16_128, WIDE_THREADS, 1, (wide_shape<f16, VALUES>::shared),                            \
                    BODY<wide_shape<f16, VALUES>>)                                                                     \
    KAS_CUDA_KERNEL(op##_wgmma_bf16_128, WIDE_THREADS, 1, (wide_shape<bf16, VALUES>::shared),                          \
                    BODY<wide_shape<bf16, VALUES>>)

#endif
