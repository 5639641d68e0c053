/* scores.h - pooled scores of prefill: post-softmax weights of a tile's candidates, summed over its queries. */

/* Adds exp(logit - lse) of every row to the totals of the block's keys. */
static void add_weights(uint32_t rows, bool estimated, workspace *w)
{
    for (uint32_t n = 0; n < rows; n++) {
        if (w->lse[n] == KAS_NEGATIVE_INFINITY)
            continue;
        for (uint32_t j = 0; j < BLOCK_KEYS; j += LANES) {
            vector weight = vector_exp(*(vector *)(w->logits + n * BLOCK_KEYS + j) - splat(w->lse[n]));
            if (estimated)
                weight = choose(weight > splat(4.0f), splat(4.0f), weight);
            *(vector *)(w->totals + j) += weight;
        }
    }
}

static void load_lse(const row_set *rows, workspace *w)
{
    const float *lse = rows->c->job->slot[KAS_SLOT_LSE];
    for (uint32_t n = 0; n < rows->count; n++)
        w->lse[n] = lse[lse_element(rows->c, query_of(rows, n), head_of(rows, n))];
}

/* Adds the scores of a set of rows to `scores`, or with `fresh` writes them. */
static void score_rows(const row_set *rows, uint32_t candidates, bool fresh, float *scores, workspace *w)
{
    const cell *c = rows->c;
    key_source source = {.end = candidates};
    load_rows(rows, w);
    load_lse(rows, w);
    for (uint32_t begin = 0; begin < candidates; begin += BLOCK_KEYS) {
        load_block(c, rows->g, &source, begin, false, w);
        multiply_qk(c, padded_rows(rows->count), w);
        mask_block(rows->count, w);
        memset(w->totals, 0, sizeof(w->totals));
        add_weights(rows->count, c->call->flags & KAS_CALL_ESTIMATED, w);
        uint32_t count = kas_min_u32(BLOCK_KEYS, candidates - begin);
        for (uint32_t n = 0; n < count; n++)
            scores[begin + n] = fresh ? w->totals[n] : scores[begin + n] + w->totals[n];
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
