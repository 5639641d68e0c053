/* sparse.h - attention of a tile over its list and its own keys, in prefill. */

/* Keys of a tile: its list and own keys up to query_end, or every causal key where it is dense. */
static key_source tile_source(const cell *c, uint32_t row, uint32_t u, const kas_tile *tile, uint32_t query_end)
{
    bool given = c->call->flags & KAS_CALL_LISTS_GIVEN;
    uint32_t keys = kas_causal_end(c->sequence, query_end);
    if (!given && kas_tile_is_dense(*tile))
        return (key_source){.end = keys};
    key_source source = {.list = (const int32_t *)c->job->slot[KAS_SLOT_LISTS] + list_entry(c, row, u, tile),
                         .list_count = given ? c->call->list_width : tile->keep,
                         .candidates = tile->candidates,
                         .own_begin = tile->start};
    source.end = source.list_count + (keys > tile->start ? keys - tile->start : 0);
    return source;
}

static uint32_t mapped_row(const cell *c, uint32_t map_at, uint32_t g)
{
    return c->job->words[map_at + c->call->layer * c->session->kv_heads + g];
}

static void sparse(const kas_cpu_job *job, uint32_t x, uint32_t y, uint32_t z, void *scratch)
{
    workspace *w = scratch;
    cell c = cell_of(job, z);
    uint32_t u = c.call->tile_begin + x;
    kas_tile tile = tile_of(&c, u);
    row_set rows = {.c = &c, .g = y, .query_begin = tile.query_begin};
    while (next_rows(&rows, tile.query_end)) {
        uint32_t row = mapped_row(&c, c.session->head_map_at, y);
        key_source source = tile_source(&c, row, u, &tile, query_of(&rows, rows.count - 1) + 1);
        attend_rows(&rows, &source, true, w);
        store_rows(&rows, w);
    }
}
