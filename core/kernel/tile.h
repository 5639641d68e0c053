/*
 * tile.h - where sequences, tiles, query rows and kv splits begin and end. Kernels load the lengths of a sequence in
 * their own language and ask here for everything else.
 */
#ifndef KAS_TILE_H
#define KAS_TILE_H

#include "topk.h"

/*
 * One sequence of a call. An invalid sequence has no queries and no keys, and KAS_CHECK_LENGTH is to be set. A valid
 * one without keys keeps its queries, which see nothing: an empty place in a batch gives rows of zeros.
 */
KAS_STRUCT(kas_sequence)
{
    kas_u32 queries;
    kas_u32 keys;   /* own tokens included */
    kas_u32 offset; /* position of the first query; 0 without keys */
    kas_bool valid;
};

KAS_FN kas_sequence kas_sequence_make(kas_i32 queries, kas_i32 keys, kas_u32 most_queries, kas_u32 most_keys)
{
    kas_sequence s;
    s.valid = queries >= 0 && (keys >= queries || keys == 0) && KAS_U32(queries) <= most_queries &&
              KAS_U32(keys) <= most_keys;
    s.queries = s.valid ? KAS_U32(queries) : 0u;
    s.keys = s.valid ? KAS_U32(keys) : 0u;
    s.offset = s.keys == 0u ? 0u : s.keys - s.queries;
    return s;
}

/* Packed rows (KAS_CALL_Q_STARTS): a sequence whose tokens begin at row `start` must end within the rows there are. */
KAS_FN kas_sequence kas_sequence_within(kas_sequence s, kas_i32 start, kas_u32 rows)
{
    if (start >= 0 && KAS_U32(start) <= rows && s.queries <= rows - KAS_U32(start))
        return s;
    return kas_sequence_make(-1, 0, 0u, 0u);
}

/*
 * A tile: queries that share a list. Query i (of the sequence's queries) sits at position offset + i and attends to the
 * list, which holds candidates below `candidates`, and to its own keys from `start` to its position.
 */
KAS_STRUCT(kas_tile)
{
    kas_u32 query_begin;
    kas_u32 query_end;  /* equal to query_begin: the tile does not exist in this sequence */
    kas_u32 start;      /* first own key */
    kas_u32 candidates; /* keys 0 .. candidates - 1 compete */
    kas_u32 keep;       /* length of the list */
    kas_u32 index;      /* start / T in prefill, 0 in decode */
};

/* Tile `u` of a sequence, counted from the tile of its first query. */
KAS_FN kas_tile kas_tile_prefill(kas_sequence s, kas_u32 u, kas_u32 tile)
{
    kas_tile t;
    t.index = s.offset / tile + u;
    t.start = t.index * tile;
    t.query_begin = kas_min2(s.queries, kas_max2(t.start, s.offset) - s.offset);
    t.query_end = t.start >= s.offset + s.queries ? t.query_begin : kas_min2(s.queries, t.start + tile - s.offset);
    t.candidates = kas_min2(t.start, s.keys);
    t.keep = 0u;
    return t;
}

/* The one tile of a sequence in decode: a single query competes with its own key, several keep theirs. Without queries
   there is no tile, and nothing competes. */
KAS_FN kas_tile kas_tile_decode(kas_sequence s)
{
    kas_tile t;
    t.index = 0u;
    t.start = s.queries == 1u ? s.keys : s.offset;
    t.query_begin = 0u;
    t.query_end = s.queries;
    t.candidates = s.queries == 0u ? 0u : t.start;
    t.keep = 0u;
    return t;
}

/* A tile is dense when its list names every candidate. */
KAS_FN kas_bool kas_tile_is_dense(kas_tile t)
{
    return t.keep >= t.candidates;
}

/* Keys that query i sees, counted from 0: positions 0 .. offset + i, where there are keys. */
KAS_FN kas_u32 kas_causal_keys(kas_sequence s, kas_u32 i)
{
    return kas_min2(s.offset + i + 1u, s.keys);
}

/* Keys that queries before `end` see: those of the last of them; none without queries. */
KAS_FN kas_u32 kas_causal_end(kas_sequence s, kas_u32 end)
{
    return end == 0u ? 0u : kas_causal_keys(s, end - 1u);
}

/* Own keys that query i of the tile sees: positions start .. offset + i; none for a single decode query. */
KAS_FN kas_u32 kas_own_keys(kas_sequence s, kas_tile t, kas_u32 i)
{
    kas_u32 end = kas_causal_keys(s, i);
    return end > t.start ? end - t.start : 0u;
}

/* Queries of tiles [tile_begin, tile_begin + tile_count) of a sequence: first, and one past the last. */
KAS_FN kas_u32 kas_chunk_begin(kas_sequence s, kas_u32 tile_begin, kas_u32 tile)
{
    return kas_tile_prefill(s, tile_begin, tile).query_begin;
}

KAS_FN kas_u32 kas_chunk_end(kas_sequence s, kas_u32 tile_begin, kas_u32 tile_count, kas_u32 tile)
{
    return kas_tile_prefill(s, tile_begin + tile_count, tile).query_begin;
}

/*
 * First entry of a tile's packed list within its row, which has list_capacity entries; rows follow each other by
 * (b, row). The entry fits 32 bits (checked when the session is created), the row's number times its capacity may not.
 */
KAS_FN kas_u32 kas_packed_entry(kas_u32 offset_of_tile, kas_u32 offset_of_first)
{
    return offset_of_tile - offset_of_first;
}

#endif
