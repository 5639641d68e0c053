/*
 * online.glsl - the softmax of a block of rows over a range of keys, block by block, and with KAS_VALUES its weighted
 * sum of values. After block.glsl.
 */
#include "core/kernel/softmax.h"

const uint WEIGHT_STRIDE = KEYS + 1u;

shared float weights[ROWS * WEIGHT_STRIDE];
shared kas_softmax row_softmax[ROWS];

/* The greatest logit of this invocation's row, and its own part of the sum. */
kas_softmax mine;

float row_greatest(float greatest)
{
    for (uint j = 0u; j < KEYS; j++)
        greatest = kas_softmax_max(weights[my_row() * WEIGHT_STRIDE + j], greatest);
    return greatest;
}

#ifdef KAS_VALUES
/* Invocations side by side take head dimensions side by side, so that values load in order. */
const uint COLUMN_LANES = HEAD_DIM <= 32u ? 32u : (HEAD_DIM <= 64u ? 64u : 128u);
const uint COLUMNS_EACH = (HEAD_DIM + COLUMN_LANES - 1u) / COLUMN_LANES;
const uint ROW_STEP = 128u / COLUMN_LANES;
const uint ROWS_EACH = ROWS / ROW_STEP;

shared float row_factor[ROWS];
float sums[ROWS_EACH * COLUMNS_EACH];

uint my_column(uint c)
{
    return lane() % COLUMN_LANES + c * COLUMN_LANES;
}

uint my_value_row(uint r)
{
    return lane() / COLUMN_LANES + r * ROW_STEP;
}

void add_value(uint key)
{
    for (uint c = 0u; c < COLUMNS_EACH; c++) {
        float v = my_column(c) < HEAD_DIM ? LOAD_ELEMENT(v_data, key_v[key] + my_column(c)) : 0.0;
        for (uint r = 0u; r < ROWS_EACH; r++)
            sums[c * ROWS_EACH + r] += weights[my_value_row(r) * WEIGHT_STRIDE + key] * v;
    }
}

void add_values()
{
    for (uint r = 0u; r < ROWS_EACH; r++)
        for (uint c = 0u; c < COLUMNS_EACH; c++)
            sums[c * ROWS_EACH + r] *= row_factor[my_value_row(r)];
    [[dont_unroll]] for (uint first = 0u; first < KEYS; first += 4u)
        [[unroll]] for (uint j = 0u; j < 4u; j++)
            if (key_position[first + j] != KAS_NONE)
                add_value(first + j);
}
#endif

/* Takes the block's logits in: mine and, with values, weights and row_factor. */
void add_block(float logit[KEYS_EACH])
{
    for (uint c = 0u; c < KEYS_EACH; c++)
        weights[my_row() * WEIGHT_STRIDE + my_key(c)] = logit[c];
    barrier();
    float greatest = row_greatest(mine.greatest);
    barrier();
    float factor = kas_softmax_weight(mine.greatest, greatest);
    mine.greatest = greatest;
    mine.sum *= factor;
    for (uint c = 0u; c < KEYS_EACH; c++) {
        float weight = kas_softmax_weight(logit[c], greatest);
        weights[my_row() * WEIGHT_STRIDE + my_key(c)] = weight;
        mine.sum += weight;
    }
#ifdef KAS_VALUES
    if (lane() % ROW_LANES == 0u)
        row_factor[my_row()] = factor;
    barrier();
    add_values();
#endif
}

void begin_rows()
{
    mine = kas_softmax_none();
#ifdef KAS_VALUES
    for (uint i = 0u; i < ROWS_EACH * COLUMNS_EACH; i++)
        sums[i] = 0.0;
#endif
}

/* Adds up the sums of the invocations that share a row. */
void end_rows()
{
    barrier();
    weights[lane()] = mine.sum;
    barrier();
    if (lane() % ROW_LANES == 0u) {
        kas_softmax whole = kas_softmax(mine.greatest, 0.0);
        for (uint i = 0u; i < ROW_LANES; i++)
            whole.sum += weights[lane() + i];
        row_softmax[my_row()] = whole;
    }
    barrier();
}

/* The rows loaded by load_rows over a range of keys. */
void attend_range(key_range range, uint kv_head)
{
    begin_rows();
    for (uint e = range.begin; e < range.end; e += KEYS) {
        float logit[KEYS_EACH];
        load_keys(range, e, kv_head);
        block_logits(logit);
        add_block(logit);
    }
    end_rows();
}
