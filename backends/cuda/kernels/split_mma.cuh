/*
 * split_mma.cuh - decode on warp matrix instructions. A kv head's query rows (group x query tokens) fill the 16 rows of
 * a matrix tile, two tiles where they are more. Each warp takes every WARPS-th run of 16 keys of the split through a
 * pipeline of its own, so that warps never wait for each other before the end, where their results are merged. The
 * work is bound by memory: what counts is how many bytes are under way.
 */
#ifndef KAS_CUDA_SPLIT_MMA_CUH
#define KAS_CUDA_SPLIT_MMA_CUH

#include "mma.cuh"
#include "split.cuh"

/* STORED: over a list, whose logits another pass has stored. */
enum split_mode { SPLIT_DENSE, SPLIT_LISTED, SPLIT_LOGITS, SPLIT_STORED };

#define SPLIT_KEYS 16u

template <class Type, int HEAD_DIM, int ROW_TILES, split_mode MODE, int WARPS = (HEAD_DIM > 128 ? 2 : 4)>
struct split_shape {
    typedef Type T;
    static constexpr int D = HEAD_DIM;
    static constexpr int M = D > 128 ? 1 : ROW_TILES;
    static constexpr split_mode mode = MODE;
    static constexpr bool values = MODE != SPLIT_LOGITS;
    static constexpr bool stored = MODE == SPLIT_STORED;
    static constexpr bool listed = MODE == SPLIT_LISTED || stored;
    static constexpr bool both = values && !stored; /* a step brings keys and values */
    static constexpr int warps = WARPS;
    static constexpr int threads = warps * 32;
    static constexpr bool q_in_registers = !stored && D * M <= 128;
    /* Bytes of what a step brings, and as many steps as leave room for two blocks on sm_80 and later. */
    static constexpr int logits_at = (int)SPLIT_KEYS * row_layout<D>::pitch; /* in STORED */
    static constexpr int stage = stored ? logits_at + 16 * M * (int)SPLIT_KEYS * 4 : logits_at * (both ? 2 : 1);
    static constexpr int q_bytes = q_in_registers || stored ? 0 : 16 * M * row_layout<D>::pitch;
    static constexpr int room = (99 * 1024 - q_bytes - 256) / (stage * warps);
    static constexpr int stages = room > 6 ? 6 : room;
    /* Queries on their way to registers pass through the stage that is filled last. */
    static constexpr int q_at = (q_in_registers ? stages - 1 : stages) * stage * warps;
    static constexpr int flags_at = stages * stage * warps + q_bytes;
    static constexpr int stream_bytes = flags_at + stages * warps * 4;
    /* At the end the same memory holds each warp's sums and outputs, in a team also those of the block. */
    static constexpr int part = values ? D + 2 : 2;
    static constexpr int block_at = warps * 16 * M * part * 4;
    static constexpr int merge_bytes = block_at + 16 * M * part * 4;
    static constexpr int shared = stream_bytes > merge_bytes ? stream_bytes : merge_bytes;
    static_assert(stages >= 2, "a pipeline needs two stages");
    static_assert(!q_in_registers || stage * warps >= 16 * M * row_layout<D>::pitch, "the queries fit a stage");
};

/* What a warp knows about the keys it streams. */
template <class S> struct split_stream {
    key_source<typename S::T, S::D, S::both> source;
    split_range range;
    const float *logits; /* STORED: of the kv head's first query row */
    kas_u32 position;    /* STORED: of the entry looked up */
    kas_u32 offset; /* position of the first query token: keys up to it are seen by every row */
    unsigned char *memory;
};

template <class S> KAS_CU kas_u32 split_entry(const split_stream<S> &stream, kas_u32 step)
{
    return stream.range.begin + (step * S::warps + threadIdx.x / 32) * SPLIT_KEYS;
}

template <class S> KAS_CU kas_u32 split_steps(const split_stream<S> &stream)
{
    const kas_u32 runs = (stream.range.end - stream.range.begin + SPLIT_KEYS - 1) / SPLIT_KEYS;
    const kas_u32 warp = threadIdx.x / 32;
    return runs > warp ? (runs - warp + S::warps - 1) / S::warps : 0u;
}

template <class S> KAS_CU unsigned char *split_stage(const split_stream<S> &stream, kas_u32 stage)
{
    return stream.memory + (stage * S::warps + threadIdx.x / 32) * S::stage;
}

/* One bit for each of the step's 16 keys that exists. */
template <class S> KAS_CU kas_u32 *split_flags(const split_stream<S> &stream, kas_u32 stage)
{
    return (kas_u32 *)(stream.memory + S::flags_at) + stage * S::warps + threadIdx.x / 32;
}

template <class S> KAS_CU void split_look_up(const kas_work &w, split_stream<S> &stream, kas_u32 step)
{
    const kas_u32 e = split_entry<S>(stream, step) + threadIdx.x % SPLIT_KEYS;
    stream.position = e < stream.range.end ? kas_key_position(w, stream.source.keys, e) : KAS_ABSENT;
    stream.source.next = kas_key_place(w, stream.position);
}

/* Starts the copies of the logits of the entries looked up, in STORED: 16 of a query row side by side. */
template <class S>
KAS_CU void split_load_logits(const kas_work &w, const split_stream<S> &stream, kas_u32 target, kas_u32 first_row)
{
    const kas_u32 lane = threadIdx.x % 32, rows = kas_session_of(w).group * w.call.queries;
    const kas_u32 position = stream.position == KAS_ABSENT ? 0u : stream.position;
    const float *entry = stream.logits + position;
#pragma unroll
    for (int x = 0; x < 8 * S::M; x++) {
        const kas_u32 row = 2 * x + lane / SPLIT_KEYS;
        if (first_row + row < rows)
            kas_copy4(target + (row * SPLIT_KEYS + lane % SPLIT_KEYS) * 4u,
                      entry + (kas_u64)(first_row + row) * w.call.score_stride);
    }
}

/* Starts the copies of a step, whose keys were looked up before, and looks up the next step's. */
template <class S>
KAS_CU void split_load(const kas_work &w, split_stream<S> &stream, kas_u32 step, kas_u32 stage, kas_u32 first_row)
{
    const kas_u32 target = kas_shared_address(split_stage<S>(stream, stage));
    const kas_u32 present = kas_load_keys<true>(stream.source, target, target + SPLIT_KEYS * row_layout<S::D>::pitch);
    if (S::stored)
        split_load_logits<S>(w, stream, target + S::logits_at, first_row);
    if (threadIdx.x % 32 == 0)
        *split_flags<S>(stream, stage) = present;
    split_look_up<S>(w, stream, step + 1);
}

/* A warp's query rows: 16 of a matrix tile, of which a thread holds the sums of rows lane / 4 and lane / 4 + 8. */
template <class S> struct split_state {
    kas_u32 q[S::q_in_registers ? S::M : 1][S::q_in_registers ? S::D / 16 : 1][4];
    float out[S::values ? S::M : 1][S::values ? S::D / 8 : 1][4];
    float greatest[S::M][2]; /* of logits times log2(e) */
    float sum[S::M][2];      /* this thread's part */
    kas_u32 seen[S::M][2];   /* positions up to this are seen */
};

/* Brings the query rows first .. first + 16 M - 1 of kv head g to shared memory at q_at. */
template <class S> KAS_CU void split_load_queries(const kas_work &w, unsigned char *memory, kas_u32 g, kas_u32 first,
                                                  kas_u32 queries)
{
    typedef row_layout<S::D> rows;
    const kas_session_block &session = kas_session_of(w);
    const kas_u32 target = kas_shared_address(memory + S::q_at);
    const bool aligned = kas_rows_are_aligned(w.call.q_base, w.call.q_stride_seq, w.call.q_stride_token,
                                              w.call.q_stride_head);
    for (kas_u32 index = threadIdx.x; index < 16 * S::M * rows::chunks; index += S::threads) {
        const kas_u32 row = index / rows::chunks, chunk = index % rows::chunks;
        const kas_u32 r = (first + row) / w.call.queries, i = (first + row) % w.call.queries;
        const bool exists = r < session.group && i < queries;
        const typename S::T *q = kas_q_row<typename S::T>(w, exists ? i : 0u, g * session.group + (exists ? r : 0u));
        const kas_u32 at = target + rows::at(row, chunk);
        if (aligned && exists) {
            const uint4 data = *(const uint4 *)(q + chunk * 8u);
            kas_store16(at, data.x, data.y, data.z, data.w);
        } else {
            kas_copy16_slowly(at, q + chunk * 8u, exists);
        }
    }
    __syncthreads();
}

template <class S> KAS_CU void split_load_q_matrices(const unsigned char *q, int m, int k, kas_u32 a[4])
{
    const kas_u32 lane = threadIdx.x % 32;
    kas_load_matrices(kas_shared_address(q) + row_layout<S::D>::at(16 * m + lane % 16, 2 * k + lane / 16), a);
}

template <class S> KAS_CU void split_begin(const kas_work &w, split_state<S> &state, const unsigned char *memory,
                                           kas_u32 first, const kas_sequence &s)
{
#pragma unroll
    for (int m = 0; m < S::M; m++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const kas_u32 row = first + 16 * m + 8 * half + threadIdx.x % 32 / 4;
            state.greatest[m][half] = KAS_NEGATIVE_INFINITY;
            state.sum[m][half] = 0.0f;
            state.seen[m][half] = s.offset + row % w.call.queries;
        }
        if (S::values)
#pragma unroll
            for (int n = 0; n < S::D / 8; n++)
#pragma unroll
                for (int x = 0; x < 4; x++)
                    state.out[m][n][x] = 0.0f;
        if (S::q_in_registers)
#pragma unroll
            for (int k = 0; k < S::D / 16; k++)
                split_load_q_matrices<S>(memory + S::q_at, m, k, state.q[m][k]);
    }
}

/* Logits (not yet scaled) of the stage's 16 keys: key 8 n + 2 (lane % 4) + {0, 1} in elements {0, 1} and {2, 3}. */
template <class S>
KAS_CU void split_logits(const split_state<S> &state, const unsigned char *memory, kas_u32 k_at,
                         float logits[S::M][2][4])
{
    const kas_u32 lane = threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < S::M; m++)
#pragma unroll
        for (int x = 0; x < 8; x++)
            logits[m][x / 4][x % 4] = 0.0f;
#pragma unroll
    for (int k = 0; k < S::D / 16; k++) {
        kas_u32 b[4];
        kas_load_matrices(k_at + row_layout<S::D>::at(lane / 16 * 8 + lane % 8, 2 * k + lane / 8 % 2), b);
#pragma unroll
        for (int m = 0; m < S::M; m++) {
            kas_u32 loaded[4];
            if (!S::q_in_registers)
                split_load_q_matrices<S>(memory + S::q_at, m, k, loaded);
            const kas_u32 *a = S::q_in_registers ? state.q[S::q_in_registers ? m : 0][S::q_in_registers ? k : 0] : loaded;
            kas_multiply_add(typename S::T(), logits[m][0], a, b[0], b[1]);
            kas_multiply_add(typename S::T(), logits[m][1], a, b[2], b[3]);
        }
    }
}

/* The logits that another pass stored, in the layout of split_logits. Rows that do not exist are left undefined. */
template <class S>
KAS_CU void split_stored_logits(const unsigned char *stage, float logits[S::M][2][4])
{
    const float *rows = (const float *)(stage + S::logits_at);
#pragma unroll
    for (int m = 0; m < S::M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
            for (int n = 0; n < 2; n++) {
                const kas_u32 row = 16 * m + 8 * half + threadIdx.x % 32 / 4;
                const float2 two = *(const float2 *)(rows + row * SPLIT_KEYS + 8 * n + threadIdx.x % 4 * 2);
                logits[m][n][2 * half] = two.x;
                logits[m][n][2 * half + 1] = two.y;
            }
}

/* Takes out keys that do not exist or lie behind a row's own position. */
template <class S>
KAS_CU void split_mask(const split_stream<S> &stream, const split_state<S> &state, kas_u32 first, kas_u32 present,
                       float logits[S::M][2][4])
{
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
        for (int x = 0; x < 2; x++) {
            const kas_u32 key = 8 * n + threadIdx.x % 4 * 2 + x, e = first + key;
            const kas_u32 position = kas_masked_position(stream.source.keys, e);
#pragma unroll
            for (int m = 0; m < S::M; m++)
#pragma unroll
                for (int half = 0; half < 2; half++)
                    if (!(present >> key & 1u) || position > state.seen[m][half])
                        logits[m][n][2 * half + x] = KAS_NEGATIVE_INFINITY;
        }
}

/* Writes the step's logits of the rows that exist. */
template <class S>
KAS_CU void split_store_logits(const kas_work &w, const split_stream<S> &stream, kas_u32 first_row, kas_u32 queries,
                               kas_u32 first, const float logits[S::M][2][4])
{
    const kas_u32 rows = kas_session_of(w).group * w.call.queries;
    const bool pairs = w.call.score_stride % 2 == 0 && first % 2 == 0;
#pragma unroll
    for (int m = 0; m < S::M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const kas_u32 row = first_row + 16 * m + 8 * half + threadIdx.x % 32 / 4;
            if (row >= rows || row % w.call.queries >= queries)
                continue;
            float *line = kas_slot<float>(w, KAS_SLOT_LOGITS) +
                          kas_query_row_index(w, gridDim.y, blockIdx.y, row) * w.call.score_stride;
#pragma unroll
            for (int n = 0; n < 2; n++) {
                const kas_u32 e = first + 8 * n + threadIdx.x % 4 * 2;
                const float a = logits[m][n][2 * half], b = logits[m][n][2 * half + 1];
                if (pairs && e + 1 < stream.range.end) {
                    *(float2 *)(line + e) = make_float2(a, b);
                } else {
                    if (e < stream.range.end)
                        line[e] = a;
                    if (e + 1 < stream.range.end)
                        line[e + 1] = b;
                }
            }
        }
}

/* Logits times log2(e) become weights; sums and, where a maximum grew, earlier outputs follow. */
template <class S> KAS_CU void split_weigh(split_state<S> &state, float logits[S::M][2][4])
{
#pragma unroll
    for (int m = 0; m < S::M; m++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int x = 2 * half;
            float greatest = fmaxf(fmaxf(logits[m][0][x], logits[m][0][x + 1]),
                                   fmaxf(logits[m][1][x], logits[m][1][x + 1]));
            greatest = fmaxf(greatest, __shfl_xor_sync(0xffffffffu, greatest, 1));
            greatest = fmaxf(greatest, __shfl_xor_sync(0xffffffffu, greatest, 2));
            greatest = fmaxf(greatest, state.greatest[m][half]);
            if (__any_sync(0xffffffffu, greatest > state.greatest[m][half])) {
                const float shrink = kas_exp2(greatest > state.greatest[m][half] ? state.greatest[m][half] - greatest
                                                                                  : 0.0f);
                state.greatest[m][half] = greatest;
                state.sum[m][half] *= shrink;
                if (S::values)
#pragma unroll
                    for (int n = 0; n < S::D / 8; n++) {
                        state.out[S::values ? m : 0][S::values ? n : 0][x] *= shrink;
                        state.out[S::values ? m : 0][S::values ? n : 0][x + 1] *= shrink;
                    }
            }
            const float base = greatest == KAS_NEGATIVE_INFINITY ? 0.0f : greatest;
#pragma unroll
            for (int n = 0; n < 2; n++)
#pragma unroll
                for (int y = x; y < x + 2; y++) {
                    logits[m][n][y] = kas_exp2(logits[m][n][y] - base);
                    state.sum[m][half] += logits[m][n][y];
                }
        }
    }
}

template <class S> KAS_CU void split_accumulate(split_state<S> &state, kas_u32 v_at, const float weights[S::M][2][4])
{
    typedef typename S::T T;
    const kas_u32 lane = threadIdx.x % 32;
    kas_u32 a[S::M][4];
#pragma unroll
    for (int m = 0; m < S::M; m++)
#pragma unroll
        for (int x = 0; x < 4; x++)
            a[m][x] = kas_pack(T(), weights[m][x / 2][x % 2 * 2], weights[m][x / 2][x % 2 * 2 + 1]);
#pragma unroll
    for (int n = 0; n < S::D / 16; n++) {
        kas_u32 b[4];
        kas_load_matrices_transposed(v_at + row_layout<S::D>::at(lane % 16, 2 * n + lane / 16), b);
#pragma unroll
        for (int m = 0; m < S::M; m++) {
            kas_multiply_add(T(), state.out[S::values ? m : 0][S::values ? 2 * n : 0], a[m], b[0], b[1]);
            kas_multiply_add(T(), state.out[S::values ? m : 0][S::values ? 2 * n + 1 : 0], a[m], b[2], b[3]);
        }
    }
}

template <class S>
KAS_CU void split_step(const kas_work &w, const split_stream<S> &stream, split_state<S> &state, kas_u32 step,
                       kas_u32 stage, kas_u32 first_row, kas_u32 queries)
{
    const kas_u32 first = split_entry<S>(stream, step);
    const unsigned char *brought = split_stage<S>(stream, stage);
    const kas_u32 at = kas_shared_address(brought);
    const kas_u32 present = *split_flags<S>(stream, stage);
    const float scale = kas_session_of(w).scale;
    const bool store = S::mode == SPLIT_LOGITS && kas_has(w, KAS_CALL_STORE_LOGITS);
    float logits[S::M][2][4];
    if (S::stored)
        split_stored_logits<S>(brought, logits);
    else
        split_logits<S>(state, stream.memory, at, logits);
    if (present != 0xffffu || kas_last_position(stream.source.keys, first + SPLIT_KEYS) > stream.offset)
        split_mask<S>(stream, state, first, present, logits);
    if (store) {
#pragma unroll
        for (int m = 0; m < S::M; m++)
#pragma unroll
            for (int x = 0; x < 8; x++)
                logits[m][x / 4][x % 4] *= scale;
        split_store_logits<S>(w, stream, first_row, queries, first, logits);
    }
    const float factor = store || S::stored ? KAS_LOG2_E : scale * KAS_LOG2_E;
#pragma unroll
    for (int m = 0; m < S::M; m++)
#pragma unroll
        for (int x = 0; x < 8; x++)
            logits[m][x / 4][x % 4] *= factor;
    split_weigh<S>(state, logits);
    if (S::values)
        split_accumulate<S>(state, at + (S::both ? SPLIT_KEYS * row_layout<S::D>::pitch : 0u), logits);
}

/* A warp's part of a query row in shared memory: greatest logit, sum, D outputs. */
template <class S> KAS_CU float *split_part(unsigned char *memory, kas_u32 warp, kas_u32 row)
{
    return (float *)memory + (warp * 16 * S::M + row) * S::part;
}

template <class S> KAS_CU void split_publish(unsigned char *memory, const split_state<S> &state)
{
    const kas_u32 lane = threadIdx.x % 32;
#pragma unroll
    for (int m = 0; m < S::M; m++)
#pragma unroll
        for (int half = 0; half < 2; half++) {
            float sum = state.sum[m][half];
            sum += __shfl_xor_sync(0xffffffffu, sum, 1);
            sum += __shfl_xor_sync(0xffffffffu, sum, 2);
            float *part = split_part<S>(memory, threadIdx.x / 32, 16 * m + 8 * half + lane / 4);
            if (lane % 4 == 0) {
                part[0] = state.greatest[m][half];
                part[1] = sum;
            }
            if (S::values)
#pragma unroll
                for (int n = 0; n < S::D / 8; n++) {
                    part[2 + 8 * n + lane % 4 * 2] = state.out[S::values ? m : 0][S::values ? n : 0][2 * half];
                    part[3 + 8 * n + lane % 4 * 2] = state.out[S::values ? m : 0][S::values ? n : 0][2 * half + 1];
                }
        }
}

/* What the warps' parts of one query row make together: its softmax, and each warp's weight in it. */
template <class S>
KAS_CU kas_softmax split_merge_warps(unsigned char *memory, kas_u32 local, bool exists, float weights[S::warps])
{
    float greatest = KAS_NEGATIVE_INFINITY, sum = 0.0f;
    if (exists)
#pragma unroll
        for (int warp = 0; warp < S::warps; warp++)
            greatest = fmaxf(greatest, split_part<S>(memory, warp, local)[0]);
#pragma unroll
    for (int warp = 0; warp < S::warps; warp++) {
        const float *part = split_part<S>(memory, warp, local);
        weights[warp] = greatest == KAS_NEGATIVE_INFINITY ? 0.0f : kas_exp2(part[0] - greatest);
        sum += exists && part[1] != 0.0f ? part[1] * weights[warp] : 0.0f;
    }
    /* A row of nothing but NaN has no greatest logit; its sum still tells. */
    if (sum != sum && greatest == KAS_NEGATIVE_INFINITY)
        greatest = 0.0f;
    const kas_softmax result = {greatest * KAS_LN_2, sum};
    return result;
}

/* Element d of the row's output. */
template <class S>
KAS_CU float split_merge_output(unsigned char *memory, kas_u32 local, kas_u32 d, float sum,
                                const float weights[S::warps])
{
    float total = 0.0f;
#pragma unroll
    for (int warp = 0; warp < S::warps; warp++)
        total += weights[warp] * split_part<S>(memory, warp, local)[2 + d];
    return sum == 0.0f ? 0.0f : total / sum;
}

/* Writes the split's result of one query row; run by one warp. */
template <class S>
KAS_CU void split_write_row(const kas_work &w, unsigned char *memory, kas_u32 local, kas_u32 row, kas_u32 queries)
{
    const kas_u32 lane = threadIdx.x % 32;
    const kas_u32 i = row % w.call.queries, head = blockIdx.y * kas_session_of(w).group + row / w.call.queries;
    float weights[S::warps];
    const kas_softmax result = split_merge_warps<S>(memory, local, i < queries, weights);
    const bool direct = S::values && kas_has(w, KAS_CALL_DIRECT);
    const kas_u64 index = direct ? 0 : kas_partial_index(w, gridDim.y, blockIdx.y, row, blockIdx.x);
    if (lane == 0 && !direct) {
        float *ml = kas_slot<float>(w, KAS_SLOT_PART_ML) + index * 2;
        ml[0] = result.greatest;
        ml[1] = result.sum;
    } else if (lane == 0 && i < queries && kas_has(w, KAS_CALL_LSE)) {
        *kas_lse_at(w, i, head) = kas_softmax_lse(result);
    }
    if (!S::values || (direct && (i >= queries || !kas_has(w, KAS_CALL_OUT))))
        return;
    typename S::T *out = direct ? kas_out_row<typename S::T>(w, i, head) : nullptr;
    float *partial = kas_slot<float>(w, KAS_SLOT_PART_O) + index * S::D;
    for (int d = lane; d < S::D; d += 32) {
        const float total = split_merge_output<S>(memory, local, d, result.sum, weights);
        if (direct)
            kas_from_float(total, out[d]);
        else
            partial[d] = total;
    }
}

template <class S> KAS_CU split_stream<S> split_open(const kas_work &w, unsigned char *memory, const kas_sequence &s,
                                                     kas_u32 g)
{
    split_stream<S> stream;
    kas_open_keys(w, stream.source, split_keys_of<S::listed>(w, s, g), g);
    if constexpr (S::stored) {
        kas_values_alone(w, stream.source, g);
        stream.logits = kas_slot<const float>(w, KAS_SLOT_LOGITS) +
                        kas_query_row_index(w, gridDim.y, blockIdx.y, 0u) * w.call.score_stride;
    }
    stream.range = split_range_of(w, blockIdx.x, stream.source.keys.total);
    stream.offset = s.offset;
    stream.memory = memory;
    return stream;
}

/* Starts the copies of the warp's first steps. */
template <class S> KAS_CU void split_start(const kas_work &w, split_stream<S> &stream, kas_u32 first_row)
{
    const kas_u32 steps = split_steps<S>(stream);
    split_look_up<S>(w, stream, 0u);
#pragma unroll
    for (int step = 0; step < S::stages - 1; step++) {
        if ((kas_u32)step < steps)
            split_load<S>(w, stream, step, step, first_row);
        kas_copy_commit();
    }
}

/* Streams the warp's keys past its query rows. */
template <class S>
KAS_CU void split_run(const kas_work &w, split_stream<S> &stream, split_state<S> &state, kas_u32 first_row,
                      kas_u32 queries)
{
    const kas_u32 steps = split_steps<S>(stream);
    kas_u32 stage = 0;
    for (kas_u32 step = 0; step < steps; step++) {
        kas_copy_wait<S::stages - 2>();
        __syncwarp();
        const kas_u32 ahead = step + S::stages - 1;
        if (ahead < steps)
            split_load<S>(w, stream, ahead, stage == 0 ? S::stages - 1 : stage - 1, first_row);
        kas_copy_commit();
        split_step<S>(w, stream, state, step, stage, first_row, queries);
        stage = stage + 1 == S::stages ? 0 : stage + 1;
    }
    kas_copy_wait<0>();
}

/* Writes the split's results of the rows from `first` on. */
template <class S>
KAS_CU void split_write_rows(const kas_work &w, unsigned char *memory, kas_u32 first, kas_u32 rows, kas_u32 queries)
{
    for (kas_u32 local = threadIdx.x / 32; local < 16 * S::M && first + local < rows; local += S::warps)
        split_write_row<S>(w, memory, local, first + local, queries);
    __syncthreads();
}

/* finish(first, rows, queries) takes the parts of all warps for the rows from `first` on and leaves the memory free. */
template <class S, class Finish> KAS_CU void split_work(const kas_work &w, unsigned char *memory, const Finish &finish)
{
    const kas_session_block &session = kas_session_of(w);
    const kas_sequence s = kas_load_sequence(w);
    if (s.queries == 0u)
        return;
    const kas_u32 y = blockIdx.y;
    const kas_u32 g =
        S::mode == SPLIT_LOGITS ? kas_active_row(w, y / session.pool_heads) + y % session.pool_heads : y;
    const kas_u32 rows = session.group * w.call.queries;
    split_stream<S> stream = split_open<S>(w, memory, s, g);
    for (kas_u32 first = 0; first < rows; first += 16 * S::M) {
        split_state<S> state;
        split_start<S>(w, stream, first);
        if (!S::stored)
            split_load_queries<S>(w, memory, g, first, s.queries);
        split_begin<S>(w, state, memory, first, s);
        if (S::q_in_registers)
            __syncthreads();
        split_run<S>(w, stream, state, first, s.queries);
        __syncthreads();
        split_publish<S>(memory, state);
        __syncthreads();
        finish(first, rows, s.queries);
    }
}

template <class S> KAS_CU void split_mma(const kas_work &w, unsigned char *memory)
{
    split_work<S>(w, memory, [&](kas_u32 first, kas_u32 rows, kas_u32 queries) {
        split_write_rows<S>(w, memory, first, rows, queries);
    });
}

#define SPLIT_MMA_KERNEL(name, T, D, M, MODE)                                                                          \
    KAS_CUDA_KERNEL(name, (split_shape<T, D, M, MODE>::threads), 2, (split_shape<T, D, M, MODE>::shared),              \
                    split_mma<split_shape<T, D, M, MODE>>)

#define SPLIT_MMA_HEAD_DIM(op, D, MODE)                                                                                \
    SPLIT_MMA_KERNEL(op##_mma_f16_##D##_16, f16, D, 1, MODE)                                                           \
    SPLIT_MMA_KERNEL(op##_mma_f16_##D##_32, f16, D, 2, MODE)                                                           \
    SPLIT_MMA_KERNEL(op##_mma_bf16_##D##_16, bf16, D, 1, MODE)                                                         \
    SPLIT_MMA_KERNEL(op##_mma_bf16_##D##_32, bf16, D, 2, MODE)

/* 16 and 32: the query rows of a kv head that a turn takes. */
#define SPLIT_MMA_KERNELS(op, MODE)                                                                                    \
    SPLIT_MMA_HEAD_DIM(op, 64, MODE)                                                                                   \
    SPLIT_MMA_HEAD_DIM(op, 80, MODE)                                                                                   \
    SPLIT_MMA_HEAD_DIM(op, 96, MODE)                                                                                   \
    SPLIT_MMA_HEAD_DIM(op, 128, MODE)                                                                                  \
    SPLIT_MMA_HEAD_DIM(op, 256, MODE)

#endif
