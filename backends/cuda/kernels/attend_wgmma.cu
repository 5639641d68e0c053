/* attend_wgmma.cu - dense causal attention on the matrix unit of sm_90a, a query head and 128 query tokens a block. */
#include "flash_wgmma.cuh"

template <class S> KAS_CU void attend_wgmma(const kas_work &w, const kas_key_maps &maps, unsigned char *memory)
{
    const kas_sequence s = kas_load_sequence(w);
    const flash_rows rows = flash_head_rows(w, s, S::rows);
    if (rows.count == 0)
        return;
    const kas_keys keys = kas_keys_all(kas_causal_keys(s, rows.query + rows.count - 1u));
    flash_wgmma<S>(w, maps, memory, s, rows, keys, rows.head / kas_session_of(w).group, kas_has(w, KAS_CALL_LSE),
                 kas_has(w, KAS_CALL_OUT));
}

FLASH_WGMMA_KERNELS(attend, wide_attention, attend_wgmma)
