/* split.glsl - one split's attention of all query rows of a kv head, in blocks. After output.glsl and partial.glsl. */
KAS_WRITE(KAS_SLOT_PART_O, float, part_o)

void write_part(row_block rows, uint kv_head)
{
    if (lane() < rows.count)
        store_part(part_at(gl_NumWorkGroups.y, kv_head, rows.first + lane()) + gl_WorkGroupID.x, row_softmax[lane()]);
    for (uint r = 0u; r < ROWS_EACH; r++) {
        uint n = my_value_row(r);
        if (n >= rows.count || row_softmax[n].sum == 0.0)
            continue;
        uint at = (part_at(gl_NumWorkGroups.y, kv_head, rows.first + n) + gl_WorkGroupID.x) * HEAD_DIM;
        for (uint c = 0u; c < COLUMNS_EACH; c++)
            if (my_column(c) < HEAD_DIM)
                part_o[at + my_column(c)] = sums[c * ROWS_EACH + r] / row_softmax[n].sum;
    }
}

void attend_split(kas_sequence s, key_range range, uint kv_head)
{
    uint row_count = GROUP * call.queries;
    for (uint first = 0u; first < row_count; first += ROWS) {
        row_block rows =
            row_block(kv_head * GROUP, 0u, call.queries, first, kas_min2(ROWS, row_count - first));
        load_rows(rows, s);
        attend_range(range, kv_head);
        if (has_flag(KAS_CALL_DIRECT)) {
            write_lse(rows, s);
            write_out(rows, s);
        } else {
            write_part(rows, kv_head);
        }
    }
}
