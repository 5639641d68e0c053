#version 450
/* sparse.comp - attention of 16 queries of a head and tile over the tile's list and own keys. */
#extension GL_GOOGLE_include_directive : require
#define KAS_VALUES
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

void main()
{
    const uint blocks = TILE / ROWS;
    kas_sequence s = load_sequence();
    uint u = gl_WorkGroupID.x / blocks;
    kas_tile t = load_tile(s, u);
    uint begin = t.query_begin + gl_WorkGroupID.x % blocks * ROWS;
    if (begin >= t.query_end)
        return;
    uint end = kas_min2(begin + ROWS, t.query_end);
    uint kv_head = gl_WorkGroupID.y / GROUP;
    row_block rows = row_block(gl_WorkGroupID.y, begin, ROWS, 0u, end - begin);
    load_rows(rows, s);
    attend_range(list_and_own(s, t, mapped_row(kv_head), u, end), kv_head);
    write_lse(rows, s);
    write_out(rows, s);
}
