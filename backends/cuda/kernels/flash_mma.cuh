/*
 * flash_mma.cuh - prefill on warp matrix instructions: dense attention, log-sum-exp and attention over lists share one
 * engine. A block takes FLASH_ROWS query rows of a kv head past tiles of 64 keys; each of its four warps owns a quarter
 * of the rows, all of them share the tiles, which arrive two stages deep.
 */
#ifndef KAS_CUDA_FLASH_MMA_CUH
#define KAS_CUDA_FLASH_MMA_CUH

#include "mma.cuh"

#define FLASH_ROWS 128u /* of a turn; block_queries of the rows that count one head */
#define FLASH_KEYS 64u
#define FLASH_THREADS 128
#define FLASH_WARPS 4
#define FLASH_STAGES 2

template <class Type, int HEAD_DIM, bool VALUES> struct flash_shape {
    typedef Type T;
    static constexpr int D = HEAD_DIM;
    static constexpr int M = D > 128 ? 1 : 2; /* matrix tiles of 16 rows a warp */
    static constexpr int rows = 16 * M * FLASH_WARPS;
    static constexpr bool values = VALUES;
    static constexpr int tile = (int)FLASH_KEYS * row_layout<D>::pitch;
    static constexpr int stage = tile * (VALUES ? 2 : 1);
    static constexpr int stages = D > 128 ? 1 : FLASH_STAGES;
    static constexpr int q_at = stages * stage;
    static constexpr int flags_at = q_at + rows * row_layout<D>::pitch;
    static constexpr int shared = flags_at + FLASH_STAGES * FLASH_WARPS * 4;
};

/* The query rows of a turn: `row` counts from 0 over heads and query tokens; a row past the end does not exist. */
struct flash_rows {
    kas_u32 head;    /* of row 0 */
    kas_u32 query;   /* of row 0 */
    kas_u32 queries; /* of each head */
    kas_u32 count;
};

KAS_CU kas_u32 flash_head(const flash_rows &rows, kas_u32 row)
{
    return rows.head + row / rows.queries;
}

KAS_CU kas_u32 flash_query(const flash_rows &rows, kas_u32 row)
{
    return rows.query + row % rows.queries;
}

/* A thread holds the sums of rows lane / 4 and lane / 4 + 8 of each matrix tile of its warp. */
template <class S> struct flash_state {
    float out[S::values ? S::M : 1][S::values ? S::D / 8 : 1][4];
    float greatest[S::M][2]; /* of logits times log2(e) */
    float sum[S::M][2];      /* this thread's part */
    kas_u32 seen[S::M][2];   /* positions up to this are seen */
};

/* The row, counted from the turn's first, whose sums are in element (m, half) of this thread. */
template <class S> KAS_CU kas_u32 flash_own_row(int m, int half)
{
    return threadIdx.x / 32 * 16 * S::M + 16 * m + 8 * half + threadIdx.x % 32 / 4;
}

template <class S>
KAS_CU void flash_load_queries(const kas_work &w, unsigned char *memory, const flash_rows &rows, kas_u32 first)
{
    typedef row_layout<S::D> layout;
    const kas_u32 target = kas_shared_address(memory + S::q_at);
    const bool aligned = kas_rows_are_aligned(w.call.q_base, w.call.q_stride_seq, w.call.q_stride_token,
                                              w.call.q_stride_head);
    for (kas_u32 index = threadIdx.x; index < S::rows * layout::chunks; index += FLASH_THREADS) {
        const kas_u32 local = index / layout::chunks, chunk = index % layout::chunks;
        const bool exists = first + local < rows.count;
        const kas_u32 row = exists ? first + local : 0u;
        const typename S::T *q =
            kas_q_row<typename S::T>(w, flash_query(rows, row), flash_head(rows, row)) + chunk * 8u;
        const kas_u32 at = target + layout::at(local, chunk);
        if (aligned)
            kas_copy16(at, q, exists);
        else
            kas_copy16_slowly(at, q, exists);
    }
}

template <class S>
KAS_CU void flash_begin(const kas_sequence &s, const flash_rows &rows, kas_u32 first, flash_state<S> &state)
{
#pragma unroll
    for (int m = 0; m < S::M; m++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            state.greatest[m][half] = KAS_NEGATIVE_INFINITY;
            state.sum[m][half] = 0.0f;
            state.seen[m][half] = s.offset + flash_query(rows, first + flash_own_row<S>(m, half));
        }
        if (S::values)
#pragma unroll
            for (int n = 0; n < S::D / 8; n++)
#pragma unroll
                for (int x = 0; x < 4; x++)
                    state.out[m][n][x] = 0.0f;
    }
}

/* The block's keys: each warp fetches 16 of a tile's 64. */
template <class S> struct flash_stream {
    key_source<typename S::T, S::D, S::values> source;
    kas_u32 first_seen; /* positions up to this are seen by every row */
    unsigned char *memory;
};

template <class S> KAS_CU void flash_look_up(const kas_work &w, flash_stream<S> &stream, kas_u32 tile)
{
    kas_look_up(w, stream.source, tile * FLASH_KEYS + threadIdx.x / 32 * 16u, stream.source.keys.total);
}

template <class S> KAS_CU kas_u32 *flash_flags(const flash_stream<S> &stream, kas_u32 stage)
{
    return (kas_u32 *)(stream.memory + S::flags_at) + stage * FLASH_WARPS;
}

template <class S> KAS_CU void flash_load(const kas_work &w, flash_stream<S> &stream, kas_u32 tile)
{
    const kas_u32 stage = tile % S::stages, warp = threadIdx.x / 32;
    const kas_u32 at = kas_shared_address(stream.memory + stage * S::stage) + warp * 16u * row_layout<S::D>::pitch;
    const kas_u32 present = kas_load_keys(stream.source, at, at + S::tile);
    if (threadIdx.x % 32 == 0)
        flash_flags<S>(stream, stage)[warp] = present;
    flash_look_up<S>(w, stream, tile + 1);
}

/* Logits (not scaled) of the tile's 64 keys, key 8 n + 2 (lane % 4) + {0, 1} in elements {0, 1} and {2, 3}. */
template <class S> KAS_CU void flash_logits(const unsigned char *memory, kas_u32 k_at, float logits[S::M][8][4])
{
    typedef row_layout<S::D> layout;
    const kas_u32 lane = threadIdx.x % 32;
    const kas_u32 q_at = kas_shared_address(memory + S::q_at);
    const kas_u32 first = threadIdx.x / 32 * 16 * S::M;
#pragma unroll
    for (int m = 0; m < S::M; m++)
#pragma unroll
        for (int n = 0; n < 8; n++)
#pragma unroll
            for (int x = 0; x < 4; x++)
                logits[m][n][x] = 0.0f;
#pragma unroll
    for (int k = 0; k < S::D / 16; k++) {
        kas_u32 a[S::M][4];
#pragma unroll
        for (int m = 0; m < S::M; m++)
            kas_load_matrices(q_at + layout::at(first + 16 * m + lane % 16, 2 * k + lane / 16), a[m]);
#pragma unroll
        for (int n = 0; n < 8; n += 2) {
            kas_u32 b[4];
            kas_load_matrices(k_at + layout::at(8 * n + lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2), b);
#pragma unroll
            for (int m = 0; m < S::M; m++) {
                kas_multiply_add(typename S::T(), logits[m][n], a[m], b[0], b[1]);
                kas_multiply_add(typename S::T(), logits[m][n + 1], a[m], b[2], b[3]);
            }
        }
    }
}

template <class S>
KAS_CU void flash_mask(const flash_stream<S> &stream, const flash_state<S> &state, kas_u32 tile, const kas_u32 *present,
                       float logits[S::M][8][4])
{
#pragma unroll
    for (int n = 0; n < 8; n++)
#pragma unroll
        for (int x = 0; x < 2; x++) {
            const kas_u32 key = 8 * n + threadIdx.x % 4 * 2 + x;
            const bool exists = present[n / 2] >> key % 16 & 1u;
            const kas_u32 position = kas_masked_position(stream.source.keys, tile * FLASH_KEYS + key);
#pragma unroll
            for (int m = 0; m < S::M; m++)
#pragma unroll
                for (int half = 0; half < 2; half++)
                    if (!exists || position > state.seen[m][half])
                        logits[m][n][2 * half + x] = KAS_NEGATIVE_INFINITY;
        }
}

/* Logits become weights; sums and earlier outputs follow a growing maximum. */
template <class S> KAS_CU void flash_weigh(flash_state<S> &state, float factor, float logits[S::M][8][4])
{
#pragma unroll
    for (int m = 0; m < S::M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int x = 2 * half;
            float greatest = logits[m][0][x];
#pragma unroll
            for (int n = 0; n < 8; n++)
                greatest = fmaxf(greatest, fmaxf(logits[m][n][x], logits[m][n][x + 1]));
            if (S::values) { /* threads of a row share its outputs, so they need the same maximum */
                greatest = fmaxf(greatest, __shfl_xor_sync(0xffffffffu, greatest, 1));
                greatest = fmaxf(greatest, __shfl_xor_sync(0xffffffffu, greatest, 2));
            }
            greatest = fmaxf(state.greatest[m][half], greatest * factor);
            const float base = greatest == KAS_NEGATIVE_INFINITY ? 0.0f : greatest;
            const float shrink = kas_exp2(state.greatest[m][half] - base);
            state.greatest[m][half] = greatest;
            float sum = 0.0f;
#pragma unroll
            for (int n = 0; n < 8; n++)
#pragma unroll
                for (int y = x; y < x + 2; y++) {
                    logits[m][n][y] = kas_exp2(fmaf(logits[m][n][y], factor, -base));
                    sum += logits[m][n][y];
                }
            state.sum[m][half] = fmaf(state.sum[m][half], shrink, sum);
            if (S::values)
#pragma unroll
                for (int n = 0; n < S::D / 8; n++) {
                    state.out[S::values ? m : 0][S::values ? n : 0][x] *= shrink;
                    state.out[S::values ? m : 0][S::values ? n : 0][x + 1] *= shrink;
                }
        }
}

template <class S> KAS_CU void flash_accumulate(flash_state<S> &state, kas_u32 v_at, const float weights[S::M][8][4])
{
    typedef typename S::T T;
    const kas_u32 lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < 4; k++) {
        kas_u32 a[S::M][4];
#pragma unroll
        for (int m = 0; m < S::M; m++)
#pragma unroll
            for (int x = 0; x < 4; x++)
                a[m][x] = kas_pack(T(), weights[m][2 * k + x / 2][x % 2 * 2], weights[m][2 * k + x / 2][x % 2 * 2 + 1]);
#pragma unroll
        for (int n = 0; n < S::D / 16; n++) {
            kas_u32 b[4];
            kas_load_matrices_transposed(v_at + row_layout<S::D>::at(16 * k + lane % 16, 2 * n + lane / 16), b);
#pragma unroll
            for (int m = 0; m < S::M; m++) {
                kas_multiply_add(T(), state.out[S::values ? m : 0][S::values ? 2 * n : 0], a[m], b[0], b[1]);
                kas_multiply_add(T(), state.out[S::values ? m : 0][S::values ? 2 * n + 1 : 0], a[m], b[2], b[3]);
            }
        }
    }
}

template <class S>
KAS_CU void flash_tile(const flash_stream<S> &stream, flash_state<S> &state, float factor, kas_u32 tile)
{
    const kas_u32 at = kas_shared_address(stream.memory + tile % S::stages * S::stage);
    const kas_u32 *present = flash_flags<S>(stream, tile % S::stages);
    float logits[S::M][8][4];
    flash_logits<S>(stream.memory, at, logits);
    if ((present[0] & present[1] & present[2] & present[3]) != 0xffffu ||
        kas_last_position(stream.source.keys, (tile + 1) * FLASH_KEYS) > stream.first_seen)
        flash_mask<S>(stream, state, tile, present, logits);
    if (factor < 0.0f) /* the greatest product must be the greatest logit */
#pragma unroll
        for (int m = 0; m < S::M; m++)
#pragma unroll
            for (int x = 0; x < 32; x++)
                logits[m][x / 4][x % 4] = logits[m][x / 4][x % 4] == KAS_NEGATIVE_INFINITY ? KAS_NEGATIVE_INFINITY
                                                                                        : -logits[m][x / 4][x % 4];
    flash_weigh<S>(state, fabsf(factor), logits);
    if (S::values)
        flash_accumulate<S>(state, at + S::tile, logits);
}

/* Runs all keys of the stream past the turn's rows; queries are on their way to shared memory. */
template <class S> KAS_CU void flash_run(const kas_work &w, flash_stream<S> &stream, flash_state<S> &state)
{
    const kas_u32 tiles = (stream.source.keys.total + FLASH_KEYS - 1) / FLASH_KEYS;
    const float factor = kas_session_of(w).scale * KAS_LOG2_E;
    flash_look_up<S>(w, stream, 0u);
    if (S::stages > 1 && tiles > 0)
        flash_load<S>(w, stream, 0u);
    kas_copy_commit();
    for (kas_u32 tile = 0; tile < tiles; tile++) {
        if (S::stages == 1)
            flash_load<S>(w, stream, tile);
        else if (tile + 1 < tiles)
            flash_load<S>(w, stream, tile + 1);
        kas_copy_commit();
        kas_copy_wait<S::stages - 1>();
        __syncthreads();
        flash_tile<S>(stream, state, factor, tile);
        __syncthreads();
    }
    kas_copy_wait<0>();
}

/* Writes the output and log-sum-exp of the rows that exist, whichever the call asks for. */
template <class S>
KAS_CU void flash_write(const kas_work &w, const flash_rows &rows, kas_u32 first, const flash_state<S> &state, bool lse,
                        bool out)
{
    typedef typename S::T T;
    const bool pairs =
        ((w.call.out_base | w.call.out_stride_seq | w.call.out_stride_token | w.call.out_stride_head) & 1u) == 0u;
#pragma unroll
    for (int m = 0; m < S::M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const kas_u32 row = first + flash_own_row<S>(m, half);
            kas_softmax own = {state.greatest[m][half], state.sum[m][half]};
            float greatest = own.greatest, sum = own.sum;
            if (!S::values) { /* each thread has a maximum of its own */
                greatest = fmaxf(greatest, __shfl_xor_sync(0xffffffffu, greatest, 1));
                greatest = fmaxf(greatest, __shfl_xor_sync(0xffffffffu, greatest, 2));
                sum *= kas_exp2(own.greatest - (greatest == KAS_NEGATIVE_INFINITY ? 0.0f : greatest));
                /* A part without keys is 0 x exp2(-inf) = 0; one of nothing but NaN stays NaN. */
            }
            sum += __shfl_xor_sync(0xffffffffu, sum, 1);
            sum += __shfl_xor_sync(0xffffffffu, sum, 2);
            if (row >= rows.count)
                continue;
            const kas_u32 head = flash_head(rows, row), i = flash_query(rows, row);
            if (lse && threadIdx.x % 4 == 0) {
                const kas_softmax total = {greatest * KAS_LN_2, sum};
                *kas_lse_at(w, i, head) = kas_softmax_lse(total);
            }
            if (!S::values || !out)
                continue;
            const float share = sum == 0.0f ? 0.0f : 1.0f / sum;
            T *target = kas_out_row<T>(w, i, head) + threadIdx.x % 4 * 2;
#pragma unroll
            for (int n = 0; n < S::D / 8; n++) {
                const float a = state.out[S::values ? m : 0][S::values ? n : 0][2 * half] * share;
                const float b = state.out[S::values ? m : 0][S::values ? n : 0][2 * half + 1] * share;
                if (pairs) {
                    *(kas_u32 *)(target + 8 * n) = kas_pack(T(), a, b);
                } else {
                    kas_from_float(a, target[8 * n]);
                    kas_from_float(b, target[8 * n + 1]);
                }
            }
        }
}

/* All turns of `rows` against `keys`; `first_query` is the earliest query token among them. */
template <class S>
KAS_CU void flash_mma(const kas_work &w, unsigned char *memory, const kas_sequence &s, const flash_rows &rows,
                      const kas_keys &keys, kas_u32 g, bool lse, bool out)
{
    flash_stream<S> stream;
    kas_open_keys(w, stream.source, keys, g);
    stream.first_seen = s.offset + rows.query;
    stream.memory = memory;
    for (kas_u32 first = 0; first < rows.count; first += S::rows) {
        flash_state<S> state;
        flash_load_queries<S>(w, memory, rows, first);
        flash_begin<S>(s, rows, first, state);
        flash_run<S>(w, stream, state);
        flash_write<S>(w, rows, first, state, lse, out);
        __syncthreads();
    }
}

/* The rows of block x of a launch that counts blocks of `most` query tokens of one head; count 0: none. */
KAS_CU flash_rows flash_head_rows(const kas_work &w, const kas_sequence &s, kas_u32 most)
{
    const kas_u32 tile = kas_session_of(w).tile;
    const kas_u32 end = kas_chunk_end(s, w.call.tile_begin, w.call.tile_count, tile);
    /* Later blocks have more keys: they start first, so that no long one is left at the end. */
    const kas_u32 block = gridDim.x - 1u - blockIdx.x;
    const kas_u32 first = kas_chunk_begin(s, w.call.tile_begin, tile) + block * most;
    flash_rows rows = {blockIdx.y, first, most, first < end ? kas_min2(end - first, most) : 0u};
    return rows;
}

/* The rows of a tile: all query heads of kv head g. */
KAS_CU flash_rows flash_tile_rows(const kas_work &w, const kas_tile &t, kas_u32 g)
{
    const kas_u32 group = kas_session_of(w).group, queries = t.query_end - t.query_begin;
    flash_rows rows = {g * group, t.query_begin, queries, group * queries};
    return rows;
}

#define FLASH_MMA_KERNEL(name, T, D, VALUES, BODY)                                                                     \
    KAS_CUDA_KERNEL(name, FLASH_THREADS, (D > 128 ? 1 : 2), (flash_shape<T, D, VALUES>::shared),                       \
                    BODY<flash_shape<T, D, VALUES>>)

#define FLASH_MMA_KERNELS(op, VALUES, BODY)                                                                            \
    FLASH_MMA_KERNEL(op##_mma_f16_64, f16, 64, VALUES, BODY)                                                           \
    FLASH_MMA_KERNEL(op##_mma_f16_80, f16, 80, VALUES, BODY)                                                           \
    FLASH_MMA_KERNEL(op##_mma_f16_96, f16, 96, VALUES, BODY)                                                           \
    FLASH_MMA_KERNEL(op##_mma_f16_128, f16, 128, VALUES, BODY)                                                         \
    FLASH_MMA_KERNEL(op##_mma_f16_256, f16, 256, VALUES, BODY)                                                         \
    FLASH_MMA_KERNEL(op##_mma_bf16_64, bf16, 64, VALUES, BODY)                                                         \
    FLASH_MMA_KERNEL(op##_mma_bf16_80, bf16, 80, VALUES, BODY)                                                         \
    FLASH_MMA_KERNEL(op##_mma_bf16_96, bf16, 96, VALUES, BODY)                                                         \
    FLASH_MMA_KERNEL(op##_mma_bf16_128, bf16, 128, VALUES, BODY)                                                       \
    FLASH_MMA_KERNEL(op##_mma_bf16_256, bf16, 256, VALUES, BODY)

#endif
