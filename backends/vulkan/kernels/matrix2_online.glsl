/*
 * matrix2_online.glsl - attention of query rows of a kv head over a range of keys, for devices that reduce the rows of
 * a matrix and turn sums into factors of a product (VK_NV_cooperative_matrix2): a subgroup takes 16 rows, whose weights
 * never leave its registers. Matrices are 16 x 16 x 16. After matrix_plain.glsl.
 */
/* A subgroup's strip lies where the stage was, once that is done with: a matrix on its way out. */
uint strip_at()
{
    return my_rows() * OUTPUT_STRIDE;
}

float strip_value(uint row, uint column)
{
    return uintBitsToFloat(stage[strip_at() + row * OUTPUT_STRIDE + column / 4u][column % 4u]);
}

#include "matrix_output.glsl"

float greater(const in float a, const in float b)
{
    return max(a, b);
}

float sum_of(const in float a, const in float b)
{
    return a + b;
}

/* The logit of an element, given the first key of its matrix. */
float see(const in uint row, const in uint column, const in float logit, const in uint first)
{
    return key_position[first + column] < row_limit[my_rows() + row] ? logit : KAS_NEGATIVE_INFINITY;
}

/* Products of the staged keys. */
void multiply_keys(MATRIX_A q[QUERY_MATRICES], out MATRIX_SUM logits[KEY_TILES])
{
    [[unroll]] for (uint n = 0u; n < KEY_TILES; n++) {
        logits[n] = MATRIX_SUM(0.0);
        [[unroll]] for (uint c = 0u; c < DIM_STEPS; c++) {
            MATRIX_B k;
            coopMatLoad(k, stage, n * SIDE_N * STRIDE + c * (SIDE_K / 8u), STRIDE, COLUMN_MAJOR);
            logits[n] = coopMatMulAdd(q[c], k, logits[n]);
        }
    }
}

/* Adds the staged values by their weights. */
void add_values(MATRIX_SUM weights[KEY_TILES], inout MATRIX_SUM sums[DIM_TILES])
{
    [[unroll]] for (uint n = 0u; n < KEY_TILES; n++) {
        MATRIX_A halves = MATRIX_A(weights[n]);
        [[unroll]] for (uint c = 0u; c < DIM_TILES; c++) {
            MATRIX_B v;
            coopMatLoad(v, stage, VALUES_AT + n * SIDE_K * STRIDE + c * (SIDE_N / 8u), STRIDE, ROW_MAJOR);
            sums[c] = coopMatMulAdd(halves, v, sums[c]);
        }
    }
}

/* ---- Results ---------------------------------------------------------------------------------------------------- */

void store_strip(MATRIX_SUM values)
{
    subgroup_meet();
    coopMatStore(values, stage, strip_at(), OUTPUT_STRIDE, ROW_MAJOR);
    subgroup_meet();
}

/* `greatest` and `total` are the same in all columns but for the parts of the sum. */
void write_rows(query_row row, MATRIX_SUM greatest, MATRIX_SUM total, MATRIX_SUM sums[DIM_TILES])
{
    MATRIX_SUM whole;
    coopMatReduceNV(whole, total, gl_CooperativeMatrixReduceRowNV, sum_of);
    if (has_flag(KAS_CALL_LSE)) {
        MATRIX_SUM lse;
        [[unroll]] for (int i = 0; i < lse.length(); i++)
            lse[i] = lse_of(greatest[i], whole[i]);
        store_strip(lse);
        if (row.exists && strip_part() == 0u)
            lse_data[lse_at(row)] = strip_value(strip_row(), 0u);
    }
    [[unroll]] for (int i = 0; i < whole.length(); i++)
        whole[i] = share_of(whole[i]);
    [[unroll]] for (uint c = 0u; c < DIM_TILES; c++) {
        store_strip(sums[c] * whole);
        write_slice(row, c * SIDE_N);
    }
}

/* ---- The loops -------------------------------------------------------------------------------------------------- */

/* Rows on their way: in units of log 2, and the same in all columns but for the parts of the total. */
struct row_state {
    MATRIX_SUM greatest;
    MATRIX_SUM total;
    MATRIX_SUM sums[DIM_TILES];
};

void begin_rows(out row_state state)
{
    state.greatest = MATRIX_SUM(LEAST);
    state.total = MATRIX_SUM(0.0);
    [[unroll]] for (uint c = 0u; c < DIM_TILES; c++)
        state.sums[c] = MATRIX_SUM(0.0);
}

/* Takes out the keys that rows do not see. */
void hide_keys(inout MATRIX_SUM logits[KEY_TILES])
{
    [[unroll]] for (uint n = 0u; n < KEY_TILES; n++)
        coopMatPerElementNV(logits[n], logits[n], see, n * SIDE_N);
}

/* Adds the staged values by what their keys' products give. */
void add_block(MATRIX_SUM logits[KEY_TILES], float scale, inout row_state state)
{
    MATRIX_SUM most = logits[0];
    [[unroll]] for (uint n = 1u; n < KEY_TILES; n++)
        [[unroll]] for (int i = 0; i < most.length(); i++)
            most[i] = max(most[i], logits[n][i]);
    coopMatReduceNV(most, most, gl_CooperativeMatrixReduceRowNV, greater);
    MATRIX_SUM factor;
    [[unroll]] for (int i = 0; i < most.length(); i++) {
        most[i] = max(scale * most[i], state.greatest[i]);
        factor[i] = exp2(state.greatest[i] - most[i]);
    }
    state.greatest = most;
    state.total *= factor;
    [[unroll]] for (uint c = 0u; c < DIM_TILES; c++)
        state.sums[c] *= factor;
    [[unroll]] for (uint n = 0u; n < KEY_TILES; n++)
        [[unroll]] for (int i = 0; i < most.length(); i++) {
            logits[n][i] = exp2(fma(scale, logits[n][i], -most[i]));
            state.total[i] += logits[n][i];
        }
    add_values(logits, state.sums);
}

void cover_rows(row_block rows, kas_sequence s, key_range range, uint kv_head, uint limit)
{
    MATRIX_A q[QUERY_MATRICES];
    row_state state;
    MATRIX_SUM logits[KEY_TILES];
    load_queries(rows, s, q);
    begin_rows(state);
    float scale = logit_scale();
    uint plain = plain_blocks(range, limit);
    range.begin += plain * KEYS;
    begin_blocks(range, kv_head, limit);
    for (uint turn = 0u; range.begin + turn * KEYS < range.end; turn++) {
        bool hides = next_block(range, kv_head, limit, turn);
        multiply_keys(q, logits);
        if (hides)
            hide_keys(logits);
        add_block(logits, scale, state);
    }
    begin_plain(plain, kv_head);
    for (uint turn = 0u; turn < plain; turn++) {
        next_plain(turn);
        multiply_keys(q, logits);
        load_plain(turn + BUFFERS, plain);
        add_block(logits, scale, state);
    }
    barrier();
    write_rows(row_of(rows, s, my_rows() + strip_row()), state.greatest, state.total, state.sums);
}
