/* sparse.cu - prefill attention of 16 query tokens of a tile and one head over the tile's list and own keys. */
#include "generic.cuh"

template <class T, int D> KAS_CU void sparse_generic(const kas_work &w, unsigned char *memory)
{
    const kas_session_block &session = kas_session_of(w);
    const generic_memory m = generic_layout<D>(memory);
    const kas_sequence s = kas_load_sequence(w);
    const kas_u32 blocks = kas_ceil_div(session.tile, GENERIC_ROWS);
    const kas_u32 u = w.call.tile_begin + blockIdx.x / blocks;
    const kas_u32 head = blockIdx.y, g = head / session.group;
    const kas_tile t = kas_load_tile(w, s, u);
    const kas_u32 first = t.query_begin + blockIdx.x % blocks * GENERIC_ROWS;
    if (first >= t.query_end)
        return;
    const kas_u32 i = first + generic_row();
    const bool exists = i < t.query_end;
    const kas_u32 last = kas_min2(first + GENERIC_ROWS, t.query_end) - 1u;
    const kas_u32 row = kas_table(w, session.head_map_at + w.call.layer * session.kv_heads + g);
    const kas_keys keys = kas_keys_listed(w, s, t, u, row, kas_causal_keys(s, last));
    generic_state<D> state;
    generic_begin(state);
    generic_load_query<T, D>(m, exists ? kas_q_row<T>(w, i, head) : nullptr, (int)session.head_dim);
    generic_run<T, D, true>(w, m, keys, g, 0u, keys.total, exists ? kas_causal_keys(s, i) : 0u, state);
    generic_write<T>(w, state, exists, i, head);
}

GENERIC_KERNELS(sparse, sparse_generic)
