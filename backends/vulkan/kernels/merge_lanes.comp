#version 450
/*
 * merge_lanes.comp - merge by subgroups: each finds the softmax of all splits, invocations share the splits' weights
 * and then add up one head dimension each.
 */
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_shuffle : require
#include "common.glsl"
#include "element.glsl"
#include "rows.glsl"
#include "core/kernel/softmax.h"
#include "partial.glsl"
#include "parts_lanes.glsl"
KAS_READ(KAS_SLOT_PART_O, float, part_o)
KAS_WRITE(KAS_SLOT_OUT, KAS_ELEMENT, out_data)
KAS_WRITE(KAS_SLOT_LSE, float, lse_data)

const uint BATCH = 8u; /* splits whose outputs load at once */

shared float shares[INVOCATIONS]; /* a split's part of the whole sum */

/* Dimension d of splits first .. first + count - 1. An empty split wrote no output: what lies there is not a number. */
float add_splits(uint at, uint d, uint first, uint count)
{
    float total = 0.0;
    for (uint i0 = 0u; i0 < count; i0 += BATCH) {
        float held[BATCH];
        [[unroll]] for (uint i = 0u; i < BATCH; i++)
            held[i] = part_o[(at + first + kas_min2(i0 + i, count - 1u)) * HEAD_DIM + d];
        [[unroll]] for (uint i = 0u; i < BATCH; i++)
            if (i0 + i < count && shares[i0 + i] != 0.0)
                total += shares[i0 + i] * held[i];
    }
    return total;
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
    for (uint d0 = 0u; d0 < HEAD_DIM; d0 += INVOCATIONS) {
        uint d = d0 + lane();
        float total = 0.0;
        for (uint first = 0u; first < call.splits; first += INVOCATIONS) {
            uint count = kas_min2(INVOCATIONS, call.splits - first);
            barrier();
            if (lane() < count) {
                kas_softmax part = load_part(at + first + lane());
                shares[lane()] =
                    part.sum == 0.0 ? 0.0 : part.sum * kas_softmax_weight(part.greatest, whole.greatest) / whole.sum;
            }
            barrier();
            if (d < HEAD_DIM)
                total += add_splits(at, d, first, count);
        }
        if (d < HEAD_DIM)
            STORE_ELEMENT(out_data, to + d, total);
    }
}
