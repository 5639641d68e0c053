/*
 * block.h - attention over blocks of keys, the part that all rows but select, pool and merge share. Rows are the
 * queries of one kv head (R heads times tokens), keys come from a range or a list. Many rows meet keys and values that
 * were packed into the thread's scratch, transposed for the register tile; few rows (few_rows.h) read them in place.
 * Included once for each instruction set, by a file that defines VECTOR_BYTES.
 */
#include "sequence.h"
#include "vector.h"

#include "words.h"

#define MOST_ROWS 256u /* rows at once */
#define BLOCK_KEYS 64u /* keys at once */
/* A register tile: rows and vectors. Its panel of keys leaves room in the first cache for a second thread's. */
#define ROW_STEP (VECTOR_BYTES == 64 ? 8u : 4u)
#define TILE_VECTORS 2u
#define TILE_FLOATS (TILE_VECTORS * LANES)
#define FEW_ROWS 16u   /* what few_rows.h takes, FEW_STEP at once */
#define FEW_STEP 4u
#define CACHE_LINE 64u

/* Where the keys of a block lie. Entries from `count` on are absent. */
typedef struct key_block {
    uint32_t count, columns;
    uint32_t least, greatest; /* positions; absent entries left out */
    bool absent;              /* an entry below `columns` is */
    _Alignas(64) int32_t positions[BLOCK_KEYS]; /* -1: absent */
    const void *k[BLOCK_KEYS], *v[BLOCK_KEYS];  /* of an absent one: zeros */
} key_block;

typedef struct workspace {
    _Alignas(64) float q[MOST_ROWS * KAS_MAX_HEAD_DIM];
    float k[BLOCK_KEYS * KAS_MAX_HEAD_DIM]; /* panels of TILE_FLOATS keys: [panel][dimension][key] */
    float v[BLOCK_KEYS * KAS_MAX_HEAD_DIM]; /* panels of TILE_FLOATS dimensions: [panel][key][dimension] */
    float logits[MOST_ROWS * BLOCK_KEYS];
    float out[MOST_ROWS * KAS_MAX_HEAD_DIM];
    float sums[MOST_ROWS * LANES]; /* of a row's weights, lane by lane */
    float greatest[MOST_ROWS], sum[MOST_ROWS], lse[MOST_ROWS];
    uint32_t last[MOST_ROWS]; /* last position that a row sees; never falls from row to row */
    key_block blocks[2];      /* the one at work and the one being fetched */
} workspace;

_Static_assert(sizeof(workspace) <= KAS_CPU_SCRATCH_BYTES, "a thread's scratch holds the workspace");

/* Rows [first, first + count) of kv head g: row n is head n % R of query query_begin + n / R. */
typedef struct row_set {
    const cell *c;
    uint32_t g, query_begin, first, count;
} row_set;

/* Entries of a list followed by positions from own_begin on; [begin, end) of them are walked. */
typedef struct key_source {
    const int32_t *list;
    uint32_t list_count;
    uint32_t candidates; /* entries must lie below */
    uint32_t own_begin;
    uint32_t begin, end;
} key_source;

static inline uint32_t query_of(const row_set *rows, uint32_t row)
{
    return rows->query_begin + (rows->first + row) / rows->c->session->group;
}

static inline uint32_t group_head_of(const row_set *rows, uint32_t row)
{
    return (rows->first + row) % rows->c->session->group;
}

static inline uint32_t head_of(const row_set *rows, uint32_t row)
{
    return rows->g * rows->c->session->group + group_head_of(rows, row);
}

static inline uint32_t padded_width(uint32_t width)
{
    return (uint32_t)kas_round_up(width, LANES);
}

static inline uint32_t padded_dim(const cell *c)
{
    return padded_width(c->session->head_dim);
}

/* Words of a row of q or K, and the same up to whole vectors. */
static inline uint32_t row_words(const cell *c)
{
    return c->session->head_dim / WORD_ELEMENTS;
}

static inline uint32_t padded_words(const cell *c)
{
    return padded_width(row_words(c));
}

static inline bool is_few(const cell *c, uint32_t rows)
{
    return rows <= FEW_ROWS && row_words(c) % LANES == 0;
}

/* Up to whole register tiles, of few_rows.h where it takes the rows. */
static inline uint32_t padded_rows(const cell *c, uint32_t rows)
{
    return (uint32_t)kas_round_up(rows, is_few(c, rows) ? FEW_STEP : ROW_STEP);
}

/* ---- Rows -------------------------------------------------------------------------------------------------------- */

static void load_rows(const row_set *rows, workspace *w)
{
    const cell *c = rows->c;
    uint32_t dim = c->session->head_dim, stride = padded_dim(c);
    memset(w->q, 0, (size_t)padded_rows(c, rows->count) * padded_words(c) * sizeof(float));
    memset(w->out, 0, (size_t)padded_rows(c, rows->count) * stride * sizeof(float));
    memset(w->sums, 0, (size_t)padded_rows(c, rows->count) * LANES * sizeof(float));
    for (uint32_t n = 0; n < padded_rows(c, rows->count); n++) {
        w->greatest[n] = KAS_NEGATIVE_INFINITY;
        w->last[n] = n < rows->count ? c->sequence.offset + query_of(rows, n) : w->last[n - 1];
    }
    for (uint32_t n = 0; n < rows->count; n++)
        load_query(w->q + (size_t)n * padded_words(c), c->job->slot[KAS_SLOT_Q],
                   q_element(c, query_of(rows, n), head_of(rows, n)), dim, c->job->dtype);
}

/* ---- Keys -------------------------------------------------------------------------------------------------------- */

static const float zero_row[KAS_MAX_HEAD_DIM];

/* Position of the source's entry n, -1 for an absent one. */
static inline int32_t position_of(const cell *c, const key_source *source, uint32_t n)
{
    if (n >= source->list_count)
        return (int32_t)(source->own_begin + n - source->list_count);
    int32_t entry = source->list[n];
    if (entry >= 0 && (uint32_t)entry < source->candidates)
        return entry;
    if (entry != -1)
        raise_bits(c->job, KAS_CHECK_LIST);
    return -1;
}

static inline void locate_nothing(key_block *block, uint32_t n)
{
    block->positions[n] = -1;
    block->k[n] = block->v[n] = zero_row;
}

/* Where an element of K or V lies; operations without values have no V. */
static inline const char *cache_at(const cell *c, uint32_t tensor, uint64_t element)
{
    const char *memory = c->job->slot[tensor];
    return memory ? memory + element * element_size(c->job->dtype) : (const char *)zero_row;
}

static inline void locate_entry(const cell *c, uint32_t g, int32_t position, key_block *block, uint32_t n)
{
    uint64_t at;
    uint32_t slot;
    if (position >= 0 && !locate_key(c, (uint32_t)position, &at, &slot)) {
        raise_bits(c->job, KAS_CHECK_PAGE);
        position = -1;
    }
    if (position < 0) {
        block->absent = true;
        locate_nothing(block, n);
        return;
    }
    block->positions[n] = position;
    block->least = kas_min_u32(block->least, (uint32_t)position);
    block->greatest = kas_max_u32(block->greatest, (uint32_t)position);
    block->k[n] = cache_at(c, KAS_SLOT_K, k_element(c, at, slot, g));
    block->v[n] = cache_at(c, KAS_SLOT_V, v_element(c, at, slot, g));
}

/* Positions [first, first + count) that follow each other in memory. */
static inline void locate_run(const cell *c, uint32_t g, uint32_t first, key_block *block)
{
    uint32_t size = element_size(c->job->dtype);
    const char *k = cache_at(c, KAS_SLOT_K, k_element(c, c->z, first, g));
    const char *v = cache_at(c, KAS_SLOT_V, v_element(c, c->z, first, g));
    uint64_t k_step = (uint64_t)c->call->k_stride_token * size, v_step = (uint64_t)c->call->v_stride_token * size;
    block->least = first;
    block->greatest = first + block->count - 1;
    for (uint32_t n = 0; n < block->count; n++) {
        block->positions[n] = (int32_t)(first + n);
        block->k[n] = k + n * k_step;
        block->v[n] = v + n * v_step;
    }
}

/* Finds entries [begin, begin + BLOCK_KEYS) of the source, fewer at its end. */
static void locate_block(const cell *c, uint32_t g, const key_source *source, uint32_t begin, key_block *block)
{
    block->count = begin < source->end ? kas_min_u32(source->end - begin, BLOCK_KEYS) : 0;
    block->columns = padded_width(block->count);
    block->least = UINT32_MAX;
    block->greatest = 0;
    block->absent = false;
    if (block->count != 0 && begin >= source->list_count && !(c->call->flags & KAS_CALL_PAGED))
        locate_run(c, g, source->own_begin + begin - source->list_count, block);
    else
        for (uint32_t n = 0; n < block->count; n++)
            locate_entry(c, g, position_of(c, source, begin + n), block, n);
    block->absent |= block->count < block->columns;
    for (uint32_t n = block->count; n < BLOCK_KEYS; n++)
        locate_nothing(block, n);
}

/* Asks for a row of K or V that is needed soon. Rows of one kv head lie far apart, where the processor sees no
   pattern. */
INLINE void prefetch_row(const void *row, uint32_t bytes)
{
    for (uint32_t at = 0; at < bytes; at += CACHE_LINE)
        __builtin_prefetch((const char *)row + at, 0, 3);
}

static inline uint32_t row_bytes(const cell *c)
{
    return c->session->head_dim * element_size(c->job->dtype);
}

static inline void prefetch_rows(const cell *c, const void *const *rows, uint32_t first, uint32_t end)
{
    for (uint32_t n = first; n < end; n++)
        prefetch_row(rows[n], row_bytes(c));
}

/* ---- Packing ----------------------------------------------------------------------------------------------------- */

INLINE void pack_keys_of(const key_block *block, uint32_t words, float *packed, kas_dtype dtype)
{
    uint32_t panel_size = padded_width(words) * TILE_FLOATS;
    for (uint32_t n = 0; n < block->columns; n += LANES) {
        float *panel = packed + (size_t)(n / TILE_FLOATS) * panel_size + n % TILE_FLOATS;
        for (uint32_t d = 0; d < words; d += LANES) {
            vector part[LANES];
            for (uint32_t i = 0; i < LANES; i++)
                part[i] = load_words(block->k[n + i], d, words, dtype);
            transpose(part);
            for (uint32_t i = 0; i < LANES; i++)
                store_vector(panel + (size_t)(d + i) * TILE_FLOATS, part[i]);
        }
    }
}

INLINE vector load_values(const void *const *v, uint32_t n, uint32_t d, uint32_t dim, kas_dtype dtype)
{
#ifdef VECTOR_PAIRS
    (void)dtype;
    return join_values(v, n, d, dim);
#else
    return load_words(v[n], d, dim, dtype);
#endif
}

INLINE void pack_values_of(const key_block *block, uint32_t dim, float *packed, kas_dtype dtype)
{
    for (uint32_t n = 0; n < block->count; n += WORD_ELEMENTS)
        for (uint32_t d = 0; d < dim; d += LANES)
            store_vector(packed + ((size_t)(d / TILE_FLOATS) * BLOCK_KEYS + n / WORD_ELEMENTS) * TILE_FLOATS +
                             d % TILE_FLOATS,
                         load_values(block->v, n, d, dim, dtype));
}

static void pack_keys(const cell *c, const key_block *block, float *packed)
{
    uint32_t dim = row_words(c);
    switch (c->job->dtype) {
    case KAS_DTYPE_F32:
        pack_keys_of(block, dim, packed, KAS_DTYPE_F32);
        break;
    case KAS_DTYPE_F16:
        pack_keys_of(block, dim, packed, KAS_DTYPE_F16);
        break;
    default:
        pack_keys_of(block, dim, packed, KAS_DTYPE_BF16);
    }
}

static void pack_values(const cell *c, const key_block *block, float *packed)
{
    uint32_t dim = c->session->head_dim;
    switch (c->job->dtype) {
    case KAS_DTYPE_F32:
        pack_values_of(block, dim, packed, KAS_DTYPE_F32);
        break;
    case KAS_DTYPE_F16:
        pack_values_of(block, dim, packed, KAS_DTYPE_F16);
        break;
    default:
        pack_values_of(block, dim, packed, KAS_DTYPE_BF16);
    }
}

/* ---- Products ---------------------------------------------------------------------------------------------------- */

/* acc += a b for ROW_STEP rows of a and `vectors` vectors of a panel. */
INLINE void product_tile(const float *restrict a, uint32_t a_stride, const float *restrict panel, uint32_t depth,
                         uint32_t vectors, vector acc[ROW_STEP][TILE_VECTORS])
{
    for (uint32_t d = 0; d < depth; d++) {
        vector columns[TILE_VECTORS];
        for (uint32_t j = 0; j < vectors; j++)
            columns[j] = load_vector(panel + (size_t)d * TILE_FLOATS + j * LANES);
        for (uint32_t i = 0; i < ROW_STEP; i++) {
            vector value = splat(a[(size_t)i * a_stride + d]);
            for (uint32_t j = 0; j < vectors; j++)
                acc[i][j] = multiply_add(acc[i][j], value, columns[j]);
        }
    }
}

/* A product of rows [begin, end) with one panel. */
typedef struct product {
    const float *a, *panel;
    float *target;
    uint32_t a_stride, target_stride, depth, begin, end;
} product;

/* target = scale * a panel, or with `add` (scale then is 1) target += a panel. */
INLINE void multiply_panel_of(const product *p, bool add, float scale, uint32_t vectors)
{
    for (uint32_t n = p->begin; n < p->end; n += ROW_STEP) {
        vector acc[ROW_STEP][TILE_VECTORS] = {0};
        float *target = p->target + (size_t)n * p->target_stride;
        for (uint32_t i = 0; add && i < ROW_STEP; i++)
            for (uint32_t j = 0; j < vectors; j++)
                acc[i][j] = load_vector(target + (size_t)i * p->target_stride + j * LANES);
        product_tile(p->a + (size_t)n * p->a_stride, p->a_stride, p->panel, p->depth, vectors, acc);
        for (uint32_t i = 0; i < ROW_STEP; i++)
            for (uint32_t j = 0; j < vectors; j++)
                store_vector(target + (size_t)i * p->target_stride + j * LANES, acc[i][j] * splat(scale));
    }
}

/* `width` columns are left in the panel's row. */
INLINE void multiply_panel(const product *p, bool add, float scale, uint32_t width)
{
    if (width >= TILE_FLOATS)
        multiply_panel_of(p, add, scale, TILE_VECTORS);
    else
        multiply_panel_of(p, add, scale, 1);
}

#define PREFETCH_ROWS 16u /* rows whose products hide the fetching of a few keys */

/* logits = scale * q . k of rows [first, end), without masks, while the next block is fetched. */
static void multiply_qk(const cell *c, uint32_t first, uint32_t end, const key_block *block, const key_block *next,
                        bool with_v, workspace *w)
{
    uint32_t depth = row_words(c), stride = padded_words(c);
    size_t panel_size = (size_t)stride * TILE_FLOATS;
    uint32_t share = (uint32_t)kas_div_up((uint64_t)BLOCK_KEYS * PREFETCH_ROWS, end - first);
    for (uint32_t j = 0; j < block->columns; j += TILE_FLOATS) {
        uint32_t fetched = 0;
        for (uint32_t row = first; row < end; row += PREFETCH_ROWS) {
            const product p = {w->q, w->k + j / TILE_FLOATS * panel_size, w->logits + j, stride, BLOCK_KEYS, depth,
                               row,  kas_min_u32(row + PREFETCH_ROWS, end)};
            multiply_panel(&p, false, c->session->scale, block->columns - j);
            if (j == 0)
                prefetch_rows(c, next->k, fetched, kas_min_u32(fetched + share, BLOCK_KEYS));
            if (j == 0 && with_v)
                prefetch_rows(c, next->v, fetched, kas_min_u32(fetched + share, BLOCK_KEYS));
            fetched += share;
        }
    }
}

/* out += weights . v of rows [first, end) */
static void multiply_pv(const cell *c, uint32_t first, uint32_t end, const key_block *block, workspace *w)
{
    uint32_t stride = padded_dim(c);
#ifdef VECTOR_PAIRS
    for (uint32_t row = first; row < end; row++)
        round_weights(w->logits + (size_t)row * BLOCK_KEYS, block->columns);
#endif
    for (uint32_t d = 0; d < stride; d += TILE_FLOATS) {
        const product p = {w->logits, w->v + (size_t)d * BLOCK_KEYS,
                           w->out + d, BLOCK_KEYS,
                           stride, (uint32_t)kas_div_up(block->count, WORD_ELEMENTS),
                           first, end};
        multiply_panel(&p, true, 1.0f, stride - d);
    }
}

/* ---- Softmax ----------------------------------------------------------------------------------------------------- */

/* Absent keys and keys past a row's last position become -inf. */
static void mask_block(uint32_t first, uint32_t end, const key_block *block, workspace *w)
{
    for (uint32_t row = first; row < end; row++) {
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
static inline void soften_into(float *weights, uint32_t row, uint32_t columns, uint32_t stride, workspace *w)
{
    const float *logits = w->logits + (size_t)row * BLOCK_KEYS;
    float *sums = w->sums + (size_t)row * LANES;
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
        store_vector(weights + n, weight);
        total += weight;
    }
    store_vector(sums, total);
}

/* In place. */
static inline void soften_row(uint32_t row, uint32_t columns, uint32_t stride, workspace *w)
{
    soften_into(w->logits + (size_t)row * BLOCK_KEYS, row, columns, stride, w);
}

#include "few_rows.h"

/* One block of keys for rows [first, end), of which the next block is fetched meanwhile. */
static void attend_packed(const cell *c, uint32_t first, uint32_t end, const key_block *block, const key_block *next,
                          bool with_v, workspace *w)
{
    pack_keys(c, block, w->k);
    multiply_qk(c, first, end, block, next, with_v, w);
    mask_block(first, end, block, w);
    for (uint32_t row = first; row < end; row++)
        soften_row(row, block->columns, with_v ? padded_dim(c) : 0, w);
    if (!with_v)
        return;
    pack_values(c, block, w->v);
    multiply_pv(c, first, end, block, w);
}

/* The first register tile with a row that sees a key of the block. */
static uint32_t first_seeing(const key_block *block, uint32_t rows, const workspace *w)
{
    uint32_t row = 0;
    while (row < rows && w->last[row] < block->least)
        row++;
    return row / ROW_STEP * ROW_STEP;
}

/* The logits of a block, where nothing but them is wanted. */
static void block_logits(const cell *c, uint32_t rows, const key_block *block, const key_block *next, workspace *w)
{
    if (is_few(c, rows)) {
        few_logits(c, rows, block, next, w);
    } else {
        pack_keys(c, block, w->k);
        multiply_qk(c, 0, rows, block, next, false, w);
    }
    mask_block(0, rows, block, w);
}

/* The whole softmax (and, with_v, output) of a set of rows over a source. */
static void attend_rows(const row_set *rows, const key_source *source, bool with_v, workspace *w)
{
    const cell *c = rows->c;
    uint32_t stride = padded_dim(c), count = padded_rows(c, rows->count);
    key_block *block = &w->blocks[0], *next = &w->blocks[1];
    locate_block(c, rows->g, source, source->begin, block);
    prefetch_rows(c, block->k, 0, BLOCK_KEYS);
    if (with_v)
        prefetch_rows(c, block->v, 0, BLOCK_KEYS);
    load_rows(rows, w);
    for (uint32_t begin = source->begin; begin < source->end; begin += BLOCK_KEYS) {
        locate_block(c, rows->g, source, begin + BLOCK_KEYS, next);
        uint32_t first = first_seeing(block, count, w);
        if (is_few(c, count))
            attend_few(c, count, block, next, with_v, w);
        else if (first < count)
            attend_packed(c, first, count, block, next, with_v, w);
        key_block *done = block;
        block = next;
        next = done;
    }
    for (uint32_t n = 0; n < rows->count; n++) {
        w->sum[n] = sum_of_lanes(load_vector(w->sums + (size_t)n * LANES));
        float inverse = w->sum[n] == 0.0f ? 0.0f : 1.0f / w->sum[n];
        for (uint32_t d = 0; with_v && d < stride; d += LANES)
            store_vector(w->out + (size_t)n * stride + d, load_vector(w->out + (size_t)n * stride + d) * splat(inverse));
    }
}

/* ---- Storing ----------------------------------------------------------------------------------------------------- */

static void store_rows(const row_set *rows, workspace *w)
{
    const cell *c = rows->c;
    for (uint32_t n = 0; n < rows->count; n++) {
        uint32_t i = query_of(rows, n), h = head_of(rows, n);
        if (c->call->flags & KAS_CALL_OUT)
            kas_store_row(c->job->slot[KAS_SLOT_OUT], out_element(c, i, h), w->out + (size_t)n * padded_dim(c),
                          c->session->head_dim, c->job->dtype);
        if (c->call->flags & KAS_CALL_LSE)
            ((float *)c->job->slot[KAS_SLOT_LSE])[lse_element(c, i, h)] =
                kas_softmax_lse((kas_softmax){w->greatest[n], w->sum[n]});
    }
}

static void store_partials(const row_set *rows, uint32_t y, uint32_t split, bool with_out, workspace *w)
{
    const cell *c = rows->c;
    for (uint32_t n = 0; n < rows->count; n++) {
        uint64_t row = query_row(c, c->job->rows, y, group_head_of(rows, n), query_of(rows, n));
        float *ml = (float *)c->job->slot[KAS_SLOT_PART_ML] + (row * c->call->splits + split) * 2;
        ml[0] = w->greatest[n];
        ml[1] = w->sum[n];
        if (with_out)
            memcpy((float *)c->job->slot[KAS_SLOT_PART_O] + (row * c->call->splits + split) * c->session->head_dim,
                   w->out + (size_t)n * padded_dim(c), c->session->head_dim * sizeof(float));
    }
}

/* Sets of at most `most` rows that cover queries [query_begin, query_end) of a kv head. */
static inline bool next_rows_of(row_set *rows, uint32_t query_end, uint32_t most)
{
    rows->first += rows->count;
    uint32_t all = (query_end - rows->query_begin) * rows->c->session->group;
    rows->count = kas_min_u32(all - rows->first, most);
    return rows->count != 0;
}

static inline bool next_rows(row_set *rows, uint32_t query_end)
{
    return next_rows_of(rows, query_end, MOST_ROWS);
}
