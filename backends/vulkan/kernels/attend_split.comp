#version 450
/* attend_split.comp - decode: dense attention of a kv head's query rows over one split of the keys. */
#extension GL_GOOGLE_include_directive : require
#define KAS_VALUES
#include "common.glsl"
#include "element.glsl"
#include "rows.glsl"
#include "keys.glsl"
#include "block.glsl"
#include "online.glsl"
#include "output.glsl"
#include "partial.glsl"
#include "split.glsl"

void main()
{
    kas_sequence s = load_sequence();
    attend_split(s, split_range(positions(0u, s.keys), gl_WorkGroupID.x), gl_WorkGroupID.y);
}
