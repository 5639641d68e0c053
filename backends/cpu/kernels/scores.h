/*
 * scores.h - pooled scores of prefill: post-softmax weights of a tile's candidates, summed over its queries. Where no
 * log-sum-exp is given, a tile's weights are kept until the walk over its keys has found it, so that q . k is computed
 * once.
 */

/* A thread's scratch. */
typedef struct score_space {
    workspace w;
    float weights[KAS_CPU_WEIGHTS];              /* [block][row][key], against the row's greatest logit so far */
    float origins[KAS_CPU_WEIGHTS / BLOCK_KEYS]; /* [block][row]: that logit */
} score_space;

_Static_assert(sizeof(score_space) <= KAS_CPU_SCRATCH_BYTES, "a thread's scratch holds the space");
_Static_assert(KAS_CPU_OWN_LSE_KEYS * ROW_STEP <= KAS_CPU_WEIGHTS, "a register tile's weights fit");

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

/* Keeps the weights of block `index`. */
static void keep_weights(uint32_t rows, uint32_t index, uint32_t columns, score_space *space)
{
    float *weights = space->weights + (size_t)index * rows * BLOCK_KEYS;
    for (uint32_t row = 0; row < rows; row++) {
        soften_into(weights + (size_t)row * BLOCK_KEYS, row, columns, 0, &space->w);
        space->origins[(size_t)index * rows + row] = space->w.greatest[row];
    }
}

/* What a tile's own keys add to its rows' sums. */
static void add_own_keys(const row_set *rows, const kas_tile *tile, workspace *w)
{
    const cell *c = rows->c;
    uint32_t keys = kas_causal_keys(c->sequence, query_of(rows, rows->count - 1));
    key_source own = {.own_begin = tile->start, .end = keys > tile->start ? keys - tile->start : 0};
    key_block *block = &w->blocks[0], *nothing = &w->blocks[1];
    locate_block(c, rows->g, &own, own.end, nothing);
    for (uint32_t begin = 0; begin < own.end; begin += BLOCK_KEYS) {
        locate_block(c, rows->g, &own, begin, block);
        block_logits(c, padded_rows(c, rows->count), block, nothing, w);
        for (uint32_t row = 0; row < rows->count; row++)
            soften_row(row, block->columns, 0, w);
    }
}

/* What turns a kept weight into a share of its row: exp(origin - greatest) / sum; 0 for rows that have seen no key by
   then. */
static void share_factors(const float *origins, uint32_t rows, const workspace *w, float *factors)
{
    for (uint32_t row = 0; row < rows; row += LANES) {
        vector origin = splat(KAS_NEGATIVE_INFINITY);
        memcpy(&origin, origins + row, kas_min_u32(rows - row, LANES) * sizeof(float));
        vector factor = vector_exp(origin - load_vector(w->greatest + row)) * load_vector(w->sum + row);
        store_vector(factors + row, choose(origin == splat(KAS_NEGATIVE_INFINITY), splat(0.0f), factor));
    }
}

/* Sums over rows of the kept weights of block `index`. */
static void pool_block(uint32_t rows, uint32_t index, uint32_t columns, const score_space *space, float *totals)
{
    _Alignas(64) float factors[MOST_ROWS];
    const float *weights = space->weights + (size_t)index * rows * BLOCK_KEYS;
    share_factors(space->origins + (size_t)index * rows, rows, &space->w, factors);
    for (uint32_t n = 0; n < columns; n += LANES) {
        vector total = splat(0.0f);
        for (uint32_t row = 0; row < rows; row++)
            total += load_vector(weights + (size_t)row * BLOCK_KEYS + n) * splat(factors[row]);
        store_vector(totals + n, total);
    }
}

static void pool_rows(uint32_t rows, uint32_t candidates, bool fresh, float *scores, score_space *space)
{
    for (uint32_t begin = 0; begin < candidates; begin += BLOCK_KEYS) {
        float totals[BLOCK_KEYS];
        uint32_t count = kas_min_u32(candidates - begin, BLOCK_KEYS);
        pool_block(rows, begin / BLOCK_KEYS, padded_width(count), space, totals);
        for (uint32_t n = 0; n < count; n++)
            scores[begin + n] = fresh ? totals[n] : scores[begin + n] + totals[n];
    }
}

/* As score_rows, without a log-sum-exp; space->w.sum becomes the reciprocal of the rows' sums. */
static void score_rows_once(const row_set *rows, const kas_tile *tile, bool fresh, float *scores, score_space *space)
{
    const cell *c = rows->c;
    workspace *w = &space->w;
    key_source source = {.end = tile->candidates};
    key_block *block = &w->blocks[0], *next = &w->blocks[1];
    load_rows(rows, w);
    locate_block(c, rows->g, &source, 0, block);
    for (uint32_t begin = 0; begin < source.end; begin += BLOCK_KEYS) {
        locate_block(c, rows->g, &source, begin + BLOCK_KEYS, next);
        block_logits(c, padded_rows(c, rows->count), block, next, w);
        keep_weights(rows->count, begin / BLOCK_KEYS, block->columns, space);
        key_block *done = block;
        block = next;
        next = done;
    }
    add_own_keys(rows, tile, w);
    for (uint32_t n = 0; n < rows->count; n++) {
        float sum = sum_of_lanes(load_vector(w->sums + (size_t)n * LANES));
        w->sum[n] = sum == 0.0f ? 0.0f : 1.0f / sum;
    }
    pool_rows(rows->count, tile->candidates, fresh, scores, space);
}

/* Rows whose weights of all candidates can be kept, in whole register tiles. */
static uint32_t rows_at_once(const kas_tile *tile)
{
    uint32_t rows = KAS_CPU_WEIGHTS / kas_max_u32((uint32_t)kas_round_up(tile->candidates, BLOCK_KEYS), 1);
    return kas_min_u32(rows / ROW_STEP * ROW_STEP, MOST_ROWS);
}

static void scores(const kas_cpu_job *job, uint32_t x, uint32_t y, uint32_t z, void *scratch)
{
    cell c = cell_of(job, z);
    kas_tile tile = tile_of(&c, c.call->tile_begin + x);
    if (tile.query_begin == tile.query_end || ((c.call->flags & KAS_CALL_SKIP_DENSE) && kas_tile_is_dense(tile)))
        return;
    uint64_t row = ((uint64_t)z * job->rows + y) * c.call->tile_count + x;
    float *target = (float *)job->slot[KAS_SLOT_SCORES] + row * c.call->score_stride;
    bool own_lse = c.call->flags & KAS_CALL_OWN_LSE, fresh = true;
    uint32_t most = own_lse ? rows_at_once(&tile) : MOST_ROWS;
    for (uint32_t n = 0; n < c.session->pool_heads; n++) {
        row_set rows = {.c = &c, .g = active_row(&c, y) + n, .query_begin = tile.query_begin};
        while (next_rows_of(&rows, tile.query_end, most)) {
            if (own_lse)
                score_rows_once(&rows, &tile, fresh, target, scratch);
            else
                score_rows(&rows, tile.candidates, fresh, target, scratch);
            fresh = false;
        }
    }
}
