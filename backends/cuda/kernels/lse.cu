/* lse.cu - log-sum-exp of 16 query tokens of a head: over all causal keys, or estimated from a list and own keys. */
#include "generic.cuh"

/* Adds to `state` what the rows of tile u see of their list and own keys. */
template <class T, int D>
KAS_CU void lse_of_list(const kas_work &w, const generic_memory &m, const kas_sequence &s, kas_u32 u, kas_u32 i,
                        kas_u32 last, kas_u32 head, generic_state<D> &state)
{
    const kas_session_block &session = kas_session_of(w);
    const kas_tile t = kas_load_tile(w, s, u);
    const kas_u32 g = head / session.group;
    const kas_u32 row = kas_table(w, session.normalizer_map_at + w.call.layer * session.kv_heads + g);
    const kas_u32 last_seen = kas_min2(last, t.query_end - 1u);
    const kas_keys keys = kas_keys_listed(w, s, t, u, row, kas_causal_keys(s, last_seen));
    const bool mine = i >= t.query_begin && i < t.query_end && i <= last;
    generic_run<T, D, false>(w, m, keys, g, 0u, keys.total, mine ? kas_causal_keys(s, i) : 0u, state);
}

template <class T, int D> KAS_CU void lse_generic(const kas_work &w, unsigned char *memory)
{
    const kas_session_block &session = kas_session_of(w);
    const generic_memory m = generic_layout<D>(memory);
    const kas_sequence s = kas_load_sequence(w);
    const kas_u32 head = blockIdx.y;
    const kas_u32 end = kas_chunk_end(s, w.call.tile_begin, w.call.tile_count, session.tile);
    const kas_u32 first = kas_chunk_begin(s, w.call.tile_begin, session.tile) + blockIdx.x * GENERIC_ROWS;
    if (first >= end)
        return;
    const kas_u32 i = first + generic_row();
    const kas_u32 last = kas_min2(first + GENERIC_ROWS, end) - 1u;
    generic_state<D> state;
    generic_begin(state);
    generic_load_query<T, D>(m, i < end ? kas_q_row<T>(w, i, head) : nullptr, (int)session.head_dim);
    if (kas_has(w, KAS_CALL_ESTIMATED)) {
        const kas_u32 base = s.offset / session.tile;
        for (kas_u32 u = (s.offset + first) / session.tile; u <= (s.offset + last) / session.tile; u++)
            lse_of_list<T, D>(w, m, s, u - base, i, last, head, state);
    } else {
        kas_u32 total = kas_causal_keys(s, last);
        generic_run<T, D, false>(w, m, kas_keys_all(total), head / session.group, 0u, total,
                                 i < end ? kas_causal_keys(s, i) : 0u, state);
    }
    kas_softmax result = generic_result(state);
    if (i < end && generic_part() == 0)
        *kas_lse_at(w, i, head) = kas_softmax_lse(result);
}

GENERIC_KERNELS(lse, lse_generic)
