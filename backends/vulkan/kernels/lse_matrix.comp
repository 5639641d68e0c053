#version 450
/*
 * lse_matrix.comp - lse on cooperative matrices: 64 queries of all heads of a kv head. A subgroup takes 2 M rows; every
 * element of its logits keeps a softmax of its own, over each N-th key, and a row's meet at the end. The base of such a
 * softmax moves only when a logit rises more than HEADROOM above it.
 */
#extension GL_GOOGLE_include_directive : require
#pragma use_vulkan_memory_model
#define KAS_LISTS
#define KAS_STAGED_ROWS 64u
#include "common.glsl"
#include "element.glsl"
#include "tiles.glsl"
#include "rows.glsl"
#include "keys.glsl"
#include "lists.glsl"
#include "vectors.glsl"
#include "matrix.glsl"
#include "matrix_block.glsl"
KAS_WRITE(KAS_SLOT_LSE, float, lse_data)

const uint QUERIES = 64u;
const uint STRIPS_EACH = 2u;
const float HEADROOM = 60.0;
const uint ROWS = SUBGROUPS * STRIPS_EACH * SIDE_M;

shared uint row_limit[ROWS]; /* keys that the row sees: positions below */

/* The row of the block that row `row` of strip `t` is. */
uint block_row(uint t, uint row)
{
    return (gl_SubgroupID * STRIPS_EACH + t) * SIDE_M + row;
}

/* The logit of an element, given its place in the block. */
float see(float logit, float index, uint t, uint n)
{
    uint at = uint(index);
    return key_position[n * SIDE_N + at % SIDE_N] < row_limit[block_row(t, at / SIDE_N)] ? logit : KAS_NEGATIVE_INFINITY;
}

/* A row's bases in the first N columns of the strip and its sums in the next N become its log-sum-exp. */
void write_row(query_row row)
{
    if (!row.exists || strip_part() != 0u || !has_flag(KAS_CALL_LSE))
        return;
    float most = LEAST;
    for (uint c = 0u; c < SIDE_N; c++)
        most = max(most, strip_value(strip_row(), c));
    float total = 0.0;
    for (uint c = 0u; c < SIDE_N; c++)
        total += strip_value(strip_row(), SIDE_N + c) * exp2(strip_value(strip_row(), c) - most);
    lse_data[lse_at(row)] = total == 0.0 ? KAS_NEGATIVE_INFINITY : (most + log2(total)) * LN_2;
}

void cover_rows(row_block rows, kas_sequence s, key_range range, uint kv_head, uint limit)
{
    MATRIX_SUM indices = make_indices();
    MATRIX_A q[STRIPS_EACH * DIM_STEPS];
    MATRIX_SUM base[STRIPS_EACH];
    MATRIX_SUM total[STRIPS_EACH];
    for (uint first = 0u; first < ROWS; first += STAGED_ROWS) {
        stage_rows(rows, s, first, STAGED_ROWS);
        uint mine = block_row(0u, 0u) - first;
        if (mine < STAGED_ROWS) {
            [[unroll]] for (uint t = 0u; t < STRIPS_EACH; t++)
                [[unroll]] for (uint c = 0u; c < DIM_STEPS; c++)
                    coopMatLoad(q[t * DIM_STEPS + c], stage, (mine + t * SIDE_M) * STRIDE + c * (SIDE_K / 8u), STRIDE,
                                ROW_MAJOR);
        }
    }
    [[unroll]] for (uint t = 0u; t < STRIPS_EACH; t++) {
        base[t] = MATRIX_SUM(LEAST);
        total[t] = MATRIX_SUM(0.0);
    }
    for (uint n = lane(); n < ROWS; n += INVOCATIONS) {
        query_row row = row_of(rows, s, n);
        row_limit[n] = row.exists ? kas_causal_keys(s, row.query) : 0u;
    }
    float scale = logit_scale();
    uint turn = 0u;
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
        MATRIX_SUM logits[STRIPS_EACH * KEY_TILES];
        [[unroll]] for (uint n = 0u; n < KEY_TILES; n++) {
            [[unroll]] for (uint t = 0u; t < STRIPS_EACH; t++)
                logits[t * KEY_TILES + n] = MATRIX_SUM(0.0);
            [[unroll]] for (uint c = 0u; c < DIM_STEPS; c++) {
                MATRIX_B k;
                coopMatLoad(k, stage, n * SIDE_N * STRIDE + c * (SIDE_K / 8u), STRIDE, COLUMN_MAJOR);
                [[unroll]] for (uint t = 0u; t < STRIPS_EACH; t++)
                    logits[t * KEY_TILES + n] = coopMatMulAdd(q[t * DIM_STEPS + c], k, logits[t * KEY_TILES + n]);
            }
        }
        if (hides) {
            [[unroll]] for (uint t = 0u; t < STRIPS_EACH * KEY_TILES; t++)
                [[unroll]] for (int i = 0; i < indices.length(); i++)
                    logits[t][i] = see(logits[t][i], indices[i], t / KEY_TILES, t % KEY_TILES);
        }
        MATRIX_SUM most[STRIPS_EACH];
        bool rises = false;
        [[unroll]] for (uint t = 0u; t < STRIPS_EACH; t++)
            [[unroll]] for (int i = 0; i < indices.length(); i++) {
                most[t][i] = logits[t * KEY_TILES][i];
                [[unroll]] for (uint n = 1u; n < KEY_TILES; n++)
                    most[t][i] = max(most[t][i], logits[t * KEY_TILES + n][i]);
                rises = rises || scale * most[t][i] > base[t][i] + HEADROOM;
            }
        if (subgroupAny(rises)) {
            [[unroll]] for (uint t = 0u; t < STRIPS_EACH; t++)
                [[unroll]] for (int i = 0; i < indices.length(); i++) {
                    float raised = max(base[t][i], scale * most[t][i]);
                    total[t][i] *= exp2(base[t][i] - raised);
                    base[t][i] = raised;
                }
        }
        [[unroll]] for (uint t = 0u; t < STRIPS_EACH; t++)
            [[unroll]] for (int i = 0; i < indices.length(); i++)
                [[unroll]] for (uint n = 0u; n < KEY_TILES; n++)
                    total[t][i] += exp2(fma(scale, logits[t * KEY_TILES + n][i], -base[t][i]));
    }
    [[unroll]] for (uint t = 0u; t < STRIPS_EACH; t++) {
        coopMatStore(base[t], strips, strip_at(), STRIP_STRIDE, ROW_MAJOR);
        coopMatStore(total[t], strips, strip_at() + SIDE_N / 4u, STRIP_STRIDE, ROW_MAJOR);
        subgroup_meet();
        write_row(row_of(rows, s, block_row(t, strip_row())));
        subgroup_meet();
    }
}

/* Queries begin .. end - 1 of all heads of a kv head. */
void cover_queries(kas_sequence s, key_range range, uint kv_head, uint begin, uint end)
{
    uint row_count = GROUP * (end - begin);
    for (uint first = 0u; first < row_count; first += ROWS) {
        row_block rows = row_block(kv_head * GROUP, begin, end - begin, first, kas_min2(ROWS, row_count - first));
        cover_rows(rows, s, range, kv_head, kas_causal_keys(s, begin));
    }
}

/* Tile `u` of the launch over its list in the published lists. */
void estimate_tile(kas_sequence s, uint u)
{
    uint kv_head = gl_WorkGroupID.y;
    uint row = words[session.normalizer_map_at + call.layer * session.kv_heads + kv_head];
    kas_tile t = load_tile(s, u);
    for (uint begin = t.query_begin; begin < t.query_end; begin += QUERIES) {
        uint end = kas_min2(begin + QUERIES, t.query_end);
        cover_queries(s, list_and_own(s, t, row, u, end), kv_head, begin, end);
    }
}

void main()
{
    kas_sequence s = load_sequence();
    uint x = gl_NumWorkGroups.x - 1u - gl_WorkGroupID.x;
    if (has_flag(KAS_CALL_ESTIMATED)) {
        estimate_tile(s, x);
        return;
    }
    uint begin = kas_chunk_begin(s, call.tile_begin, TILE) + x * QUERIES;
    uint end = kas_min2(begin + QUERIES, kas_chunk_end(s, call.tile_begin, call.tile_count, TILE));
    if (begin < end)
        cover_queries(s, positions(0u, kas_causal_keys(s, end - 1u)), gl_WorkGroupID.y, begin, end);
}
