/* sparse_split.h - decode: one split of a list followed by the own keys. */

static void sparse_split(const kas_cpu_job *job, uint32_t x, uint32_t y, uint32_t z, void *scratch)
{
    cell c = cell_of(job, z);
    if (c.sequence.queries == 0)
        return;
    kas_tile tile = tile_of(&c, 0);
    uint32_t row = mapped_row(&c, c.session->head_map_at, y);
    row_set rows = {.c = &c, .g = y};
    attend_split_of(&rows, 1, x, tile_source(&c, row, 0, &tile, c.sequence.queries), scratch);
}
