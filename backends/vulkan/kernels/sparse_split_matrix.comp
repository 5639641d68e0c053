#version 450
/* sparse_split_matrix.comp - sparse_split on cooperative matrices. */
#extension GL_GOOGLE_include_directive : require
#pragma use_vulkan_memory_model
#define KAS_OWN_KEYS
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
#include "matrix_stream.glsl"
#include "matrix_split.glsl"

void main()
{
    kas_sequence s = load_sequence();
    kas_tile t = load_tile(s, 0u);
    key_range range = positions(0u, 0u);
    if (s.queries != 0u)
        range = list_and_own(s, t, mapped_row(gl_WorkGroupID.y), 0u, s.queries);
    attend_split(s, split_range(range, gl_WorkGroupID.x), gl_WorkGroupID.y);
}
