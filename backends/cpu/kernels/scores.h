/* scores.h - pooled scores of prefill: post-softmax weights of a tile's candidates, summed over its queries. */

/* Weights exp(logit - lse) of rows [0, rows) summed for TILE_FLOATS keys from n on. */
INLINE void sum_weights(uint32_t rows, uint32_t n, uint32_t vectors, bool estimated, const workspace *w, float *totals)
{
    vector total[TILE_VECTORS] = {0};
    for (uint32_t row = 0; row < rows; row++) {
        const float *logits = w->logits + (size_t)row * BLOCK_KEYS + n;
        for (uint32_t j = 0; j < vectors; j++) {
            vector weight = vector_exp(load_vector(logits + j * LANES) - splat(w->lse[row]));
            if (estimated)
                weight = choose(weight > splat(4.0f), splat(4.0f), weight);
            total[j] += weight;
        }
    }
    for (uint32_t j = 0; j < vectors; j++)
        store_vector(totals + j * LANES, total[j]);
}

/* A row without keys has a log-sum-exp of -inf, its logits too: against +inf they weigh nothing. */
static void load_lse(const row_set *rows, workspace *w)
{
    const float *lse = rows->c->job->slot[KAS_SLOT_LSE];
    for (uint32_t n = 0; n < rows->count; n++) {
        float value = lse[lse_element(rows->c, query_of(rows, n), head_of(rows, n))];
        w->lse[n] = value == KAS_NEGATIVE_INFINITY ? -value : value;
    }
}

/* Adds the scores of a set of rows to `scores`, or with `fresh` writes them. */
static void score_rows(const row_set *rows, uint32_t candidates, bool fresh, float *scores, workspace *w)
{
    const cell *c = rows->c;
    bool estimated = c->call->flags & KAS_CALL_ESTIMATED;
    key_source source = {.end = candidates};
    key_block *block = &w->blocks[0], *next = &w->blocks[1];
    load_rows(rows, w);
    load_lse(rows, w);
    locate_block(c, rows->g, &source, 0, block);
    for (uint32_t begin = 0; begin < candidates; begin += BLOCK_KEYS) {
        float totals[BLOCK_KEYS];
        locate_block(c, rows->g, &source, begin + BLOCK_KEYS, next);
        block_logits(c, padded_rows(c, rows->count), block, next, w);
        uint32_t n = 0;
        for (; n + TILE_FLOATS <= block->columns; n += TILE_FLOATS)
            sum_weights(rows->count, n, TILE_VECTORS, estimated, w, totals + n);
        for (; n < block->columns; n += LANES)
            sum_weights(rows->count, n, 1, estimated, w, totals + n);
        for (n = 0; n < block->count; n++)
            scores[begin + n] = fresh ? totals[n] : scores[begin + n] + totals[n];
        key_block *done = block;
        block = next;
        next = done;
    }
}

static void scores(const kas_cpu_job *job, uint32_t x, uint32_t y, uint32_t z, void *scratch)
{
    cell c = cell_of(job, z);
    kas_tile tile = tile_of(&c, c.call->tile_begin + x);
    if (tile.query_begin == tile.query_end || ((c.call->flags & KAS_CALL_SKIP_DENSE) && kas_tile_is_dense(tile)))
        return;
    uint64_t row = ((uint64_t)z * job->rows + y) * c.call->tile_count + x;
    float *target = (float *)job->slot[KAS_SLOT_SCORES] + row * c.call->score_stride;
    bool fresh = true;
    for (uint32_t n = 0; n < c.session->pool_heads; n++) {
        row_set rows = {.c = &c, .g = active_row(&c, y) + n, .query_begin = tile.query_begin};
        while (next_rows(&rows, tile.query_end)) {
            score_rows(&rows, tile.candidates, fresh, target, scratch);
            fresh = false;
        }
    }
}
