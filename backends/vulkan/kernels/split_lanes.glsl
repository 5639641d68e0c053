/* split_lanes.glsl - one split's attention of all query rows of a kv head by subgroups. After lanes.glsl. */
#include "partial.glsl"
KAS_WRITE(KAS_SLOT_PART_O, float, part_o)
KAS_WRITE(KAS_SLOT_OUT, KAS_ELEMENT, out_data)
KAS_WRITE(KAS_SLOT_LSE, float, lse_data)

/* Keys of the next turn load while weights are made, values of this one while logits are. */
void cover_range(key_range range, uint kv_head, uint limit)
{
    bool k_aligned = keys_aligned();
    bool v_aligned = values_aligned();
    uint first = range.begin + gl_SubgroupID * RUN_KEYS;
    fetch_run(range, first);
    place_run(range, first, kv_head);
    enter_run();
    LOAD_TURN(load_k, near_k, 0u, k_aligned, held_k)
    fetch_run(range, first + STEP);
    /* Subgroups stay in the loop together: Mesa's processor device makes a vote of a subgroup one of the work group. */
    for (uint step = range.begin; step < range.end; step += STEP) {
        uint position = near_position;
        bool hides = subgroupAny(position >= limit);
        first = step + gl_SubgroupID * RUN_KEYS;
        place_run(range, first + STEP, kv_head);
        fetch_run(range, first + 2u * STEP);
        for (uint base = 0u; base < RUN_KEYS; base += TURN_KEYS) {
            float logit[LOGITS];
            float own[OWN];
            LOAD_TURN(load_v, near_v, base, v_aligned, held_v)
            dot_keys(logit);
            uint ahead = base + TURN_KEYS;
            if (ahead == RUN_KEYS) {
                enter_run();
                ahead = 0u;
            }
            LOAD_TURN(load_k, near_k, ahead, k_aligned, held_k)
            reduce_logits(logit, own);
            if (hides) {
                hide_keys(own, position, base);
                drop_absent(position, base);
            }
            weigh(own);
            add_values(own);
        }
    }
}

void write_row(row_block rows, kas_sequence s, uint kv_head, uint r)
{
    query_row row = row_of(rows, s, r);
    kas_softmax part = row_softmax;
    float divisor = part.sum == 0.0 ? 1.0 : part.sum;
    if (!has_flag(KAS_CALL_DIRECT)) {
        uint at = part_at(gl_NumWorkGroups.y, kv_head, rows.first + r) + gl_WorkGroupID.x;
        if (lane() == 0u)
            store_part(at, part);
        for (uint d = lane(); d < HEAD_DIM; d += INVOCATIONS)
            part_o[at * HEAD_DIM + d] = group_sums[d] / divisor;
    } else if (row.exists) {
        if (lane() == 0u && has_flag(KAS_CALL_LSE))
            lse_data[lse_at(row)] = kas_softmax_lse(part);
        uint to = out_row(row);
        for (uint d = lane(); d < HEAD_DIM; d += INVOCATIONS)
            STORE_ELEMENT(out_data, to + d, group_sums[d] / divisor);
    }
}

void attend_split(kas_sequence s, key_range range, uint kv_head)
{
    uint row_count = GROUP * call.queries;
    for (uint first = 0u; first < row_count; first += HELD_ROWS) {
        row_block rows =
            row_block(kv_head * GROUP, 0u, call.queries, first, kas_min2(HELD_ROWS, row_count - first));
        hold_rows(rows, s);
        cover_range(range, kv_head, common_limit(s));
        [[unroll]] for (uint r = 0u; r < HELD_ROWS; r++) {
            if (r >= rows.count)
                break;
            meet(r);
            write_row(rows, s, kv_head, r);
        }
    }
}
