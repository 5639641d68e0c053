/*
 * scores.h - pooled scores of prefill: post-softmax weights of a tile's candidates, summed over its queries. Where no
 * log-sum-exp is given, a tile's weights are kept until the walk over its keys has found it, so that q . k is computed
 * once.
 */

/* Weights of a set of rows over keys 0 .. by position. */
typedef struct kept_weights {
    float weights[KAS_CPU_WEIGHTS];              /* [key][row], against the row's greatest logit so far */
    float origins[KAS_CPU_WEIGHTS / BLOCK_KEYS]; /* [block][row]: that logit; once it is known, the weight of its key */
} kept_weights;

/* A thread's scratch. */
typedef struct score_space {
    workspace w;
    kept_weights kept;
} score_space;

_Static_assert(sizeof(score_space) <= KAS_CPU_SCRATCH_BYTES, "a thread's scratch holds the space");
_Static_assert(KAS_CPU_OWN_LSE_KEYS % BLOCK_KEYS == 0 && KAS_CPU_OWN_LSE_KEYS * LANES <= KAS_CPU_WEIGHTS,
               "a vector of rows' weights fits");

/* Adds sums of `count` keys to `scores`, or with `fresh` writes them. */
static inline void add_scores(const float *totals, uint32_t count, bool fresh, float *scores)
{
    for (uint32_t n = 0; n < count; n++)
        scores[n] = fresh ? totals[n] : scores[n] + totals[n];
}

/* ---- With a log-sum-exp ------------------------------------------------------------------------------------------ */

/* Weights exp(logit - lse) of a key, summed over rows but for the last step, across lanes. */
INLINE vector key_weights(const float *logits, uint32_t rows, bool estimated, const workspace *w)
{
    vector total = splat(0.0f);
    for (uint32_t row = 0; row < rows; row += LANES) {
        vector weight = vector_exp(load_vector(logits + row) - load_vector(w->lse + row));
        if (estimated)
            weight = choose(weight > splat(4.0f), splat(4.0f), weight);
        total += weight;
    }
    return total;
}

INLINE void sum_weights(uint32_t rows, uint32_t count, bool estimated, const workspace *w, float *totals)
{
    for (uint32_t n = 0; n < count; n += LANES) {
        vector part[LANES];
        for (uint32_t i = 0; i < LANES; i++)
            part[i] = key_weights(w->logits + (size_t)(n + i) * rows, rows, estimated, w);
        store_vector(totals + n, sum_lanes_of(part));
    }
}

/* A row without keys has a log-sum-exp of -inf, its logits too: against +inf they weigh nothing. Nor do rows that pad
   the set. */
static void load_lse(const row_set *rows, uint32_t padded, workspace *w)
{
    const float *lse = rows->c->job->slot[KAS_SLOT_LSE];
    for (uint32_t n = 0; n < padded; n++) {
        float value = KAS_NEGATIVE_INFINITY;
        if (n < rows->count)
            value = lse[lse_element(rows->c, query_of(rows, n), head_of(rows, n))];
        w->lse[n] = value == KAS_NEGATIVE_INFINITY ? -value : value;
    }
}

static void score_rows(const row_set *rows, uint32_t candidates, bool fresh, float *scores, workspace *w)
{
    const cell *c = rows->c;
    uint32_t padded = padded_rows(false, rows->count);
    key_source source = {.end = candidates};
    key_block *block = &w->blocks[0], *next = &w->blocks[1];
    load_rows(rows, false, w);
    load_lse(rows, padded, w);
    locate_block(c, rows->g, &source, 0, block);
    for (uint32_t begin = 0; begin < candidates; begin += BLOCK_KEYS) {
        float totals[BLOCK_KEYS];
        locate_block(c, rows->g, &source, begin + BLOCK_KEYS, next);
        many_logits(c, 0, padded, padded, block, next->k, w);
        if (c->call->flags & KAS_CALL_ESTIMATED)
            sum_weights(padded, block->columns, true, w, totals);
        else
            sum_weights(padded, block->columns, false, w, totals);
        add_scores(totals, block->count, fresh, scores + begin);
        key_block *done = block;
        block = next;
        next = done;
    }
}

/* ---- Without one ------------------------------------------------------------------------------------------------- */

/* What turns kept weights into shares of their rows: exp(origin - greatest), which takes the place of the origins, over
   the row's sum; 0 for rows that have seen no key by then. */
static void find_shares(uint32_t rows, float *origins, const workspace *w, float *shares)
{
    for (uint32_t row = 0; row < rows; row += LANES) {
        vector origin = load_vector(origins + row), sum = load_vector(w->sum + row);
        vector factor = vector_exp(origin - load_vector(w->greatest + row));
        factor = choose(origin == splat(KAS_NEGATIVE_INFINITY), splat(0.0f), factor);
        store_vector(origins + row, factor);
        store_vector(shares + row, choose(sum == splat(0.0f), splat(0.0f), factor / sum));
    }
}

/* Shares of a key, summed over rows but for the last step, across lanes. */
INLINE vector key_shares(const float *weights, const float *shares, uint32_t rows)
{
    vector even = splat(0.0f), odd = splat(0.0f);
    size_t row = 0;
    UNROLL_TWICE
    for (; row + 2 * LANES <= rows; row += 2 * LANES) {
        even += load_vector(weights + row) * load_vector(shares + row);
        odd += load_vector(weights + row + LANES) * load_vector(shares + row + LANES);
    }
    if (row < rows)
        even += load_vector(weights + row) * load_vector(shares + row);
    return even + odd;
}

static void pool_block(uint32_t rows, uint32_t count, const float *weights, const float *shares, float *totals)
{
    for (uint32_t n = 0; n < count; n += LANES) {
        vector part[LANES] = {0};
        for (uint32_t i = 0; i < kas_min_u32(count - n, LANES); i++)
            part[i] = key_shares(weights + (size_t)(n + i) * rows, shares, rows);
        store_vector(totals + n, sum_lanes_of(part));
    }
}

/* Sums over rows of the kept weights of candidates, the newest first, which are still near. */
static void pool_rows(uint32_t rows, uint32_t candidates, uint32_t keys, bool fresh, float *scores, score_space *space)
{
    uint32_t blocks = (uint32_t)kas_div_up(keys, BLOCK_KEYS);
    for (uint32_t index = blocks; index-- > 0;) {
        float totals[BLOCK_KEYS], shares[MOST_ROWS];
        uint32_t begin = index * BLOCK_KEYS;
        find_shares(rows, space->kept.origins + (size_t)index * rows, &space->w, shares);
        if (begin >= candidates)
            continue;
        uint32_t count = kas_min_u32(candidates - begin, BLOCK_KEYS);
        pool_block(rows, count, space->kept.weights + (size_t)begin * rows, shares, totals);
        add_scores(totals, count, fresh, scores + begin);
    }
}

/* Attends to all causal keys of a tile and keeps the weights. */
static void attend_and_keep(const row_set *rows, uint32_t keys, bool with_v, score_space *space)
{
    const cell *c = rows->c;
    workspace *w = &space->w;
    key_source source = {.end = keys};
    uint32_t padded = padded_rows(false, rows->count);
    key_block *block = &w->blocks[0], *next = &w->blocks[1];
    load_rows(rows, false, w);
    locate_block(c, rows->g, &source, 0, block);
    for (uint32_t begin = 0; begin < keys; begin += BLOCK_KEYS) {
        locate_block(c, rows->g, &source, begin + BLOCK_KEYS, next);
        attend_many(c, 0, padded, block, next, with_v, space->kept.weights + (size_t)begin * padded, w);
        memcpy(space->kept.origins + (size_t)(begin / BLOCK_KEYS) * padded, w->greatest, padded * sizeof(float));
        key_block *done = block;
        block = next;
        next = done;
    }
    for (uint32_t n = rows->count; n < padded; n++)
        w->sum[n] = 0.0f; /* rows that pad the set have no share in scores */
}

/* As score_rows, without a log-sum-exp. */
static void score_rows_once(const row_set *rows, const kas_tile *tile, bool fresh, float *scores, score_space *space)
{
    uint32_t keys = kas_causal_keys(rows->c->sequence, query_of(rows, rows->count - 1));
    attend_and_keep(rows, keys, false, space);
    pool_rows(padded_rows(false, rows->count), tile->candidates, keys, fresh, scores, space);
}

/* Rows whose weights of all keys of a tile can be kept. */
static uint32_t rows_at_once(const cell *c, const kas_tile *tile)
{
    uint32_t keys = kas_causal_end(c->sequence, tile->query_end);
    uint32_t rows = KAS_CPU_WEIGHTS / (uint32_t)kas_round_up(kas_max_u32(keys, 1), BLOCK_KEYS);
    return kas_min_u32(rows / LANES * LANES, MOST_ROWS);
}

/* ---- The operation ----------------------------------------------------------------------------------------------- */

static void scores(const kas_cpu_job *job, uint32_t x, uint32_t y, uint32_t z, void *scratch)
{
    cell c = cell_of(job, z);
    kas_tile tile = tile_of(&c, c.call->tile_begin + x);
    if (tile.query_begin == tile.query_end || ((c.call->flags & KAS_CALL_SKIP_DENSE) && kas_tile_is_dense(tile)))
        return;
    uint64_t row = ((uint64_t)z * job->rows + y) * c.call->tile_count + x;
    float *target = (float *)job->slot[KAS_SLOT_SCORES] + row * c.call->score_stride;
    bool own_lse = c.call->flags & KAS_CALL_OWN_LSE, fresh = true;
    uint32_t most = own_lse ? rows_at_once(&c, &tile) : MOST_ROWS;
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
