/* attend.cl - dense causal attention of a block of queries, all heads of a kv head. */
#include "engine.clh"

KAS_KERNEL(kas_attend, engine_memory)
{
    kas_u32 g = prefill_kv_head(w);
    kas_sequence s = kas_load_sequence(w);
    kas_u32 end = kas_chunk_end(s, w->call.tile_begin, w->call.tile_count, w->session->tile);
    kas_u32 first = kas_min2(
        kas_chunk_begin(s, w->call.tile_begin, w->session->tile) + KAS_U32(get_group_id(0)) * KAS_BLOCK_QUERIES, end);
    kas_u32 last = kas_min2(first + KAS_BLOCK_QUERIES, end);
    kas_keys keys = kas_keys_all(kas_causal_end(s, last));
    attend_query_rows(w, m, s, g, prefill_rows(w, first, last), &keys);
}
