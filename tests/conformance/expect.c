/* expect.c - the oracle's results, kept by call, layer and sequence. */
#include "expect.h"

#include "memory.h"

typedef struct expectation {
    bool has_dense;
    oracle_output dense;
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

void expect_free(expect_cache *cache)
{
    const case_data *data = cache->data;
    for (size_t i = 0; i < (size_t)data->calls * data->layers * data->c->batch; i++) {
        expectation *entry = &cache->entries[i];
        oracle_output_free(&entry->dense);
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

const oracle_output *expect_dense(expect_cache *cache, uint32_t call, uint32_t layer, uint32_t b)
{
    const case_data *data = cache->data;
    expectation *entry = entry_at(cache, call, layer, b);
    if (!entry->has_dense) {
        data_call at = data_call_at(data, call);
        oracle_sequence s = data_sequence(data, &at, layer, b);
        entry->dense =
            oracle_attend(&data->rule, &s, data->c->dtype, NULL, NULL, &data->dirty[b * data->c->kv_heads]);
        entry->has_dense = true;
    }
    return &entry->dense;
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
        oracle_pool(&data->rule, &s, &found, row, expect_dense(cache, call, layer, b)->lse, false, *scores);
    }
    return *scores;
}
