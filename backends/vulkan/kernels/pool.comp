#version 450
/*
 * pool.comp - decode: pooled scores of a block of candidates from stored logits and partial sums, over the row's heads
 * and the query tokens of the sequence.
 */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "tiles.glsl"
#include "core/kernel/softmax.h"
#include "partial.glsl"
KAS_READ(KAS_SLOT_LOGITS, float, logits)
KAS_WRITE(KAS_SLOT_SCORES, float, scores)

const uint ROWS = 64u; /* whose log-sum-exp is held at once */

shared float row_lse[ROWS];

/* Log-sum-exp of query rows first .. of kv head entry y. */
void load_lse(uint ys, uint y, uint first, uint end)
{
    barrier();
    for (uint n = lane(); first + n < end && n < ROWS; n += INVOCATIONS) {
        uint at = part_at(ys, y, first + n);
        kas_softmax whole = kas_softmax_none();
        for (uint i = 0u; i < call.splits; i++)
            whole = kas_softmax_merge(whole, load_part(at + i));
        row_lse[n] = kas_softmax_lse(whole);
    }
    barrier();
}

/* What query rows first .. of kv head entry y add to the score of candidate j. */
float pool_rows(kas_sequence s, uint ys, uint y, uint first, uint end, uint j)
{
    float total = 0.0;
    for (uint n = 0u; n < ROWS && first + n < end; n++) {
        if ((first + n) % call.queries >= s.queries)
            continue;
        uint row = (gl_WorkGroupID.z * ys + y) * GROUP * call.queries + first + n;
        total += kas_softmax_weight(logits[row * call.score_stride + j], row_lse[n]);
    }
    return total;
}

void main()
{
    kas_sequence s = load_sequence();
    kas_tile t = load_tile(s, 0u);
    uint begin = gl_WorkGroupID.x * INVOCATIONS;
    if (s.queries == 0u || begin >= t.candidates)
        return;
    if (has_flag(KAS_CALL_SKIP_DENSE) && kas_tile_is_dense(t))
        return;
    uint j = begin + lane();
    bool mine = j < t.candidates;
    uint heads = session.pool_heads;
    uint ys = gl_NumWorkGroups.y * heads;
    uint end = GROUP * call.queries;
    float total = 0.0;
    for (uint h = 0u; h < heads; h++) {
        uint y = gl_WorkGroupID.y * heads + h;
        for (uint first = 0u; first < end; first += ROWS) {
            load_lse(ys, y, first, end);
            if (mine)
                total += pool_rows(s, ys, y, first, end, j);
        }
    }
    if (mine)
        scores[(gl_WorkGroupID.z * gl_NumWorkGroups.y + gl_WorkGroupID.y) * call.score_stride + j] = total;
}
