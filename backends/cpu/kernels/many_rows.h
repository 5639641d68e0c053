/*
 * many_rows.h - a block of keys for as many rows as prefill has. Logits and weights lie key by key, [key][row], with
 * vectors across rows: a row's maximum and sum need nothing across lanes, and K needs no transposition. q is packed
 * once in panels of TILE_FLOATS rows, [panel][word][row]. Keys are read where they lie, unless they need conversion;
 * values, read again for every register tile, are copied to where they do not fall into the same few sets of a cache.
 */

/* A register tile: rows of the left factor, whose elements are spread over lanes, and vectors of the right one. */
#define TILE_STEP (VECTOR_BYTES == 64 ? 8u : 4u)
#define TILE_VECTORS 2u
#define TILE_FLOATS (TILE_VECTORS * LANES)

/* ---- Copies ------------------------------------------------------------------------------------------------------ */

/* Rows [first, first + LANES) of a set as a panel's words. */
static void pack_queries(const row_set *rows, uint32_t first, workspace *w)
{
    _Alignas(64) float q[LANES * KAS_MAX_HEAD_DIM];
    const cell *c = rows->c;
    uint32_t stride = padded_words(c);
    float *panel = w->q + (size_t)(first / TILE_FLOATS) * stride * TILE_FLOATS + first % TILE_FLOATS;
    memset(q, 0, LANES * stride * sizeof(float));
    for (uint32_t n = first; n < kas_min_u32(first + LANES, rows->count); n++)
        load_query(q + (size_t)(n - first) * stride, c->job->slot[KAS_SLOT_Q],
                   q_element(c, query_of(rows, n), head_of(rows, n)), c->session->head_dim, c->job->dtype);
    for (uint32_t d = 0; d < stride; d += LANES) {
        vector part[LANES];
        for (uint32_t i = 0; i < LANES; i++)
            part[i] = load_vector(q + (size_t)i * stride + d);
        transpose(part);
        for (uint32_t i = 0; i < LANES; i++)
            store_vector(panel + (size_t)(d + i) * TILE_FLOATS, part[i]);
    }
}

INLINE void convert_keys(const key_block *block, uint32_t dim, workspace *w, kas_dtype dtype)
{
    uint32_t stride = padded_width(dim), whole = dim / LANES * LANES;
    float *copy = w->k;
    for (uint32_t n = 0; n < block->columns; n++, copy += stride) {
        const void *row = block->k[n];
        UNROLL_TWICE
        for (size_t d = 0; d < whole; d += LANES)
            store_vector(copy + d, load_elements(row, d, dtype));
        if (whole < dim)
            store_vector(copy + whole, load_last(row, whole, dim - whole, dtype));
        w->keys[n] = copy;
    }
}

/* The block's keys as rows of words: where they lie, or converted. */
static const void *const *reach_keys(const cell *c, const key_block *block, workspace *w)
{
    if (WORD_ELEMENTS * element_size(c->job->dtype) == sizeof(float))
        return block->k;
    if (c->job->dtype == KAS_DTYPE_F16)
        convert_keys(block, c->session->head_dim, w, KAS_DTYPE_F16);
    else
        convert_keys(block, c->session->head_dim, w, KAS_DTYPE_BF16);
    return w->keys;
}

/* As panels of TILE_FLOATS dimensions: [panel][key][dimension]. */
INLINE void copy_values_of(const key_block *block, uint32_t dim, float *copy, kas_dtype dtype)
{
    uint32_t whole = dim / TILE_FLOATS * TILE_FLOATS;
    for (uint32_t n = 0; n < block->count; n += WORD_ELEMENTS, copy += TILE_FLOATS) {
        for (size_t d = 0; d < whole; d += TILE_FLOATS) {
            store_vector(copy + d * BLOCK_KEYS, load_whole_values(block->v, n, d, dtype));
            store_vector(copy + d * BLOCK_KEYS + LANES, load_whole_values(block->v, n, d + LANES, dtype));
        }
        for (uint32_t d = whole; d < dim; d += LANES)
            store_vector(copy + (size_t)whole * BLOCK_KEYS + (d - whole), load_values(block->v, n, d, dim, dtype));
    }
}

static void copy_values(const cell *c, const key_block *block, float *copy)
{
    uint32_t dim = c->session->head_dim;
    switch (c->job->dtype) {
    case KAS_DTYPE_F32:
        copy_values_of(block, dim, copy, KAS_DTYPE_F32);
        break;
    case KAS_DTYPE_F16:
        copy_values_of(block, dim, copy, KAS_DTYPE_F16);
        break;
    default:
        copy_values_of(block, dim, copy, KAS_DTYPE_BF16);
    }
}

/* ---- Products ---------------------------------------------------------------------------------------------------- */

/* target = scale * a b, or with `add` (scale then is 1) target += a b, for TILE_STEP rows of a and a panel b. */
typedef struct product {
    const void *const *rows; /* of a, where they lie anywhere; otherwise NULL, and they follow each other in */
    const float *a;
    size_t step;    /* along a row of a */
    const float *b; /* [depth][TILE_FLOATS] */
    float *target;
    size_t target_stride;
    uint32_t depth;
} product;

/* Words of bf16 pairs may begin at any element. */
typedef float loose_word __attribute__((aligned(2), may_alias));

INLINE void multiply_tile_of(const product *p, bool add, float scale, uint32_t vectors)
{
    vector acc[TILE_STEP][TILE_VECTORS] = {0};
    const loose_word *row[TILE_STEP];
    for (uint32_t i = 0; i < TILE_STEP; i++)
        row[i] = p->rows ? p->rows[i] : (const void *)(p->a + i);
    for (uint32_t i = 0; add && i < TILE_STEP; i++)
        for (uint32_t j = 0; j < vectors; j++)
            acc[i][j] = load_vector(p->target + i * p->target_stride + j * LANES);
    for (uint32_t d = 0; d < p->depth; d++) {
        vector right[TILE_VECTORS];
        for (uint32_t j = 0; j < vectors; j++)
            right[j] = load_vector(p->b + (size_t)d * TILE_FLOATS + j * LANES);
        for (uint32_t i = 0; i < TILE_STEP; i++) {
            vector left = splat(row[i][d * p->step]);
            for (uint32_t j = 0; j < vectors; j++)
                acc[i][j] = multiply_add(acc[i][j], left, right[j]);
        }
    }
    for (uint32_t i = 0; i < TILE_STEP; i++)
        for (uint32_t j = 0; j < vectors; j++)
            store_vector(p->target + i * p->target_stride + j * LANES, acc[i][j] * splat(scale));
}

/* `width` columns are left in the panel's row. */
INLINE void multiply_tile(const product *p, bool add, float scale, uint32_t width)
{
    if (width >= TILE_FLOATS)
        multiply_tile_of(p, add, scale, TILE_VECTORS);
    else
        multiply_tile_of(p, add, scale, 1);
}

/* Fetching rows of K or V, spread over the tiles of a product, which hide a few at a time. */
typedef struct fetching {
    const cell *c;
    const void *const *rows; /* NULL: nothing is fetched */
    uint32_t next, share;    /* row, and rows a tile */
} fetching;

static inline fetching fetch_over(const cell *c, const void *const *rows, uint32_t tiles)
{
    return (fetching){.c = c, .rows = rows, .share = (uint32_t)kas_div_up(BLOCK_KEYS, tiles)};
}

INLINE void fetch_some(fetching *f)
{
    if (!f->rows || f->next == BLOCK_KEYS)
        return;
    uint32_t end = kas_min_u32(f->next + f->share, BLOCK_KEYS);
    prefetch_rows(f->c, f->rows, f->next, end);
    f->next = end;
}

/* logits = scale * k . q of rows [first, end), without masks, while rows of `fetched` are. */
static void multiply_qk(const cell *c, uint32_t first, uint32_t end, uint32_t stride, uint32_t columns,
                        const void *const *keys, const void *const *fetched, workspace *w)
{
    uint32_t words = padded_words(c), panels = (uint32_t)kas_div_up(end - first, TILE_FLOATS);
    fetching f = fetch_over(c, fetched, panels * (columns / TILE_STEP));
    for (uint32_t row = first; row < end; row += TILE_FLOATS)
        for (uint32_t n = 0; n < columns; n += TILE_STEP) {
            const product p = {.rows = keys + n,
                               .step = 1,
                               .b = w->q + (size_t)row * words,
                               .target = w->logits + (size_t)n * stride + row,
                               .target_stride = stride,
                               .depth = row_words(c)};
            multiply_tile(&p, false, c->session->scale, end - row);
            fetch_some(&f);
        }
}

/* out += weights . v of rows [first, end) over `count` keys whose copy lies in w->v, while rows of `fetched` are. */
static void multiply_pv(const cell *c, uint32_t first, uint32_t end, uint32_t stride, uint32_t count,
                        const float *weights, const void *const *fetched, workspace *w)
{
    uint32_t dim = padded_dim(c), tiles = (uint32_t)kas_div_up(dim, TILE_FLOATS) * ((end - first) / TILE_STEP);
    fetching f = fetch_over(c, fetched, tiles);
#ifdef VECTOR_PAIRS
    round_weights(weights, count, stride, w->logits);
    weights = w->logits;
#endif
    for (uint32_t d = 0; d < dim; d += TILE_FLOATS)
        for (uint32_t row = first; row < end; row += TILE_STEP) {
            const product p = {.a = weights + row,
                               .step = stride,
                               .b = w->v + (size_t)d * BLOCK_KEYS,
                               .target = w->out + (size_t)row * dim + d,
                               .target_stride = dim,
                               .depth = (uint32_t)kas_div_up(count, WORD_ELEMENTS)};
            multiply_tile(&p, true, 1.0f, dim - d);
            fetch_some(&f);
        }
}

/* ---- Softmax ----------------------------------------------------------------------------------------------------- */

/* Absent keys and keys past a row's last position become -inf. */
static void mask_many(uint32_t first, uint32_t end, uint32_t stride, const key_block *block, workspace *w)
{
    if (!block->absent && block->greatest <= w->last[first])
        return;
    for (uint32_t n = 0; n < block->count; n++) {
        vector_words position = (uint32_t)block->positions[n] - (vector_words){0};
        float *logits = w->logits + (size_t)n * stride;
        if ((uint32_t)block->positions[n] <= w->last[first])
            continue;
        for (uint32_t row = first; row < end; row += LANES) {
            vector_bits hidden = position > *(const vector_words *)(const void *)(w->last + row);
            store_vector(logits + row, choose(hidden, splat(KAS_NEGATIVE_INFINITY), load_vector(logits + row)));
        }
    }
}

/* Rows [row, row + LANES) weigh against `next` from now on: what they have summed so far is rescaled. */
static void move_origin(uint32_t row, vector next, vector origin, uint32_t out_stride, workspace *w)
{
    vector before = load_vector(w->greatest + row);
    float factors[LANES];
    vector factor = vector_exp(before - origin);
    store_vector(factors, factor);
    store_vector(w->sum + row, load_vector(w->sum + row) * factor);
    for (uint32_t i = 0; out_stride != 0 && i < LANES; i++) {
        float *out = w->out + (size_t)(row + i) * out_stride;
        for (uint32_t d = 0; before[i] != next[i] && d < out_stride; d += LANES)
            store_vector(out + d, load_vector(out + d) * splat(factors[i]));
    }
    store_vector(w->greatest + row, next);
}

/* Vectors of rows that are softened at once, so that several sums grow side by side. */
#define SOFT_VECTORS 4u

/* `vectors` vectors of rows from `row` on; see soften_many. */
INLINE void soften_rows(uint32_t row, uint32_t vectors, uint32_t stride, uint32_t count, uint32_t out_stride,
                        float *weights, workspace *w)
{
    vector most[SOFT_VECTORS], total[SOFT_VECTORS];
    const float *logits = w->logits + row;
    for (uint32_t j = 0; j < vectors; j++)
        most[j] = load_vector(w->greatest + row + j * LANES);
    for (uint32_t n = 0; n < count; n++)
        for (uint32_t j = 0; j < vectors; j++)
            most[j] = vector_max(most[j], load_vector(logits + (size_t)n * stride + j * LANES));
    for (uint32_t j = 0; j < vectors; j++) {
        vector next = most[j];
        most[j] = choose(next == splat(KAS_NEGATIVE_INFINITY), splat(0.0f), next);
        if (any_lane(next != load_vector(w->greatest + row + j * LANES)))
            move_origin(row + j * LANES, next, most[j], out_stride, w);
        total[j] = load_vector(w->sum + row + j * LANES);
    }
    for (uint32_t n = 0; n < count; n++)
        for (uint32_t j = 0; j < vectors; j++) {
            vector weight = vector_exp(load_vector(logits + (size_t)n * stride + j * LANES) - most[j]);
            store_vector(weights + (size_t)n * stride + row + j * LANES, weight);
            total[j] += weight;
        }
    for (uint32_t j = 0; j < vectors; j++)
        store_vector(w->sum + row + j * LANES, total[j]);
}

/* Turns the logits of rows [first, end) into weights against their new greatest logits and rescales what they have
   summed so far: `out_stride` floats of out. A row that has seen no key weighs against 0. */
static void soften_many(uint32_t first, uint32_t end, uint32_t stride, uint32_t count, uint32_t out_stride,
                        float *weights, workspace *w)
{
    uint32_t row = first;
    for (; row + SOFT_VECTORS * LANES <= end; row += SOFT_VECTORS * LANES)
        soften_rows(row, SOFT_VECTORS, stride, count, out_stride, weights, w);
    for (; row < end; row += LANES)
        soften_rows(row, 1, stride, count, out_stride, weights, w);
}

/* ---- Blocks ------------------------------------------------------------------------------------------------------ */

/* The logits of rows [first, end), of which `stride` lie side by side, while rows of `fetched` are. */
static void many_logits(const cell *c, uint32_t first, uint32_t end, uint32_t stride, const key_block *block,
                        const void *const *fetched, workspace *w)
{
    multiply_qk(c, first, end, stride, block->columns, reach_keys(c, block, w), fetched, w);
    mask_many(first, end, stride, block, w);
}

/* One block of keys for rows [first, end); their weights go to `weights`. What a product fetches is what is copied
   behind it: sooner, and it would have left the first cache. */
static void attend_many(const cell *c, uint32_t first, uint32_t end, const key_block *block, const key_block *next,
                        bool with_v, float *weights, workspace *w)
{
    many_logits(c, first, end, end, block, with_v ? block->v : next->k, w);
    soften_many(first, end, end, block->count, with_v ? padded_dim(c) : 0, weights, w);
    if (!with_v)
        return;
    copy_values(c, block, w->v);
    multiply_pv(c, first, end, end, block->count, weights, next->k, w);
}

/* The first panel with a row that sees a key of the block. */
static uint32_t first_seeing(const key_block *block, uint32_t rows, const workspace *w)
{
    uint32_t row = 0;
    while (row < rows && w->last[row] < block->least)
        row++;
    return row / TILE_FLOATS * TILE_FLOATS;
}
