#version 450
/*
 * lse_matrix.comp - lse on cooperative matrices: 64 queries of all heads of a kv head. A subgroup takes 2 M rows; every
 * element of its logits keeps a softmax of its own, over each N-th key, and a row's meet at the end. The base of such a
 * softmax moves only when a logit rises more than HEADROOM above it.
 */
#extension GL_GOOGLE_include_directive : require
#pragma use_vulkan_memory_model
#define KAS_LISTS
#define KAS_NARROW_STRIPS
#include "common.glsl"
#include "element.glsl"
#include "tiles.glsl"
#include "rows.glsl"
#include "keys.glsl"
#include "lists.glsl"
#include "vectors.glsl"
#include "matrix.glsl"
#include "matrix_block.glsl"
#include "matrix_plain.glsl"
KAS_WRITE(KAS_SLOT_LSE, float, lse_data)

const uint QUERIES = 64u;
const float HEADROOM = 60.0;
const uint LOGIT_MATRICES = ROW_STRIPS * KEY_TILES;

/* The logit of an element of strip `t`, given its place and the first key of its matrix. */
float see(float logit, float index, uint t, uint first)
{
    uint at = uint(index);
    bool seen = key_position[first + at % SIDE_N] < row_limit[my_rows() + t * SIDE_M + at / SIDE_N];
    return seen ? logit : KAS_NEGATIVE_INFINITY;
}

/* Products of the staged keys from `first` on. */
void multiply_keys(MATRIX_A q[QUERY_MATRICES], uint first, out MATRIX_SUM logits[LOGIT_MATRICES])
{
    [[unroll]] for (uint n = 0u; n < KEY_TILES; n++) {
        [[unroll]] for (uint t = 0u; t < ROW_STRIPS; t++)
            logits[t * KEY_TILES + n] = MATRIX_SUM(0.0);
        [[unroll]] for (uint c = 0u; c < DIM_STEPS; c++) {
            MATRIX_B k;
            coopMatLoad(k, stage, (first + n * SIDE_N) * STRIDE + c * (SIDE_K / 8u), STRIDE, COLUMN_MAJOR);
            [[unroll]] for (uint t = 0u; t < ROW_STRIPS; t++)
                logits[t * KEY_TILES + n] = coopMatMulAdd(q[t * DIM_STEPS + c], k, logits[t * KEY_TILES + n]);
        }
    }
}

/* Adds weights to the sums, whose bases rise first where they must. */
void add_weights(MATRIX_SUM logits[LOGIT_MATRICES], float scale, inout MATRIX_SUM base[ROW_STRIPS],
                 inout MATRIX_SUM total[ROW_STRIPS])
{
    MATRIX_SUM most[ROW_STRIPS];
    bool rises = false;
    [[unroll]] for (uint t = 0u; t < ROW_STRIPS; t++)
        [[unroll]] for (int i = 0; i < most[0].length(); i++) {
            most[t][i] = logits[t * KEY_TILES][i];
            [[unroll]] for (uint n = 1u; n < KEY_TILES; n++)
                most[t][i] = max(most[t][i], logits[t * KEY_TILES + n][i]);
            rises = rises || scale * most[t][i] > base[t][i] + HEADROOM;
        }
    if (subgroupAny(rises)) {
        [[unroll]] for (uint t = 0u; t < ROW_STRIPS; t++)
            [[unroll]] for (int i = 0; i < most[0].length(); i++) {
                float raised = max(base[t][i], scale * most[t][i]);
                total[t][i] *= exp2(base[t][i] - raised);
                base[t][i] = raised;
            }
    }
    [[unroll]] for (uint t = 0u; t < ROW_STRIPS; t++)
        [[unroll]] for (int i = 0; i < most[0].length(); i++)
            [[unroll]] for (uint n = 0u; n < KEY_TILES; n++)
                total[t][i] += exp2(fma(scale, logits[t * KEY_TILES + n][i], -base[t][i]));
}

/* The greatest of the first N columns of this invocation's row of the strip. */
float strip_greatest()
{
    float most = strip_value(strip_row(), 0u);
    for (uint c = 1u; c < SIDE_N; c++)
        most = max(most, strip_value(strip_row(), c));
    return most;
}

/* The log-sum-exp of a row from its sums in the strip, all of which have the base `most`. */
void write_row(query_row row, float most)
{
    if (!row.exists || strip_part() != 0u || !has_flag(KAS_CALL_LSE))
        return;
    float total = 0.0;
    for (uint c = 0u; c < SIDE_N; c++)
        total += strip_value(strip_row(), c);
    lse_data[lse_at(row)] = lse_of(most, total);
}

/* The softmaxes of a strip's elements meet in their rows. */
void write_strip(row_block rows, kas_sequence s, uint t, MATRIX_SUM indices, MATRIX_SUM base, MATRIX_SUM total)
{
    coopMatStore(base, strips, strip_at(), STRIP_STRIDE, ROW_MAJOR);
    subgroup_meet();
    float most = strip_greatest();
    set_factor(most);
    subgroup_meet();
    [[unroll]] for (int i = 0; i < indices.length(); i++)
        total[i] *= exp2(base[i] - factor_of(indices[i]));
    coopMatStore(total, strips, strip_at(), STRIP_STRIDE, ROW_MAJOR);
    subgroup_meet();
    write_row(row_of(rows, s, my_rows() + t * SIDE_M + strip_row()), most);
    subgroup_meet();
}

/* Adds the weights of staged block `turn`, of which some rows do not see some keys if `hides`. */
void add_block(MATRIX_A q[QUERY_MATRICES], MATRIX_SUM indices, uint turn, bool hides, float scale,
               inout MATRIX_SUM base[ROW_STRIPS], inout MATRIX_SUM total[ROW_STRIPS])
{
    for (uint n = 0u; n < KEYS; n += STRIP_KEYS) {
        uint first = block_at(turn) + n;
        MATRIX_SUM logits[LOGIT_MATRICES];
        multiply_keys(q, first, logits);
        if (hides) {
            [[unroll]] for (uint t = 0u; t < LOGIT_MATRICES; t++)
                [[unroll]] for (int i = 0; i < indices.length(); i++)
                    logits[t][i] = see(logits[t][i], indices[i], t / KEY_TILES, first + t % KEY_TILES * SIDE_N);
        }
        add_weights(logits, scale, base, total);
    }
}

void cover_rows(row_block rows, kas_sequence s, key_range range, uint kv_head, uint limit)
{
    MATRIX_SUM indices = make_indices();
    MATRIX_A q[QUERY_MATRICES];
    MATRIX_SUM base[ROW_STRIPS];
    MATRIX_SUM total[ROW_STRIPS];
    load_queries(rows, s, q);
    [[unroll]] for (uint t = 0u; t < ROW_STRIPS; t++) {
        base[t] = MATRIX_SUM(LEAST);
        total[t] = MATRIX_SUM(0.0);
    }
    float scale = logit_scale();
    uint plain = plain_blocks(range, limit);
    range.begin += plain * KEYS;
    begin_blocks(range, kv_head, limit);
    for (uint turn = 0u; range.begin + turn * KEYS < range.end; turn++) {
        bool hides = next_block(range, kv_head, limit, turn);
        add_block(q, indices, turn, hides, scale, base, total);
    }
    begin_plain(plain, kv_head);
    for (uint turn = 0u; turn < plain; turn++) {
        next_plain(turn);
        load_plain(turn + BUFFERS, plain);
        add_block(q, indices, turn, false, scale, base, total);
    }
    [[unroll]] for (uint t = 0u; t < ROW_STRIPS; t++)
        write_strip(rows, s, t, indices, base[t], total[t]);
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
