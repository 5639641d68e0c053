/*
 * few_rows.h - a block of keys for as few rows as decode has. Keys and values are read where they lie, each once for
 * the rows of a register tile: a product's lanes run along the head dimension and are summed at its end.
 */

#define FEW_VECTORS 4u
#define KEYS_AT_ONCE (LANES / FEW_STEP) /* so that a vector holds the sums of FEW_STEP rows */

/* Logits of FEW_STEP rows and KEYS_AT_ONCE keys. */
INLINE void few_logits_tile(const key_block *block, uint32_t n, const float *q, uint32_t depth, uint32_t stride,
                            float scale, float *logits, kas_dtype dtype)
{
    vector part[LANES];
    UNROLL
    for (uint32_t i = 0; i < LANES; i++)
        part[i] = splat(0.0f);
    UNROLL_TWICE
    for (uint32_t d = 0; d < depth; d += LANES) {
        vector keys[KEYS_AT_ONCE];
        UNROLL
        for (uint32_t j = 0; j < KEYS_AT_ONCE; j++)
            keys[j] = load_words(block->k[n + j], d, depth, dtype);
        UNROLL
        for (uint32_t i = 0; i < FEW_STEP; i++) {
            vector query = load_vector(q + (size_t)i * stride + d);
            UNROLL
            for (uint32_t j = 0; j < KEYS_AT_ONCE; j++)
                part[i * KEYS_AT_ONCE + j] = multiply_add(part[i * KEYS_AT_ONCE + j], query, keys[j]);
        }
    }
    float sums[LANES];
    store_vector(sums, sum_lanes_of(part) * splat(scale));
    for (uint32_t i = 0; i < FEW_STEP; i++)
        memcpy(logits + (size_t)i * BLOCK_KEYS + n, sums + i * KEYS_AT_ONCE, KEYS_AT_ONCE * sizeof(float));
}

INLINE void few_logits_of(const cell *c, uint32_t rows, const key_block *block, const key_block *next,
                          workspace *w, kas_dtype dtype)
{
    uint32_t depth = row_words(c), stride = padded_words(c);
    for (uint32_t n = 0; n < block->columns; n += KEYS_AT_ONCE) {
        prefetch_rows(c, next->k, n, n + KEYS_AT_ONCE);
        for (uint32_t row = 0; row < rows; row += FEW_STEP)
            few_logits_tile(block, n, w->q + (size_t)row * stride, depth, stride, c->session->scale,
                            w->logits + (size_t)row * BLOCK_KEYS, dtype);
    }
}

/* logits = scale * q . k, without masks, while the next block's keys are fetched. */
static void few_logits(const cell *c, uint32_t rows, const key_block *block, const key_block *next, workspace *w)
{
    switch (c->job->dtype) {
    case KAS_DTYPE_F32:
        few_logits_of(c, rows, block, next, w, KAS_DTYPE_F32);
        break;
    case KAS_DTYPE_F16:
        few_logits_of(c, rows, block, next, w, KAS_DTYPE_F16);
        break;
    default:
        few_logits_of(c, rows, block, next, w, KAS_DTYPE_BF16);
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

static void attend_few(const cell *c, uint32_t rows, const key_block *block, const key_block *next, bool with_v,
                       workspace *w)
{
    few_logits(c, rows, block, next, w);
    mask_block(0, rows, block, w);
    for (uint32_t row = 0; row < rows; row++)
        soften_row(row, block->columns, with_v ? padded_dim(c) : 0, w);
    if (with_v)
        few_values(c, rows, block, next, w);
}
