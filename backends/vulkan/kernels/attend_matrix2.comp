#version 450
/* attend_matrix2.comp - attend on cooperative matrices with reductions: 32 queries of all heads of a kv head. */
#extension GL_GOOGLE_include_directive : require
#extension GL_NV_cooperative_matrix2 : require
#pragma use_vulkan_memory_model
#define KAS_MATRIX2
#define KAS_GROUP_SIZE 256
#define KAS_VALUES
#include "common.glsl"
#include "element.glsl"
#include "rows.glsl"
#include "keys.glsl"
#include "vectors.glsl"
#include "matrix.glsl"
#include "matrix_block.glsl"
#include "matrix_plain.glsl"
#include "matrix2_online.glsl"

const uint QUERIES = 32u;

void main()
{
    kas_sequence s = load_sequence();
    /* Longest first: the last work groups leave the device soon. */
    uint x = gl_NumWorkGroups.x - 1u - gl_WorkGroupID.x;
    uint begin = kas_chunk_begin(s, call.tile_begin, TILE) + x * QUERIES;
    uint end = kas_min2(begin + QUERIES, kas_chunk_end(s, call.tile_begin, call.tile_count, TILE));
    if (begin >= end)
        return;
    cover_queries(s, positions(0u, kas_causal_keys(s, end - 1u)), gl_WorkGroupID.y, begin, end);
}
