/*
 * few_rows.h - a block of keys for as few rows as decode has. Keys and values are read where they lie, each once for
 * the rows of a register tile: a product's lanes run along the head dimension and are summed at its end.
 */

#define FEW_VECTORS 4u
#define KEYS_AT_ONCE (LANES / FEW_STEP) /* so that a vector holds the sums of FEW_STEP rows */

static void load_few(const row_set *rows, workspace *w)
{
    const cell *c = rows->c;
    uint32_t count = padded_rows(true, rows->count), stride = padded_words(c);
    memset(w->q, 0, (size_t)count * stride * sizeof(float));
    memset(w->sums, 0, (size_t)count * LANES * sizeof(float));
    for (uint32_t n = 0; n < rows->count; n++)
        load_query(w->q + (size_t)n * stride, c->job->slot[KAS_SLOT_Q],
                   q_element(c, query_of(rows, n), head_of(rows, n)), c->session->head_dim, c->job->dtype);
}

/* Bytes of keys that are fetched ahead where nothing but logits is computed. Processors drop what is asked for faster
   than memory answers; close ahead, the loads of what was asked for keep the pace. Attention, which does more with what
   it loads, fetches a block ahead. */
#define FETCH_AHEAD 8192u

/* The same in keys. */
static inline uint32_t keys_ahead(const cell *c)
{
    uint32_t rows = FETCH_AHEAD / row_bytes(c) / KEYS_AT_ONCE * KEYS_AT_ONCE;
    return kas_min_u32(kas_max_u32(rows, KEYS_AT_ONCE), BLOCK_KEYS);
}

/* Logits of FEW_STEP rows and KEYS_AT_ONCE keys, while as many rows of `fetched` are fetched, unless it is NULL. */
INLINE void few_logits_tile(const void *const *keys_at, const void *const *fetched_at, const float *q, uint32_t depth,
                            uint32_t stride, float scale, float *logits, kas_dtype dtype)
{
    vector part[LANES];
    UNROLL
    for (uint32_t i = 0; i < LANES; i++)
        part[i] = splat(0.0f);
    const void *row[KEYS_AT_ONCE], *fetched[KEYS_AT_ONCE];
    UNROLL
    for (uint32_t j = 0; j < KEYS_AT_ONCE; j++) {
        row[j] = keys_at[j];
        fetched[j] = fetched_at ? fetched_at[j] : NULL;
    }
    UNROLL_TWICE
    for (size_t d = 0; d < depth; d += LANES) {
        vector keys[KEYS_AT_ONCE];
        UNROLL
        for (uint32_t j = 0; j < KEYS_AT_ONCE; j++)
            keys[j] = load_whole_words(row[j], d, dtype);
        UNROLL
        for (uint32_t j = 0; fetched_at && j < KEYS_AT_ONCE; j++)
            prefetch_row((const char *)fetched[j] + d * WORD_ELEMENTS * element_size(dtype),
                         LANES * WORD_ELEMENTS * element_size(dtype));
        UNROLL
        for (uint32_t i = 0; i < FEW_STEP; i++) {
            vector query = load_vector(q + i * stride + d);
            UNROLL
            for (uint32_t j = 0; j < KEYS_AT_ONCE; j++)
                part[i * KEYS_AT_ONCE + j] = multiply_add(part[i * KEYS_AT_ONCE + j], query, keys[j]);
        }
    }
    float sums[LANES];
    store_vector(sums, sum_lanes_of(part) * splat(scale));
    for (uint32_t i = 0; i < FEW_STEP; i++)
        memcpy(logits + (size_t)i * BLOCK_KEYS, sums + i * KEYS_AT_ONCE, KEYS_AT_ONCE * sizeof(float));
}

INLINE void few_logits_of(const cell *c, uint32_t rows, const key_block *block, const key_block *next, uint32_t ahead,
                          workspace *w, kas_dtype dtype)
{
    uint32_t depth = row_words(c), stride = padded_words(c);
    for (uint32_t n = 0; n < block->columns; n += KEYS_AT_ONCE) {
        const void *const *fetched = n + ahead < BLOCK_KEYS ? block->k + n + ahead : next->k + (n + ahead - BLOCK_KEYS);
        for (uint32_t row = 0; row < rows; row += FEW_STEP)
            few_logits_tile(block->k + n, row == 0 ? fetched : NULL, w->q + (size_t)row * stride, depth, stride,
                            c->session->scale, w->logits + (size_t)row * BLOCK_KEYS + n, dtype);
    }
}

/* logits = scale * q . k, without masks, while keys that come `ahead` keys later are fetched. */
static void few_logits(const cell *c, uint32_t rows, const key_block *block, const key_block *next, uint32_t ahead,
                       workspace *w)
{
    switch (c->job->dtype) {
    case KAS_DTYPE_F32:
        few_logits_of(c, rows, block, next, ahead, w, KAS_DTYPE_F32);
        break;
    case KAS_DTYPE_F16:
        few_logits_of(c, rows, block, next, ahead, w, KAS_DTYPE_F16);
        break;
    default:
        few_logits_of(c, rows, block, next, ahead, w, KAS_DTYPE_BF16);
    }
}

/* out += weights . v for FEW_STEP rows and `vectors` vectors of the head dimension from d on. The same part of the
   next block's values is fetched, where there is one. */
INLINE void few_values_tile(const key_block *block, const key_block *next, uint32_t d, const float *weights, float *out,
                            uint32_t stride, uint32_t vectors, kas_dtype dtype)
{
    vector acc[FEW_STEP][FEW_VECTORS];
    for (uint32_t i = 0; i < FEW_STEP; i++)
        for (uint32_t j = 0; j < vectors; j++)
            acc[i][j] = load_vector(out + (size_t)i * stride + d + j * LANES);
    UNROLL_TWICE
    for (uint32_t n = 0; n < block->count; n++) {
        if (next)
            prefetch_row((const char *)next->v[n] + d * element_size(dtype), vectors * LANES * element_size(dtype));
        vector values[FEW_VECTORS];
        for (uint32_t j = 0; j < vectors; j++)
            values[j] = load_elements(block->v[n], d + j * LANES, dtype);
        for (uint32_t i = 0; i < FEW_STEP; i++) {
            vector weight = splat(weights[(size_t)i * BLOCK_KEYS + n]);
            for (uint32_t j = 0; j < vectors; j++)
                acc[i][j] += weight * values[j];
        }
    }
    for (uint32_t i = 0; i < FEW_STEP; i++)
        for (uint32_t j = 0; j < vectors; j++)
            store_vector(out + (size_t)i * stride + d + j * LANES, acc[i][j]);
}

INLINE void few_values_of(const cell *c, uint32_t rows, const key_block *block, const key_block *next, workspace *w,
                          kas_dtype dtype)
{
    uint32_t dim = c->session->head_dim, stride = padded_dim(c);
    for (uint32_t row = 0; row < rows; row += FEW_STEP) {
        const float *weights = w->logits + (size_t)row * BLOCK_KEYS;
        const key_block *fetched = row == 0 ? next : NULL;
        float *out = w->out + (size_t)row * stride;
        uint32_t d = 0;
        for (; d + FEW_VECTORS * LANES <= dim; d += FEW_VECTORS * LANES)
            few_values_tile(block, fetched, d, weights, out, stride, FEW_VECTORS, dtype);
        for (; d < dim; d += LANES)
            few_values_tile(block, fetched, d, weights, out, stride, 1, dtype);
    }
}

static void few_values(const cell *c, uint32_t rows, const key_block *block, const key_block *next, workspace *w)
{
    switch (c->job->dtype) {
    case KAS_DTYPE_F32:
        few_values_of(c, rows, block, next, w, KAS_DTYPE_F32);
        break;
    case KAS_DTYPE_F16:
        few_values_of(c, rows, block, next, w, KAS_DTYPE_F16);
        break;
    default:
        few_values_of(c, rows, block, next, w, KAS_DTYPE_BF16);
    }
}

/* Absent keys and keys past a row's last position become -inf. */
static void mask_few(uint32_t rows, const key_block *block, workspace *w)
{
    for (uint32_t row = 0; row < rows; row++) {
        if (!block->absent && block->greatest <= w->last[row])
            continue;
        float *logits = w->logits + (size_t)row * BLOCK_KEYS;
        vector_words last = w->last[row] - (vector_words){0};
        for (uint32_t n = 0; n < block->columns; n += LANES) {
            vector_bits hidden = *(const vector_words *)(const void *)(block->positions + n) > last;
            store_vector(logits + n, choose(hidden, splat(KAS_NEGATIVE_INFINITY), load_vector(logits + n)));
        }
    }
}

/* Turns a row's logits into weights against its new greatest logit and rescales what it has summed so far: `stride`
   floats of out. A row that has seen no key weighs against 0. */
static inline void soften_row(uint32_t row, uint32_t columns, uint32_t stride, workspace *w)
{
    float *logits = w->logits + (size_t)row * BLOCK_KEYS, *sums = w->sums + (size_t)row * LANES;
    vector most = splat(w->greatest[row]);
    for (uint32_t n = 0; n < columns; n += LANES)
        most = vector_max(most, load_vector(logits + n));
    float next = greatest_lane(most);
    vector origin = splat(next == KAS_NEGATIVE_INFINITY ? 0.0f : next);
    vector total = load_vector(sums);
    if (next != w->greatest[row]) {
        vector rescale = vector_exp(splat(w->greatest[row]) - origin);
        total *= rescale;
        float *out = w->out + (size_t)row * stride;
        for (uint32_t d = 0; d < stride; d += LANES)
            store_vector(out + d, load_vector(out + d) * rescale);
        w->greatest[row] = next;
    }
    for (uint32_t n = 0; n < columns; n += LANES) {
        vector weight = vector_exp(load_vector(logits + n) - origin);
        store_vector(logits + n, weight);
        total += weight;
    }
    store_vector(sums, total);
}

static void attend_few(const cell *c, uint32_t rows, const key_block *block, const key_block *next, bool with_v,
                       workspace *w)
{
    few_logits(c, rows, block, next, BLOCK_KEYS, w);
    mask_few(rows, block, w);
    for (uint32_t row = 0; row < rows; row++)
        soften_row(row, block->columns, with_v ? padded_dim(c) : 0, w);
    if (with_v)
        few_values(c, rows, block, next, w);
}

static void sum_few(uint32_t rows, workspace *w)
{
    for (uint32_t n = 0; n < rows; n++)
        w->sum[n] = sum_of_lanes(load_vector(w->sums + (size_t)n * LANES));
}
