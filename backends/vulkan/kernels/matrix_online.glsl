/*
 * matrix_online.glsl - attention of query rows of a kv head over a range of keys: a subgroup takes 16 rows, whose
 * weights go through its strip and whose outputs are sums in registers. After matrix.glsl and, with KAS_OWN_KEYS,
 * matrix_split.glsl.
 */
#ifdef KAS_OWN_KEYS
const uint ROWS = SIDE;
#else
const uint ROWS = SUBGROUPS * SIDE;
#endif
const uint LANE_COLUMNS = SIDE / ROW_LANES;

KAS_WRITE(KAS_SLOT_OUT, KAS_ELEMENT, out_data)
KAS_WRITE(KAS_SLOT_LSE, float, lse_data)

shared float strip_factors[SUBGROUPS * SIDE];

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
        if (hides && key_position[my_keys() + strip_part() * LANE_KEYS + i] >= limit)
            logit[i] = KAS_NEGATIVE_INFINITY;
        most = max(most, logit[i]);
    }
    [[unroll]] for (uint mask = SIDE; mask < SUBGROUP; mask *= 2u)
        most = max(most, subgroupShuffleXor(most, mask));
    float factor = exp2(greatest - most);
    greatest = most;
    total *= factor;
    subgroup_meet();
    [[unroll]] for (uint i = 0u; i < LANE_KEYS; i++) {
        logit[i] = exp2(logit[i] - most);
        total += logit[i];
    }
    [[unroll]] for (uint i = 0u; i < LANE_KEYS; i += 8u)
        strips[strip_at() + strip_row() * STRIP_STRIDE + (strip_part() * LANE_KEYS + i) / 8u] =
            uvec4(packHalf2x16(vec2(logit[i], logit[i + 1u])), packHalf2x16(vec2(logit[i + 2u], logit[i + 3u])),
                  packHalf2x16(vec2(logit[i + 4u], logit[i + 5u])), packHalf2x16(vec2(logit[i + 6u], logit[i + 7u])));
    return factor;
}

void set_factor(float factor)
{
    if (strip_part() == 0u)
        strip_factors[gl_SubgroupID * SIDE + strip_row()] = factor;
    subgroup_meet();
}

float factor_of(float index)
{
    return strip_factors[gl_SubgroupID * SIDE + uint(index) / SIDE];
}

void add_parts()
{
    [[unroll]] for (uint mask = SIDE; mask < SUBGROUP; mask *= 2u)
        total += subgroupShuffleXor(total, mask);
}

#ifdef KAS_OWN_KEYS
/* A row's output, of which the subgroups' shares lie in the stage, goes to the partial results or to out. */
void write_rows(row_block rows, kas_sequence s, uint kv_head)
{
    for (uint i = lane(); i < rows.count * HEAD_DIM; i += INVOCATIONS) {
        uint n = i / HEAD_DIM;
        uint d = i % HEAD_DIM;
        float sum = 0.0;
        for (uint g = 0u; g < SUBGROUPS; g++)
            sum += uintBitsToFloat(stage[((g * SIDE + n) * HEAD_DIM + d) / 4u][d % 4u]);
        sum /= row_softmax[n].sum == 0.0 ? 1.0 : row_softmax[n].sum;
        if (has_flag(KAS_CALL_DIRECT)) {
            query_row row = row_of(rows, s, n);
            if (row.exists)
                STORE_ELEMENT(out_data, out_row(row) + d, sum);
        } else {
            part_o[(part_at(gl_NumWorkGroups.y, kv_head, rows.first + n) + gl_WorkGroupID.x) * HEAD_DIM + d] = sum;
        }
    }
}

void write_softmax(row_block rows, kas_sequence s, uint kv_head)
{
    query_row row = row_of(rows, s, lane());
    if (lane() >= rows.count)
        return;
    if (!has_flag(KAS_CALL_DIRECT))
        store_part(part_at(gl_NumWorkGroups.y, kv_head, rows.first + lane()) + gl_WorkGroupID.x, row_softmax[lane()]);
    else if (row.exists && has_flag(KAS_CALL_LSE))
        lse_data[lse_at(row)] = kas_softmax_lse(row_softmax[lane()]);
}
#else
/* The log-sum-exp of this invocation's row, and what its sums are to be multiplied with. */
float end_strip(query_row row)
{
    add_parts();
    if (row.exists && strip_part() == 0u && has_flag(KAS_CALL_LSE))
        lse_data[lse_at(row)] = total == 0.0 ? KAS_NEGATIVE_INFINITY : (greatest + log2(total)) * LN_2;
    return total == 0.0 ? 1.0 : 1.0 / total;
}

/* Writes the strip's first 16 columns as dimensions from d0 on. */
void write_slice(query_row row, uint d0)
{
    if (!row.exists)
        return;
    uint column = strip_part() * LANE_COLUMNS;
    uint to = out_row(row) + d0 + column;
    [[unroll]] for (uint i = 0u; i < LANE_COLUMNS; i++)
        STORE_ELEMENT(out_data, to + i, strip_value(strip_row(), column + i));
}
#endif

/* Rows 0 .. ROWS - 1 of the block. Positions below `limit` are seen by all of them. */
void attend_rows(row_block rows, kas_sequence s, key_range range, uint kv_head, uint limit)
{
    MATRIX_SUM indices = make_indices();
    MATRIX_A q[SLICES];
    MATRIX_SUM sums[SLICES];
    for (uint first = 0u; first < ROWS; first += STAGED_ROWS) {
        stage_rows(rows, s, first, kas_min2(ROWS - first, STAGED_ROWS));
        uint mine = my_rows() - first;
        if (mine < STAGED_ROWS) {
            [[unroll]] for (uint c = 0u; c < SLICES; c++)
                coopMatLoad(q[c], stage, mine * STRIDE + c * 2u, STRIDE, ROW_MAJOR);
        }
    }
    [[unroll]] for (uint c = 0u; c < SLICES; c++)
        sums[c] = MATRIX_SUM(0.0);
    greatest = LEAST;
    total = 0.0;
    query_row row = row_of(rows, s, my_rows() + strip_row());
    uint row_limit = row.exists ? kas_causal_keys(s, row.query) : 0u;
    float scale = session.scale * LOG2_E;
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
        [[unroll]] for (uint n = 0u; n < STRIP_KEYS / SIDE; n++) {
            MATRIX_SUM logits = MATRIX_SUM(0.0);
            [[unroll]] for (uint c = 0u; c < SLICES; c++) {
                MATRIX_B k;
                coopMatLoad(k, stage, (my_keys() + n * SIDE) * STRIDE + c * 2u, STRIDE, COLUMN_MAJOR);
                logits = coopMatMulAdd(q[c], k, logits);
            }
            coopMatStore(logits, strips, strip_at() + n * 4u, STRIP_STRIDE, ROW_MAJOR);
        }
        subgroup_meet();
        float factor = weigh_strip(scale, row_limit, hides);
        set_factor(factor);
        if (subgroupAny(factor != 1.0)) {
            MATRIX_SUM factors;
            [[unroll]] for (int i = 0; i < indices.length(); i++)
                factors[i] = factor_of(indices[i]);
            [[unroll]] for (uint c = 0u; c < SLICES; c++)
                [[unroll]] for (int i = 0; i < factors.length(); i++)
                    sums[c][i] *= factors[i];
        }
        [[unroll]] for (uint n = 0u; n < STRIP_KEYS / SIDE; n++) {
            MATRIX_A weights;
            coopMatLoad(weights, strips, strip_at() + n * 2u, STRIP_STRIDE, ROW_MAJOR);
            [[unroll]] for (uint c = 0u; c < SLICES; c++) {
                MATRIX_B v;
                coopMatLoad(v, stage, VALUES_AT + (my_keys() + n * SIDE) * STRIDE + c * 2u, STRIDE, ROW_MAJOR);
                sums[c] = coopMatMulAdd(weights, v, sums[c]);
            }
        }
    }
#ifdef KAS_OWN_KEYS
    add_parts();
    set_factor(meet(greatest, total));
    [[unroll]] for (uint c = 0u; c < SLICES; c++) {
        [[unroll]] for (int i = 0; i < indices.length(); i++)
            sums[c][i] *= factor_of(indices[i]);
        coopMatStore(sums[c], stage, gl_SubgroupID * SIDE * (HEAD_DIM / 4u) + c * 4u, HEAD_DIM / 4u, ROW_MAJOR);
    }
    barrier();
    write_rows(rows, s, kv_head);
    write_softmax(rows, s, kv_head);
#else
    subgroup_meet();
    set_factor(end_strip(row));
    [[unroll]] for (uint c = 0u; c < SLICES; c++) {
        [[unroll]] for (int i = 0; i < indices.length(); i++)
            sums[c][i] *= factor_of(indices[i]);
        coopMatStore(sums[c], strips, strip_at(), STRIP_STRIDE, ROW_MAJOR);
        subgroup_meet();
        write_slice(row, c * SIDE);
        subgroup_meet();
    }
#endif
}

#ifdef KAS_OWN_KEYS
/* One split's attention of all query rows of a kv head. */
void attend_split(kas_sequence s, key_range range, uint kv_head)
{
    uint row_count = GROUP * call.queries;
    /* Rows of query tokens that the sequence does not have see nothing. */
    uint limit = s.queries < call.queries ? 0u : kas_causal_keys(s, 0u);
    for (uint first = 0u; first < row_count; first += ROWS) {
        row_block rows = row_block(kv_head * GROUP, 0u, call.queries, first, kas_min2(ROWS, row_count - first));
        attend_rows(rows, s, range, kv_head, limit);
    }
}
#else
/* Queries begin .. end - 1 of all heads of a kv head. */
void attend_queries(kas_sequence s, key_range range, uint kv_head, uint begin, uint end)
{
    uint row_count = GROUP * (end - begin);
    for (uint first = 0u; first < row_count; first += ROWS) {
        row_block rows = row_block(kv_head * GROUP, begin, end - begin, first, kas_min2(ROWS, row_count - first));
        attend_rows(rows, s, range, kv_head, kas_causal_keys(s, begin));
    }
}
#endif
