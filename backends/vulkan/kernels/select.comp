#version 450
/*
 * select.comp - the `keep` candidates of largest score, in ascending position, by one work group. But for bad luck it
 * reads the scores twice, to find the least kept key and to write the list.
 */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "tiles.glsl"
#include "select.glsl"

void main()
{
    kas_sequence s = load_sequence();
    uint u = gl_WorkGroupID.x;
    kas_tile t = load_tile(s, u);
    if (t.query_begin == t.query_end)
        return;
    uint list = list_begin(s, t, active_row(gl_WorkGroupID.y), u);
    uint row = gl_WorkGroupID.z * gl_NumWorkGroups.y + gl_WorkGroupID.y;
    uint at = (row * (has_flag(KAS_CALL_DECODE) ? 1u : call.tile_count) + u) * call.score_stride;
    if (kas_tile_is_dense(t)) {
        for (uint j = lane(); j < t.candidates; j += INVOCATIONS)
            lists[list + j] = int(j);
    } else {
        candidate_range range = candidate_range(0u, t.candidates, at);
        write_kept(range, find_threshold(range, t.keep), t.keep, list, 0u, 0u);
    }
    if (!has_flag(KAS_CALL_PACKED))
        for (uint j = t.keep + lane(); j < call.list_width; j += INVOCATIONS)
            lists[list + j] = -1;
}
