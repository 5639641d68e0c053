#version 450
/* logits_matrix.comp - logits on cooperative matrices; an invocation keeps a softmax of its own until the end. */
#extension GL_GOOGLE_include_directive : require
#pragma use_vulkan_memory_model
#define KAS_OWN_KEYS
#define KAS_STAGED_ROWS 16u
#include "common.glsl"
#include "element.glsl"
#include "rows.glsl"
#include "keys.glsl"
#include "vectors.glsl"
#include "matrix.glsl"
#include "matrix_split.glsl"
KAS_WRITE(KAS_SLOT_LOGITS, float, logits)

/* The greatest logit that this invocation saw of its row, in units of log 2, and the sum of its weights. */
float greatest;
float total;

/* Takes in the logits of the strip; they are stored from `at` on where the row is one of the block. */
void take_strip(uint limit, bool hides, bool stored, uint at, uint first, uint end)
{
    float logit[LANE_KEYS];
    float most = greatest;
    uint j = my_keys() + strip_part() * LANE_KEYS;
    [[unroll]] for (uint i = 0u; i < LANE_KEYS; i++) {
        logit[i] = session.scale * strip_value(strip_row(), strip_part() * LANE_KEYS + i);
        if (hides && key_position[j + i] >= limit)
            logit[i] = KAS_NEGATIVE_INFINITY;
        if (stored && first + j + i < end)
            logits[at + first + j + i] = logit[i];
        logit[i] *= LOG2_E;
        most = max(most, logit[i]);
    }
    total *= exp2(greatest - most);
    greatest = most;
    [[unroll]] for (uint i = 0u; i < LANE_KEYS; i++)
        total += exp2(logit[i] - most);
}

/* Adds the invocations' parts of a row. */
void add_parts()
{
    float most = greatest;
    [[unroll]] for (uint mask = SIDE; mask < SUBGROUP; mask *= 2u)
        most = max(most, subgroupShuffleXor(most, mask));
    total *= exp2(greatest - most);
    greatest = most;
    [[unroll]] for (uint mask = SIDE; mask < SUBGROUP; mask *= 2u)
        total += subgroupShuffleXor(total, mask);
}

/* At most 16 rows over the range; `entry` is the first one's in the logits. */
void cover_rows(row_block rows, kas_sequence s, key_range range, uint kv_head, uint limit, uint entry)
{
    MATRIX_A q[SLICES];
    stage_rows(rows, s, 0u, SIDE);
    [[unroll]] for (uint c = 0u; c < SLICES; c++)
        coopMatLoad(q[c], stage, c * 2u, STRIDE, ROW_MAJOR);
    query_row row = row_of(rows, s, strip_row());
    uint row_limit = row.exists ? kas_causal_keys(s, row.query) : 0u;
    bool stored = has_flag(KAS_CALL_STORE_LOGITS) && strip_row() < rows.count;
    uint at = (entry + strip_row()) * call.score_stride;
    uint turn = 0u;
    greatest = LEAST;
    total = 0.0;
    clear_hides();
    place_block(range, range.begin);
    load_block(kv_head);
    place_block(range, range.begin + KEYS);
    for (uint first = range.begin; first < range.end; first += KEYS) {
        barrier();
        stage_block(limit, turn);
        barrier();
        bool hides = block_hides[turn] != 0u;
        turn ^= 1u;
        if (lane() == 0u)
            block_hides[turn] = 0u;
        load_block(kv_head);
        place_block(range, first + 2u * KEYS);
        [[unroll]] for (uint n = 0u; n < STRIP_KEYS / SIDE; n++) {
            MATRIX_SUM sums = MATRIX_SUM(0.0);
            [[unroll]] for (uint c = 0u; c < SLICES; c++) {
                MATRIX_B k;
                coopMatLoad(k, stage, (my_keys() + n * SIDE) * STRIDE + c * 2u, STRIDE, COLUMN_MAJOR);
                sums = coopMatMulAdd(q[c], k, sums);
            }
            coopMatStore(sums, strips, strip_at() + n * 4u, STRIP_STRIDE, ROW_MAJOR);
        }
        subgroup_meet();
        take_strip(row_limit, hides, stored, at, first, range.end);
    }
    add_parts();
    meet(greatest, total);
    barrier();
    if (lane() < rows.count)
        store_part(part_at(gl_NumWorkGroups.y, gl_WorkGroupID.y, rows.first + lane()) + gl_WorkGroupID.x,
                   row_softmax[lane()]);
}

void main()
{
    kas_sequence s = load_sequence();
    uint heads = session.pool_heads;
    uint kv_head = active_row(gl_WorkGroupID.y / heads) + gl_WorkGroupID.y % heads;
    uint keys = s.queries == 0u ? 0u : s.keys;
    key_range range = split_range(positions(0u, keys), gl_WorkGroupID.x);
    uint row_count = GROUP * call.queries;
    uint entry = (gl_WorkGroupID.z * gl_NumWorkGroups.y + gl_WorkGroupID.y) * row_count;
    uint limit = s.queries < call.queries ? 0u : kas_causal_keys(s, 0u);
    for (uint first = 0u; first < row_count; first += SIDE) {
        row_block rows = row_block(kv_head * GROUP, 0u, call.queries, first, kas_min2(SIDE, row_count - first));
        cover_rows(rows, s, range, kv_head, limit, entry + first);
    }
}
