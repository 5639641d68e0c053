/*
 * scores.cl - pooled scores of a block of a tile's candidates: over the row's heads and the tile's queries, the sum of
 * exp(scale * q.k - lse).
 */
#include "engine.clh"

KAS_KERNEL(kas_scores, engine_memory)
{
    kas_u32 y = KAS_U32(get_group_id(1));
    kas_u32 u = w->call.tile_begin + KAS_U32(get_group_id(0)) % w->call.tile_count;
    kas_sequence s = kas_load_sequence(w);
    kas_tile t = kas_load_tile(w, s, u);
    kas_u32 begin = KAS_U32(get_group_id(0)) / w->call.tile_count * KAS_BLOCK_KEYS;
    kas_u32 end = kas_min2(begin + KAS_BLOCK_KEYS, t.candidates);
    kas_bool skipped = kas_has(w, KAS_CALL_SKIP_DENSE) && kas_tile_is_dense(t);
    kas_bool wanted = kas_tile_exists(t) && !skipped && begin < end;
    score_keys(w, m, s, t, kas_active_row(w, y), wanted ? w->session->pool_heads : 0u, begin, wanted ? end : begin,
               kas_scores_of(w, KAS_U32(get_num_groups(1)), y, u));
}
