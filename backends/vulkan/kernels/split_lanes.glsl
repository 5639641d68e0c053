/* split_lanes.glsl - one split's attention of all query rows of a kv head by subgroups. After lanes.glsl. */
#include "partial.glsl"
KAS_WRITE(KAS_SLOT_PART_O, float, part_o)
KAS_WRITE(KAS_SLOT_OUT, KAS_ELEMENT, out_data)
KAS_WRITE(KAS_SLOT_LSE, float, lse_data)

void cover_range(key_range range, uint kv_head)
{
    bool k_aligned = is_aligned(call.k_base, call.k_stride_seq, call.k_stride_token, call.k_stride_head);
    bool v_aligned = is_aligned(call.v_base, call.v_stride_seq, call.v_stride_token, call.v_stride_head);
    /* The groups of a subgroup stay in the loop together: shuffles need all of its lanes. */
    for (uint first = range.begin + gl_SubgroupID * SUBGROUP_KEYS; first < range.end; first += GROUPS * HELD_KEYS) {
        uint e = first + gl_SubgroupInvocationID / GROUP_LANES * HELD_KEYS;
        uint position[HELD_KEYS];
        uvec4 key[HELD_KEYS][VECTORS_EACH];
        uvec4 value[HELD_KEYS][VECTORS_EACH];
        [[unroll]] for (uint k = 0u; k < HELD_KEYS; k++) {
            position[k] = position_of(range, e + k);
            key_place place = place_of(position[k]);
            if (!place.present)
                position[k] = KAS_NONE;
            uint k_at = k_row(place, kv_head);
            uint v_at = v_row(place, kv_head);
            [[unroll]] for (uint c = 0u; c < VECTORS_EACH; c++) {
                bool there = place.present && my_vector(c) < VECTORS;
                key[k][c] = there ? load_k(k_at + my_vector(c) * 8u, k_aligned) : uvec4(0u);
                value[k][c] = there ? load_v(v_at + my_vector(c) * 8u, v_aligned) : uvec4(0u);
            }
        }
        float logit[LOGITS];
        [[unroll]] for (uint i = 0u; i < LOGITS; i++)
            logit[i] = 0.0;
        [[unroll]] for (uint k = 0u; k < HELD_KEYS; k++)
            add_dots(logit, k, key[k]);
        reduce_logits(logit);
        [[unroll]] for (uint i = 0u; i < LOGITS; i++)
            if (position[i / HELD_ROWS] >= held_limit[i % HELD_ROWS])
                logit[i] = KAS_NEGATIVE_INFINITY;
        weigh(logit);
        [[unroll]] for (uint k = 0u; k < HELD_KEYS; k++)
            add_values(logit, k, value[k]);
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
        cover_range(range, kv_head);
        [[unroll]] for (uint r = 0u; r < HELD_ROWS; r++) {
            if (r >= rows.count)
                break;
            meet(r);
            write_row(rows, s, kv_head, r);
        }
    }
}
