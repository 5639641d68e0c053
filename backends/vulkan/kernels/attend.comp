#version 450
/* attend.comp - dense causal attention of 16 queries of a head. */
#extension GL_GOOGLE_include_directive : require
#define KAS_VALUES
#include "common.glsl"
#include "element.glsl"
#include "rows.glsl"
#include "keys.glsl"
#include "block.glsl"
#include "online.glsl"
#include "output.glsl"

void main()
{
    kas_sequence s = load_sequence();
    uint begin = kas_chunk_begin(s, call.tile_begin, TILE) + gl_WorkGroupID.x * ROWS;
    uint end = kas_chunk_end(s, call.tile_begin, call.tile_count, TILE);
    if (begin >= end)
        return;
    uint count = kas_min2(ROWS, end - begin);
    row_block rows = row_block(gl_WorkGroupID.y, begin, ROWS, 0u, count);
    load_rows(rows, s);
    attend_range(positions(0u, kas_causal_keys(s, begin + count - 1u)), gl_WorkGroupID.y / GROUP);
    write_lse(rows, s);
    write_out(rows, s);
}
