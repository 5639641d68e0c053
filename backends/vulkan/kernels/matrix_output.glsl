/*
 * matrix_output.glsl - what attention on matrices writes of a subgroup's rows. The including file says what its strip
 * holds by strip_value. After matrix_block.glsl.
 */
const uint LANE_COLUMNS = SIDE_N / ROW_LANES; /* of a matrix's row, that an invocation writes */

KAS_WRITE(KAS_SLOT_OUT, KAS_ELEMENT, out_data)
KAS_WRITE(KAS_SLOT_LSE, float, lse_data)

/* What the sums of a row are to be multiplied with: a row without keys gives zeros. */
float share_of(float total)
{
    return total == 0.0 ? 1.0 : 1.0 / total;
}

/* Writes the first N columns of the strip as dimensions from d0 on. */
void write_slice(query_row row, uint d0)
{
    if (!row.exists)
        return;
    uint column = strip_part() * LANE_COLUMNS;
    uint to = out_row(row) + d0 + column;
    [[unroll]] for (uint i = 0u; i < LANE_COLUMNS; i++)
        STORE_ELEMENT(out_data, to + i, strip_value(strip_row(), column + i));
}
