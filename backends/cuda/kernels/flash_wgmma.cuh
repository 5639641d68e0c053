/*
 * flash_wgmma.cuh - prefill on the matrix unit of sm_90a, head dimension 128: dense attention, log-sum-exp and attention
 * over lists share one engine. One warpgroup of a block, the producer, brings tiles of 128 keys to shared memory: whole
 * ones by the tensor copy engine where keys lie in order, others row by row from wherever a list or page table says.
 * Consumer warpgroups multiply. In attention there are two: while the products of one tile run, a consumer turns
 * the logits of the next into weights. Log-sum-exp has four.
 */
#ifndef KAS_CUDA_FLASH_WGMMA_CUH
#define KAS_CUDA_FLASH_WGMMA_CUH

#include "flash_mma.cuh"
#include "wgmma.cuh"

#define WIDE_D 128
#define WIDE_KEYS 128u                      /* of a tile */
#define WIDE_PRODUCERS 128                  /* threads; the consumers' warps come first */
#define WIDE_ARRIVALS (WIDE_PRODUCERS + 4u) /* at the barrier of a full slot */

typedef wide_tile<128> key_tile;

/* VALUES: attention. Otherwise log-sum-exp alone, which leaves registers for twice the consumers. */
template <class Type, bool VALUES> struct wide_shape {
    typedef Type T;
    static constexpr int D = WIDE_D;
    static constexpr int M = 1;
    static constexpr bool values = VALUES;
    static constexpr int consumers = VALUES ? 256 : 512; /* threads, a warpgroup for 64 query rows */
    static constexpr int threads = consumers + WIDE_PRODUCERS;
    static constexpr int consumer_registers = VALUES ? 216 : 104, producer_registers = 64;
    static constexpr int rows = consumers / 2;
    typedef wide_tile<rows> query_tile;
    static constexpr int stages = VALUES ? 3 : 4; /* of keys, and as many of values */
    static constexpr kas_u32 q_at = 0;
    static constexpr kas_u32 k_at = query_tile::bytes;
    static constexpr kas_u32 v_at = k_at + stages * key_tile::bytes;
    static constexpr kas_u32 parts_at = v_at + (VALUES ? stages * key_tile::bytes : 0);
    static constexpr kas_u32 flags_at = parts_at + (VALUES ? 0 : consumers / 2 * 16); /* parts: see wide_join */
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

/* A full slot has one arrival of each producer thread's copies and one a warp, or as many by the thread that starts the
   tensor copy engine; a free one an arrival a warp. Ends with all threads of the block together. */
template <class S> KAS_CU wide_barriers<S> wide_prepare(unsigned char *memory)
{
    wide_barriers<S> barriers = {kas_shared_address(memory + S::barriers_at)};
    if (threadIdx.x == 0)
        for (kas_u32 slot = 0; slot < S::stages; slot++) {
            kas_barrier_init(barriers.k_full(slot), WIDE_ARRIVALS);
            kas_barrier_init(barriers.k_free(slot), S::consumers / 32);
            kas_barrier_init(barriers.v_full(slot), WIDE_ARRIVALS);
            kas_barrier_init(barriers.v_free(slot), S::consumers / 32);
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

/* This thread's entry of a tile, for wide_look_up a tile later. */
KAS_CU kas_u32 wide_entry(const kas_keys &keys, kas_u32 tile)
{
    return kas_key_entry(keys, tile * WIDE_KEYS + threadIdx.x % 128u);
}

KAS_CU wide_places wide_look_up(const kas_work &w, const kas_keys &keys, kas_u32 tile, kas_u32 entry)
{
    const kas_u32 e = tile * WIDE_KEYS + threadIdx.x % 128u;
    wide_places places;
    places.own = kas_key_place(w, e < keys.total ? kas_key_position(w, keys, e, entry) : KAS_ABSENT);
    places.present = __ballot_sync(0xffffffffu, places.own.page != KAS_ABSENT);
    if (places.own.page == KAS_ABSENT)
        places.own.page = places.own.token = 0u;
    return places;
}

/* Starts the copies of a warp's 32 rows of a tile, two at a time; those of absent keys become zeros. */
template <class T>
KAS_CU void wide_copy(const T *tensor, const kas_rows &rows, const wide_places &places, bool aligned, kas_u32 tile)
{
    const kas_u32 lane = threadIdx.x % 32, chunk = lane % 16, upper = lane / 16;
    const kas_u32 first = threadIdx.x % 128u / 32u * 32u;
    const kas_u64 own = (kas_u64)(tensor + kas_row_offset(rows, places.own)), part = chunk * 16u;
    if (aligned && places.present == 0xffffffffu) {
        kas_u32 targets[4]; /* of rows whose chunks are exchanged differently; eight rows on they repeat */
#pragma unroll
        for (kas_u32 y = 0; y < 4; y++)
            targets[y] = tile + key_tile::at(first + 2 * y + upper, chunk);
#pragma unroll
        for (kas_u32 x = 0; x < 16; x += 4) { /* four sources at a time, so that their latencies overlap */
            kas_u64 sources[4];
#pragma unroll
            for (kas_u32 y = 0; y < 4; y++)
                sources[y] = part + __shfl_sync(0xffffffffu, own, 2 * (x + y) + upper);
#pragma unroll
            for (kas_u32 y = 0; y < 4; y++)
                asm volatile("" : "+l"(sources[y])); /* all of them before the first copy */
#pragma unroll
            for (kas_u32 y = 0; y < 4; y++)
                kas_copy16(targets[y] + x * 2u * 128u, (const void *)sources[y], true);
        }
        return;
    }
#pragma unroll 1
    for (kas_u32 x = 0; x < 16; x++) {
        const kas_u32 row = 2 * x + upper, target = tile + key_tile::at(first + row, chunk);
        const T *source = (const T *)(part + __shfl_sync(0xffffffffu, own, row));
        if (aligned)
            kas_copy16(target, source, places.present >> row & 1u);
        else
            kas_copy16_slowly(target, source, places.present >> row & 1u);
    }
}

/*
 * The tiles at the beginning that the tensor copy engine can bring, of keys that lie in order. Rows past the last key
 * may hold anything: weights of 0 do not take out a NaN among values, so that tiles of values must be whole.
 */
template <class S> KAS_CU kas_u32 wide_mapped_tiles(const kas_key_maps &maps, const kas_keys &keys)
{
    if (maps.present == 0u || keys.list != nullptr || keys.listed != keys.start)
        return 0u;
    return S::values ? keys.total / WIDE_KEYS : kas_ceil_div(keys.total, WIDE_KEYS);
}

/* Keys or values of one (sequence, kv head), on their way to a ring. */
template <class T> struct wide_source {
    const T *tensor;
    const kas_tensor_map &map;
    kas_rows rows;
    bool aligned;
    kas_u32 head;
};

template <class T> KAS_CU wide_source<T> wide_keys_of(const kas_work &w, const kas_key_maps &maps, kas_u32 g)
{
    const kas_call &c = w.call;
    return {kas_slot<const T>(w, KAS_SLOT_K), maps.k, kas_k_rows(w, g),
            kas_rows_are_aligned(c.k_base, c.k_stride_seq, c.k_stride_token, c.k_stride_head), g};
}

template <class T> KAS_CU wide_source<T> wide_values_of(const kas_work &w, const kas_key_maps &maps, kas_u32 g)
{
    const kas_call &c = w.call;
    return {kas_slot<const T>(w, KAS_SLOT_V), maps.v, kas_v_rows(w, g),
            kas_rows_are_aligned(c.v_base, c.v_stride_seq, c.v_stride_token, c.v_stride_head), g};
}

/* Brings a tile to `target`, a slot that is free, by the tensor copy engine or row by row; the barrier is that of a
   full slot. */
template <class T>
KAS_CU void wide_bring(const wide_source<T> &source, kas_u32 tile, bool mapped, const wide_places &places,
                       kas_u32 target, kas_u32 barrier)
{
    if (!mapped) {
        wide_copy(source.tensor, source.rows, places, source.aligned, target);
        wide_announce(barrier);
    } else if (threadIdx.x % 128u == 0) {
        kas_barrier_expect(barrier, WIDE_ARRIVALS, key_tile::bytes);
        kas_fetch_tile(target, source.map, tile * WIDE_KEYS, source.head, blockIdx.z, barrier);
    }
}

/* The producer: what it reads, and where it is in the rings. */
template <class S> struct wide_producer {
    const kas_work &w;
    const kas_key_maps &maps;
    unsigned char *memory;
    wide_barriers<S> barriers;
    ring_place<S::stages> k, v;
};

/* Brings the tiles of kv head g from first_tile on, of which there is at least one: keys of a tile, then the values of
   the tile before. List entries are read two tiles ahead, and looked up one tile ahead. */
template <class S>
KAS_CU void wide_produce(wide_producer<S> &at, const kas_keys &keys, kas_u32 g, kas_u32 first_tile)
{
    typedef typename S::T T;
    const wide_source<T> k = wide_keys_of<T>(at.w, at.maps, g), v = wide_values_of<T>(at.w, at.maps, g);
    const kas_u32 k_at = kas_shared_address(at.memory + S::k_at), v_at = kas_shared_address(at.memory + S::v_at);
    kas_u32 *flag = (kas_u32 *)(at.memory + S::flags_at) + threadIdx.x % 128u / 32u;
    const kas_u32 tiles = kas_ceil_div(keys.total, WIDE_KEYS), mapped = wide_mapped_tiles<S>(at.maps, keys);
    wide_places next = {}, now = {};
    if (first_tile >= mapped)
        next = wide_look_up(at.w, keys, first_tile, wide_entry(keys, first_tile));
    kas_u32 entry = wide_entry(keys, first_tile + 1u);
    for (kas_u32 tile = first_tile; tile < tiles + (S::values ? 1u : 0u); tile++) {
        const wide_places before = now;
        now = next;
        if (tile < tiles) {
            if (tile + 1u >= mapped)
                next = wide_look_up(at.w, keys, tile + 1u, entry);
            entry = wide_entry(keys, tile + 2u);
            kas_barrier_wait(at.barriers.k_free(at.k.slot), at.k.turn ^ 1u);
            if (tile >= mapped && threadIdx.x % 32 == 0)
                flag[at.k.slot * 4] = now.present;
            wide_bring(k, tile, tile < mapped, now, k_at + at.k.slot * key_tile::bytes, at.barriers.k_full(at.k.slot));
            at.k.advance();
        }
        if (S::values && tile > first_tile) {
            kas_barrier_wait(at.barriers.v_free(at.v.slot), at.v.turn ^ 1u);
            wide_bring(v, tile - 1u, tile - 1u < mapped, before, v_at + at.v.slot * key_tile::bytes,
                       at.barriers.v_full(at.v.slot));
            at.v.advance();
        }
    }
}

/* ---- Consumers ------------------------------------------------------------------------------------------------- */

/* Waits for a slot to be full. Rows copied one by one need a fence before the matrix unit sees them; it stands here
   because nobody waits for the copies where they are started. */
KAS_CU void wide_await(kas_u32 barrier, kas_u32 turn, bool mapped)
{
    kas_barrier_wait(barrier, turn);
    if (!mapped)
        kas_fence_matrices();
}

template <class S> KAS_CU void wide_consumers_meet()
{
    asm volatile("barrier.cta.sync 1, %0;" ::"n"(S::consumers) : "memory");
}

/* The two consumer warpgroups of attention take turns at starting products, so that one multiplies while the other
   weighs. The second lets the first begin. */
KAS_CU void wide_await_turn()
{
    asm volatile("barrier.cta.sync %0, 256;" ::"r"(2u + kas_warpgroup()) : "memory");
}

KAS_CU void wide_pass_turn()
{
    asm volatile("barrier.cta.arrive %0, 256;" ::"r"(3u - kas_warpgroup()) : "memory");
}

/* Says that this warp has read a slot. */
KAS_CU void wide_release(kas_u32 barrier)
{
    __syncwarp();
    if (threadIdx.x % 32 == 0)
        kas_barrier_arrive(barrier);
}

/* Starts the copies of a turn's query rows to a tile of R rows at `target`, by `threads` threads of which this is
   number `thread`. */
template <class T, int R>
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
        const kas_u32 at = target + wide_tile<R>::at(local, chunk);
        if (aligned)
            kas_copy16(at, q, exists);
        else
            kas_copy16_slowly(at, q, exists);
    }
}

/* Waits until the queries of all consumers are there. */
template <class S> KAS_CU void wide_finish_queries()
{
    kas_copy_commit();
    kas_copy_wait<0>();
    kas_fence_matrices();
    wide_consumers_meet<S>();
}

/* What a consumer needs to know of the keys. */
struct wide_view {
    const kas_keys &keys;
    kas_u32 mapped;     /* tiles at the beginning that come from the tensor copy engine */
    kas_u32 first_seen; /* positions up to this are seen by every row */
    float factor;       /* scale times log2(e) */
};

/* Takes out keys that do not exist or lie behind a row's own position: their logits become -inf. */
KAS_CU void wide_mask(const wide_view &view, const kas_u32 seen[2], kas_u32 tile, const kas_u32 present[4],
                      float logits[16][4])
{
    const float nothing = view.factor < 0.0f ? -KAS_NEGATIVE_INFINITY : KAS_NEGATIVE_INFINITY;
    kas_u32 column = threadIdx.x % 4 * 2;
    asm volatile("" : "+r"(column)); /* few tiles are masked: nothing is to be prepared for it outside of the loop */
#pragma unroll
    for (int n = 0; n < 16; n++)
#pragma unroll
        for (int x = 0; x < 2; x++) {
            const kas_u32 key = 8 * n + column + x;
            const bool exists = present[n / 4] >> key % 32 & 1u;
            const kas_u32 position = kas_masked_position(view.keys, tile * WIDE_KEYS + key);
#pragma unroll
            for (int half = 0; half < 2; half++)
                if (!exists || position > seen[half])
                    logits[n][2 * half + x] = nothing;
        }
}

/* A word that the producer wrote beside a slot. Lane 0 reads it for the warp, as it also says that the slot is read. */
KAS_CU kas_u32 wide_flag(const kas_u32 *flag)
{
    return __shfl_sync(0xffffffffu, threadIdx.x % 32 == 0 ? *flag : 0u, 0);
}

/* The present keys of a slot, and whether a tile needs masking. */
KAS_CU bool wide_read_flags(const wide_view &view, const kas_u32 *flags, kas_u32 tile, kas_u32 present[4])
{
    const bool past = kas_last_position(view.keys, (tile + 1u) * WIDE_KEYS) > view.first_seen;
#pragma unroll
    for (int x = 0; x < 4; x++)
        present[x] = 0xffffffffu;
    if (tile < view.mapped)
        return past;
#pragma unroll
    for (int x = 0; x < 4; x++)
        present[x] = wide_flag(flags + x);
    return past || (present[0] & present[1] & present[2] & present[3]) != 0xffffffffu;
}

/* Logits become weights, `shrink` tells what earlier sums of a row were multiplied by. */
KAS_CU void wide_weigh(float factor, float greatest_of[2], float sum_of[2], float logits[16][4], float shrink[2])
{
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int x = 2 * half;
        float greatest = fmaxf(logits[0][x], logits[0][x + 1]);
#pragma unroll
        for (int n = 1; n < 16; n++)
            greatest = fmaxf(greatest, fmaxf(logits[n][x], logits[n][x + 1]));
        greatest = fmaxf(greatest, __shfl_xor_sync(0xffffffffu, greatest, 1));
        greatest = fmaxf(greatest, __shfl_xor_sync(0xffffffffu, greatest, 2));
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

/* Masks and weighs a tile's logits. */
template <class S>
KAS_CU void wide_soften(const wide_view &view, flash_state<S> &state, kas_u32 tile, const kas_u32 present[4],
                        bool masked, float logits[16][4], float shrink[2])
{
    if (masked)
        wide_mask(view, state.seen[0], tile, present, logits);
    if (view.factor < 0.0f) /* the greatest product must be the greatest logit */
#pragma unroll
        for (int x = 0; x < 64; x++)
            logits[x / 4][x % 4] = -logits[x / 4][x % 4];
    wide_weigh(fabsf(view.factor), state.greatest[0], state.sum[0], logits, shrink);
}

/*
 * Adds the weights of a thread's products in a row to its sum. The base of the weights stays where it is as long as
 * sums keep clear of the end of the range, so that no maximum is searched before the first weight: a base that lies too
 * low, or none yet, shows in the sum, and the tile is added up again with its own maximum.
 */
KAS_CU void wide_add_up(float factor, float &base, float &sum, const float logits[16][4], int x)
{
    const float most = 1e18f;
    float part[2] = {0.0f, 0.0f};
#pragma unroll
    for (int n = 0; n < 16; n++)
#pragma unroll
        for (int y = 0; y < 2; y++)
            part[y] += kas_exp2(fmaf(logits[n][x + y], factor, -base));
    float added = part[0] + part[1];
    if (!(added < most)) {
        float greatest = base;
#pragma unroll
        for (int n = 0; n < 16; n++)
            greatest = fmaxf(greatest, fmaxf(logits[n][x] * factor, logits[n][x + 1] * factor));
        const float moved = greatest == KAS_NEGATIVE_INFINITY ? 0.0f : greatest;
        sum *= kas_exp2(base - moved);
        base = greatest;
        added = 0.0f;
#pragma unroll
        for (int n = 0; n < 16; n++)
            added += kas_exp2(fmaf(logits[n][x], factor, -moved)) + kas_exp2(fmaf(logits[n][x + 1], factor, -moved));
    }
    sum += added;
}

/* Masks a tile's products and adds up their weights. */
template <class S>
KAS_CU void wide_add_tile(const wide_view &view, flash_state<S> &state, kas_u32 tile, const kas_u32 present[4],
                          bool masked, float logits[16][4])
{
    if (masked)
        wide_mask(view, state.seen[0], tile, present, logits);
#pragma unroll
    for (int half = 0; half < 2; half++)
        wide_add_up(view.factor, state.greatest[0][half], state.sum[0][half], logits, 2 * half);
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

/* Earlier sums follow a base that has moved, which after the first tiles is seldom. */
KAS_CU void wide_shrink(float out[16][4], const float shrink[2])
{
    if (!__any_sync(0xffffffffu, shrink[0] != 1.0f || shrink[1] != 1.0f))
        return;
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

/* Waits until at most PENDING groups of products are under way, a tile's logits not among them; leaves the tile's slot
   and makes weights of them. */
template <class S, int PENDING>
KAS_CU void wide_finish_logits(unsigned char *memory, const wide_barriers<S> &barriers, const wide_view &view,
                               kas_u32 tile, wide_cursor<S> &at, flash_state<S> &state, float logits[16][4],
                               float shrink[2])
{
    kas_u32 present[4];
    const bool masked = wide_read_flags(view, (const kas_u32 *)(memory + S::flags_at) + at.k.slot * 4, tile, present);
    kas_wgmma_wait<PENDING>();
    kas_wgmma_settle(logits);
    wide_release(barriers.k_free(at.k.slot));
    at.k.advance();
    wide_soften<S>(view, state, tile, present, masked, logits, shrink);
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
    const kas_u32 q_at = kas_shared_address(memory + S::q_at) + kas_warpgroup() * 64u * 128u;
    const kas_u32 k_at = kas_shared_address(memory + S::k_at), v_at = kas_shared_address(memory + S::v_at);
    float (&out)[16][4] = state.out[0];
    float logits[16][4], shrink[2];
    kas_u32 packed[8][4];
    wide_await(barriers.k_full(at.k.slot), at.k.turn, view.mapped > 0u);
    kas_wgmma_product<T, queries, key_tile>(logits, q_at, k_at + at.k.slot * key_tile::bytes);
    wide_finish_logits<S, 0>(memory, barriers, view, 0u, at, state, logits, shrink);
    wide_pack<T>(logits, packed);
    if (tiles > 1u)
        wide_await(barriers.k_full(at.k.slot), at.k.turn, view.mapped > 1u);
    for (kas_u32 tile = 1; tile < tiles; tile++) {
        wide_await_turn();
        kas_wgmma_product<T, queries, key_tile>(logits, q_at, k_at + at.k.slot * key_tile::bytes);
        wide_await(barriers.v_full(at.v.slot), at.v.turn, tile <= view.mapped);
        wide_accumulate<T>(out, packed, v_at + at.v.slot * key_tile::bytes);
        wide_pass_turn();
        wide_finish_logits<S, 1>(memory, barriers, view, tile, at, state, logits, shrink);
        /* Waiting for the next keys here keeps the assembler from waiting for the products before the weights are done. */
        if (tile + 1u < tiles)
            wide_await(barriers.k_full(at.k.slot), at.k.turn, tile + 1u < view.mapped);
        kas_wgmma_wait<0>();
        wide_finish_values<S>(barriers, at, out);
        wide_shrink(out, shrink);
        wide_pack<T>(logits, packed);
    }
    wide_await(barriers.v_full(at.v.slot), at.v.turn, tiles <= view.mapped);
    wide_accumulate<T>(out, packed, v_at + at.v.slot * key_tile::bytes);
    kas_wgmma_wait<0>();
    wide_finish_values<S>(barriers, at, out);
}

/*
 * Log-sum-exp of the turn's rows over all tiles, of which there is at least one. Warpgroups are enough in number that
 * some add up while others multiply. HALVED: the rows are those of half of the warpgroups, and the other half takes
 * every second tile of the same rows.
 */
template <class S, bool HALVED>
KAS_CU void wide_sum(unsigned char *memory, const wide_barriers<S> &barriers, const wide_view &view, kas_u32 tiles,
                     wide_cursor<S> &at, flash_state<S> &state)
{
    typedef typename S::T T;
    typedef typename S::query_tile queries;
    const kas_u32 groups = S::consumers / 128u / (HALVED ? 2u : 1u), part = kas_warpgroup() / groups;
    const kas_u32 q_at = kas_shared_address(memory + S::q_at) + kas_warpgroup() % groups * 64u * 128u;
    const kas_u32 k_at = kas_shared_address(memory + S::k_at);
    for (kas_u32 tile = 0; tile < tiles; tile++) {
        float logits[16][4];
        kas_u32 present[4];
        const bool own = !HALVED || tile % 2u == part;
        wide_await(barriers.k_full(at.k.slot), at.k.turn, !own || tile < view.mapped);
        if (!own) {
            wide_release(barriers.k_free(at.k.slot));
            at.k.advance();
            continue;
        }
        kas_wgmma_product<T, queries, key_tile>(logits, q_at, k_at + at.k.slot * key_tile::bytes);
        const bool masked =
            wide_read_flags(view, (const kas_u32 *)(memory + S::flags_at) + at.k.slot * 4, tile, present);
        kas_wgmma_wait<0>();
        kas_wgmma_settle(logits);
        wide_release(barriers.k_free(at.k.slot));
        at.k.advance();
        wide_add_tile<S>(view, state, tile, present, masked, logits);
    }
}

/* Adds the sums of the second half of the warpgroups to those of the first, thread by thread. */
template <class S> KAS_CU void wide_join(unsigned char *memory, flash_state<S> &state)
{
    const kas_u32 half = S::consumers / 2;
    float (&greatest)[2] = state.greatest[0], (&sum)[2] = state.sum[0];
    float4 *part = (float4 *)(memory + S::parts_at) + threadIdx.x % half;
    if (threadIdx.x >= half)
        *part = make_float4(greatest[0], greatest[1], sum[0], sum[1]);
    wide_consumers_meet<S>();
    if (threadIdx.x >= half)
        return;
    const float other[2] = {part->x, part->y}, other_sum[2] = {part->z, part->w};
#pragma unroll
    for (int x = 0; x < 2; x++) {
        const float most = fmaxf(greatest[x], other[x]), base = most == KAS_NEGATIVE_INFINITY ? 0.0f : most;
        sum[x] = sum[x] * kas_exp2(greatest[x] - base) + other_sum[x] * kas_exp2(other[x] - base);
        greatest[x] = most;
    }
}

/* Log-sum-exp of the rows from `first` on, by halves where they are no more than half of a turn. */
template <class S>
KAS_CU void wide_sum_rows(unsigned char *memory, const wide_barriers<S> &barriers, const wide_view &view, kas_u32 tiles,
                          wide_cursor<S> &at, const kas_sequence &s, const flash_rows &rows, kas_u32 first,
                          flash_state<S> &state)
{
    if (rows.count - first > S::rows / 2u) {
        wide_sum<S, false>(memory, barriers, view, tiles, at, state);
        return;
    }
    if (threadIdx.x >= S::consumers / 2u) /* rows of the first half once more */
        flash_begin<S>(s, rows, first - S::rows / 2u, state);
    wide_sum<S, true>(memory, barriers, view, tiles, at, state);
    wide_join(memory, state);
}

template <class S>
KAS_CU void wide_consume(const kas_work &w, const kas_key_maps &maps, unsigned char *memory,
                         const wide_barriers<S> &barriers, const kas_sequence &s, const flash_rows &rows,
                         const kas_keys &keys, bool lse, bool out)
{
    const wide_view view = {keys, wide_mapped_tiles<S>(maps, keys), s.offset + rows.query,
                            kas_session_of(w).scale * KAS_LOG2_E};
    const kas_u32 tiles = kas_ceil_div(keys.total, WIDE_KEYS);
    wide_cursor<S> at = {};
    for (kas_u32 first = 0; first < rows.count; first += S::rows) {
        flash_state<S> state;
        wide_copy_queries<typename S::T, S::rows>(w, kas_shared_address(memory + S::q_at), rows, first, threadIdx.x,
                                                  S::consumers);
        wide_finish_queries<S>();
        flash_begin<S>(s, rows, first, state);
        if (tiles == 0)
            ; /* a row without keys is zero */
        else if constexpr (S::values)
            wide_attend<S>(memory, barriers, view, tiles, at, state);
        else
            wide_sum_rows<S>(memory, barriers, view, tiles, at, s, rows, first, state);
        flash_write<S>(w, rows, first, state, lse, out);
        wide_consumers_meet<S>(); /* the queries have been read */
    }
}

/* All turns of `rows` against `keys`, by a whole block. */
template <class S>
KAS_CU void flash_wgmma(const kas_work &w, const kas_key_maps &maps, unsigned char *memory, const kas_sequence &s,
                        const flash_rows &rows, const kas_keys &keys, kas_u32 g, bool lse, bool out)
{
    const wide_barriers<S> barriers = wide_prepare<S>(memory);
    if (threadIdx.x >= S::consumers) {
        kas_lower_registers<S::producer_registers>();
        wide_producer<S> producer = {w, maps, memory, barriers};
        for (kas_u32 first = 0; first < rows.count && keys.total > 0; first += S::rows)
            wide_produce(producer, keys, g, 0u);
        kas_copy_wait_all();
    } else {
        kas_raise_registers<S::consumer_registers>();
        if (S::values && threadIdx.x >= 128u)
            wide_pass_turn();
        wide_consume<S>(w, maps, memory, barriers, s, rows, keys, lse, out);
    }
}

#define FLASH_WGMMA_KERNEL(name, SHAPE, BODY)                                                                          \
    KAS_CUDA_KERNEL_WITH_MAPS(name, SHAPE::threads, SHAPE::shared, BODY<SHAPE>)
#define FLASH_WGMMA_KERNELS(op, SHAPE, BODY)                                                                           \
    FLASH_WGMMA_KERNEL(op##_wgmma_f16_128, SHAPE<f16>, BODY)                                                           \
    FLASH_WGMMA_KERNEL(op##_wgmma_bf16_128, SHAPE<bf16>, BODY)

/* Attention and log-sum-exp. */
template <class T> using wide_attention = wide_shape<T, true>;
template <class T> using wide_logsumexp = wide_shape<T, false>;

#endif
