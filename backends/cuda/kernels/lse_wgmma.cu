/*
 * lse_wgmma.cu - log-sum-exp on the matrix unit of sm_90a: over all causal keys, a query head and 256 query tokens a
 * block; estimated over a list and own keys, the query heads of a kv head together, as they share the list.
 */
#include "flash_wgmma.cuh"

/* y counts query heads: the first of a kv head does the work of all. */
template <class S>
KAS_CU void lse_of_list(const kas_work &w, const kas_key_maps &maps, unsigned char *memory, const kas_sequence &s)
{
    const kas_session_block &session = kas_session_of(w);
    const kas_u32 u = w.call.tile_begin + (gridDim.x - 1u - blockIdx.x), g = blockIdx.y / session.group;
    const kas_tile t = kas_load_tile(w, s, u);
    if (t.query_begin == t.query_end || blockIdx.y % session.group != 0)
        return;
    const kas_u32 row = kas_table(w, session.normalizer_map_at + w.call.layer * session.kv_heads + g);
    const kas_keys keys = kas_keys_listed(w, s, t, u, row, kas_causal_keys(s, t.query_end - 1u));
    flash_wgmma<S>(w, maps, memory, s, flash_tile_rows(w, t, g), keys, g, true, false);
}

template <class S>
KAS_CU void lse_of_all(const kas_work &w, const kas_key_maps &maps, unsigned char *memory, const kas_sequence &s)
{
    const flash_rows rows = flash_head_rows(w, s, S::rows);
    if (rows.count == 0)
        return;
    const kas_keys keys = kas_keys_all(kas_causal_keys(s, rows.query + rows.count - 1u));
    flash_wgmma<S>(w, maps, memory, s, rows, keys, rows.head / kas_session_of(w).group, true, false);
}

template <class S> KAS_CU void lse_wgmma(const kas_work &w, const kas_key_maps &maps, unsigned char *memory)
{
    const kas_sequence s = kas_load_sequence(w);
    if (kas_has(w, KAS_CALL_ESTIMATED))
        lse_of_list<S>(w, maps, memory, s);
    else
        lse_of_all<S>(w, maps, memory, s);
}

FLASH_WGMMA_KERNELS(lse, wide_logsumexp, lse_wgmma)
