/*
 * matrix_online.glsl - attention of query rows of a kv head over a range of keys: a subgroup takes M rows, whose
 * weights go through its strip and whose outputs are sums in registers. After matrix_plain.glsl.
 */
#include "matrix_output.glsl"

/* The greatest logit of this invocation's row, and its part of the sum. */
float greatest;
float total;

/* Turns the logits in the strip into weights; what earlier sums are to be multiplied with. */
float weigh_strip(float scale, uint limit, bool hides)
{
    float logit[LANE_KEYS];
    float most = greatest;
    [[unroll]] for (uint i = 0u; i < LANE_KEYS; i++) {
        logit[i] = scale * strip_value(strip_row(), strip_part() * LANE_KEYS + i);
        if (hides && key_position[strip_part() * LANE_KEYS + i] >= limit)
            logit[i] = KAS_NEGATIVE_INFINITY;
        most = max(most, logit[i]);
    }
    [[unroll]] for (uint mask = SIDE_M; mask < SUBGROUP; mask *= 2u)
        most = max(most, subgroupShuffleXor(most, mask));
    float factor = exp2(greatest - most);
    greatest = most;
    total *= factor;
    subgroup_meet();
    [[unroll]] for (uint i = 0u; i < LANE_KEYS; i++) {
        logit[i] = exp2(logit[i] - most);
        total += logit[i];
    }
    store_halves(logit);
    return factor;
}

void add_parts()
{
    [[unroll]] for (uint mask = SIDE_M; mask < SUBGROUP; mask *= 2u)
        total += subgroupShuffleXor(total, mask);
}

/* The log-sum-exp of this invocation's row, and what its sums are to be multiplied with. */
float end_strip(query_row row)
{
    add_parts();
    if (row.exists && strip_part() == 0u && has_flag(KAS_CALL_LSE))
        lse_data[lse_at(row)] = lse_of(greatest, total);
    return share_of(total);
}

/* Adds the staged block, of which some rows do not see some keys if `hides`. */
void add_block(MATRIX_A q[QUERY_MATRICES], MATRIX_SUM indices, bool hides, float scale,
               inout MATRIX_SUM sums[DIM_TILES])
{
    [[unroll]] for (uint n = 0u; n < KEY_TILES; n++) {
        MATRIX_SUM logits = MATRIX_SUM(0.0);
        [[unroll]] for (uint c = 0u; c < DIM_STEPS; c++) {
            MATRIX_B k;
            coopMatLoad(k, stage, n * SIDE_N * STRIDE + c * (SIDE_K / 8u), STRIDE, COLUMN_MAJOR);
            logits = coopMatMulAdd(q[c], k, logits);
        }
        coopMatStore(logits, strips, strip_at() + n * (SIDE_N / 4u), STRIP_STRIDE, ROW_MAJOR);
    }
    subgroup_meet();
    float factor = weigh_strip(scale, row_limit[my_rows() + strip_row()], hides);
    set_factor(factor);
    subgroup_meet();
    if (subgroupAny(factor != 1.0)) {
        MATRIX_SUM factors;
        [[unroll]] for (int i = 0; i < indices.length(); i++)
            factors[i] = factor_of(indices[i]);
        [[unroll]] for (uint c = 0u; c < DIM_TILES; c++)
            [[unroll]] for (int i = 0; i < factors.length(); i++)
                sums[c][i] *= factors[i];
    }
    [[unroll]] for (uint n = 0u; n < KEY_STEPS; n++) {
        MATRIX_A weights;
        coopMatLoad(weights, strips, strip_at() + n * (SIDE_K / 8u), STRIP_STRIDE, ROW_MAJOR);
        [[unroll]] for (uint c = 0u; c < DIM_TILES; c++) {
            MATRIX_B v;
            coopMatLoad(v, stage, VALUES_AT + n * SIDE_K * STRIDE + c * (SIDE_N / 8u), STRIDE, ROW_MAJOR);
            sums[c] = coopMatMulAdd(weights, v, sums[c]);
        }
    }
}

void cover_rows(row_block rows, kas_sequence s, key_range range, uint kv_head, uint limit)
{
    MATRIX_SUM indices = make_indices();
    MATRIX_A q[QUERY_MATRICES];
    MATRIX_SUM sums[DIM_TILES];
    load_queries(rows, s, q);
    [[unroll]] for (uint c = 0u; c < DIM_TILES; c++)
        sums[c] = MATRIX_SUM(0.0);
    greatest = LEAST;
    total = 0.0;
    query_row row = row_of(rows, s, my_rows() + strip_row());
    float scale = logit_scale();
    uint plain = plain_blocks(range, limit);
    range.begin += plain * KEYS;
    begin_blocks(range, kv_head, limit);
    for (uint turn = 0u; range.begin + turn * KEYS < range.end; turn++) {
        bool hides = next_block(range, kv_head, limit, turn);
        add_block(q, indices, hides, scale, sums);
    }
    begin_plain(plain, kv_head);
    for (uint turn = 0u; turn < plain; turn++) {
        next_plain(turn);
        load_plain(turn + BUFFERS, plain);
        add_block(q, indices, false, scale, sums);
    }
    subgroup_meet();
    set_factor(end_strip(row));
    subgroup_meet();
    [[unroll]] for (uint c = 0u; c < DIM_TILES; c++) {
        [[unroll]] for (int i = 0; i < indices.length(); i++)
            sums[c][i] *= factor_of(indices[i]);
        coopMatStore(sums[c], strips, strip_at(), STRIP_STRIDE, ROW_MAJOR);
        subgroup_meet();
        write_slice(row, c * SIDE_N);
        subgroup_meet();
    }
}
