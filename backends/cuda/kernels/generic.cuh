/*
 * generic.cuh - the plain attention engine behind every generic row: 128 threads work on 16 query rows against tiles of
 * 32 keys, in f32 arithmetic from shared memory, for any storage type and any head dimension up to its class D. Eight
 * neighbouring threads share a query row: each computes every eighth logit of a tile and keeps every eighth output.
 */
#ifndef KAS_CUDA_GENERIC_CUH
#define KAS_CUDA_GENERIC_CUH

#include "common.cuh"

#define GENERIC_THREADS 128
#define GENERIC_ROWS 16
#define GENERIC_KEYS 32
#define GENERIC_SHARE 8 /* threads a query row */

/* Rows are padded by four floats so that eight of them can be read at once without bank conflicts. */
#define GENERIC_PITCH(D) ((D) + 4)
#define GENERIC_SHARED(D) ((GENERIC_ROWS + GENERIC_KEYS) * GENERIC_PITCH(D) * 4 + GENERIC_KEYS * 12)

#define GENERIC_KERNEL(name, D, ...) KAS_CUDA_KERNEL(name, GENERIC_THREADS, 1, GENERIC_SHARED(D), __VA_ARGS__)

/* A kernel for each dtype and head dimension class: BODY<type, D>. */
#define GENERIC_KERNELS(op, BODY)                                                                                      \
    GENERIC_KERNEL(op##_generic_f32_64, 64, BODY<f32, 64>)                                                             \
    GENERIC_KERNEL(op##_generic_f32_128, 128, BODY<f32, 128>)                                                          \
    GENERIC_KERNEL(op##_generic_f32_256, 256, BODY<f32, 256>)                                                          \
    GENERIC_KERNEL(op##_generic_f16_64, 64, BODY<f16, 64>)                                                             \
    GENERIC_KERNEL(op##_generic_f16_128, 128, BODY<f16, 128>)                                                          \
    GENERIC_KERNEL(op##_generic_f16_256, 256, BODY<f16, 256>)                                                          \
    GENERIC_KERNEL(op##_generic_bf16_64, 64, BODY<bf16, 64>)                                                           \
    GENERIC_KERNEL(op##_generic_bf16_128, 128, BODY<bf16, 128>)                                                        \
    GENERIC_KERNEL(op##_generic_bf16_256, 256, BODY<bf16, 256>)

struct generic_memory {
    float *q;
    float *kv;
    kas_place *places;
    kas_u32 *positions;
};

template <int D> KAS_CU generic_memory generic_layout(unsigned char *memory)
{
    generic_memory m;
    m.q = (float *)memory;
    m.kv = m.q + GENERIC_ROWS * GENERIC_PITCH(D);
    m.places = (kas_place *)(m.kv + GENERIC_KEYS * GENERIC_PITCH(D));
    m.positions = (kas_u32 *)(m.places + GENERIC_KEYS);
    return m;
}

/* This thread's query row in the block, and which eighth of its work it does. */
KAS_CU int generic_row()
{
    return (int)threadIdx.x / GENERIC_SHARE;
}

KAS_CU int generic_part()
{
    return (int)threadIdx.x % GENERIC_SHARE;
}

/* The greatest of, or the sum over, the threads of a query row. */
KAS_CU float generic_row_max(float x)
{
#pragma unroll
    for (int step = 1; step < GENERIC_SHARE; step *= 2)
        x = kas_softmax_max(x, __shfl_xor_sync(0xffffffffu, x, step));
    return x;
}

KAS_CU float generic_row_sum(float x)
{
#pragma unroll
    for (int step = 1; step < GENERIC_SHARE; step *= 2)
        x += __shfl_xor_sync(0xffffffffu, x, step);
    return x;
}

/*
 * Copies this thread's query row to shared memory, each warp the rows of its own threads: no barrier is needed. `row`
 * NULL: zeros.
 */
template <class T, int D> KAS_CU void generic_load_query(const generic_memory &m, const T *row, int head_dim)
{
    float *target = m.q + generic_row() * GENERIC_PITCH(D);
    for (int d = generic_part(); d < D; d += GENERIC_SHARE)
        target[d] = row != nullptr && d < head_dim ? kas_to_float(row[d]) : 0.0f;
    __syncwarp();
}

/* Finds the keys of entries first .. first + 31 below `end`. Ends with a barrier. */
KAS_CU void generic_find_keys(const kas_work &w, const generic_memory &m, const kas_keys &keys, kas_u32 first,
                              kas_u32 end)
{
    __syncthreads();
    if (threadIdx.x < GENERIC_KEYS) {
        kas_u32 e = first + threadIdx.x;
        kas_u32 position = e < end ? kas_key_position(w, keys, e) : KAS_ABSENT;
        kas_place place = kas_key_place(w, position);
        m.places[threadIdx.x] = place;
        m.positions[threadIdx.x] = place.page == KAS_ABSENT ? KAS_ABSENT : position;
    }
    __syncthreads();
}

/* Copies the found keys' rows of k or v to shared memory, zeros for absent ones. Ends with a barrier. */
template <class T, int D>
KAS_CU void generic_load_rows(const generic_memory &m, const T *data, const kas_rows &rows, int head_dim)
{
    int lane = (int)threadIdx.x % 32;
    for (int key = (int)threadIdx.x / 32; key < GENERIC_KEYS; key += GENERIC_THREADS / 32) {
        kas_place place = m.places[key];
        const T *source = data + kas_row_offset(rows, place);
        for (int d = lane; d < D; d += 32)
            m.kv[key * GENERIC_PITCH(D) + d] =
                place.page != KAS_ABSENT && d < head_dim ? kas_to_float(source[d]) : 0.0f;
    }
    __syncthreads();
}

/*
 * This thread's logits: its query row against keys part + 8 * x. Sees positions below `visible`; others, absent keys
 * among them, give -inf.
 */
template <int D>
KAS_CU void generic_logits(const generic_memory &m, float scale, kas_u32 visible, float logits[GENERIC_KEYS / 8])
{
    const float4 *q = (const float4 *)(m.q + generic_row() * GENERIC_PITCH(D));
#pragma unroll
    for (int x = 0; x < GENERIC_KEYS / GENERIC_SHARE; x++)
        logits[x] = 0.0f;
    for (int d = 0; d < D / 4; d++) {
        float4 a = q[d];
#pragma unroll
        for (int x = 0; x < GENERIC_KEYS / GENERIC_SHARE; x++) {
            int key = generic_part() + GENERIC_SHARE * x;
            float4 b = ((const float4 *)(m.kv + key * GENERIC_PITCH(D)))[d];
            logits[x] += a.x * b.x + a.y * b.y + a.z * b.z + a.w * b.w;
        }
    }
#pragma unroll
    for (int x = 0; x < GENERIC_KEYS / GENERIC_SHARE; x++) {
        kas_u32 position = m.positions[generic_part() + GENERIC_SHARE * x];
        logits[x] = position < visible ? scale * logits[x] : KAS_NEGATIVE_INFINITY;
    }
}

/* The running softmax of a thread's query row; `sum` is this thread's part of it, `out` its eighth of the output. */
template <int D> struct generic_state {
    float greatest;
    float sum;
    float out[D / GENERIC_SHARE];
};

template <int D> KAS_CU void generic_begin(generic_state<D> &state)
{
    state.greatest = KAS_NEGATIVE_INFINITY;
    state.sum = 0.0f;
#pragma unroll
    for (int x = 0; x < D / GENERIC_SHARE; x++)
        state.out[x] = 0.0f;
}

/* Takes a tile's logits into the running sums and leaves the keys' weights in their place. */
template <int D> KAS_CU void generic_weigh(generic_state<D> &state, float logits[GENERIC_KEYS / 8])
{
    float greatest = state.greatest;
#pragma unroll
    for (int x = 0; x < GENERIC_KEYS / GENERIC_SHARE; x++)
        greatest = kas_softmax_max(greatest, logits[x]);
    greatest = generic_row_max(greatest);
    float shrink = kas_softmax_weight(state.greatest, greatest);
    state.greatest = greatest;
    state.sum *= shrink;
#pragma unroll
    for (int x = 0; x < D / GENERIC_SHARE; x++)
        state.out[x] *= shrink;
#pragma unroll
    for (int x = 0; x < GENERIC_KEYS / GENERIC_SHARE; x++) {
        logits[x] = kas_softmax_weight(logits[x], greatest);
        state.sum += logits[x];
    }
}

/* Adds the weighted values. A key of weight zero is left out, whatever its value. */
template <int D>
KAS_CU void generic_accumulate(const generic_memory &m, generic_state<D> &state, const float weights[GENERIC_KEYS / 8])
{
    int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int key = 0; key < GENERIC_KEYS; key++) {
        float weight =
            __shfl_sync(0xffffffffu, weights[key / GENERIC_SHARE], lane / GENERIC_SHARE * GENERIC_SHARE +
                                                                       key % GENERIC_SHARE);
        if (weight != 0.0f) {
            const float *v = m.kv + key * GENERIC_PITCH(D) + generic_part();
#pragma unroll
            for (int x = 0; x < D / GENERIC_SHARE; x++)
                state.out[x] += weight * v[x * GENERIC_SHARE];
        }
    }
}

/*
 * Runs entries first .. end of `keys` through the block's query rows. `visible`: positions below it are seen by this
 * thread's row. VALUES: with the outputs, otherwise for greatest and sum alone.
 */
template <class T, int D, bool VALUES>
KAS_CU void generic_run(const kas_work &w, const generic_memory &m, const kas_keys &keys, kas_u32 g, kas_u32 first,
                        kas_u32 end, kas_u32 visible, generic_state<D> &state)
{
    const int head_dim = (int)kas_session_of(w).head_dim;
    const float scale = kas_session_of(w).scale;
    const kas_rows k_rows = kas_k_rows(w, g), v_rows = kas_v_rows(w, g);
    for (; first < end; first += GENERIC_KEYS) {
        float logits[GENERIC_KEYS / GENERIC_SHARE];
        generic_find_keys(w, m, keys, first, end);
        generic_load_rows<T, D>(m, kas_slot<const T>(w, KAS_SLOT_K), k_rows, head_dim);
        generic_logits<D>(m, scale, visible, logits);
        generic_weigh(state, logits);
        if (VALUES) {
            __syncthreads();
            generic_load_rows<T, D>(m, kas_slot<const T>(w, KAS_SLOT_V), v_rows, head_dim);
            generic_accumulate(m, state, logits);
        }
    }
    __syncthreads();
}

/* The whole row's result; every thread of the row gets it. */
template <int D> KAS_CU kas_softmax generic_result(const generic_state<D> &state)
{
    kas_softmax result;
    result.greatest = state.greatest;
    result.sum = generic_row_sum(state.sum);
    return result;
}

/*
 * Writes the output and log-sum-exp of a query row that `exists`, whichever the call asks for. Threads of rows that do
 * not exist come along, for a row's threads add up together with all others of their warp.
 */
template <class T, int D>
KAS_CU void generic_write(const kas_work &w, const generic_state<D> &state, bool exists, kas_u32 i, kas_u32 head)
{
    const int head_dim = (int)kas_session_of(w).head_dim;
    kas_softmax result = generic_result(state);
    if (!exists)
        return;
    float share = result.sum == 0.0f ? 0.0f : 1.0f / result.sum;
    if (kas_has(w, KAS_CALL_LSE) && generic_part() == 0)
        *kas_lse_at(w, i, head) = kas_softmax_lse(result);
    if (!kas_has(w, KAS_CALL_OUT))
        return;
    T *out = kas_out_row<T>(w, i, head);
#pragma unroll
    for (int x = 0; x < D / GENERIC_SHARE; x++) {
        int d = generic_part() + GENERIC_SHARE * x;
        if (d < head_dim)
            kas_from_float(state.out[x] * share, out[d]);
    }
}

/* Writes the part of a split of a query row that `exists`; the other threads come along. */
template <int D>
KAS_CU void generic_write_partial(const kas_work &w, const generic_state<D> &state, bool exists, kas_u64 index)
{
    const int head_dim = (int)kas_session_of(w).head_dim;
    kas_softmax result = generic_result(state);
    if (!exists)
        return;
    float share = result.sum == 0.0f ? 0.0f : 1.0f / result.sum;
    if (generic_part() == 0) {
        float *ml = kas_slot<float>(w, KAS_SLOT_PART_ML) + index * 2;
        ml[0] = result.greatest;
        ml[1] = result.sum;
    }
    float *out = kas_slot<float>(w, KAS_SLOT_PART_O) + index * head_dim;
#pragma unroll
    for (int x = 0; x < D / GENERIC_SHARE; x++) {
        int d = generic_part() + GENERIC_SHARE * x;
        if (d < head_dim)
            out[d] = state.out[x] * share;
    }
}

#endif
