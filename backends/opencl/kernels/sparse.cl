/* sparse.cl - attention of a block of a tile's queries, all heads of a kv head, over the tile's list and own keys. */
#include "engine.clh"

KAS_KERNEL(kas_sparse, engine_memory)
{
    kas_u32 g = prefill_kv_head(w);
    kas_u32 block = KAS_BLOCK_QUERIES != 0u ? KAS_BLOCK_QUERIES : w->session->tile;
    kas_u32 blocks = kas_ceil_div(w->session->tile, block);
    kas_u32 u = w->call.tile_begin + KAS_U32(get_group_id(0)) / blocks;
    kas_sequence s = kas_load_sequence(w);
    kas_tile t = kas_load_tile(w, s, u);
    kas_u32 first = kas_min2(t.query_begin + KAS_U32(get_group_id(0)) % blocks * block, t.query_end);
    kas_u32 last = kas_min2(first + block, t.query_end);
    kas_keys keys = kas_keys_all(0u);
    if (first < last)
        keys = kas_keys_of_tile(w, s, t, u, g, kas_causal_end(s, last));
    attend_query_rows(w, m, s, g, prefill_rows(w, first, last), &keys);
}
