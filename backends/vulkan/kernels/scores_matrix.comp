#version 450
/*
 * scores_matrix.comp - scores on cooperative matrices: 2048 candidates of a tile, a pass of them after the other. Keys
 * are the rows of the products, so that a subgroup holds a block of them in registers and adds up weights element by
 * element while queries pass by and the keys of the next pass load.
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

const uint BLOCK_KEYS = 2048u;
const uint STRIPS_EACH = KEYS / SIDE_M;
const uint PASS_KEYS = SUBGROUPS * KEYS;

shared float row_lse[STAGED_ROWS]; /* in units of log 2; infinite where the row weighs nothing */

/* Query rows on their way, and the log-sum-exp of one of them. */
const uint ROW_LOADS = (STAGED_ROWS * VECTORS + INVOCATIONS - 1u) / INVOCATIONS;
uvec4 held_q[ROW_LOADS];
float held_lse;

/* Rows first .. of the block are those that are staged next. */
void load_queries(row_block rows, kas_sequence s, uint first)
{
    bool aligned = queries_aligned();
    [[unroll]] for (uint i = 0u; i < ROW_LOADS; i++) {
        uint n = kas_min2((i * INVOCATIONS + lane()) / VECTORS, STAGED_ROWS - 1u);
        held_q[i] = query_vector(rows, s, first + n, (i * INVOCATIONS + lane()) % VECTORS, aligned);
    }
    query_row row = row_of(rows, s, first + kas_min2(lane(), STAGED_ROWS - 1u));
    held_lse = row.exists ? lse_data[lse_at(row)] : KAS_NEGATIVE_INFINITY;
}

void stage_queries()
{
    barrier();
    [[unroll]] for (uint i = 0u; i < ROW_LOADS; i++) {
        uint at = i * INVOCATIONS + lane();
        if (at < STAGED_ROWS * VECTORS)
            stage[at / VECTORS * STRIDE + at % VECTORS] = held_q[i];
    }
    if (lane() < STAGED_ROWS)
        row_lse[lane()] = held_lse == KAS_NEGATIVE_INFINITY ? -KAS_NEGATIVE_INFINITY : held_lse * LOG2_E;
    barrier();
}

/* A pass on its way: a block of each subgroup, and a bit for each vector whose key is there. */
const uint PASS_LOADS = SUBGROUPS * LOADS;
uvec4 pass_k[PASS_LOADS];
uint pass_present[(PASS_LOADS + 31u) / 32u];

void load_pass(key_range range, uint first, uint kv_head)
{
    [[unroll]] for (uint turn = 0u; turn < SUBGROUPS; turn++) {
        place_block(range, first + turn * KEYS);
        load_block(kv_head);
        [[unroll]] for (uint i = 0u; i < LOADS; i++) {
            uint n = turn * LOADS + i;
            uint bit = held_position[i] == KAS_NONE ? 0u : 1u << n % 32u;
            pass_k[n] = held_k[i];
            pass_present[n / 32u] = n % 32u == 0u ? bit : pass_present[n / 32u] | bit;
        }
    }
}

/* Block `turn` of the pass that begins at `first` becomes the one that is staged next. */
void take_block(uint first, uint turn)
{
    [[unroll]] for (uint i = 0u; i < LOADS; i++) {
        uint n = turn * LOADS + i;
        bool there = (pass_present[n / 32u] >> n % 32u & 1u) != 0u;
        held_k[i] = pass_k[n];
        held_position[i] = there ? first + turn * KEYS + held_key(i) : KAS_NONE;
    }
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

/* All query rows of the tile of a kv head. */
row_block tile_rows(kas_tile t, uint kv_head)
{
    uint queries = t.query_end - t.query_begin;
    return row_block(kv_head * GROUP, t.query_begin, queries, 0u, GROUP * queries);
}

/* The scores of candidates begin .. end - 1, of kv heads row .. row + pool_heads - 1. */
void score_block(kas_sequence s, kas_tile t, uint row, uint begin, uint end, uint at)
{
    MATRIX_SUM indices = make_indices();
    float scale = logit_scale();
    float most = has_flag(KAS_CALL_ESTIMATED) ? 4.0 : -KAS_NEGATIVE_INFINITY;
    uint row_count = GROUP * (t.query_end - t.query_begin);
    uint heads_end = row + session.pool_heads;
    key_range range = positions(0u, t.candidates);
    load_pass(range, begin, row);
    load_queries(tile_rows(t, row), s, 0u);
    for (uint first = begin; first < end; first += PASS_KEYS) {
        MATRIX_SUM pooled[STRIPS_EACH];
        bool present[STRIPS_EACH]; /* the key of this invocation's row of the strip */
        [[unroll]] for (uint m = 0u; m < STRIPS_EACH; m++)
            pooled[m] = MATRIX_SUM(0.0);
        for (uint g = row; g < heads_end; g++) {
            MATRIX_A k[STRIPS_EACH * DIM_STEPS];
            [[unroll]] for (uint turn = 0u; turn < SUBGROUPS; turn++) {
                take_block(first, turn);
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
            uint next_g = g + 1u == heads_end ? row : g + 1u;
            load_pass(range, next_g == row ? first + PASS_KEYS : first, next_g);
            for (uint chunk = 0u; chunk < row_count; chunk += STAGED_ROWS) {
                bool is_last = chunk + STAGED_ROWS >= row_count;
                stage_queries();
                load_queries(tile_rows(t, is_last ? next_g : g), s, is_last ? 0u : chunk + STAGED_ROWS);
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
                            float weight = exp2(fma(scale, logits[m][i], -lse));
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
    score_block(s, t, row, begin, end, at);
}
