/* logits.h - decode: scaled logits of a split of the keys, and their partial sums. */

static void store_logits(const row_set *rows, uint32_t y, uint32_t begin, uint32_t count, bool few, const workspace *w)
{
    const cell *c = rows->c;
    uint32_t stride = padded_rows(few, rows->count);
    for (uint32_t n = 0; n < rows->count; n++) {
        uint64_t row = query_row(c, c->job->rows, y, group_head_of(rows, n), query_of(rows, n));
        float *target = (float *)c->job->slot[KAS_SLOT_LOGITS] + row * c->call->score_stride + begin;
        if (few)
            memcpy(target, w->logits + (size_t)n * BLOCK_KEYS, count * sizeof(float));
        for (uint32_t i = 0; !few && i < count; i++)
            target[i] = w->logits[(size_t)i * stride + n];
    }
}

/* The logits of a block, stored where they are wanted, and their sums. */
static void sum_block(const row_set *rows, uint32_t y, const block_walk *walk, workspace *w)
{
    const cell *c = rows->c;
    bool few = is_few(c, rows->count);
    uint32_t count = padded_rows(few, rows->count);
    if (few) {
        few_logits(c, count, walk->block, walk->next, keys_ahead(c), w);
        mask_few(count, walk->block, w);
    } else {
        many_logits(c, 0, count, count, walk->block, walk->next->k, w);
    }
    if (c->call->flags & KAS_CALL_STORE_LOGITS)
        store_logits(rows, y, walk->begin, walk->block->count, few, w);
    for (uint32_t n = 0; few && n < rows->count; n++)
        soften_row(n, walk->block->columns, 0, w);
    if (!few)
        soften_many(0, count, count, walk->block->count, 0, w->logits, w);
}

static void logits(const kas_cpu_job *job, uint32_t x, uint32_t y, uint32_t z, void *scratch)
{
    workspace *w = scratch;
    cell c = cell_of(job, z);
    uint32_t pooled = c.session->pool_heads, sets = cell_rows(job, y);
    uint32_t begin = kas_min_u32(c.sequence.keys, x * c.call->split_keys);
    key_source source = {.begin = begin, .end = kas_min_u32(c.sequence.keys, begin + c.call->split_keys)};
    row_set rows[KAS_CPU_CELL_ROWS];
    for (uint32_t n = 0; n < sets; n++)
        rows[n] = (row_set){.c = &c, .g = active_row(&c, (y + n) / pooled) + (y + n) % pooled};
    while (next_sets(rows, sets, c.sequence.queries)) {
        block_walk walk = walk_blocks(rows, sets, &source, false, w);
        for (; has_block(&walk); next_block(&walk))
            sum_block(&rows[walk.set], y + walk.set, &walk, &w[walk.set]);
        for (uint32_t n = 0; n < sets; n++) {
            end_rows(&rows[n], false, &w[n]);
            store_partials(&rows[n], y + n, x, false, &w[n]);
        }
    }
}
