/*
 * attend_split.h - decode: one split's part of dense attention, for all heads and query tokens of a cell's kv heads.
 */

/* The sets of rows of kv heads that are walked side by side; false when all are done. */
static bool next_sets(row_set *rows, uint32_t sets, uint32_t queries)
{
    bool more = false;
    for (uint32_t n = 0; n < sets; n++)
        more = next_rows(&rows[n], queries);
    return more;
}

/* rows: one set of no rows yet for each of `sets` kv heads. */
static void attend_split_of(row_set *rows, uint32_t sets, uint32_t split, key_source source, workspace *w)
{
    const cell *c = rows->c;
    bool direct = c->call->flags & KAS_CALL_DIRECT;
    source.begin = kas_min_u32(source.end, split * c->call->split_keys);
    if (!direct)
        source.end = kas_min_u32(source.end, source.begin + c->call->split_keys);
    while (next_sets(rows, sets, c->sequence.queries)) {
        attend_sets(rows, sets, &source, true, w);
        for (uint32_t n = 0; n < sets; n++)
            if (direct)
                store_rows(&rows[n], &w[n]);
            else
                store_partials(&rows[n], rows[n].g, split, true, &w[n]);
    }
}

static void attend_split(const kas_cpu_job *job, uint32_t x, uint32_t y, uint32_t z, void *scratch)
{
    cell c = cell_of(job, z);
    row_set rows[KAS_CPU_CELL_ROWS];
    uint32_t sets = cell_rows(job, y);
    for (uint32_t n = 0; n < sets; n++)
        rows[n] = (row_set){.c = &c, .g = y + n};
    attend_split_of(rows, sets, x, (key_source){.end = c.sequence.keys}, scratch);
}
