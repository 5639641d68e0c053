/* expect.c - the oracle's results, kept by call, layer and sequence. */
#include "expect.h"

#include "memory.h"

#include <string.h>

typedef struct expectation {
    oracle_output dense; /* lse NULL: nothing yet; out NULL: the log-sum-exp alone */
    oracle_output sparse;
    oracle_lists sparse_lists; /* what `sparse` was made from; entries NULL: nothing yet */
    uint32_t *sparse_rows;
    uint32_t tiles;
    double **scores; /* [rows][tiles], each made when asked for */
} expectation;

struct expect_cache {
    const case_data *data;
    expectation *entries; /* [calls][layers][batch] */
};

expect_cache *expect_make(const case_data *data)
{
    expect_cache *cache = memory_alloc(1, sizeof(*cache));
    cache->data = data;
    cache->entries = memory_alloc((size_t)data->calls * data->layers * data->c->batch, sizeof(expectation));
    return cache;
}

static void forget_sparse(expectation *entry)
{
    oracle_output_free(&entry->sparse);
    oracle_lists_free(&entry->sparse_lists);
    free(entry->sparse_rows);
    entry->sparse_rows = NULL;
}

void expect_free(expect_cache *cache)
{
    const case_data *data = cache->data;
    for (size_t i = 0; i < (size_t)data->calls * data->layers * data->c->batch; i++) {
        expectation *entry = &cache->entries[i];
        oracle_output_free(&entry->dense);
        forget_sparse(entry);
        for (uint32_t n = 0; entry->scores && n < data->rows * entry->tiles; n++)
            free(entry->scores[n]);
        free(entry->scores);
    }
    free(cache->entries);
    free(cache);
}

static expectation *entry_at(expect_cache *cache, uint32_t call, uint32_t layer, uint32_t b)
{
    return &cache->entries[((size_t)call * cache->data->layers + layer) * cache->data->c->batch + b];
}

static void compute_dense(expect_cache *cache, uint32_t call, uint32_t layer, uint32_t b, bool with_out)
{
    const case_data *data = cache->data;
    expectation *entry = entry_at(cache, call, layer, b);
    data_call at = data_call_at(data, call);
    oracle_sequence s = data_sequence(data, &at, layer, b);
    if (!with_out)
        s.v = NULL;
    oracle_output_free(&entry->dense);
    entry->dense = oracle_attend(&data->rule, &s, data->c->dtype, NULL, NULL, &data->dirty[b * data->c->kv_heads]);
}

const oracle_output *expect_dense(expect_cache *cache, uint32_t call, uint32_t layer, uint32_t b)
{
    expectation *entry = entry_at(cache, call, layer, b);
    if (!entry->dense.out)
        compute_dense(cache, call, layer, b, true);
    return &entry->dense;
}

const oracle_output *expect_lse(expect_cache *cache, uint32_t call, uint32_t layer, uint32_t b)
{
    expectation *entry = entry_at(cache, call, layer, b);
    if (!entry->dense.lse)
        compute_dense(cache, call, layer, b, false);
    return &entry->dense;
}

static oracle_lists copy_lists(const oracle_lists *lists)
{
    oracle_lists copy = oracle_lists_make(lists->rows, lists->tiles, lists->width);
    size_t count = (size_t)lists->rows * lists->tiles;
    memcpy(copy.count, lists->count, count * sizeof(uint32_t));
    memcpy(copy.entries, lists->entries, count * lists->width * sizeof(int32_t));
    return copy;
}

static bool same_lists(const oracle_lists *a, const oracle_lists *b)
{
    size_t count = (size_t)a->rows * a->tiles;
    return a->rows == b->rows && a->tiles == b->tiles && a->width == b->width &&
           memcmp(a->count, b->count, count * sizeof(uint32_t)) == 0 &&
           memcmp(a->entries, b->entries, count * a->width * sizeof(int32_t)) == 0;
}

const oracle_output *expect_sparse(expect_cache *cache, uint32_t call, uint32_t layer, uint32_t b,
                                   const oracle_lists *lists, const uint32_t *rows)
{
    const case_data *data = cache->data;
    expectation *entry = entry_at(cache, call, layer, b);
    size_t rows_size = data->c->kv_heads * sizeof(uint32_t);
    if (entry->sparse_rows && memcmp(entry->sparse_rows, rows, rows_size) == 0 &&
        same_lists(&entry->sparse_lists, lists))
        return &entry->sparse;
    forget_sparse(entry);
    data_call at = data_call_at(data, call);
    oracle_sequence s = data_sequence(data, &at, layer, b);
    entry->sparse =
        oracle_attend(&data->rule, &s, data->c->dtype, lists, rows, &data->dirty[b * data->c->kv_heads]);
    entry->sparse_lists = copy_lists(lists);
    entry->sparse_rows = memory_alloc(rows_size, 1);
    memcpy(entry->sparse_rows, rows, rows_size);
    return &entry->sparse;
}

bool expect_row_is_dirty(const case_data *data, uint32_t b, uint32_t row)
{
    const bool *dirty = &data->dirty[b * data->c->kv_heads];
    if (!data->rule.all_heads)
        return dirty[row];
    for (uint32_t g = 0; g < data->c->kv_heads; g++)
        if (dirty[g])
            return true;
    return false;
}

const double *expect_scores(expect_cache *cache, uint32_t call, uint32_t layer, uint32_t b, uint32_t row, uint32_t tile)
{
    const case_data *data = cache->data;
    expectation *entry = entry_at(cache, call, layer, b);
    if (expect_row_is_dirty(data, b, row))
        return NULL;
    data_call at = data_call_at(data, call);
    oracle_sequence s = data_sequence(data, &at, layer, b);
    if (!entry->scores) {
        entry->tiles = oracle_tile_count(&data->rule, &s);
        entry->scores = memory_alloc((size_t)data->rows * entry->tiles, sizeof(double *));
    }
    double **scores = &entry->scores[(size_t)row * entry->tiles + tile];
    if (!*scores) {
        oracle_tile found = oracle_tile_at(&data->rule, &s, tile);
        *scores = memory_alloc(found.candidates, sizeof(double));
        oracle_pool(&data->rule, &s, &found, row, expect_lse(cache, call, layer, b)->lse, false, *scores);
    }
    return *scores;
}
