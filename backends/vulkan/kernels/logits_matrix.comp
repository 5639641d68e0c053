#version 450
/* logits_matrix.comp - logits on cooperative matrices; an invocation keeps a softmax of its own until the end. */
#extension GL_GOOGLE_include_directive : require
#pragma use_vulkan_memory_model
#define KAS_OWN_KEYS
#include "common.glsl"
#include "element.glsl"
#include "rows.glsl"
#include "keys.glsl"
#include "vectors.glsl"
#include "matrix.glsl"
#include "matrix_stream.glsl"
KAS_WRITE(KAS_SLOT_LOGITS, float, logits)

/* The greatest logit that this invocation saw of its row, in units of log 2, and the sum of its weights. */
float greatest;
float total;

/* Takes in the logits of the strip. */
void take_strip(float scale, uint limit, uint position, bool hides)
{
    float logit[LANE_KEYS];
    float most = greatest;
    [[unroll]] for (uint i = 0u; i < LANE_KEYS; i++)
        logit[i] = scale * strip_value(strip_row(), strip_part() * LANE_KEYS + i);
    if (hides) {
        [[unroll]] for (uint i = 0u; i < LANE_KEYS; i++)
            if (subgroupShuffle(position, strip_part() * LANE_KEYS + i) >= limit)
                logit[i] = KAS_NEGATIVE_INFINITY;
    }
    [[unroll]] for (uint i = 0u; i < LANE_KEYS; i++)
        most = max(most, logit[i]);
    total *= exp2(greatest - most);
    greatest = most;
    [[unroll]] for (uint i = 0u; i < LANE_KEYS; i++)
        total += exp2(logit[i] - most);
}

/*
 * Stores the strip's logits of the block's rows, the first of which is `entry`, keys side by side. `limit` is that of
 * this invocation's row of the strip, `position` its key of the run.
 */
void store_strip(row_block rows, uint limit, uint position, bool hides, uint entry, uint first, uint end)
{
    for (uint base = 0u; base < rows.count * STRIP_KEYS; base += SUBGROUP) {
        uint n = (base + gl_SubgroupInvocationID) / STRIP_KEYS % SIDE_M;
        uint key = (base + gl_SubgroupInvocationID) % STRIP_KEYS;
        float logit = abs(session.scale) * strip_value(n, key);
        if (hides && subgroupShuffle(position, key) >= subgroupShuffle(limit, n))
            logit = KAS_NEGATIVE_INFINITY;
        if (base + gl_SubgroupInvocationID < rows.count * STRIP_KEYS && first + key < end)
            logits[(entry + n) * call.score_stride + first + key] = logit;
    }
}

/* Adds the invocations' parts of a row. */
void add_parts()
{
    float most = greatest;
    [[unroll]] for (uint mask = SIDE_M; mask < SUBGROUP; mask *= 2u)
        most = max(most, subgroupShuffleXor(most, mask));
    total *= exp2(greatest - most);
    greatest = most;
    [[unroll]] for (uint mask = SIDE_M; mask < SUBGROUP; mask *= 2u)
        total += subgroupShuffleXor(total, mask);
}

/* At most M rows over the range; `entry` is the first one's in the logits. */
void cover_rows(row_block rows, kas_sequence s, key_range range, uint kv_head, uint limit, uint entry)
{
    bool aligned = keys_aligned();
    uint first = range.begin + my_keys();
    fetch_entries(range, first);
    stage_rows(rows, s);
    place_run(range, first, kv_head);
    LOAD_RUN(load_k, near_k, aligned, held_k)
    query_row row = row_of(rows, s, strip_row());
    uint row_limit = row.exists ? kas_causal_keys(s, row.query) : 0u;
    float scale = logit_scale();
    greatest = LEAST;
    total = 0.0;
    for (uint turn = range.begin; turn < range.end; turn += TURN_KEYS) {
        first = turn + my_keys();
        uint position = near_position;
        stage_keys();
        subgroup_meet();
        fetch_entries(range, first + TURN_KEYS);
        place_run(range, first + TURN_KEYS, kv_head);
        LOAD_RUN(load_k, near_k, aligned, held_k)
        multiply_keys();
        subgroup_meet();
        bool hides = run_hides(position, limit);
        take_strip(scale, row_limit, position, hides);
        if (has_flag(KAS_CALL_STORE_LOGITS))
            store_strip(rows, row_limit, position, hides, entry, first, range.end);
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
    for (uint first = 0u; first < row_count; first += SIDE_M) {
        row_block rows = row_block(kv_head * GROUP, 0u, call.queries, first, kas_min2(SIDE_M, row_count - first));
        cover_rows(rows, s, range, kv_head, limit, entry + first);
    }
}
