#version 450
/* mass.comp - the scores of a tile summed over the tile's list of every row, and over all candidates. */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "tiles.glsl"
KAS_READ(KAS_SLOT_SCORES, float, scores)
KAS_READ(KAS_SLOT_LISTS, int, lists)
KAS_WRITE(KAS_SLOT_PART_ML, float, mass)

shared float sums[INVOCATIONS];

/* The sum over the work group; INVOCATIONS is a power of two. */
float sum_lanes(float value)
{
    sums[lane()] = value;
    for (uint count = INVOCATIONS / 2u; count > 0u; count /= 2u) {
        barrier();
        if (lane() < count)
            sums[lane()] += sums[lane() + count];
    }
    barrier();
    float sum = sums[0];
    barrier();
    return sum;
}

/* This invocation's part of the sum over a list. Entries that name no candidate count as absent. */
float sum_listed(uint at, uint candidates, uint list, uint entries)
{
    float sum = 0.0;
    for (uint n = lane(); n < entries; n += INVOCATIONS) {
        uint position = uint(lists[list + n]);
        if (position < candidates)
            sum += scores[at + position];
        else if (position != KAS_NONE)
            report(KAS_CHECK_LIST);
    }
    return sum;
}

float sum_all(uint at, uint candidates)
{
    float sum = 0.0;
    for (uint j = lane(); j < candidates; j += INVOCATIONS)
        sum += scores[at + j];
    return sum;
}

void main()
{
    kas_sequence s = load_sequence();
    uint u = gl_WorkGroupID.x;
    kas_tile t = load_tile(s, u);
    if (t.query_begin == t.query_end)
        return;
    uint rows = session.list_rows;
    uint entries = has_flag(KAS_CALL_PACKED) ? t.keep : call.list_width;
    uint cell = (gl_WorkGroupID.z * gl_NumWorkGroups.y + gl_WorkGroupID.y) * gl_NumWorkGroups.x + u;
    uint at = cell * call.score_stride;
    for (uint row = 0u; row <= rows; row++) {
        float own = row < rows ? sum_listed(at, t.candidates, list_begin(s, t, row, u), entries)
                               : sum_all(at, t.candidates);
        float sum = sum_lanes(own);
        if (lane() == 0u)
            mass[cell * (rows + 1u) + row] = sum;
    }
}
