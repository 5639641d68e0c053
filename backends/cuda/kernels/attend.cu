/* attend.cu - dense causal attention, a query head and 16 query tokens a block. */
#include "generic.cuh"

template <class T, int D> KAS_CU void attend_generic(const kas_work &w, unsigned char *memory)
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
    const bool exists = i < end;
    const kas_u32 last = kas_min2(first + GENERIC_ROWS, end) - 1u;
    generic_state<D> state;
    generic_begin(state);
    generic_load_query<T, D>(m, exists ? kas_q_row<T>(w, i, head) : nullptr, (int)session.head_dim);
    kas_u32 total = kas_causal_keys(s, last);
    generic_run<T, D, true>(w, m, kas_keys_all(total), head / session.group, 0u, total,
                            exists ? kas_causal_keys(s, i) : 0u, state);
    generic_write<T>(w, state, exists, i, head);
}

GENERIC_KERNELS(attend, attend_generic)
