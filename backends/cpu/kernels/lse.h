/* lse.h - log-sum-exp of prefill: over all causal keys, or estimated over the previous lists and the own keys. */

static void lse_estimated(const kas_cpu_job *job, uint32_t x, uint32_t g, uint32_t z, workspace *w)
{
    cell c = cell_of(job, z);
    uint32_t u = c.call->tile_begin + x;
    kas_tile tile = tile_of(&c, u);
    row_set rows = {.c = &c, .g = g, .query_begin = tile.query_begin};
    while (next_rows(&rows, tile.query_end)) {
        uint32_t row = mapped_row(&c, c.session->normalizer_map_at, g);
        key_source source = tile_source(&c, row, u, &tile, query_of(&rows, rows.count - 1) + 1);
        attend_rows(&rows, &source, false, w);
        store_rows(&rows, w);
    }
}

static void lse(const kas_cpu_job *job, uint32_t x, uint32_t y, uint32_t z, void *scratch)
{
    if (!(job->call->flags & KAS_CALL_ESTIMATED)) {
        attend_block(job, x, y, z, false, scratch);
        return;
    }
    lse_estimated(job, x, y, z, scratch);
}
