/* attend_mma.cu - dense causal attention on warp matrix instructions, a query head and 128 query tokens a block. */
#include "flash_mma.cuh"

template <class S> KAS_CU void attend_mma(const kas_work &w, unsigned char *memory)
{
    const kas_sequence s = kas_load_sequence(w);
    const flash_rows rows = flash_head_rows(w, s, FLASH_ROWS);
    if (rows.count == 0)
        return;
    const kas_keys keys = kas_keys_all(kas_causal_keys(s, rows.query + rows.count - 1u));
    flash_mma<S>(w, memory, s, rows, keys, rows.head / kas_session_of(w).group, kas_has(w, KAS_CALL_LSE),
                 kas_has(w, KAS_CALL_OUT));
}

FLASH_MMA_KERNELS(attend, true, attend_mma)
