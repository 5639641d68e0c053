#version 450
/* sparse_matrix.comp - sparse on cooperative matrices: 32 queries of a tile, of all heads of a kv head. */
#extension GL_GOOGLE_include_directive : require
#pragma use_vulkan_memory_model
#define KAS_VALUES
#define KAS_LISTS
#include "common.glsl"
#include "element.glsl"
#include "tiles.glsl"
#include "rows.glsl"
#include "keys.glsl"
#include "lists.glsl"
#include "vectors.glsl"
#include "matrix.glsl"
#include "matrix_block.glsl"
#include "matrix_plain.glsl"
#include "matrix_online.glsl"

const uint QUERIES = 32u;

void main()
{
    const uint blocks = kas_ceil_div(TILE, QUERIES);
    kas_sequence s = load_sequence();
    uint x = gl_NumWorkGroups.x - 1u - gl_WorkGroupID.x;
    uint u = x / blocks;
    kas_tile t = load_tile(s, u);
    uint begin = t.query_begin + x % blocks * QUERIES;
    uint end = kas_min2(begin + QUERIES, t.query_end);
    if (begin >= end)
        return;
    cover_queries(s, list_and_own(s, t, mapped_row(gl_WorkGroupID.y), u, end), gl_WorkGroupID.y, begin, end);
}
