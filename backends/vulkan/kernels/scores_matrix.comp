#version 450
/*
 * scores_matrix.comp - scores on cooperative matrices: 2048 candidates of a tile, whose query rows stay in shared
 * memory where they fit. Keys are the rows of the products: a subgroup holds some of them in registers and adds up
 * weights element by element while queries pass by and its next keys load. Subgroups do not wait for each other, so
 * that the products of one run beside the exponentials of another.
 */
#extension GL_GOOGLE_include_directive : require
#pragma use_vulkan_memory_model
#define KAS_NARROW_STRIPS
#include "common.glsl"
#include "element.glsl"
#include "tiles.glsl"
#include "rows.glsl"
#include "keys.glsl"
#include "vectors.glsl"
#include "matrix.glsl"
KAS_READ(KAS_SLOT_LSE, float, lse_data)
KAS_WRITE(KAS_SLOT_SCORES, float, scores)

const uint BLOCK_KEYS = 2048u;
const uint KEYS = 32u; /* that a subgroup holds */
const uint STRIPS_EACH = KEYS / SIDE_M;
const uint KEY_MATRICES = STRIPS_EACH * DIM_STEPS;
const uint PASS_KEYS = SUBGROUPS * KEYS;
const uint STAGED_ROWS = 128u;
const uint TILES_EACH = 2u; /* matrices of query rows that are worked on at once */
const uint TURN_ROWS = TILES_EACH * SIDE_N;

shared uvec4 stage[STAGED_ROWS * STRIDE];
shared vec4 row_lse[STAGED_ROWS / 4u]; /* in units of log 2; infinite where the row weighs nothing */

/* ---- Queries ---------------------------------------------------------------------------------------------------- */

/* All query rows of the tile of a kv head. */
row_block tile_rows(kas_tile t, uint kv_head)
{
    uint queries = t.query_end - t.query_begin;
    return row_block(kv_head * GROUP, t.query_begin, queries, 0u, GROUP * queries);
}

/* Query rows from `first` on become the staged ones. All invocations. */
void stage_queries(row_block rows, kas_sequence s, uint first)
{
    bool aligned = queries_aligned();
    barrier();
    for (uint i = lane(); i < STAGED_ROWS * VECTORS; i += INVOCATIONS)
        stage[i / VECTORS * STRIDE + i % VECTORS] = query_vector(rows, s, first + i / VECTORS, i % VECTORS, aligned);
    for (uint n = lane(); n < STAGED_ROWS; n += INVOCATIONS) {
        query_row row = row_of(rows, s, first + n);
        float lse = row.exists ? lse_data[lse_at(row)] : KAS_NEGATIVE_INFINITY;
        row_lse[n / 4u][n % 4u] = lse == KAS_NEGATIVE_INFINITY ? -KAS_NEGATIVE_INFINITY : lse * LOG2_E;
    }
    barrier();
}

/* ---- Keys: from memory through the subgroup's strip, a part of their dimensions at a time ------------------------ */

const uint PART_STEPS = DIM_STEPS % 2u == 0u ? 2u : 1u; /* matrices side by side */
const uint PARTS = DIM_STEPS / PART_STEPS;
const uint PART_VECTORS = PART_STEPS * SIDE_K / 8u; /* of a row */
const uint PART_LOADS = (SIDE_M * PART_VECTORS + SUBGROUP - 1u) / SUBGROUP;
const uint KEY_LOADS = STRIPS_EACH * PARTS * PART_LOADS;

/* Vector i * SUBGROUP + invocation of each part, on its way. */
uvec4 held_k[KEY_LOADS];

uint held_row(uint i)
{
    return (i * SUBGROUP + gl_SubgroupInvocationID) / PART_VECTORS;
}

uint held_vector(uint i)
{
    return (i * SUBGROUP + gl_SubgroupInvocationID) % PART_VECTORS;
}

/* Loads the keys at positions first .. first + KEYS - 1. */
void load_keys(key_range range, uint first, uint kv_head)
{
    bool aligned = keys_aligned();
    uint at[KEY_LOADS];
    [[unroll]] for (uint m = 0u; m < STRIPS_EACH; m++)
        [[unroll]] for (uint i = 0u; i < PART_LOADS; i++) {
            uint row = m * SIDE_M + kas_min2(held_row(i), SIDE_M - 1u);
            uint key_at = k_row(place_of(position_of(range, first + row)), kv_head) + held_vector(i) * 8u;
            [[unroll]] for (uint p = 0u; p < PARTS; p++)
                at[(m * PARTS + p) * PART_LOADS + i] = key_at + p * PART_VECTORS * 8u;
        }
    LOAD_VECTORS(load_k, KEY_LOADS, at, aligned, held_k)
}

/* What load_keys loaded becomes factors. */
void take_keys(out MATRIX_A k[KEY_MATRICES])
{
    [[unroll]] for (uint part = 0u; part < STRIPS_EACH * PARTS; part++) {
        subgroup_meet();
        [[unroll]] for (uint i = 0u; i < PART_LOADS; i++)
            if (held_row(i) < SIDE_M)
                strips[strip_at() + held_row(i) * STRIP_STRIDE + held_vector(i)] = held_k[part * PART_LOADS + i];
        subgroup_meet();
        [[unroll]] for (uint c = 0u; c < PART_STEPS; c++)
            coopMatLoad(k[part * PART_STEPS + c], strips, strip_at() + c * (SIDE_K / 8u), STRIP_STRIDE, ROW_MAJOR);
    }
}

/* ---- Weights ---------------------------------------------------------------------------------------------------- */

/* Adds the weights that staged rows first .. first + TURN_ROWS - 1 give. */
void add_weights(MATRIX_A k[KEY_MATRICES], uint first, float scale, bool estimated,
                 inout MATRIX_SUM pooled[STRIPS_EACH])
{
    MATRIX_SUM logits[TILES_EACH * STRIPS_EACH];
    [[unroll]] for (uint i = 0u; i < TILES_EACH * STRIPS_EACH; i++)
        logits[i] = MATRIX_SUM(0.0);
    [[unroll]] for (uint c = 0u; c < DIM_STEPS; c++)
        [[unroll]] for (uint n = 0u; n < TILES_EACH; n++) {
            MATRIX_B q;
            coopMatLoad(q, stage, (first + n * SIDE_N) * STRIDE + c * (SIDE_K / 8u), STRIDE, COLUMN_MAJOR);
            [[unroll]] for (uint m = 0u; m < STRIPS_EACH; m++)
                logits[n * STRIPS_EACH + m] = coopMatMulAdd(k[m * DIM_STEPS + c], q, logits[n * STRIPS_EACH + m]);
        }
    [[unroll]] for (uint n = 0u; n < TILES_EACH; n++) {
        MATRIX_SUM lse; /* the same in all rows */
        coopMatLoad(lse, row_lse, (first + n * SIDE_N) / 4u, 0u, ROW_MAJOR);
        [[unroll]] for (uint m = 0u; m < STRIPS_EACH; m++)
            [[unroll]] for (int i = 0; i < lse.length(); i++) {
                float weight = exp2(fma(scale, logits[n * STRIPS_EACH + m][i], -lse[i]));
                pooled[m][i] += estimated && weight > 4.0 ? 4.0 : weight;
            }
    }
}

/* The sum of each key's weights, from N columns of the strip whose first key is at position `first`. */
void write_strip(uint at, uint first, uint end)
{
    uint position = first + strip_row();
    if (strip_part() != 0u || position >= end)
        return;
    float total = 0.0;
    for (uint c = 0u; c < SIDE_N; c++)
        total += strip_value(strip_row(), c);
    scores[at + position] = place_of(position).present ? total : 0.0;
}

/* The scores of candidates from `begin` on, of kv heads row .. row + pool_heads - 1. */
void score_block(kas_sequence s, kas_tile t, uint row, uint begin, uint at)
{
    float scale = logit_scale();
    bool estimated = has_flag(KAS_CALL_ESTIMATED);
    uint row_count = GROUP * (t.query_end - t.query_begin);
    uint end = kas_min2(begin + BLOCK_KEYS, t.candidates);
    uint heads_end = row + session.pool_heads;
    bool queries_stay = row_count <= STAGED_ROWS && session.pool_heads == 1u;
    key_range range = positions(0u, t.candidates);
    load_keys(range, begin + gl_SubgroupID * KEYS, row);
    if (queries_stay)
        stage_queries(tile_rows(t, row), s, 0u);
    for (uint first = begin + gl_SubgroupID * KEYS; first < end + gl_SubgroupID * KEYS; first += PASS_KEYS) {
        MATRIX_SUM pooled[STRIPS_EACH];
        [[unroll]] for (uint m = 0u; m < STRIPS_EACH; m++)
            pooled[m] = MATRIX_SUM(0.0);
        for (uint g = row; g < heads_end; g++) {
            MATRIX_A k[KEY_MATRICES];
            take_keys(k);
            bool is_last = g + 1u == heads_end;
            load_keys(range, is_last ? first + PASS_KEYS : first, is_last ? row : g + 1u);
            for (uint chunk = 0u; chunk < row_count; chunk += STAGED_ROWS) {
                if (!queries_stay)
                    stage_queries(tile_rows(t, g), s, chunk);
                uint staged = kas_min2(STAGED_ROWS, row_count - chunk);
                for (uint n = 0u; n < staged; n += TURN_ROWS)
                    add_weights(k, n, scale, estimated, pooled);
            }
        }
        [[unroll]] for (uint m = 0u; m < STRIPS_EACH; m++) {
            subgroup_meet();
            coopMatStore(pooled[m], strips, strip_at(), STRIP_STRIDE, ROW_MAJOR);
            subgroup_meet();
            write_strip(at, first + m * SIDE_M, end);
        }
    }
}

void main()
{
    kas_sequence s = load_sequence();
    uint u = gl_WorkGroupID.x % call.tile_count;
    kas_tile t = load_tile(s, u);
    uint begin = gl_WorkGroupID.x / call.tile_count * BLOCK_KEYS;
    if (t.query_begin == t.query_end || begin >= t.candidates)
        return;
    if (has_flag(KAS_CALL_SKIP_DENSE) && kas_tile_is_dense(t))
        return;
    uint row = active_row(gl_WorkGroupID.y);
    uint at = ((gl_WorkGroupID.z * gl_NumWorkGroups.y + gl_WorkGroupID.y) * call.tile_count + u) * call.score_stride;
    score_block(s, t, row, begin, at);
}
