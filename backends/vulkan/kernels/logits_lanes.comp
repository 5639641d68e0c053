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

/* Stores the lane's logits of the turn whose first key is entry `first`; row 0 is row `at` of the logits. */
void store_logits(float own[OWN], row_block rows, uint at, uint first, uint end)
{
    [[unroll]] for (uint j = 0u; j < OWN; j++) {
        uint r = own_logit(j) % HELD_ROWS;
        uint entry = first + key_lane(0u, own_logit(j) / HELD_ROWS);
        if (group_lane() % REPLICAS == 0u && r < rows.count && entry < end)
            logits[(at + r) * call.score_stride + entry] = own[j] * LN_2;
    }
}

/* Keys of the next turn load while weights are made. */
void cover_range(key_range range, row_block rows, uint at, uint kv_head, uint limit)
{
    bool aligned = keys_aligned();
    bool store = has_flag(KAS_CALL_STORE_LOGITS);
    uint first = range.begin + gl_SubgroupID * RUN_KEYS;
    fetch_run(range, first);
    place_run(range, first, kv_head);
    enter_run();
    LOAD_TURN(load_k, near_k, 0u, aligned, held_k)
    for (uint step = range.begin; step < range.end; step += STEP) {
        uint position = near_position;
        bool hides = subgroupAny(position >= limit);
        first = step + gl_SubgroupID * RUN_KEYS;
        fetch_run(range, first + STEP);
        place_run(range, first + STEP, kv_head);
        for (uint base = 0u; base < RUN_KEYS; base += TURN_KEYS) {
            float logit[LOGITS];
            float own[OWN];
            dot_keys(logit);
            uint ahead = base + TURN_KEYS;
            if (ahead == RUN_KEYS) {
                enter_run();
                ahead = 0u;
            }
            LOAD_TURN(load_k, near_k, ahead, aligned, held_k)
            reduce_logits(logit, own);
            if (hides)
                hide_keys(own, position, base);
            if (store)
                store_logits(own, rows, at, first + base, range.end);
            weigh(own);
        }
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
        cover_range(range, rows, entry + first, kv_head, common_limit(s));
        [[unroll]] for (uint r = 0u; r < HELD_ROWS; r++) {
            if (r >= rows.count)
                break;
            meet(r);
            if (lane() == 0u)
                store_part(part_at(gl_NumWorkGroups.y, gl_WorkGroupID.y, first + r) + gl_WorkGroupID.x, row_softmax);
        }
    }
}
