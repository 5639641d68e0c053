/* data.c - fills a case's logical values from its seed and lays them out as a device sees them. */
#include "data.h"

#include "../conformance/memory.h"

#include <math.h>
#include <string.h>

/* Pages of the pool that no sequence uses. */
#define SPARE_PAGES 3
/* A page table's entries past a sequence's last page: never to be read. */
#define PAGE_NEVER_READ (-77)

static uint32_t most(const uint32_t *values, uint32_t count)
{
    uint32_t found = 0;
    for (uint32_t i = 0; i < count; i++)
        found = values[i] > found ? values[i] : found;
    return found;
}

static uint32_t sum(const uint32_t *values, uint32_t count)
{
    uint32_t total = 0;
    for (uint32_t i = 0; i < count; i++)
        total += values[i];
    return total;
}

static bool has(const case_data *data, uint32_t trait)
{
    return (data->c->traits & trait) != 0;
}

/* ---- Images ---------------------------------------------------------------------------------------------------- */

data_image data_image_make(uint64_t payload, uint64_t skew, uint8_t poison)
{
    data_image image = {NULL, (DATA_GUARD + skew + payload + DATA_GUARD + 3) / 4 * 4, DATA_GUARD + skew, poison};
    image.bytes = memory_alloc(image.size, 1);
    memset(image.bytes, poison, image.size);
    return image;
}

void data_image_free(data_image *image)
{
    free(image->bytes);
    image->bytes = NULL;
}

static void put_integer(data_image *image, uint64_t index, int32_t value)
{
    memcpy(image->bytes + image->base + index * sizeof(value), &value, sizeof(value));
}

static void put_values(const case_data *data, data_image *image, uint64_t at, const float *values)
{
    for (uint32_t d = 0; d < data->c->head_dim; d++)
        storage_put(data->c->dtype, image->bytes + image->base, at + d, values[d]);
}

/* ---- Calls ----------------------------------------------------------------------------------------------------- */

data_call data_call_at(const case_data *data, uint32_t index)
{
    const conformance_case *c = data->c;
    data_call call = {0};
    for (uint32_t b = 0; b < c->batch; b++) {
        call.q_len[b] = c->q_len[b];
        call.kv_len[b] = c->kv_len[b];
        if (c->chunk) {
            uint32_t first = c->kv_len[b] - c->q_len[b];
            call.first = index * c->chunk;
            call.q_len[b] = call.first + c->chunk > c->q_len[b] ? c->q_len[b] - call.first : c->chunk;
            call.kv_len[b] = first + call.first + call.q_len[b];
        }
    }
    call.queries = most(call.q_len, c->batch);
    call.keys = most(call.kv_len, c->batch);
    return call;
}

oracle_sequence data_sequence(const case_data *data, const data_call *call, uint32_t layer, uint32_t b)
{
    size_t token = (size_t)data->rule.heads * data->c->head_dim;
    return (oracle_sequence){
        .queries = call->q_len[b],
        .keys = call->kv_len[b],
        .final_len = data->final_len[b],
        .q = data->q[layer][b] ? data->q[layer][b] + call->first * token : NULL,
        .k = data->k[b],
        .v = data->v[b],
        .absent = data->absent[b],
    };
}

/* ---- Logical values -------------------------------------------------------------------------------------------- */

static float draw(const conformance_case *c, storage_random *random)
{
    double value = c->values == CASE_COARSE ? (double)storage_random_below(random, 3) - 1.0
                   : c->values == CASE_PEAKED ? 6.0 * storage_random_normal(random)
                                              : storage_random_normal(random);
    return storage_round(c->dtype, (float)value);
}

static float *draw_values(const conformance_case *c, size_t count, storage_random *random)
{
    float *values = memory_alloc(count, sizeof(float));
    for (size_t i = 0; i < count; i++)
        values[i] = draw(c, random);
    return values;
}

static void copy_first_key(const case_data *data, float *k, uint32_t keys)
{
    size_t row = (size_t)data->c->kv_heads * data->c->head_dim;
    for (uint32_t j = 1; j < keys; j++)
        memcpy(k + j * row, k, row * sizeof(float));
}

static void fill_values(case_data *data, storage_random *random)
{
    const conformance_case *c = data->c;
    size_t query = (size_t)data->rule.heads * c->head_dim, key = (size_t)c->kv_heads * c->head_dim;
    for (uint32_t b = 0; b < c->batch; b++) {
        for (uint32_t layer = 0; layer < data->layers; layer++)
            data->q[layer][b] = draw_values(c, c->q_len[b] * query, random);
        data->k[b] = draw_values(c, c->kv_len[b] * key, random);
        data->v[b] = draw_values(c, c->kv_len[b] * key, random);
        if (c->values == CASE_EQUAL)
            copy_first_key(data, data->k[b], c->kv_len[b]);
    }
}

/* One NaN in the last kv head of the last sequence that has queries and keys, a third of the way in. */
static void plant_nan(case_data *data)
{
    const conformance_case *c = data->c;
    uint32_t b = c->batch - 1, g = c->kv_heads - 1, d = c->head_dim / 2;
    if (c->nan == CASE_NAN_NONE)
        return;
    while (c->q_len[b] == 0 || c->kv_len[b] == 0)
        b--;
    size_t query = c->q_len[b] / 3, key = c->kv_len[b] / 3;
    data->dirty[b * c->kv_heads + g] = true;
    if (c->nan == CASE_NAN_K)
        data->k[b][(key * c->kv_heads + g) * c->head_dim + d] = NAN;
    if (c->nan == CASE_NAN_V)
        data->v[b][(key * c->kv_heads + g) * c->head_dim + d] = NAN;
    for (uint32_t layer = 0; c->nan == CASE_NAN_Q && layer < data->layers; layer++)
        data->q[layer][b][(query * data->rule.heads + g * c->group) * c->head_dim + d] = NAN;
}

/* ---- Layouts --------------------------------------------------------------------------------------------------- */

/* `odd` tells tensors with padded strides apart. */
static data_layout make_layout(const case_data *data, uint32_t tokens, uint32_t heads, uint32_t odd)
{
    uint32_t dim = data->c->head_dim;
    if (has(data, CASE_PADDED)) {
        uint32_t head = dim + odd, token = head * heads + 2 * odd + 1;
        return (data_layout){{token * tokens + 3 * odd, token, head}, false};
    }
    if (has(data, CASE_HEAD_MAJOR))
        return (data_layout){{heads * tokens * dim, dim, tokens * dim}, false};
    return (data_layout){{tokens * heads * dim, heads * dim, dim}, data->c->chunk == 0};
}

static uint64_t skew_of(const case_data *data, uint32_t elements)
{
    return has(data, CASE_MISALIGNED) ? elements * storage_size(data->c->dtype) : 0;
}

static data_image tensor_image(const case_data *data, const data_layout *layout, uint32_t outer, uint32_t skew)
{
    uint64_t elements = (uint64_t)layout->stride[0] * (outer ? outer : 1);
    return data_image_make(elements * storage_size(data->c->dtype), skew_of(data, skew), DATA_POISON);
}

uint64_t data_query_at(const case_data *data, const data_layout *layout, uint32_t b, uint32_t i, uint32_t h)
{
    uint64_t row = has(data, CASE_STARTS) ? (uint64_t)(data->q_starts[b] + i) * layout->stride[1]
                                          : (uint64_t)b * layout->stride[0] + (uint64_t)i * layout->stride[1];
    return row + (uint64_t)h * layout->stride[2];
}

uint64_t data_lse_at(const case_data *data, const data_call *call, uint32_t b, uint32_t i, uint32_t h)
{
    return ((uint64_t)b * data->rule.heads + h) * call->queries + i;
}

uint64_t data_tile_at(const case_data *data, uint32_t width, uint32_t b, uint32_t row, uint32_t tile)
{
    return (((uint64_t)b * data->rows + row) * data->tiles + tile) * width;
}

static void fill_queries(case_data *data)
{
    const conformance_case *c = data->c;
    bool packed_rows = has(data, CASE_STARTS);
    uint32_t tokens = packed_rows ? sum(c->q_len, c->batch) : most(c->q_len, c->batch);
    data->q_layout = make_layout(data, tokens ? tokens : 1, data->rule.heads, 3);
    data->out_layout = make_layout(data, tokens ? tokens : 1, data->rule.heads, 5);
    data->out_image = tensor_image(data, &data->out_layout, packed_rows ? 1 : c->batch, 5);
    for (uint32_t layer = 0; layer < data->layers; layer++) {
        data->q_image[layer] = tensor_image(data, &data->q_layout, packed_rows ? 1 : c->batch, 3);
        for (uint32_t b = 0; b < c->batch; b++)
            for (uint32_t i = 0; i < c->q_len[b]; i++)
                for (uint32_t h = 0; h < data->rule.heads; h++)
                    put_values(data, &data->q_image[layer], data_query_at(data, &data->q_layout, b, i, h),
                               data->q[layer][b] + ((size_t)i * data->rule.heads + h) * c->head_dim);
    }
}

static void put_keys(case_data *data, data_image *image, const data_layout *layout, uint32_t block, const float *values,
                     uint32_t token)
{
    for (uint32_t g = 0; g < data->c->kv_heads; g++)
        put_values(data, image,
                   (uint64_t)block * layout->stride[0] + (uint64_t)token * layout->stride[1] +
                       (uint64_t)g * layout->stride[2],
                   values + (size_t)g * data->c->head_dim);
}

static void fill_contiguous(case_data *data)
{
    const conformance_case *c = data->c;
    uint32_t room = has(data, CASE_DEFAULT_KEYS) ? data->session_keys : most(c->kv_len, c->batch);
    size_t row = (size_t)c->kv_heads * c->head_dim;
    data->segments = has(data, CASE_SEGMENTS) ? (c->batch < DATA_MAX_SEGMENTS ? c->batch : DATA_MAX_SEGMENTS) : 1;
    data->k_layout = make_layout(data, room, c->kv_heads, 7);
    data->v_layout = make_layout(data, room, c->kv_heads, 9);
    uint32_t b = 0;
    for (uint32_t s = 0; s < data->segments; s++) {
        uint32_t count = s + 1 < data->segments ? 1 : c->batch - b;
        data->segment_count[s] = count;
        data->k_image[s] = tensor_image(data, &data->k_layout, count, 1);
        data->v_image[s] = tensor_image(data, &data->v_layout, count, 7);
        for (uint32_t z = 0; z < count; z++, b++) {
            for (uint32_t j = 0; j < c->kv_len[b]; j++) {
                put_keys(data, &data->k_image[s], &data->k_layout, z, data->k[b] + j * row, j);
                put_keys(data, &data->v_image[s], &data->v_layout, z, data->v[b] + j * row, j);
            }
        }
    }
}

/* ---- Pages ----------------------------------------------------------------------------------------------------- */

static void shuffle(uint32_t *values, uint32_t count, storage_random *random)
{
    for (uint32_t i = count; i > 1; i--) {
        uint32_t other = storage_random_below(random, i), kept = values[other];
        values[other] = values[i - 1];
        values[i - 1] = kept;
    }
}

static uint32_t pages_of(const conformance_case *c, uint32_t b)
{
    return (c->kv_len[b] + c->page_size - 1) / c->page_size;
}

/* Hands out shuffled pages; the table's image says so, but for the entries that bad pages spoil. */
static void deal_pages(case_data *data, storage_random *random)
{
    const conformance_case *c = data->c;
    data->page_table_stride = (data->session_keys + c->page_size - 1) / c->page_size + (has(data, CASE_PADDED) ? 2 : 0);
    data->page_count = SPARE_PAGES;
    for (uint32_t b = 0; b < c->batch; b++)
        data->page_count += pages_of(c, b);
    uint32_t *order = memory_alloc(data->page_count, sizeof(uint32_t));
    for (uint32_t p = 0; p < data->page_count; p++)
        order[p] = p;
    shuffle(order, data->page_count, random);
    uint64_t entries = (uint64_t)c->batch * data->page_table_stride;
    data->pages = memory_alloc(entries, sizeof(int32_t));
    data->page_table_image = data_image_make(entries * sizeof(int32_t), 0, DATA_POISON_INTEGER);
    uint32_t dealt = 0;
    for (uint32_t b = 0; b < c->batch; b++) {
        for (uint32_t n = 0; n < data->page_table_stride; n++) {
            uint64_t at = (uint64_t)b * data->page_table_stride + n;
            data->pages[at] = n < pages_of(c, b) ? (int32_t)order[dealt++] : PAGE_NEVER_READ;
            put_integer(&data->page_table_image, at, data->pages[at]);
        }
    }
    free(order);
}

static void lose_page(case_data *data, uint32_t b, uint32_t page, int32_t entry)
{
    const conformance_case *c = data->c;
    put_integer(&data->page_table_image, (uint64_t)b * data->page_table_stride + page, entry);
    for (uint32_t j = page * c->page_size; j < (page + 1) * c->page_size && j < c->kv_len[b]; j++)
        data->absent[b][j] = true;
}

/* Of the first sequence some pages in the middle, of the last one all. */
static void spoil_pages(case_data *data)
{
    const conformance_case *c = data->c;
    const int32_t bad[] = {-1, (int32_t)data->page_count, INT32_MIN, INT32_MAX};
    if (!has(data, CASE_BAD_PAGES))
        return;
    for (uint32_t b = 0; b < c->batch; b++)
        data->absent[b] = memory_alloc(c->kv_len[b], sizeof(bool));
    for (uint32_t n = 0; n < pages_of(c, 0); n += 3)
        lose_page(data, 0, n, bad[n / 3 % 4]);
    for (uint32_t n = 0; n < pages_of(c, c->batch - 1); n++)
        lose_page(data, c->batch - 1, n, bad[n % 4]);
    data->expected_bits |= KAS_CHECK_PAGE;
}

static void fill_paged(case_data *data, storage_random *random)
{
    const conformance_case *c = data->c;
    size_t row = (size_t)c->kv_heads * c->head_dim;
    deal_pages(data, random);
    data->segments = 1;
    data->segment_count[0] = c->batch;
    data->k_layout = make_layout(data, c->page_size, c->kv_heads, 7);
    data->v_layout = make_layout(data, c->page_size, c->kv_heads, 9);
    data->k_image[0] = tensor_image(data, &data->k_layout, data->page_count, 1);
    data->v_image[0] = tensor_image(data, &data->v_layout, data->page_count, 7);
    for (uint32_t b = 0; b < c->batch; b++) {
        for (uint32_t j = 0; j < c->kv_len[b]; j++) {
            uint32_t page = (uint32_t)data->pages[(uint64_t)b * data->page_table_stride + j / c->page_size];
            put_keys(data, &data->k_image[0], &data->k_layout, page, data->k[b] + j * row, j % c->page_size);
            put_keys(data, &data->v_image[0], &data->v_layout, page, data->v[b] + j * row, j % c->page_size);
        }
    }
    spoil_pages(data);
}

/* ---- Device-side lengths --------------------------------------------------------------------------------------- */

/* Sequences of no tokens are given lengths that a device must refuse, in turn. */
static void refuse_lengths(case_data *data)
{
    const int32_t q[] = {-1, 2, 1, INT32_MIN, 1}, kv[] = {5, 1, INT32_MAX, 4, -3};
    uint32_t used = 0;
    for (uint32_t b = 0; b < data->c->batch; b++) {
        if (data->c->kv_len[b] != 0)
            continue;
        put_integer(&data->q_lens_image, b, q[used % 5]);
        put_integer(&data->kv_lens_image, b, kv[used % 5]);
        used++;
    }
    data->expected_bits |= KAS_CHECK_LENGTH;
}

/* Sequences of no tokens are given one, and starts from where it does not lie within q and out. */
static void refuse_starts(case_data *data)
{
    uint64_t past = data->q_image[0].size / storage_size(data->c->dtype) / data->q_layout.stride[1] + 1;
    const int32_t starts[] = {-1, (int32_t)past, INT32_MAX, INT32_MIN};
    uint32_t used = 0;
    for (uint32_t b = 0; b < data->c->batch; b++) {
        if (data->c->kv_len[b] != 0)
            continue;
        put_integer(&data->q_lens_image, b, 1);
        put_integer(&data->kv_lens_image, b, 1);
        put_integer(&data->q_starts_image, b, starts[used++ % 4]);
    }
    data->expected_bits |= KAS_CHECK_LENGTH;
}

static void fill_lengths(case_data *data)
{
    const conformance_case *c = data->c;
    uint64_t size = c->batch * sizeof(int32_t);
    data->q_lens_image = data_image_make(size, 0, DATA_POISON_INTEGER);
    data->kv_lens_image = data_image_make(size, 0, DATA_POISON_INTEGER);
    data->q_starts_image = data_image_make(size, 0, DATA_POISON_INTEGER);
    data->final_lens_image = data_image_make(size, 0, DATA_POISON_INTEGER);
    for (uint32_t b = 0; b < c->batch; b++) {
        put_integer(&data->q_lens_image, b, (int32_t)c->q_len[b]);
        put_integer(&data->kv_lens_image, b, (int32_t)c->kv_len[b]);
        put_integer(&data->q_starts_image, b, (int32_t)data->q_starts[b]);
        put_integer(&data->final_lens_image, b, (int32_t)data->final_len[b]);
    }
    if (has(data, CASE_BAD_LENGTHS))
        refuse_lengths(data);
    if (has(data, CASE_BAD_STARTS))
        refuse_starts(data);
}

/* Packed rows in another order than the sequences, so that nothing can be right by counting. */
static void place_rows(case_data *data)
{
    uint32_t row = 0;
    for (uint32_t n = data->c->batch; n > 0; n--) {
        data->q_starts[n - 1] = row;
        row += data->c->q_len[n - 1];
    }
}

static void choose_final_lengths(case_data *data)
{
    const conformance_case *c = data->c;
    for (uint32_t b = 0; b < c->batch; b++)
        data->final_len[b] = has(data, CASE_FINAL_LENS) ? c->kv_len[b] + (data->session_keys - c->kv_len[b]) / 2
                             : c->topk.mode == KAS_TOPK_FIXED ? data->session_keys
                                                              : c->kv_len[b];
}

/* ---- Lists and scores of the caller ---------------------------------------------------------------------------- */

/* How many rows of a list axis, how wide, for the sequences of the one call. */
static void size_tiles(case_data *data)
{
    const conformance_case *c = data->c;
    data_call call = data_call_at(data, 0);
    uint32_t candidates = 0, keep = 0;
    data->rows = c->pooling == KAS_POOLING_ALL_HEADS ? 1 : c->kv_heads;
    data->tiles = 1;
    for (uint32_t b = 0; b < c->batch; b++) {
        oracle_sequence s = data_sequence(data, &call, 0, b);
        uint32_t tiles = oracle_tile_count(&data->rule, &s);
        data->tiles = tiles > data->tiles ? tiles : data->tiles;
        for (uint32_t u = 0; u < tiles; u++) {
            oracle_tile tile = oracle_tile_at(&data->rule, &s, u);
            candidates = tile.candidates > candidates ? tile.candidates : candidates;
            keep = tile.keep > keep ? tile.keep : keep;
        }
    }
    if (c->phase == KAS_PHASE_PREFILL && has(data, CASE_LENS)) {
        /* Lengths on the device: a sequence may begin anywhere in a tile. */
        uint32_t keys = has(data, CASE_DEFAULT_KEYS) ? data->session_keys : call.keys;
        uint32_t touched = (call.queries + c->tile - 2) / c->tile + 1, whole = (keys - 1) / c->tile + 1;
        uint32_t ragged = touched < whole ? touched : whole;
        data->tiles = ragged > data->tiles ? ragged : data->tiles;
    }
    data->list_width = keep + 5;
    data->score_stride = candidates + 3;
    if (c->operation == CASE_SELECT || c->operation == CASE_SCORES || c->operation == CASE_MASS) {
        /* Without reading lengths the host can only ask for room for all keys. */
        data->score_stride = call.keys + 3;
        data->list_width = oracle_topk(&c->topk, call.keys, data->session_keys) + 5;
    }
}

static float special_score(storage_random *random)
{
    const float values[] = {NAN, -NAN, INFINITY, -INFINITY, 0.0f, -0.0f, 1e-42f, -1e-42f, 1.0f, -1.0f, 3e38f, 1e-38f};
    return values[storage_random_below(random, sizeof(values) / sizeof(values[0]))];
}

static float draw_score(const case_data *data, storage_random *random)
{
    switch (data->c->values) {
    case CASE_COARSE:
        return (float)storage_random_below(random, 5) * 0.25f;
    case CASE_EQUAL:
        return 0.5f;
    case CASE_SPECIAL:
        return storage_random_below(random, 3) ? special_score(random) : (float)storage_random_normal(random);
    default:
        return (float)exp(storage_random_normal(random) * 4.0);
    }
}

static void fill_scores(case_data *data, storage_random *random)
{
    const conformance_case *c = data->c;
    data_call call = data_call_at(data, 0);
    uint64_t tiles = (uint64_t)c->batch * data->rows * data->tiles;
    data->scores_image = data_image_make(tiles * data->score_stride * sizeof(float), 0, DATA_POISON);
    for (uint32_t b = 0; data_has_scores(c) && b < c->batch; b++) {
        oracle_sequence s = data_sequence(data, &call, 0, b);
        for (uint32_t u = 0; u < oracle_tile_count(&data->rule, &s); u++) {
            oracle_tile tile = oracle_tile_at(&data->rule, &s, u);
            for (uint32_t row = 0; row < data->rows; row++)
                for (uint32_t j = 0; j < tile.candidates; j++)
                    storage_put(KAS_DTYPE_F32, data->scores_image.bytes + data->scores_image.base,
                                data_tile_at(data, data->score_stride, b, row, u) + j, draw_score(data, random));
        }
    }
}

/* About `wanted` of n positions, ascending. */
static uint32_t draw_list(uint32_t n, uint32_t wanted, int32_t *list, storage_random *random)
{
    uint32_t count = 0;
    for (uint32_t j = 0; j < n && count < wanted; j++)
        if (storage_random_below(random, n - j) < wanted - count)
            list[count++] = (int32_t)j;
    return count;
}

/* The list as the caller hands it over: absent entries among the valid ones, the rest -1. */
static void put_list(case_data *data, uint64_t at, const oracle_tile *tile, const int32_t *list, uint32_t count,
                     storage_random *random)
{
    const int32_t bad[] = {INT32_MAX, (int32_t)tile->candidates, -2, INT32_MIN};
    uint32_t spare = data->list_width - count, used = 0;
    for (uint32_t n = 0; n < data->list_width; n++)
        put_integer(&data->lists_image, at + n, -1);
    for (uint32_t n = 0; n < count; n++) {
        if (spare > 0 && storage_random_below(random, 8) == 0) {
            put_integer(&data->lists_image, at + used++, has(data, CASE_BAD_LISTS) ? bad[spare % 4] : -1);
            spare--;
        }
        put_integer(&data->lists_image, at + used++, list[n]);
    }
    if (has(data, CASE_BAD_LISTS) && used < data->list_width)
        put_integer(&data->lists_image, at + used, (int32_t)tile->candidates);
}

static void fill_lists(case_data *data, storage_random *random)
{
    const conformance_case *c = data->c;
    data_call call = data_call_at(data, 0);
    uint64_t tiles = (uint64_t)c->batch * data->rows * data->tiles;
    data->lists_image = data_image_make(tiles * data->list_width * sizeof(int32_t), 0, DATA_POISON_INTEGER);
    if (!data_has_lists(c))
        return;
    for (uint32_t b = 0; b < c->batch; b++) {
        oracle_sequence s = data_sequence(data, &call, 0, b);
        oracle_lists *given = &data->given[b];
        *given = oracle_lists_make(data->rows, data->tiles, data->list_width);
        for (uint32_t row = 0; row < data->rows; row++) {
            for (uint32_t u = 0; u < oracle_tile_count(&data->rule, &s); u++) {
                oracle_tile tile = oracle_tile_at(&data->rule, &s, u);
                uint32_t wanted = (row + u) % 4 == 3 ? 0 : storage_random_below(random, data->list_width - 2) + 1;
                uint32_t count = draw_list(tile.candidates, wanted, oracle_list(given, row, u), random);
                given->count[(size_t)row * given->tiles + u] = count;
                put_list(data, data_tile_at(data, data->list_width, b, row, u), &tile, oracle_list(given, row, u),
                         count, random);
            }
        }
    }
    data->expected_bits |= has(data, CASE_BAD_LISTS) ? KAS_CHECK_LIST : 0;
}

/* ---- The whole ------------------------------------------------------------------------------------------------- */

static void make_rule(case_data *data)
{
    const conformance_case *c = data->c;
    data->rule = (oracle_rule){
        .heads = c->kv_heads * c->group,
        .kv_heads = c->kv_heads,
        .head_dim = c->head_dim,
        .tile = c->tile,
        .scale = c->scale != 0.0f ? (double)c->scale : 1.0 / sqrt((double)c->head_dim),
        .topk = c->topk,
        .all_heads = c->pooling == KAS_POOLING_ALL_HEADS,
        .phase = c->phase,
    };
}

static void draw_maps(case_data *data, storage_random *random)
{
    uint32_t kv_heads = data->c->kv_heads;
    for (uint32_t i = 0; i < kv_heads * DATA_LAYERS; i++) {
        data->head_map[i] = storage_random_below(random, kv_heads);
        data->normalizer_map[i] = storage_random_below(random, kv_heads);
    }
}

static void count_calls(case_data *data)
{
    const conformance_case *c = data->c;
    uint32_t queries = most(c->q_len, c->batch);
    uint32_t room = has(data, CASE_ROOM) || has(data, CASE_FINAL_LENS) ? 700 : 0;
    data->calls = c->chunk ? (queries + c->chunk - 1) / c->chunk : 1;
    data->session_queries = c->chunk ? c->chunk : queries;
    data->session_keys = most(c->kv_len, c->batch) + room;
    if (has(data, CASE_ROOM) && c->phase == KAS_PHASE_PREFILL)
        data->session_queries += 37;
}

case_data *data_make(const conformance_case *c)
{
    case_data *data = memory_alloc(1, sizeof(*data));
    storage_random random = {c->seed};
    data->c = c;
    data->layers = c->operation == CASE_LAYERS ? DATA_LAYERS : 1;
    data->dirty = memory_alloc((size_t)c->batch * c->kv_heads, sizeof(bool));
    make_rule(data);
    count_calls(data);
    draw_maps(data, &random);
    place_rows(data);
    choose_final_lengths(data);
    if (!data_has_scores(c)) {
        fill_values(data, &random);
        plant_nan(data);
        fill_queries(data);
        if (c->page_size)
            fill_paged(data, &random);
        else
            fill_contiguous(data);
    }
    fill_lengths(data);
    size_tiles(data);
    fill_scores(data, &random);
    fill_lists(data, &random);
    uint64_t mass = (uint64_t)c->batch * data->rows * data->tiles * (data->rows + 1);
    data->mass_image = data_image_make(mass * sizeof(float), 0, DATA_POISON);
    uint64_t lse = (uint64_t)c->batch * data->rule.heads * most(c->q_len, c->batch);
    data->lse_image = data_image_make(lse * sizeof(float), 0, DATA_POISON);
    return data;
}

void data_free(case_data *data)
{
    data_image *images[] = {&data->out_image,        &data->lse_image,        &data->q_lens_image,
                            &data->kv_lens_image,    &data->q_starts_image,   &data->final_lens_image,
                            &data->page_table_image, &data->lists_image,      &data->scores_image,
                            &data->mass_image};
    for (size_t i = 0; i < sizeof(images) / sizeof(images[0]); i++)
        data_image_free(images[i]);
    for (uint32_t b = 0; b < CASE_MAX_BATCH; b++) {
        free(data->k[b]);
        free(data->v[b]);
        free(data->absent[b]);
        oracle_lists_free(&data->given[b]);
    }
    for (uint32_t layer = 0; layer < DATA_LAYERS; layer++) {
        data_image_free(&data->q_image[layer]);
        for (uint32_t b = 0; b < CASE_MAX_BATCH; b++)
            free(data->q[layer][b]);
    }
    for (uint32_t s = 0; s < DATA_MAX_SEGMENTS; s++) {
        data_image_free(&data->k_image[s]);
        data_image_free(&data->v_image[s]);
    }
    free(data->dirty);
    free(data->pages);
    free(data);
}
