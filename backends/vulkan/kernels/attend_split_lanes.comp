#version 450
/* attend_split_lanes.comp - attend_split by subgroups. */
#extension GL_GOOGLE_include_directive : require
#define KAS_VALUES
#include "common.glsl"
#include "element.glsl"
#include "rows.glsl"
#include "keys.glsl"
#include "lanes.glsl"
#include "split_lanes.glsl"

void main()
{
    kas_sequence s = load_sequence();
    attend_split(s, split_range(positions(0u, s.keys), gl_WorkGroupID.x), gl_WorkGroupID.y);
}
