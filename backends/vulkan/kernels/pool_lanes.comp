#version 450
/*
 * pool_lanes.comp - pool by subgroups: four candidates side by side to an invocation; subgroups share the query rows
 * whose partial sums are to be merged.
 */
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_shuffle : require
#include "common.glsl"
#include "tiles.glsl"
#include "core/kernel/softmax.h"
#include "partial.glsl"
#include "parts_lanes.glsl"
KAS_READ(KAS_SLOT_LOGITS, float, logits)
layout(set = 0, binding = KAS_SLOT_LOGITS, std430) readonly buffer logit_vector_block
{
    vec4 logit_vectors[];
};
KAS_WRITE(KAS_SLOT_SCORES, float, scores)
layout(set = 0, binding = KAS_SLOT_SCORES, std430) buffer score_vector_block
{
    vec4 score_vectors[];
};

const uint ROWS = 64u; /* whose log-sum-exp is held at once */
const uint BATCH = 4u; /* rows whose logits load at once */

/* KAS_NEGATIVE_INFINITY also for query rows that the sequence does not have: they weigh nothing. */
shared float row_lse[ROWS];

bool row_exists(kas_sequence s, uint row)
{
    return row < GROUP * call.queries && row % call.queries < s.queries;
}

/* Log-sum-exp of query rows first .. first + ROWS - 1 of kv head entry y. */
void load_lse(kas_sequence s, uint ys, uint y, uint first)
{
    barrier();
    for (uint n = gl_SubgroupID; n < ROWS && first + n < GROUP * call.queries; n += INVOCATIONS / SUBGROUP) {
        float lse = kas_softmax_lse(merge_parts(part_at(ys, y, first + n)));
        if (gl_SubgroupInvocationID == 0u)
            row_lse[n] = row_exists(s, first + n) ? lse : KAS_NEGATIVE_INFINITY;
    }
    barrier();
}

/* Logits of candidates j .. j + 3 in the line at `at`. Whole vectors end within the line, past the candidates too. */
vec4 load_logits(uint at, uint j, uint candidates, bool whole)
{
    if (whole)
        return logit_vectors[(at + j) >> 2];
    vec4 found = vec4(0.0);
    [[unroll]] for (uint i = 0u; i < 4u; i++)
        if (j + i < candidates)
            found[i] = logits[at + j + i];
    return found;
}

/* What query rows first .. of kv head entry y add to the scores of candidates j .. j + 3. */
vec4 pool_rows(uint ys, uint y, uint first, uint j, uint candidates, bool whole)
{
    vec4 sum = vec4(0.0);
    uint end = kas_min2(ROWS, GROUP * call.queries - first);
    uint row = (gl_WorkGroupID.z * ys + y) * GROUP * call.queries + first;
    for (uint n0 = 0u; n0 < end; n0 += BATCH) {
        vec4 held[BATCH];
        [[unroll]] for (uint n = 0u; n < BATCH; n++)
            held[n] = load_logits((row + kas_min2(n0 + n, end - 1u)) * call.score_stride, j, candidates, whole);
        [[unroll]] for (uint n = 0u; n < BATCH; n++)
            if (n0 + n < end)
                [[unroll]] for (uint i = 0u; i < 4u; i++)
                    sum[i] += kas_softmax_weight(held[n][i], row_lse[n0 + n]);
    }
    return sum;
}

void main()
{
    kas_sequence s = load_sequence();
    kas_tile t = load_tile(s, 0u);
    uint begin = gl_WorkGroupID.x * 4u * INVOCATIONS;
    if (s.queries == 0u || begin >= t.candidates)
        return;
    if (has_flag(KAS_CALL_SKIP_DENSE) && kas_tile_is_dense(t))
        return;
    uint j = begin + 4u * lane();
    bool whole = (call.score_stride & 3u) == 0u;
    uint heads = session.pool_heads;
    uint ys = gl_NumWorkGroups.y * heads;
    vec4 total = vec4(0.0);
    for (uint h = 0u; h < heads; h++) {
        uint y = gl_WorkGroupID.y * heads + h;
        for (uint first = 0u; first < GROUP * call.queries; first += ROWS) {
            load_lse(s, ys, y, first);
            if (j < t.candidates)
                total += pool_rows(ys, y, first, j, t.candidates, whole);
        }
    }
    uint at = (gl_WorkGroupID.z * gl_NumWorkGroups.y + gl_WorkGroupID.y) * call.score_stride + j;
    if (whole && j + 4u <= t.candidates) {
        score_vectors[at >> 2] = total;
        return;
    }
    [[unroll]] for (uint i = 0u; i < 4u; i++)
        if (j + i < t.candidates)
            scores[at + i] = total[i];
}
