/* attend.h - dense causal attention of prefill, and its log-sum-exp alone. See block.h for how it is compiled. */

/* Queries of block x of the launch: begin and end. */
static void query_block(const cell *c, uint32_t x, uint32_t *begin, uint32_t *end)
{
    uint32_t first = kas_chunk_begin(c->sequence, c->call->tile_begin, c->session->tile);
    uint32_t last = kas_chunk_end(c->sequence, c->call->tile_begin, c->call->tile_count, c->session->tile);
    *begin = kas_min_u32(last, first + x * KAS_CPU_ATTEND_QUERIES);
    *end = kas_min_u32(last, *begin + KAS_CPU_ATTEND_QUERIES);
}

static void attend_block(const kas_cpu_job *job, uint32_t x, uint32_t g, uint32_t z, bool with_v, workspace *w)
{
    cell c = cell_of(job, z);
    uint32_t begin, end;
    query_block(&c, x, &begin, &end);
    row_set rows = {.c = &c, .g = g, .query_begin = begin};
    while (next_rows(&rows, end)) {
        key_source source = {.end = kas_causal_keys(c.sequence, query_of(&rows, rows.count - 1))};
        attend_rows(&rows, &source, with_v, w);
        store_rows(&rows, w);
    }
}

static void attend(const kas_cpu_job *job, uint32_t x, uint32_t y, uint32_t z, void *scratch)
{
    attend_block(job, x, y, z, true, scratch);
}
