/*
 * block.h - attention over blocks of keys, the part that all rows but select, pool and merge share. Rows are the
 * queries of one kv head (R heads times tokens), keys come from a range or a list; both are converted to f32 in the
 * thread's scratch. Included once for each instruction set, by a file that defines VECTOR_BYTES.
 */
#include "convert.h"
#include "sequence.h"

#define MOST_ROWS 128u /* rows at once */
#define BLOCK_KEYS 64u /* keys at once */
#define ROW_STEP 4u    /* rows of a register tile */
#define LANES (VECTOR_BYTES / sizeof(float))
#define TILE_VECTORS (VECTOR_BYTES == 64 ? 4u : 2u)
#define TILE_FLOATS (TILE_VECTORS * LANES)

typedef float vector __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));
typedef int32_t vector_bits __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));

typedef struct workspace {
    _Alignas(64) float q[MOST_ROWS * KAS_MAX_HEAD_DIM];
    float k[KAS_MAX_HEAD_DIM * BLOCK_KEYS]; /* transposed: keys are the lanes */
    float v[BLOCK_KEYS * KAS_MAX_HEAD_DIM];
    float logits[MOST_ROWS * BLOCK_KEYS];
    float out[MOST_ROWS * KAS_MAX_HEAD_DIM];
    float greatest[MOST_ROWS], sum[MOST_ROWS], lse[MOST_ROWS];
    uint32_t last[MOST_ROWS]; /* last position that a row sees */
    int32_t positions[BLOCK_KEYS]; /* -1: absent */
    float totals[BLOCK_KEYS];
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

static inline uint32_t padded_dim(const cell *c)
{
    return (uint32_t)kas_round_up(c->session->head_dim, TILE_FLOATS);
}

static inline uint32_t padded_rows(uint32_t rows)
{
    return (uint32_t)kas_round_up(rows, ROW_STEP);
}

/* ---- Arithmetic -------------------------------------------------------------------------------------------------- */

static inline vector splat(float value)
{
    return value - (vector){0};
}

static inline vector choose(vector_bits mask, vector yes, vector no)
{
    return (vector)((mask & (vector_bits)yes) | (~mask & (vector_bits)no));
}

/* exp(x) to two units in the last place; below -87 zero, above 88 the value at 88; NaN stays. */
static inline vector vector_exp(vector x)
{
    const vector magic = splat(12582912.0f); /* adding 1.5 * 2^23 rounds to a whole number */
    vector_bits tiny = x < splat(-87.0f);
    x = choose(x > splat(88.0f), splat(88.0f), x);
    vector shifted = choose(tiny, splat(0.0f), x) * splat(1.44269504f) + magic;
    vector n = shifted - magic;
    vector r = choose(tiny, splat(0.0f), x) - n * splat(0.693359375f) + n * splat(2.12194440e-4f);
    vector p = splat(1.9875691500e-4f);
    p = p * r + splat(1.3981999507e-3f);
    p = p * r + splat(8.3334519073e-3f);
    p = p * r + splat(4.1665795894e-2f);
    p = p * r + splat(1.6666665459e-1f);
    p = p * r + splat(5.0000001201e-1f);
    p = p * r * r + r + splat(1.0f);
    vector_bits exponent = ((vector_bits)shifted - (vector_bits)magic + 127) << 23;
    vector result = p * (vector)exponent;
    return choose(x != x, x, choose(tiny, splat(0.0f), result));
}

/* ---- Loading ----------------------------------------------------------------------------------------------------- */

static void load_rows(const row_set *rows, workspace *w)
{
    const cell *c = rows->c;
    uint32_t dim = c->session->head_dim, stride = padded_dim(c);
    memset(w->q, 0, (size_t)padded_rows(rows->count) * stride * sizeof(float));
    memset(w->out, 0, (size_t)padded_rows(rows->count) * stride * sizeof(float));
    for (uint32_t n = 0; n < padded_rows(rows->count); n++) {
        w->greatest[n] = KAS_NEGATIVE_INFINITY;
        w->sum[n] = 0.0f;
        w->last[n] = 0;
    }
    for (uint32_t n = 0; n < rows->count; n++) {
        uint32_t i = query_of(rows, n);
        float *row = w->q + (size_t)n * stride;
        kas_load_row(row, c->job->slot[KAS_SLOT_Q], q_element(c, i, head_of(rows, n)), dim, c->job->dtype);
        w->last[n] = c->sequence.offset + i;
    }
}

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

static void load_key(const cell *c, uint32_t g, uint32_t n, bool with_v, workspace *w)
{
    uint32_t dim = c->session->head_dim, stride = padded_dim(c);
    uint64_t block;
    uint32_t slot;
    float *v = w->v + (size_t)n * stride;
    if (w->positions[n] >= 0 && !locate_key(c, (uint32_t)w->positions[n], &block, &slot)) {
        raise_bits(c->job, KAS_CHECK_PAGE);
        w->positions[n] = -1;
    }
    if (w->positions[n] < 0) {
        for (uint32_t d = 0; d < dim; d++)
            w->k[d * BLOCK_KEYS + n] = 0.0f;
        memset(v, 0, stride * sizeof(float));
        return;
    }
    float k[KAS_MAX_HEAD_DIM];
    kas_load_row(k, c->job->slot[KAS_SLOT_K], k_element(c, block, slot, g), dim, c->job->dtype);
    for (uint32_t d = 0; d < dim; d++)
        w->k[d * BLOCK_KEYS + n] = k[d];
    if (!with_v)
        return;
    kas_load_row(v, c->job->slot[KAS_SLOT_V], v_element(c, block, slot, g), dim, c->job->dtype);
    for (uint32_t d = dim; d < stride; d++)
        v[d] = 0.0f;
}

/* Loads entries [begin, begin + BLOCK_KEYS) of the source, absent past its end. */
static void load_block(const cell *c, uint32_t g, const key_source *source, uint32_t begin, bool with_v, workspace *w)
{
    for (uint32_t n = 0; n < BLOCK_KEYS; n++) {
        w->positions[n] = begin + n < source->end ? position_of(c, source, begin + n) : -1;
        load_key(c, g, n, with_v, w);
    }
}

/* ---- Products ---------------------------------------------------------------------------------------------------- */

static inline void product_tile(const float *restrict a, uint32_t a_row, uint32_t a_step, const float *restrict b,
                                uint32_t b_stride, uint32_t depth, vector acc[ROW_STEP][TILE_VECTORS])
{
    for (uint32_t d = 0; d < depth; d++) {
        vector columns[TILE_VECTORS];
        for (uint32_t j = 0; j < TILE_VECTORS; j++)
            columns[j] = *(const vector *)(b + (size_t)d * b_stride + j * LANES);
        for (uint32_t i = 0; i < ROW_STEP; i++) {
            vector value = splat(a[(size_t)i * a_row + (size_t)d * a_step]);
            for (uint32_t j = 0; j < TILE_VECTORS; j++)
                acc[i][j] += value * columns[j];
        }
    }
}

/* logits = scale * q . k, without masks. */
static void multiply_qk(const cell *c, uint32_t rows, workspace *w)
{
    uint32_t stride = padded_dim(c);
    vector scale = splat(c->session->scale);
    for (uint32_t n = 0; n < rows; n += ROW_STEP) {
        for (uint32_t j = 0; j < BLOCK_KEYS; j += TILE_FLOATS) {
            vector acc[ROW_STEP][TILE_VECTORS] = {0};
            product_tile(w->q + (size_t)n * stride, stride, 1, w->k + j, BLOCK_KEYS, c->session->head_dim, acc);
            for (uint32_t i = 0; i < ROW_STEP; i++)
                for (uint32_t t = 0; t < TILE_VECTORS; t++)
                    *(vector *)(w->logits + (n + i) * BLOCK_KEYS + j + t * LANES) = acc[i][t] * scale;
        }
    }
}

/* out += weights . v */
static void multiply_pv(const cell *c, uint32_t rows, workspace *w)
{
    uint32_t stride = padded_dim(c);
    for (uint32_t n = 0; n < rows; n += ROW_STEP) {
        for (uint32_t d = 0; d < stride; d += TILE_FLOATS) {
            vector acc[ROW_STEP][TILE_VECTORS];
            for (uint32_t i = 0; i < ROW_STEP; i++)
                for (uint32_t t = 0; t < TILE_VECTORS; t++)
                    acc[i][t] = *(vector *)(w->out + (size_t)(n + i) * stride + d + t * LANES);
            product_tile(w->logits + n * BLOCK_KEYS, BLOCK_KEYS, 1, w->v + d, stride, BLOCK_KEYS, acc);
            for (uint32_t i = 0; i < ROW_STEP; i++)
                for (uint32_t t = 0; t < TILE_VECTORS; t++)
                    *(vector *)(w->out + (size_t)(n + i) * stride + d + t * LANES) = acc[i][t];
        }
    }
}

/* Absent keys and keys past a row's last position become -inf. */
static void mask_block(uint32_t rows, workspace *w)
{
    bool absent = false;
    uint32_t greatest = 0;
    for (uint32_t n = 0; n < BLOCK_KEYS; n++) {
        absent |= w->positions[n] < 0;
        greatest = w->positions[n] > (int32_t)greatest ? (uint32_t)w->positions[n] : greatest;
    }
    for (uint32_t row = 0; row < rows; row++) {
        if (!absent && greatest <= w->last[row])
            continue;
        float *logits = w->logits + row * BLOCK_KEYS;
        for (uint32_t n = 0; n < BLOCK_KEYS; n++)
            logits[n] = (uint32_t)w->positions[n] > w->last[row] ? KAS_NEGATIVE_INFINITY : logits[n];
    }
}

static inline float reduce_max(vector value)
{
    float greatest = value[0];
    for (uint32_t i = 1; i < LANES; i++)
        greatest = kas_softmax_max(value[i], greatest);
    return greatest;
}

static inline float reduce_sum(vector value)
{
    float sum = 0.0f;
    for (uint32_t i = 0; i < LANES; i++)
        sum += value[i];
    return sum;
}

/* Turns a row's logits into weights against its new greatest logit and rescales what it has summed so far. */
static void soften_row(float *logits, float *greatest, float *sum, float *out, uint32_t stride)
{
    vector most = splat(*greatest);
    for (uint32_t n = 0; n < BLOCK_KEYS; n += LANES) {
        vector x = *(vector *)(logits + n);
        most = choose((x > most) | (x != x), x, most);
    }
    float next = reduce_max(most);
    if (next == KAS_NEGATIVE_INFINITY) {
        memset(logits, 0, BLOCK_KEYS * sizeof(float));
        return;
    }
    vector total = splat(0.0f);
    for (uint32_t n = 0; n < BLOCK_KEYS; n += LANES) {
        vector weight = vector_exp(*(vector *)(logits + n) - splat(next));
        *(vector *)(logits + n) = weight;
        total += weight;
    }
    float rescale = next == *greatest ? 1.0f : kas_softmax_weight(*greatest, next);
    *sum = *sum * rescale + reduce_sum(total);
    *greatest = next;
    if (rescale != 1.0f)
        for (uint32_t d = 0; d < stride; d += LANES)
            *(vector *)(out + d) *= splat(rescale);
}

/* The whole softmax (and, with_v, output) of a set of rows over a source. */
static void attend_rows(const row_set *rows, const key_source *source, bool with_v, workspace *w)
{
    const cell *c = rows->c;
    uint32_t stride = padded_dim(c), count = padded_rows(rows->count);
    load_rows(rows, w);
    for (uint32_t begin = source->begin; begin < source->end; begin += BLOCK_KEYS) {
        load_block(c, rows->g, source, begin, with_v, w);
        multiply_qk(c, count, w);
        mask_block(count, w);
        for (uint32_t n = 0; n < count; n++)
            soften_row(w->logits + n * BLOCK_KEYS, &w->greatest[n], &w->sum[n], w->out + (size_t)n * stride,
                       with_v ? stride : 0);
        if (with_v)
            multiply_pv(c, count, w);
    }
    for (uint32_t n = 0; with_v && n < rows->count; n++) {
        float inverse = w->sum[n] == 0.0f ? 0.0f : 1.0f / w->sum[n];
        for (uint32_t d = 0; d < stride; d++)
            w->out[(size_t)n * stride + d] *= inverse;
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

/* Sets of at most MOST_ROWS rows that cover queries [query_begin, query_end) of a kv head. */
static inline bool next_rows(row_set *rows, uint32_t query_end)
{
    rows->first += rows->count;
    uint32_t all = (query_end - rows->query_begin) * rows->c->session->group;
    rows->count = kas_min_u32(all - rows->first, MOST_ROWS);
    return rows->count != 0;
}
