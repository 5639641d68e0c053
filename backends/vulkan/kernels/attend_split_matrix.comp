#version 450
/* attend_split_matrix.comp - attend_split on cooperative matrices. */
#extension GL_GOOGLE_include_directive : require
#pragma use_vulkan_memory_model
#define KAS_OWN_KEYS
#define KAS_VALUES
#include "common.glsl"
#include "element.glsl"
#include "rows.glsl"
#include "keys.glsl"
#include "vectors.glsl"
#include "matrix.glsl"
#include "matrix_stream.glsl"
#include "matrix_split.glsl"

void main()
{
    kas_sequence s = load_sequence();
    uint keys = s.queries == 0u ? 0u : s.keys;
    attend_split(s, split_range(positions(0u, keys), gl_WorkGroupID.x), gl_WorkGroupID.y);
}
