/*
 * block.h - attention over blocks of keys, the part that all rows but select, pool and merge share. Rows are the
 * queries of one kv head (R heads times tokens), keys come from a range or a list. Prefill has many rows (many_rows.h),
 * decode few (few_rows.h).
 * Included once for each instruction set, by a file that defines VECTOR_BYTES.
 */
#include "sequence.h"
#include "vector.h"

#include "words.h"

#define MOST_ROWS 256u /* rows at once */
#define BLOCK_KEYS 64u /* keys at once */
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
    _Alignas(64) float q[MOST_ROWS * KAS_MAX_HEAD_DIM]; /* many rows: panels, see many_rows.h */
    float k[BLOCK_KEYS * KAS_MAX_HEAD_DIM];             /* of many rows: the block's, where they are converted */
    float v[BLOCK_KEYS * KAS_MAX_HEAD_DIM];             /* of many rows: a copy of the block's */
    const void *keys[BLOCK_KEYS];                       /* rows of k */
    float logits[MOST_ROWS * BLOCK_KEYS]; /* few rows: [row][key], many rows: [key][row] */
    float out[MOST_ROWS * KAS_MAX_HEAD_DIM];
    float sums[FEW_ROWS * LANES]; /* of a row's weights, lane by lane */
    float greatest[MOST_ROWS], sum[MOST_ROWS], lse[MOST_ROWS];
    uint32_t last[MOST_ROWS]; /* last position that a row sees; never falls from row to row */
    key_block blocks[2];      /* the one at work and the one being fetched */
} workspace;

_Static_assert(KAS_CPU_CELL_ROWS * sizeof(workspace) <= KAS_CPU_SCRATCH_BYTES, "a thread's scratch holds a cell's");

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

/* Up to what the rows' kernels take at once. */
static inline uint32_t padded_rows(bool few, uint32_t rows)
{
    return (uint32_t)kas_round_up(rows, few ? FEW_STEP : LANES);
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
   pattern. Into the second level: what is asked for into the first holds one of its few miss buffers, which loads need
   as well, until memory answers. */
INLINE void prefetch_row(const void *row, uint32_t bytes)
{
    for (uint32_t at = 0; at < bytes; at += CACHE_LINE)
        __builtin_prefetch((const char *)row + at, 0, 2);
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

#include "many_rows.h"

#include "few_rows.h"

/* ---- Rows -------------------------------------------------------------------------------------------------------- */

static void load_rows(const row_set *rows, bool few, workspace *w)
{
    const cell *c = rows->c;
    uint32_t count = padded_rows(few, rows->count);
    memset(w->out, 0, (size_t)count * padded_dim(c) * sizeof(float));
    for (uint32_t n = 0; n < count; n++) {
        w->greatest[n] = KAS_NEGATIVE_INFINITY;
        w->sum[n] = 0.0f;
        w->last[n] = n < rows->count ? c->sequence.offset + query_of(rows, n) : w->last[n - 1];
    }
    if (few)
        load_few(rows, w);
    else
        for (uint32_t n = 0; n < count; n += LANES)
            pack_queries(rows, n, w);
}

/* A set's output, divided by the sums of its weights. */
static void normalise_rows(const cell *c, uint32_t rows, workspace *w)
{
    uint32_t stride = padded_dim(c);
    for (uint32_t n = 0; n < rows; n++) {
        float inverse = w->sum[n] == 0.0f ? 0.0f : 1.0f / w->sum[n], *out = w->out + (size_t)n * stride;
        for (uint32_t d = 0; d < stride; d += LANES)
            store_vector(out + d, load_vector(out + d) * splat(inverse));
    }
}

/* A walk over the blocks of a source for several sets of rows: a block of every set's kv head in turn, then the next
   ones. */
typedef struct block_walk {
    const row_set *rows;
    uint32_t sets;
    const key_source *source;
    uint32_t set, begin;     /* of `block` */
    key_block *block, *next; /* `next` is the one to come, empty at the end */
} block_walk;

static void locate_next(block_walk *walk)
{
    bool last = walk->set + 1 == walk->sets;
    const row_set *rows = last ? walk->rows : &walk->rows[walk->set + 1];
    locate_block(rows->c, rows->g, walk->source, last ? walk->begin + BLOCK_KEYS : walk->begin, walk->next);
}

/* Asks for the first block and loads the sets' rows, each into its own workspace. */
static block_walk walk_blocks(const row_set *rows, uint32_t sets, const key_source *source, bool with_v, workspace *w)
{
    block_walk walk = {rows, sets, source, 0, source->begin, &w->blocks[0], &w->blocks[1]};
    locate_block(rows->c, rows->g, source, source->begin, walk.block);
    prefetch_rows(rows->c, walk.block->k, 0, BLOCK_KEYS);
    if (with_v)
        prefetch_rows(rows->c, walk.block->v, 0, BLOCK_KEYS);
    locate_next(&walk);
    for (uint32_t n = 0; n < sets; n++)
        load_rows(&rows[n], is_few(rows[n].c, rows[n].count), &w[n]);
    return walk;
}

static inline bool has_block(const block_walk *walk)
{
    return walk->begin < walk->source->end;
}

static void next_block(block_walk *walk)
{
    key_block *done = walk->block;
    walk->block = walk->next;
    walk->next = done;
    if (++walk->set == walk->sets) {
        walk->set = 0;
        walk->begin += BLOCK_KEYS;
    }
    locate_next(walk);
}

static void attend_keys(const row_set *rows, const block_walk *walk, bool with_v, workspace *w)
{
    const cell *c = rows->c;
    bool few = is_few(c, rows->count);
    uint32_t count = padded_rows(few, rows->count);
    uint32_t first = few ? 0 : first_seeing(walk->block, count, w);
    if (few)
        attend_few(c, count, walk->block, walk->next, with_v, w);
    else if (first < count)
        attend_many(c, first, count, walk->block, walk->next, with_v, w->logits, w);
}

static void end_rows(const row_set *rows, bool with_v, workspace *w)
{
    if (is_few(rows->c, rows->count))
        sum_few(rows->count, w);
    if (with_v)
        normalise_rows(rows->c, rows->count, w);
}

/* The whole softmax (and, with_v, output) of `sets` sets of rows over a source, each set in its own workspace. */
static void attend_sets(const row_set *rows, uint32_t sets, const key_source *source, bool with_v, workspace *w)
{
    block_walk walk = walk_blocks(rows, sets, source, with_v, w);
    for (; has_block(&walk); next_block(&walk))
        attend_keys(&rows[walk.set], &walk, with_v, &w[walk.set]);
    for (uint32_t n = 0; n < sets; n++)
        end_rows(&rows[n], with_v, &w[n]);
}

static void attend_rows(const row_set *rows, const key_source *source, bool with_v, workspace *w)
{
    attend_sets(rows, 1, source, with_v, w);
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
