/* output.glsl - finished rows to out and lse. After online.glsl. */
KAS_WRITE(KAS_SLOT_LSE, float, lse_data)

void write_lse(row_block rows, kas_sequence s)
{
    if (lane() >= ROWS || !has_flag(KAS_CALL_LSE))
        return;
    query_row r = row_of(rows, s, lane());
    if (r.exists)
        lse_data[lse_at(r)] = kas_softmax_lse(row_softmax[lane()]);
}

#ifdef KAS_VALUES
KAS_WRITE(KAS_SLOT_OUT, KAS_ELEMENT, out_data)

/* What a row's weighted sum is divided by; a row without keys keeps its zeros. */
float row_divisor(uint n)
{
    float sum = row_softmax[n].sum;
    return sum == 0.0 ? 1.0 : sum;
}

void write_out(row_block rows, kas_sequence s)
{
    for (uint r = 0u; r < ROWS_EACH; r++) {
        query_row row = row_of(rows, s, my_value_row(r));
        if (!row.exists)
            continue;
        float divisor = row_divisor(my_value_row(r));
        uint at = out_row(row);
        for (uint c = 0u; c < COLUMNS_EACH; c++)
            if (my_column(c) < HEAD_DIM)
                STORE_ELEMENT(out_data, at + my_column(c), sums[c * ROWS_EACH + r] / divisor);
    }
}
#endif
