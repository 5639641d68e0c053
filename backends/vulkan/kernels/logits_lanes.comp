#version 450
/* logits_lanes.comp - logits by subgroups. */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "element.glsl"
#include "rows.glsl"
#include "keys.glsl"
#include "lanes.glsl"
#include "partial.glsl"
KAS_WRITE(KAS_SLOT_LOGITS, float, logits)

/* Lane i of a group stores logit i, then i + GROUP_LANES, and so on. */
void store_logits(float logit[LOGITS], row_block rows, uint at, uint e, uint end)
{
    [[unroll]] for (uint i = 0u; i < LOGITS; i++) {
        uint r = i % HELD_ROWS;
        uint j = e + i / HELD_ROWS;
        if (i % GROUP_LANES == group_lane() && r < rows.count && j < end)
            logits[(at + r) * call.score_stride + j] = logit[i] * LN_2;
    }
}

/* Keys of the next turn load while weights are made. */
void cover_range(key_range range, row_block rows, uint at, uint kv_head)
{
    bool aligned = is_aligned(call.k_base, call.k_stride_seq, call.k_stride_token, call.k_stride_head);
    uint first = range.begin + gl_SubgroupID * SUBGROUP_KEYS;
    place_keys(range, first, kv_head);
    LOAD_VECTORS(load_k, HELD_VECTORS, held_k_at, aligned, held_k)
    for (; first < range.end; first += GROUPS * HELD_KEYS) {
        float logit[LOGITS];
        uint position[HELD_KEYS] = held_position;
        place_keys(range, first + GROUPS * HELD_KEYS, kv_head);
        dot_keys(logit);
        LOAD_VECTORS(load_k, HELD_VECTORS, held_k_at, aligned, held_k)
        reduce_logits(logit);
        hide_keys(logit, position);
        if (has_flag(KAS_CALL_STORE_LOGITS))
            store_logits(logit, rows, at, first + gl_SubgroupInvocationID / GROUP_LANES * HELD_KEYS, range.end);
        weigh(logit);
    }
}

void main()
{
    kas_sequence s = load_sequence();
    uint heads = session.pool_heads;
    uint kv_head = active_row(gl_WorkGroupID.y / heads) + gl_WorkGroupID.y % heads;
    key_range range = split_range(positions(0u, s.keys), gl_WorkGroupID.x);
    uint row_count = GROUP * call.queries;
    uint entry = (gl_WorkGroupID.z * gl_NumWorkGroups.y + gl_WorkGroupID.y) * row_count;
    for (uint first = 0u; first < row_count; first += HELD_ROWS) {
        row_block rows =
            row_block(kv_head * GROUP, 0u, call.queries, first, kas_min2(HELD_ROWS, row_count - first));
        hold_rows(rows, s);
        cover_range(range, rows, entry + first, kv_head);
        [[unroll]] for (uint r = 0u; r < HELD_ROWS; r++) {
            if (r >= rows.count)
                break;
            meet(r);
            if (lane() == 0u)
                store_part(part_at(gl_NumWorkGroups.y, gl_WorkGroupID.y, first + r) + gl_WorkGroupID.x, row_softmax);
        }
    }
}
