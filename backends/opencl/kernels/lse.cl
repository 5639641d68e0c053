/*
 * lse.cl - log-sum-exp of a block of queries over all causal keys or, estimated, over the keys of the previous lists
 * and the own ones.
 */
#include "engine.clh"

/* Queries [first, last) of the sequence, none when they are equal, and the keys they see. */
typedef struct block {
    kas_u32 first;
    kas_u32 last;
    kas_keys keys;
} block;

static inline block causal_block(const kas_work *w, kas_sequence s)
{
    block b;
    kas_u32 end = kas_chunk_end(s, w->call.tile_begin, w->call.tile_count, w->session->tile);
    kas_u32 begin = kas_chunk_begin(s, w->call.tile_begin, w->session->tile);
    b.first = kas_min2(begin + KAS_U32(get_group_id(0)) * KAS_BLOCK_QUERIES, end);
    b.last = kas_min2(b.first + KAS_BLOCK_QUERIES, end);
    b.keys = kas_keys_all(kas_causal_end(s, b.last));
    return b;
}

/* The axis counts tiles, because each has a list of its own. */
static inline block estimated_block(const kas_work *w, kas_sequence s, kas_u32 g)
{
    block b;
    kas_u32 u = w->call.tile_begin + KAS_U32(get_group_id(0));
    kas_tile t = kas_load_tile(w, s, u);
    b.first = t.query_begin;
    b.last = t.query_end;
    b.keys = kas_keys_all(0u);
    if (kas_tile_exists(t))
        b.keys = kas_keys_of_tile(w, s, t, u, g, kas_causal_end(s, t.query_end));
    return b;
}

KAS_KERNEL(kas_lse, engine_memory)
{
    kas_u32 g = prefill_kv_head(w);
    kas_sequence s = kas_load_sequence(w);
    block b = kas_has(w, KAS_CALL_ESTIMATED) ? estimated_block(w, s, g) : causal_block(w, s);
    sum_query_rows(w, m, s, g, prefill_rows(w, b.first, b.last), &b.keys);
}
