/*
 * sparse_mma.cu - prefill attention over lists on warp matrix instructions: the query heads of a kv head and the queries
 * of a tile share the list, so together they are the rows of a block.
 */
#include "flash_mma.cuh"

template <class S> KAS_CU void sparse_mma(const kas_work &w, unsigned char *memory)
{
    const kas_session_block &session = kas_session_of(w);
    const kas_sequence s = kas_load_sequence(w);
    const kas_u32 u = w.call.tile_begin + (gridDim.x - 1u - blockIdx.x), g = blockIdx.y;
    const kas_tile t = kas_load_tile(w, s, u);
    if (t.query_begin == t.query_end)
        return;
    const kas_u32 row = kas_table(w, session.head_map_at + w.call.layer * session.kv_heads + g);
    const flash_rows rows = flash_tile_rows(w, t, g);
    const kas_keys keys = kas_keys_listed(w, s, t, u, row, kas_causal_keys(s, t.query_end - 1u));
    flash_mma<S>(w, memory, s, rows, keys, g, kas_has(w, KAS_CALL_LSE), kas_has(w, KAS_CALL_OUT));
}

FLASH_MMA_KERNELS(sparse, true, sparse_mma)
