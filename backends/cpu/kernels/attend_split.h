/* attend_split.h - decode: one split's part of dense attention, for all heads and query tokens of a kv head. */

static void attend_split_of(const cell *c, uint32_t split, uint32_t g, key_source source, workspace *w)
{
    bool direct = c->call->flags & KAS_CALL_DIRECT;
    source.begin = kas_min_u32(source.end, split * c->call->split_keys);
    if (!direct)
        source.end = kas_min_u32(source.end, source.begin + c->call->split_keys);
    row_set rows = {.c = c, .g = g};
    while (next_rows(&rows, c->sequence.queries)) {
        attend_rows(&rows, &source, true, w);
        if (direct)
            store_rows(&rows, w);
        else
            store_partials(&rows, g, split, true, w);
    }
}

static void attend_split(const kas_cpu_job *job, uint32_t x, uint32_t y, uint32_t z, void *scratch)
{
    cell c = cell_of(job, z);
    attend_split_of(&c, x, y, (key_source){.end = c.sequence.keys}, scratch);
}
