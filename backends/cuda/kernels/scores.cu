/*
 * scores.cu - pooled scores of a prefill tile's candidates. A block takes SCORES_KEYS keys and adds up the weights that
 * the tile's queries of all pooled heads give them, 16 query rows at a time, always in the same order.
 */
#include "generic.cuh"

#define SCORES_KEYS 128 /* block_keys of the row */

/* What thread (row, part) of a block has summed for keys part + 8 * x of each tile of 32. */
struct scores_state {
    float sum[SCORES_KEYS / GENERIC_SHARE];
};

/* Adds what one chunk of 16 query rows gives to the 32 keys in shared memory. */
template <int D>
KAS_CU void scores_add(const kas_work &w, const generic_memory &m, bool exists, float lse, float *sum)
{
    float logits[GENERIC_KEYS / GENERIC_SHARE];
    const bool capped = kas_has(w, KAS_CALL_ESTIMATED);
    generic_logits<D>(m, kas_session_of(w).scale, exists ? KAS_ABSENT : 0u, logits);
    if (!exists)
        return;
#pragma unroll
    for (int x = 0; x < GENERIC_KEYS / GENERIC_SHARE; x++)
        if (m.positions[generic_part() + GENERIC_SHARE * x] != KAS_ABSENT) {
            float term = kas_softmax_weight(logits[x] - lse, 0.0f);
            sum[x] += capped && term > 4.0f ? 4.0f : term;
        }
}

/* Sums over the block's 16 rows of threads and writes the scores of 32 keys. */
KAS_CU void scores_write(const generic_memory &m, const float *sum, float *target, kas_u32 first, kas_u32 end)
{
    float *parts = m.q; /* [row][key] */
    __syncthreads();
#pragma unroll
    for (int x = 0; x < GENERIC_KEYS / GENERIC_SHARE; x++)
        parts[generic_row() * GENERIC_KEYS + generic_part() + GENERIC_SHARE * x] = sum[x];
    __syncthreads();
    if (threadIdx.x < GENERIC_KEYS && first + threadIdx.x < end) {
        float total = 0.0f;
        for (int row = 0; row < GENERIC_ROWS; row++)
            total += parts[row * GENERIC_KEYS + threadIdx.x];
        target[first + threadIdx.x] = total;
    }
    __syncthreads();
}

template <class T, int D> KAS_CU void scores_generic(const kas_work &w, unsigned char *memory)
{
    const kas_session_block &session = kas_session_of(w);
    const generic_memory m = generic_layout<D>(memory);
    const kas_sequence s = kas_load_sequence(w);
    const kas_u32 u = w.call.tile_begin + blockIdx.x % w.call.tile_count;
    const kas_u32 begin = blockIdx.x / w.call.tile_count * SCORES_KEYS;
    const kas_tile t = kas_load_tile(w, s, u);
    if (t.query_begin == t.query_end || begin >= t.candidates ||
        (kas_has(w, KAS_CALL_SKIP_DENSE) && kas_tile_is_dense(t)))
        return;
    const kas_u32 first_head = kas_active_row(w, blockIdx.y);
    const kas_u32 queries = t.query_end - t.query_begin;
    const kas_u32 rows = session.group * queries;
    const kas_keys keys = kas_keys_all(t.candidates);
    float *target = kas_scores_row(w, gridDim.y, blockIdx.y, u);
    for (kas_u32 first = begin; first < begin + SCORES_KEYS && first < t.candidates; first += GENERIC_KEYS) {
        float sum[GENERIC_KEYS / GENERIC_SHARE] = {};
        generic_find_keys(w, m, keys, first, t.candidates);
        for (kas_u32 g = first_head; g < first_head + session.pool_heads; g++) {
            generic_load_rows<T, D>(m, kas_slot<const T>(w, KAS_SLOT_K), kas_k_rows(w, g), (int)session.head_dim);
            for (kas_u32 chunk = 0; chunk < rows; chunk += GENERIC_ROWS) {
                const kas_u32 row = chunk + generic_row();
                const bool exists = row < rows;
                const kas_u32 head = g * session.group + row / queries;
                const kas_u32 i = t.query_begin + row % queries;
                generic_load_query<T, D>(m, exists ? kas_q_row<T>(w, i, head) : nullptr, (int)session.head_dim);
                scores_add<D>(w, m, exists, exists ? *kas_lse_at(w, i, head) : 0.0f, sum);
                __syncwarp();
            }
            __syncthreads();
        }
        scores_write(m, sum, target, first, t.candidates);
    }
}

GENERIC_KERNELS(scores, scores_generic)
