/* split_generic.cuh - decode attention of one split, 16 query rows of the kv head at a time. */
#include "generic.cuh"
#include "split.cuh"

template <class T, int D, bool LISTED> KAS_CU void split_generic(const kas_work &w, unsigned char *memory)
{
    const kas_session_block &session = kas_session_of(w);
    const generic_memory m = generic_layout<D>(memory);
    const kas_sequence s = kas_load_sequence(w);
    if (s.queries == 0u)
        return;
    const kas_u32 g = blockIdx.y;
    const kas_keys keys = split_keys_of<LISTED>(w, s, g);
    const split_range range = split_range_of(w, blockIdx.x, keys.total);
    const kas_u32 rows = session.group * w.call.queries;
    for (kas_u32 first = 0; first < rows; first += GENERIC_ROWS) {
        const kas_u32 row = first + generic_row();
        const kas_u32 head = g * session.group + row / w.call.queries;
        const kas_u32 i = row % w.call.queries;
        const bool exists = row < rows && i < s.queries;
        generic_state<D> state;
        generic_begin(state);
        generic_load_query<T, D>(m, exists ? kas_q_row<T>(w, i, head) : nullptr, (int)session.head_dim);
        generic_run<T, D, true>(w, m, keys, g, range.begin, range.end, exists ? kas_causal_keys(s, i) : 0u, state);
        if (kas_has(w, KAS_CALL_DIRECT))
            generic_write<T>(w, state, exists, i, head);
        else
            generic_write_partial(w, state, row < rows, kas_partial_index(w, gridDim.y, g, row, blockIdx.x));
    }
}
