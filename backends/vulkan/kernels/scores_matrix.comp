#version 450
/*
 * scores_matrix.comp - scores on cooperative matrices: 256 candidates of a tile. Keys are the rows of the products, so
 * that a subgroup holds a block of them in registers and adds up weights element by element while queries pass by.
 */
#extension GL_GOOGLE_include_directive : require
#pragma use_vulkan_memory_model
#define KAS_STAGED_ROWS 64u
#include "common.glsl"
#include "element.glsl"
#include "tiles.glsl"
#include "rows.glsl"
#include "keys.glsl"
#include "vectors.glsl"
#include "matrix.glsl"
#include "matrix_block.glsl"
KAS_READ(KAS_SLOT_LSE, float, lse_data)
KAS_WRITE(KAS_SLOT_SCORES, float, scores)

const uint BLOCK_KEYS = 256u;
const uint STRIPS_EACH = KEYS / SIDE_M;
const uint PASS_KEYS = SUBGROUPS * KEYS;

shared float row_lse[STAGED_ROWS]; /* in units of log 2; infinite where the row weighs nothing */

/* Stages the next rows of the block and their log-sum-exp. */
void stage_queries(row_block rows, kas_sequence s, uint first)
{
    stage_rows(rows, s, first, STAGED_ROWS);
    for (uint n = lane(); n < STAGED_ROWS; n += INVOCATIONS) {
        query_row row = row_of(rows, s, first + n);
        float lse = row.exists ? lse_data[lse_at(row)] : KAS_NEGATIVE_INFINITY;
        row_lse[n] = lse == KAS_NEGATIVE_INFINITY ? -KAS_NEGATIVE_INFINITY : lse * LOG2_E;
    }
    barrier();
}

/* The sum of each key's weights, from N columns of the strip. */
void write_strip(uint at, uint first, uint end, bool present)
{
    if (strip_part() != 0u || first + strip_row() >= end)
        return;
    float total = 0.0;
    for (uint c = 0u; c < SIDE_N; c++)
        total += strip_value(strip_row(), c);
    scores[at + first + strip_row()] = present ? total : 0.0;
}

/* The scores of candidates first .. first + PASS_KEYS - 1, of kv heads row .. row + pool_heads - 1. */
void score_pass(kas_sequence s, kas_tile t, uint row, uint first, uint at)
{
    MATRIX_SUM indices = make_indices();
    MATRIX_A k[STRIPS_EACH * DIM_STEPS];
    MATRIX_SUM pooled[STRIPS_EACH];
    bool present[STRIPS_EACH]; /* the key of this invocation's row of the strip */
    [[unroll]] for (uint m = 0u; m < STRIPS_EACH; m++)
        pooled[m] = MATRIX_SUM(0.0);
    float scale = session.scale * LOG2_E;
    float most = has_flag(KAS_CALL_ESTIMATED) ? 4.0 : -KAS_NEGATIVE_INFINITY;
    uint queries = t.query_end - t.query_begin;
    uint row_count = GROUP * queries;
    uint heads_end = row + session.pool_heads;
    for (uint g = row; g < heads_end; g++) {
        for (uint turn = 0u; turn < SUBGROUPS; turn++) {
            place_block(positions(0u, t.candidates), first + turn * KEYS);
            load_block(g);
            barrier();
            stage_block(KAS_NONE, 0u);
            barrier();
            if (gl_SubgroupID == turn) {
                [[unroll]] for (uint m = 0u; m < STRIPS_EACH; m++) {
                    present[m] = key_position[m * SIDE_M + strip_row()] != KAS_NONE;
                    [[unroll]] for (uint c = 0u; c < DIM_STEPS; c++)
                        coopMatLoad(k[m * DIM_STEPS + c], stage, m * SIDE_M * STRIDE + c * (SIDE_K / 8u), STRIDE,
                                    ROW_MAJOR);
                }
            }
        }
        row_block rows = row_block(g * GROUP, t.query_begin, queries, 0u, row_count);
        for (uint chunk = 0u; chunk < row_count; chunk += STAGED_ROWS) {
            stage_queries(rows, s, chunk);
            for (uint n = 0u; n < STAGED_ROWS / SIDE_N; n++) {
                MATRIX_SUM logits[STRIPS_EACH];
                [[unroll]] for (uint m = 0u; m < STRIPS_EACH; m++)
                    logits[m] = MATRIX_SUM(0.0);
                [[unroll]] for (uint c = 0u; c < DIM_STEPS; c++) {
                    MATRIX_B q;
                    coopMatLoad(q, stage, n * SIDE_N * STRIDE + c * (SIDE_K / 8u), STRIDE, COLUMN_MAJOR);
                    [[unroll]] for (uint m = 0u; m < STRIPS_EACH; m++)
                        logits[m] = coopMatMulAdd(k[m * DIM_STEPS + c], q, logits[m]);
                }
                [[unroll]] for (int i = 0; i < indices.length(); i++) {
                    float lse = row_lse[n * SIDE_N + uint(indices[i]) % SIDE_N];
                    [[unroll]] for (uint m = 0u; m < STRIPS_EACH; m++) {
                        float weight = exp2(scale * logits[m][i] - lse);
                        pooled[m][i] += weight > most ? most : weight;
                    }
                }
            }
        }
    }
    [[unroll]] for (uint m = 0u; m < STRIPS_EACH; m++) {
        coopMatStore(pooled[m], strips, strip_at(), STRIP_STRIDE, ROW_MAJOR);
        subgroup_meet();
        write_strip(at, first + (gl_SubgroupID * STRIPS_EACH + m) * SIDE_M, t.candidates, present[m]);
        subgroup_meet();
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
    uint end = kas_min2(begin + BLOCK_KEYS, t.candidates);
    for (uint first = begin; first < end; first += PASS_KEYS)
        score_pass(s, t, row, first, at);
}
