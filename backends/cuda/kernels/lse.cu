/* lse.cu - log-sum-exp of 16 query tokens of a head: over all causal keys, or estimated from a list and own keys. */
#include "generic.cuh"

/* The rows of query tokens first .. first + 15 of a head that lie before `end`. */
template <class T, int D>
KAS_CU void lse_rows(const kas_work &w, const generic_memory &m, const kas_sequence &s, const kas_keys &keys,
                     kas_u32 first, kas_u32 end)
{
    const kas_u32 head = blockIdx.y, i = first + generic_row();
    generic_state<D> state;
    generic_begin(state);
    generic_load_query<T, D>(m, i < end ? kas_q_row<T>(w, i, head) : nullptr, (int)kas_session_of(w).head_dim);
    generic_run<T, D, false>(w, m, keys, head / kas_session_of(w).group, 0u, keys.total,
                             i < end ? kas_causal_keys(s, i) : 0u, state);
    kas_softmax result = generic_result(state);
    if (i < end && generic_part() == 0)
        *kas_lse_at(w, i, head) = kas_softmax_lse(result);
}

/* Block x stands for a tile, whose list estimates the rows of all its queries. */
template <class T, int D> KAS_CU void lse_estimated(const kas_work &w, const generic_memory &m, const kas_sequence &s)
{
    const kas_session_block &session = kas_session_of(w);
    const kas_u32 u = w.call.tile_begin + blockIdx.x, g = blockIdx.y / session.group;
    const kas_tile t = kas_load_tile(w, s, u);
    const kas_u32 row = kas_table(w, session.normalizer_map_at + w.call.layer * session.kv_heads + g);
    for (kas_u32 first = t.query_begin; first < t.query_end; first += GENERIC_ROWS) {
        const kas_u32 end = kas_min2(first + GENERIC_ROWS, t.query_end);
        __syncthreads();
        lse_rows<T, D>(w, m, s, kas_keys_listed(w, s, t, u, row, kas_causal_keys(s, end - 1u)), first, end);
    }
}

template <class T, int D> KAS_CU void lse_generic(const kas_work &w, unsigned char *memory)
{
    const kas_session_block &session = kas_session_of(w);
    const generic_memory m = generic_layout<D>(memory);
    const kas_sequence s = kas_load_sequence(w);
    if (kas_has(w, KAS_CALL_ESTIMATED)) {
        lse_estimated<T, D>(w, m, s);
        return;
    }
    const kas_u32 last = kas_chunk_end(s, w.call.tile_begin, w.call.tile_count, session.tile);
    const kas_u32 first = kas_chunk_begin(s, w.call.tile_begin, session.tile) + blockIdx.x * GENERIC_ROWS;
    if (first >= last)
        return;
    const kas_u32 end = kas_min2(first + GENERIC_ROWS, last);
    lse_rows<T, D>(w, m, s, kas_keys_all(kas_causal_keys(s, end - 1u)), first, end);
}

GENERIC_KERNELS(lse, lse_generic)
