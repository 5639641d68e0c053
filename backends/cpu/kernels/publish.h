/*
 * publish.h - a publishing layer's tile in prefill: output and list from one walk over the keys. The weights that the
 * walk keeps give the pooled scores, and an anchor's output over its new list without another q . k.
 */

/* A thread's scratch. */
typedef struct publish_space {
    score_space of;
    float scores[KAS_CPU_OWN_LSE_KEYS];
    select_space select;
} publish_space;

_Static_assert(sizeof(publish_space) <= KAS_CPU_SCRATCH_BYTES, "a thread's scratch holds the space");

/* Keys with less than this share of a row's weights may have lost digits to underflow. */
#define LEAST_SHARE 1e-12f

/* The kept weights of a block's entries in w->logits, all against the rows' greatest logits, and their sums. */
static void gather_weights(uint32_t rows, const key_block *block, const key_block *next, score_space *space)
{
    workspace *w = &space->w;
    for (uint32_t n = 0; n < block->count; n++) {
        float *target = w->logits + (size_t)n * rows;
        int32_t position = block->positions[n];
        if (next->positions[n] >= 0)
            prefetch_row(space->kept.weights + (size_t)next->positions[n] * rows, rows * sizeof(float));
        if (position < 0) {
            memset(target, 0, rows * sizeof(float));
            continue;
        }
        const float *weights = space->kept.weights + (size_t)position * rows;
        const float *factors = space->kept.origins + (size_t)position / BLOCK_KEYS * rows;
        for (uint32_t row = 0; row < rows; row += LANES) {
            vector weight = load_vector(weights + row) * load_vector(factors + row);
            store_vector(target + row, weight);
            store_vector(w->sum + row, load_vector(w->sum + row) + weight);
        }
    }
}

/* Whether each row's sum is enough of its sum over all keys. */
static bool have_shares(uint32_t rows, const float *totals, const workspace *w)
{
    for (uint32_t n = 0; n < rows; n++)
        if (!(w->sum[n] >= LEAST_SHARE * totals[n] && w->sum[n] > 0.0f))
            return false;
    return true;
}

/* As attend_rows over keys whose weights are kept; false when these do not tell enough. */
static bool attend_kept(const row_set *rows, const key_source *source, score_space *space)
{
    const cell *c = rows->c;
    workspace *w = &space->w;
    uint32_t padded = padded_rows(false, rows->count);
    key_block *block = &w->blocks[0], *next = &w->blocks[1];
    float totals[MOST_ROWS];
    locate_block(c, rows->g, source, 0, block);
    prefetch_rows(c, block->v, 0, BLOCK_KEYS);
    memcpy(totals, w->sum, padded * sizeof(float));
    memset(w->sum, 0, padded * sizeof(float));
    memset(w->out, 0, (size_t)padded * padded_dim(c) * sizeof(float));
    for (uint32_t begin = 0; begin < source->end; begin += BLOCK_KEYS) {
        locate_block(c, rows->g, source, begin + BLOCK_KEYS, next);
        gather_weights(padded, block, next, space);
        copy_values(c, block, w->v);
        multiply_pv(c, 0, padded, padded, block->count, w->logits, next->v, w);
        key_block *done = block;
        block = next;
        next = done;
    }
    normalise_rows(c, rows->count, w);
    return have_shares(rows->count, totals, w);
}

static bool makes_list(const cell *c, uint32_t g)
{
    for (uint32_t y = 0; y < c->session->list_rows; y++)
        if (active_row(c, y) == g)
            return true;
    return false;
}

/* Attention over all causal keys or the tile's list, from q, k and v. */
static void attend_again(const cell *c, uint32_t g, uint32_t u, const kas_tile *tile, bool dense, workspace *w)
{
    row_set rows = {.c = c, .g = g, .query_begin = tile->query_begin};
    while (next_rows(&rows, tile->query_end)) {
        uint32_t end = query_of(&rows, rows.count - 1) + 1;
        key_source source =
            dense ? (key_source){.end = kas_causal_end(c->sequence, end)} : tile_source(c, g, u, tile, end);
        attend_rows(&rows, &source, true, w);
        store_rows(&rows, w);
    }
}

/* Scores of the tile's candidates, and with KAS_CALL_DENSE the output; `rows` is left at the last set. */
static void walk_tile(row_set *rows, const kas_tile *tile, publish_space *space)
{
    const cell *c = rows->c;
    bool dense = c->call->flags & KAS_CALL_DENSE, fresh = true;
    uint32_t most = rows_at_once(c, tile);
    row_set set = *rows;
    while (next_rows_of(&set, tile->query_end, most)) {
        *rows = set;
        uint32_t keys = kas_causal_keys(c->sequence, query_of(rows, rows->count - 1));
        attend_and_keep(rows, keys, dense, &space->of);
        if (dense) {
            normalise_rows(c, rows->count, &space->of.w);
            store_rows(rows, &space->of.w);
        }
        pool_rows(padded_rows(false, rows->count), tile->candidates, keys, fresh, space->scores, &space->of);
        fresh = false;
    }
}

static void publish(const kas_cpu_job *job, uint32_t x, uint32_t y, uint32_t z, void *scratch)
{
    publish_space *space = scratch;
    cell c = cell_of(job, z);
    uint32_t u = c.call->tile_begin + x;
    kas_tile tile = tile_of(&c, u);
    bool dense = c.call->flags & KAS_CALL_DENSE, lists = makes_list(&c, y);
    if (tile.query_begin == tile.query_end)
        return;
    int32_t *list = (int32_t *)job->slot[KAS_SLOT_LISTS] + list_entry(&c, y, u, &tile);
    if (!lists || kas_tile_is_dense(tile)) {
        for (uint32_t i = 0; lists && i < tile.candidates; i++)
            list[i] = (int32_t)i;
        attend_again(&c, y, u, &tile, true, &space->of.w);
        return;
    }
    row_set rows = {.c = &c, .g = y, .query_begin = tile.query_begin};
    walk_tile(&rows, &tile, space);
    select_best((const uint32_t *)space->scores, &tile, &space->select, list);
    if (dense)
        return;
    key_source source = tile_source(&c, y, u, &tile, tile.query_end);
    if (rows.first == 0 && attend_kept(&rows, &source, &space->of))
        store_rows(&rows, &space->of.w);
    else
        attend_again(&c, y, u, &tile, false, &space->of.w);
}
