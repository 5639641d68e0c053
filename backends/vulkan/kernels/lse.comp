#version 450
/*
 * lse.comp - log-sum-exp of 16 queries of a head over all causal keys, or, estimated, of a tile's queries over the
 * tile's list and own keys.
 */
#extension GL_GOOGLE_include_directive : require
#define KAS_LISTS
#include "common.glsl"
#include "element.glsl"
#include "tiles.glsl"
#include "rows.glsl"
#include "keys.glsl"
#include "lists.glsl"
#include "block.glsl"
#include "online.glsl"
#include "output.glsl"

void cover_rows(kas_sequence s, uint begin, uint end, key_range keys)
{
    row_block rows = row_block(gl_WorkGroupID.y, begin, ROWS, 0u, end - begin);
    load_rows(rows, s);
    attend_range(keys, gl_WorkGroupID.y / GROUP);
    write_lse(rows, s);
    barrier();
}

/* Tile `u` of the launch, block after block. */
void estimate_tile(kas_sequence s, uint u)
{
    uint kv_head = gl_WorkGroupID.y / GROUP;
    uint row = words[session.normalizer_map_at + call.layer * session.kv_heads + kv_head];
    kas_tile t = load_tile(s, u);
    for (uint begin = t.query_begin; begin < t.query_end; begin += ROWS) {
        uint end = kas_min2(begin + ROWS, t.query_end);
        cover_rows(s, begin, end, list_and_own(s, t, row, u, end));
    }
}

void main()
{
    kas_sequence s = load_sequence();
    if (has_flag(KAS_CALL_ESTIMATED)) {
        estimate_tile(s, gl_WorkGroupID.x);
        return;
    }
    uint begin = kas_chunk_begin(s, call.tile_begin, TILE) + gl_WorkGroupID.x * ROWS;
    uint end = kas_min2(begin + ROWS, kas_chunk_end(s, call.tile_begin, call.tile_count, TILE));
    if (begin < end)
        cover_rows(s, begin, end, positions(0u, kas_causal_keys(s, end - 1u)));
}
