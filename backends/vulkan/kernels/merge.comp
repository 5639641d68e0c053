#version 450
/* merge.comp - the partial results of a head's query token to out and lse. */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "element.glsl"
#include "rows.glsl"
#include "core/kernel/softmax.h"
#include "partial.glsl"
KAS_READ(KAS_SLOT_PART_O, float, part_o)
KAS_WRITE(KAS_SLOT_OUT, KAS_ELEMENT, out_data)
KAS_WRITE(KAS_SLOT_LSE, float, lse_data)

kas_softmax merge_parts(uint at)
{
    kas_softmax whole = kas_softmax_none();
    for (uint i = 0u; i < call.splits; i++)
        whole = kas_softmax_merge(whole, load_part(at + i));
    return whole;
}

/* Dimension d of the output: the splits' outputs, each weighted with its share of the sum. */
float merge_values(uint at, uint d, kas_softmax whole)
{
    float total = 0.0;
    for (uint i = 0u; i < call.splits; i++) {
        kas_softmax part = load_part(at + i);
        if (part.sum == 0.0) /* an empty split wrote no output */
            continue;
        float share = part.sum * kas_softmax_weight(part.greatest, whole.greatest);
        total += share * part_o[(at + i) * HEAD_DIM + d];
    }
    return whole.sum == 0.0 ? 0.0 : total / whole.sum;
}

void main()
{
    kas_sequence s = load_sequence();
    query_row r = query_row(gl_WorkGroupID.y, gl_WorkGroupID.x, gl_WorkGroupID.x < s.queries);
    if (!r.exists)
        return;
    uint at = ((gl_WorkGroupID.z * gl_NumWorkGroups.y + r.head) * call.queries + r.query) * call.splits;
    kas_softmax whole = merge_parts(at);
    if (lane() == 0u && has_flag(KAS_CALL_LSE))
        lse_data[lse_at(r)] = kas_softmax_lse(whole);
    if (!has_flag(KAS_CALL_OUT))
        return;
    uint to = out_row(r);
    for (uint d = lane(); d < HEAD_DIM; d += INVOCATIONS)
        STORE_ELEMENT(out_data, to + d, merge_values(at, d, whole));
}
