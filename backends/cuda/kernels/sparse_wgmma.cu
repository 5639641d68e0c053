/*
 * sparse_wgmma.cu - prefill attention over lists on the matrix unit of sm_90a: the query heads of a kv head and the queries
 * of a tile share the list, so together they are the rows of a block.
 */
#include "flash_wgmma.cuh"

template <class S> KAS_CU void sparse_wgmma(const kas_work &w, const kas_key_maps &maps, unsigned char *memory)
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
    flash_wgmma<S>(w, maps, memory, s, rows, keys, g, kas_has(w, KAS_CALL_LSE), kas_has(w, KAS_CALL_OUT));
}

FLASH_WGMMA_KERNELS(sparse, wide_attention, sparse_wgmma)
