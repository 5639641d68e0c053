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
static void sum_block(const row_set *rows, uint32_t y, uint32_t begin, bool few, const key_block *block,
                      const key_block *next, workspace *w)
{
    const cell *c = rows->c;
    uint32_t count = padded_rows(few, rows->count);
    if (few) {
        few_logits(c, count, block, next, keys_ahead(c), w);
        mask_few(count, block, w);
    } else {
        many_logits(c, 0, count, count, block, next->k, w);
    }
    if (c->call->flags & KAS_CALL_STORE_LOGITS)
        store_logits(rows, y, begin, block->count, few, w);
    for (uint32_t n = 0; few && n < rows->count; n++)
        soften_row(n, block->columns, 0, w);
    if (!few)
        soften_many(0, count, count, block->count, 0, w->logits, w);
}

static void logits(const kas_cpu_job *job, uint32_t x, uint32_t y, uint32_t z, void *scratch)
{
    workspace *w = scratch;
    cell c = cell_of(job, z);
    uint32_t pooled = c.session->pool_heads;
    uint32_t begin = kas_min_u32(c.sequence.keys, x * c.call->split_keys);
    uint32_t end = kas_min_u32(c.sequence.keys, begin + c.call->split_keys);
    key_source source = {.end = end};
    row_set rows = {.c = &c, .g = active_row(&c, y / pooled) + y % pooled};
    while (next_rows(&rows, c.sequence.queries)) {
        bool few = is_few(&c, rows.count);
        key_block *block = &w->blocks[0], *next = &w->blocks[1];
        locate_block(&c, rows.g, &source, begin, block);
        prefetch_rows(&c, block->k, 0, BLOCK_KEYS);
        load_rows(&rows, few, w);
        for (uint32_t at = begin; at < end; at += BLOCK_KEYS) {
            locate_block(&c, rows.g, &source, at + BLOCK_KEYS, next);
            sum_block(&rows, y, at, few, block, next, w);
            key_block *done = block;
            block = next;
            next = done;
        }
        if (few)
            sum_few(rows.count, w);
        store_partials(&rows, y, x, false, w);
    }
}
