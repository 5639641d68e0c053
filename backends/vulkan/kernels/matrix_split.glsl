/*
 * matrix_split.glsl - decode on cooperative matrices: one split's attention of all query rows of a kv head, M rows at a
 * time. After matrix_stream.glsl.
 */
KAS_WRITE(KAS_SLOT_PART_O, float, part_o)
KAS_WRITE(KAS_SLOT_OUT, KAS_ELEMENT, out_data)
KAS_WRITE(KAS_SLOT_LSE, float, lse_data)

/* The greatest logit of this invocation's row, and its part of the sum. */
float greatest;
float total;

/* Turns the logits in the strip into weights; what earlier sums are to be multiplied with. */
float weigh_strip(float scale, uint limit, uint position, bool hides)
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
    [[unroll]] for (uint mask = SIDE_M; mask < SUBGROUP; mask *= 2u)
        most = max(most, subgroupShuffleXor(most, mask));
    float factor = exp2(greatest - most);
    greatest = most;
    total *= factor;
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

/* A row's output, which lies in the stage, goes to the partial results or to out. */
void write_rows(row_block rows, kas_sequence s, uint kv_head)
{
    for (uint i = lane(); i < rows.count * HEAD_DIM; i += INVOCATIONS) {
        uint n = i / HEAD_DIM;
        uint d = i % HEAD_DIM;
        float sum = uintBitsToFloat(stage[n * OUTPUT_STRIDE + d / 4u][d % 4u]);
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

/* Rows 0 .. M - 1 of the block. Positions below `limit` are seen by all of them. */
void attend_rows(row_block rows, kas_sequence s, key_range range, uint kv_head, uint limit)
{
    bool k_aligned = keys_aligned();
    bool v_aligned = values_aligned();
    uint first = range.begin + my_keys();
    fetch_entries(range, first);
    MATRIX_SUM indices = make_indices();
    MATRIX_SUM sums[DIM_TILES];
    stage_rows(rows, s);
    place_run(range, first, kv_head);
    LOAD_RUN(load_k, near_k, k_aligned, held_k)
    LOAD_RUN(load_v, near_v, v_aligned, held_v)
    fetch_entries(range, first + TURN_KEYS);
    [[unroll]] for (uint c = 0u; c < DIM_TILES; c++)
        sums[c] = MATRIX_SUM(0.0);
    greatest = LEAST;
    total = 0.0;
    query_row row = row_of(rows, s, strip_row());
    uint row_limit = row.exists ? kas_causal_keys(s, row.query) : 0u;
    float scale = logit_scale();
    for (uint turn = range.begin; turn < range.end; turn += TURN_KEYS) {
        first = turn + my_keys();
        uint position = near_position;
        stage_keys();
        subgroup_meet();
        place_run(range, first + TURN_KEYS, kv_head);
        LOAD_RUN(load_k, near_k, k_aligned, held_k)
        fetch_entries(range, first + 2u * TURN_KEYS);
        multiply_keys();
        subgroup_meet();
        bool hides = run_hides(position, limit);
        float factor = weigh_strip(scale, row_limit, position, hides);
        set_factor(factor);
        stage_values(position, hides);
        subgroup_meet();
        LOAD_RUN(load_v, near_v, v_aligned, held_v)
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
            coopMatLoad(weights, strips, strip_at() + HALVES_AT + n * (SIDE_K / 8u), STRIP_STRIDE, ROW_MAJOR);
            [[unroll]] for (uint c = 0u; c < DIM_TILES; c++) {
                MATRIX_B v;
                coopMatLoad(v, stage, stage_at() + STAGE + n * SIDE_K * STRIDE + c * (SIDE_N / 8u), STRIDE, ROW_MAJOR);
                sums[c] = coopMatMulAdd(weights, v, sums[c]);
            }
        }
    }
    add_parts();
    set_factor(meet(greatest, total));
    subgroup_meet();
    /* Sums of one subgroup after the other, where the stages were: meet() has a barrier after their last use. */
    for (uint g = 0u; g < SUBGROUPS; g++) {
        if (g == gl_SubgroupID) {
            [[unroll]] for (uint c = 0u; c < DIM_TILES; c++) {
                [[unroll]] for (int i = 0; i < indices.length(); i++)
                    sums[c][i] *= factor_of(indices[i]);
                if (g != 0u) {
                    MATRIX_SUM others;
                    coopMatLoad(others, stage, c * (SIDE_N / 4u), OUTPUT_STRIDE, ROW_MAJOR);
                    sums[c] += others;
                }
                coopMatStore(sums[c], stage, c * (SIDE_N / 4u), OUTPUT_STRIDE, ROW_MAJOR);
            }
        }
        barrier();
    }
    write_rows(rows, s, kv_head);
    write_softmax(rows, s, kv_head);
}

/* One split's attention of all query rows of a kv head. */
void attend_split(kas_sequence s, key_range range, uint kv_head)
{
    uint row_count = GROUP * call.queries;
    /* Rows of query tokens that the sequence does not have see nothing. */
    uint limit = s.queries < call.queries ? 0u : kas_causal_keys(s, 0u);
    for (uint first = 0u; first < row_count; first += SIDE_M) {
        row_block rows = row_block(kv_head * GROUP, 0u, call.queries, first, kas_min2(SIDE_M, row_count - first));
        attend_rows(rows, s, range, kv_head, limit);
    }
}
