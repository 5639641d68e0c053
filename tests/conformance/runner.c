/* runner.c - one case on one context: its buffers, its session, its calls, and what must come of them. */
#include "runner.h"

#include "device_memory.h"
#include "memory.h"
#include "verify.h"

#include <string.h>

/* The plan of CASE_LAYERS: dense + select, reuse, anchor, dense, reuse, anchor, reuse. */
static const uint32_t plan_anchors[] = {0, 2, 5};
static const uint32_t plan_dense[] = {3};
#define PLAN_ANCHORS 3
/* The layer whose head map CASE_MAPPED reads lists through. */
#define MAPPED_LAYER 1

typedef struct runner {
    const case_data *data;
    const conformance_case *c;
    expect_cache *expected;
    conformance_result *result;
    device_memory memory;
    const device_block *q[DATA_LAYERS], *k[DATA_MAX_SEGMENTS], *v[DATA_MAX_SEGMENTS];
    const device_block *out, *lse, *q_lens, *kv_lens, *q_starts, *final_lens, *page_table, *lists, *scores, *mass;
    const device_block *own_lists, *own_scratch;
    kas_kv_segment segments[DATA_MAX_SEGMENTS];
    kas_plan *plan;
    kas_session *session;
    oracle_lists published[CASE_MAX_BATCH];
} runner;

static bool has(const runner *r, uint32_t trait)
{
    return (r->c->traits & trait) != 0;
}

static bool ok(const runner *r, const char *what, kas_status status)
{
    return device_ok(r->result, what, status);
}

/* ---- Buffers --------------------------------------------------------------------------------------------------- */

static bool upload(runner *r, const device_block **block, const char *name, device_use use, const data_image *image)
{
    *block = device_upload(&r->memory, name, use, image);
    return *block != NULL;
}

static bool upload_tensors(runner *r)
{
    const case_data *data = r->data;
    if (data_has_scores(r->c))
        return true;
    for (uint32_t layer = 0; layer < data->layers; layer++)
        if (!upload(r, &r->q[layer], "q", DEVICE_INPUT, &data->q_image[layer]))
            return false;
    for (uint32_t s = 0; s < data->segments; s++)
        if (!upload(r, &r->k[s], "k", DEVICE_INPUT, &data->k_image[s]) ||
            !upload(r, &r->v[s], "v", DEVICE_INPUT, &data->v_image[s]))
            return false;
    return upload(r, &r->out, "out", DEVICE_OUTPUT, &data->out_image) &&
           upload(r, &r->lse, "lse", DEVICE_OUTPUT, &data->lse_image) &&
           (!r->c->page_size || upload(r, &r->page_table, "page_table", DEVICE_INPUT, &data->page_table_image));
}

static bool upload_all(runner *r)
{
    const case_data *data = r->data;
    bool gives_lists = data_has_lists(r->c), gives_scores = data_has_scores(r->c);
    return upload_tensors(r) && upload(r, &r->q_lens, "q_lens", DEVICE_INPUT, &data->q_lens_image) &&
           upload(r, &r->kv_lens, "kv_lens", DEVICE_INPUT, &data->kv_lens_image) &&
           upload(r, &r->q_starts, "q_starts", DEVICE_INPUT, &data->q_starts_image) &&
           upload(r, &r->final_lens, "final_lens", DEVICE_INPUT, &data->final_lens_image) &&
           upload(r, &r->lists, "lists", gives_lists ? DEVICE_INPUT : DEVICE_OUTPUT, &data->lists_image) &&
           upload(r, &r->scores, "scores", gives_scores ? DEVICE_INPUT : DEVICE_OUTPUT, &data->scores_image) &&
           upload(r, &r->mass, "mass", DEVICE_OUTPUT, &data->mass_image);
}

/* ---- Session --------------------------------------------------------------------------------------------------- */

static bool make_plan(runner *r)
{
    const conformance_case *c = r->c;
    kas_plan_desc desc = {
        .struct_size = sizeof(desc),
        .layers = DATA_LAYERS,
        .heads = r->data->rule.heads,
        .kv_heads = c->kv_heads,
        .tile = c->tile,
        .topk = c->topk,
        .pooling = c->pooling,
        .normalizer = c->normalizer,
        .anchors = plan_anchors,
        .anchor_count = PLAN_ANCHORS,
        .head_map = r->data->head_map,
        .normalizer_map = c->normalizer == KAS_NORMALIZER_ESTIMATED ? r->data->normalizer_map : NULL,
        .dense_layers = plan_dense,
        .dense_layer_count = 1,
    };
    return ok(r, "kas_plan_create", kas_plan_create(&desc, &r->plan));
}

static uint32_t most_queries(const conformance_case *c)
{
    uint32_t most = 0;
    for (uint32_t b = 0; b < c->batch; b++)
        most = c->q_len[b] > most ? c->q_len[b] : most;
    return most;
}

static kas_session_desc describe_session(const runner *r)
{
    const conformance_case *c = r->c;
    kas_session_desc desc = {
        .struct_size = sizeof(desc),
        .plan = r->plan,
        .head_dim = c->head_dim,
        .dtype = c->dtype,
        .scale = c->scale,
        .max_batch = c->batch + (has(r, CASE_ROOM) ? 2 : 0),
        .max_keys = r->data->session_keys,
        .page_size = c->page_size,
    };
    if (c->phase == KAS_PHASE_PREFILL)
        desc.max_queries = r->data->session_queries;
    else
        desc.max_decode_queries = most_queries(c);
    if (!r->plan) {
        desc.heads = r->data->rule.heads;
        desc.kv_heads = c->kv_heads;
        desc.tile = c->tile;
        desc.topk = c->topk;
        desc.pooling = c->pooling;
    }
    return desc;
}

/* Halves the scratch until a session refuses; the last size that was accepted. */
static bool tighten(const runner *r, kas_session_desc *desc)
{
    kas_workspace_size size = {0};
    if (!ok(r, "kas_session_workspace_size", kas_session_workspace_size(r->memory.context, desc, &size)))
        return false;
    for (uint64_t limit = size.scratch; limit > 0; limit /= 2) {
        kas_session_desc smaller = *desc;
        smaller.scratch_limit = limit;
        kas_status status = kas_session_workspace_size(r->memory.context, &smaller, &size);
        if (status == KAS_ERROR_LIMIT)
            return true;
        if (!ok(r, "kas_session_workspace_size", status))
            return false;
        if (size.scratch > limit) {
            result_fail(r->result, "scratch is %llu bytes, scratch_limit was %llu", (unsigned long long)size.scratch,
                        (unsigned long long)limit);
            return false;
        }
        *desc = smaller;
    }
    return true;
}

static bool give_memory(runner *r, kas_session_desc *desc)
{
    kas_workspace_size size = {0};
    if (!ok(r, "kas_session_workspace_size", kas_session_workspace_size(r->memory.context, desc, &size)))
        return false;
    if (size.lists && !(r->own_lists = device_reserve(&r->memory, "session lists", size.lists)))
        return false;
    if (size.scratch && !(r->own_scratch = device_reserve(&r->memory, "session scratch", size.scratch)))
        return false;
    desc->lists = r->own_lists ? device_slice(r->own_lists) : desc->lists;
    desc->scratch = r->own_scratch ? device_slice(r->own_scratch) : desc->scratch;
    return true;
}

static bool make_session(runner *r)
{
    if ((r->c->operation == CASE_LAYERS || has(r, CASE_MAPPED)) && !make_plan(r))
        return false;
    kas_session_desc desc = describe_session(r);
    if (has(r, CASE_TIGHT) && !tighten(r, &desc))
        return false;
    if (has(r, CASE_OWN_MEMORY) && !give_memory(r, &desc))
        return false;
    kas_status status = kas_session_create(r->memory.context, &desc, &r->session);
    if (status == KAS_ERROR_UNSUPPORTED) {
        result_skip(r->result, "%s", kas_last_error());
        return false;
    }
    return ok(r, "kas_session_create", status);
}

/* ---- Arguments ------------------------------------------------------------------------------------------------- */

static kas_tensor tensor_of(const runner *r, const device_block *block, const data_layout *layout, uint32_t token)
{
    kas_tensor tensor = {block->buffer, block->image->base, {0, 0, 0}};
    tensor.offset += (uint64_t)token * layout->stride[1] * storage_size(r->c->dtype);
    if (!layout->packed)
        memcpy(tensor.stride, layout->stride, sizeof(tensor.stride));
    return tensor;
}

static void give_cache(runner *r, kas_attention *args)
{
    const case_data *data = r->data;
    if (!has(r, CASE_SEGMENTS)) {
        args->k = tensor_of(r, r->k[0], &data->k_layout, 0);
        args->v = tensor_of(r, r->v[0], &data->v_layout, 0);
        return;
    }
    for (uint32_t s = 0; s < data->segments; s++)
        r->segments[s] = (kas_kv_segment){data->segment_count[s], tensor_of(r, r->k[s], &data->k_layout, 0),
                                          tensor_of(r, r->v[s], &data->v_layout, 0)};
    args->segments = r->segments;
    args->segment_count = data->segments;
}

static void give_lengths(const runner *r, kas_attention *args)
{
    if (has(r, CASE_LENS)) {
        args->q_lens = device_slice(r->q_lens);
        args->kv_lens = device_slice(r->kv_lens);
    }
    if (has(r, CASE_STARTS))
        args->q_starts = device_slice(r->q_starts);
    if (has(r, CASE_FINAL_LENS))
        args->final_lens = device_slice(r->final_lens);
    else if (r->c->topk.mode == KAS_TOPK_FIXED)
        args->final_len = r->data->session_keys;
}

static kas_attention arguments(runner *r, const data_call *call, uint32_t layer)
{
    const conformance_case *c = r->c;
    kas_attention args = {
        .struct_size = sizeof(args),
        .layer = layer,
        .batch = c->batch == 1 ? 0 : c->batch,
        .queries = c->phase == KAS_PHASE_DECODE && call->queries == 1 ? 0 : call->queries,
        .keys = has(r, CASE_DEFAULT_KEYS) ? 0 : call->keys,
    };
    give_lengths(r, &args);
    if (data_has_scores(c))
        return args;
    uint32_t source = r->data->layers > 1 ? layer : 0;
    args.q = tensor_of(r, r->q[source], &r->data->q_layout, call->first);
    give_cache(r, &args);
    if (c->operation != CASE_LSE && c->operation != CASE_SCORES)
        args.out = tensor_of(r, r->out, &r->data->out_layout, call->first);
    if (has(r, CASE_WITH_LSE) || c->operation == CASE_LSE)
        args.lse = device_slice(r->lse);
    if (c->page_size) {
        args.page_table = device_slice(r->page_table);
        args.page_table_stride = has(r, CASE_PADDED) ? r->data->page_table_stride : 0;
        args.page_count = r->data->page_count;
    }
    return args;
}

/* ---- Outputs --------------------------------------------------------------------------------------------------- */

/* Compares out and lse with outputs[b] and makes both ready for the next call. */
static bool check_outputs(runner *r, const char *what, const data_call *call, const oracle_output *const *outputs,
                          bool with_out, bool with_lse)
{
    uint8_t *out = device_download(&r->memory, r->out);
    uint8_t *lse = out ? device_download(&r->memory, r->lse) : NULL;
    if (lse) {
        char label[64];
        if (with_out)
            verify_attention(r->result, what, r->data, call, outputs, out);
        snprintf(label, sizeof(label), "%s, log-sum-exp", what);
        if (with_lse)
            verify_lse(r->result, label, r->data, call, outputs, lse);
        verify_untouched(r->result, "out", &r->data->out_image, out);
        verify_untouched(r->result, "lse", &r->data->lse_image, lse);
    }
    free(out);
    bool read = lse != NULL;
    free(lse);
    return read && device_restore(&r->memory, r->out) && device_restore(&r->memory, r->lse);
}

static bool check_dense(runner *r, const char *what, uint32_t index, uint32_t layer, bool with_out, bool with_lse)
{
    data_call call = data_call_at(r->data, index);
    const oracle_output *outputs[CASE_MAX_BATCH];
    for (uint32_t b = 0; b < r->c->batch; b++)
        outputs[b] = with_out ? expect_dense(r->expected, index, layer, b) : expect_lse(r->expected, index, layer, b);
    return check_outputs(r, what, &call, outputs, with_out, with_lse);
}

/* lists[b] of each sequence, read through map (NULL: the identity). */
static bool check_sparse(runner *r, const char *what, uint32_t index, uint32_t layer, const oracle_lists *lists,
                         const uint32_t *map)
{
    data_call call = data_call_at(r->data, index);
    const oracle_output *outputs[CASE_MAX_BATCH];
    uint32_t rows[64];
    for (uint32_t g = 0; g < r->c->kv_heads; g++)
        rows[g] = r->data->rule.all_heads ? 0 : map ? map[g] : g;
    for (uint32_t b = 0; b < r->c->batch; b++)
        outputs[b] = expect_sparse(r->expected, index, r->data->layers > 1 ? layer : 0, b, &lists[b], rows);
    return check_outputs(r, what, &call, outputs, true, has(r, CASE_WITH_LSE));
}

/* ---- Single operations ----------------------------------------------------------------------------------------- */

static bool run_attend(runner *r)
{
    data_call call = data_call_at(r->data, 0);
    kas_attention args = arguments(r, &call, 0);
    return ok(r, "kas_attend", kas_attend(r->session, r->memory.stream, r->c->phase, &args)) &&
           check_dense(r, "attend", 0, 0, true, has(r, CASE_WITH_LSE));
}

static bool run_lse(runner *r)
{
    data_call call = data_call_at(r->data, 0);
    kas_attention args = arguments(r, &call, 0);
    return ok(r, "kas_log_sum_exp", kas_log_sum_exp(r->session, r->memory.stream, r->c->phase, &args)) &&
           check_dense(r, "log-sum-exp", 0, 0, false, true);
}

static kas_scores scores_of(const runner *r)
{
    return (kas_scores){device_slice(r->scores), r->data->tiles, r->data->score_stride};
}

static kas_lists lists_of(const runner *r)
{
    return (kas_lists){device_slice(r->lists), r->data->tiles, r->data->list_width};
}

static bool run_scores(runner *r)
{
    const case_data *data = r->data;
    data_call call = data_call_at(data, 0);
    kas_attention args = arguments(r, &call, 0);
    kas_scores scores = scores_of(r);
    if (!ok(r, "kas_pooled_scores", kas_pooled_scores(r->session, r->memory.stream, r->c->phase, &args, &scores)))
        return false;
    uint8_t *bytes = device_download(&r->memory, r->scores);
    if (!bytes)
        return false;
    for (uint32_t b = 0; b < r->c->batch; b++) {
        oracle_sequence s = data_sequence(data, &call, 0, b);
        for (uint32_t u = 0; u < oracle_tile_count(&data->rule, &s); u++)
            for (uint32_t row = 0; row < data->rows; row++)
                verify_scores(r->result, data, data_tile_at(data, data->score_stride, b, row, u),
                              expect_scores(r->expected, 0, 0, b, row, u),
                              oracle_tile_at(&data->rule, &s, u).candidates, bytes);
    }
    verify_untouched(r->result, "scores", &data->scores_image, bytes);
    free(bytes);
    return true;
}

/* k of the session's rule is the oracle's for every count that may occur, and some that are larger. */
static void check_rule(const runner *r)
{
    for (uint32_t n = 0; n < r->data->session_keys + 70; n += 1 + n / 64) {
        uint32_t final_len = r->data->session_keys;
        uint32_t got = kas_session_topk(r->session, n, final_len), expected = oracle_topk(&r->c->topk, n, final_len);
        if (got != expected)
            result_fail(r->result, "kas_session_topk of %u is %u, the oracle's is %u", n, got, expected);
    }
}

static void check_selected(const runner *r, const data_call *call, uint32_t b, uint8_t *bytes)
{
    const case_data *data = r->data;
    oracle_sequence s = data_sequence(data, call, 0, b);
    const uint8_t *scores = data->scores_image.bytes + data->scores_image.base;
    double *values = memory_alloc(data->score_stride, sizeof(double));
    int32_t *expected = memory_alloc(data->list_width, sizeof(int32_t));
    for (uint32_t u = 0; u < oracle_tile_count(&data->rule, &s); u++) {
        oracle_tile tile = oracle_tile_at(&data->rule, &s, u);
        for (uint32_t row = 0; row < data->rows; row++) {
            uint64_t at = data_tile_at(data, data->score_stride, b, row, u);
            for (uint32_t j = 0; j < tile.candidates; j++)
                values[j] = storage_get(KAS_DTYPE_F32, scores, at + j);
            oracle_select(values, tile.candidates, tile.keep, expected);
            verify_exact_list(r->result, data, data_tile_at(data, data->list_width, b, row, u), expected, tile.keep,
                              bytes);
        }
    }
    free(values);
    free(expected);
}

static bool run_select(runner *r)
{
    data_call call = data_call_at(r->data, 0);
    kas_attention args = arguments(r, &call, 0);
    kas_scores scores = scores_of(r);
    kas_lists lists = lists_of(r);
    check_rule(r);
    if (!ok(r, "kas_select", kas_select(r->session, r->memory.stream, r->c->phase, &args, &scores, &lists)))
        return false;
    uint8_t *bytes = device_download(&r->memory, r->lists);
    if (!bytes)
        return false;
    for (uint32_t b = 0; b < r->c->batch; b++)
        check_selected(r, &call, b, bytes);
    verify_untouched(r->result, "lists", &r->data->lists_image, bytes);
    free(bytes);
    return true;
}

/* Sums of one tile's scores of row y over the lists of every row and over all candidates. */
static void check_mass(const runner *r, uint32_t b, const oracle_tile *tile, uint32_t y, uint32_t u, uint8_t *bytes)
{
    const case_data *data = r->data;
    const oracle_lists *lists = &data->given[b];
    float *values = memory_alloc(tile->candidates, sizeof(float));
    int32_t *all = memory_alloc(tile->candidates, sizeof(int32_t));
    for (uint32_t j = 0; j < tile->candidates; j++) {
        values[j] = storage_get(KAS_DTYPE_F32, data->scores_image.bytes + data->scores_image.base,
                                data_tile_at(data, data->score_stride, b, y, u) + j);
        all[j] = (int32_t)j;
    }
    uint64_t at = data_tile_at(data, data->rows + 1, b, y, u);
    for (uint32_t x = 0; x < data->rows; x++)
        verify_sum(r->result, data, at + x, values, oracle_list(lists, x, u),
                   lists->count[(size_t)x * lists->tiles + u], bytes);
    verify_sum(r->result, data, at + data->rows, values, all, tile->candidates, bytes);
    free(values);
    free(all);
}

static bool run_mass(runner *r)
{
    const case_data *data = r->data;
    data_call call = data_call_at(data, 0);
    kas_attention args = arguments(r, &call, 0);
    kas_scores scores = scores_of(r);
    kas_lists lists = lists_of(r);
    kas_slice mass = device_slice(r->mass);
    kas_status status = kas_pooled_mass(r->session, r->memory.stream, r->c->phase, &args, &scores, &lists, &mass);
    uint8_t *bytes = ok(r, "kas_pooled_mass", status) ? device_download(&r->memory, r->mass) : NULL;
    if (!bytes)
        return false;
    for (uint32_t b = 0; b < r->c->batch; b++) {
        oracle_sequence s = data_sequence(data, &call, 0, b);
        for (uint32_t u = 0; u < oracle_tile_count(&data->rule, &s); u++) {
            oracle_tile tile = oracle_tile_at(&data->rule, &s, u);
            for (uint32_t y = 0; y < data->rows; y++)
                check_mass(r, b, &tile, y, u, bytes);
        }
    }
    verify_untouched(r->result, "mass", &data->mass_image, bytes);
    free(bytes);
    return true;
}

static bool run_lists(runner *r)
{
    uint32_t layer = has(r, CASE_MAPPED) ? MAPPED_LAYER : 0;
    const uint32_t *map = has(r, CASE_MAPPED) ? &r->data->head_map[MAPPED_LAYER * r->c->kv_heads] : NULL;
    data_call call = data_call_at(r->data, 0);
    kas_attention args = arguments(r, &call, layer);
    kas_lists lists = lists_of(r);
    return ok(r, "kas_attend_lists", kas_attend_lists(r->session, r->memory.stream, r->c->phase, &args, &lists)) &&
           check_sparse(r, "attend over lists", 0, 0, r->data->given, map);
}

/* ---- Layers ---------------------------------------------------------------------------------------------------- */

static uint32_t anchor_number(uint32_t layer)
{
    for (uint32_t n = 0; n < PLAN_ANCHORS; n++)
        if (plan_anchors[n] == layer)
            return n;
    return PLAN_ANCHORS;
}

static bool is_estimated(const runner *r, uint32_t layer)
{
    return r->c->normalizer == KAS_NORMALIZER_ESTIMATED && r->c->phase == KAS_PHASE_PREFILL && layer > 0;
}

static const uint32_t *normalizer_map(const runner *r, uint32_t layer)
{
    return &r->data->normalizer_map[(anchor_number(layer) - 1) * r->c->kv_heads];
}

/* Layer 0 makes only the rows that the next layer's head map, or the next anchor's normaliser, names. */
static bool is_published(const runner *r, uint32_t layer, uint32_t row)
{
    bool named = layer > 0 || r->data->rule.all_heads;
    for (uint32_t g = 0; g < r->c->kv_heads && !named; g++)
        named = r->data->head_map[r->c->kv_heads + g] == row ||
                (r->c->normalizer == KAS_NORMALIZER_ESTIMATED && normalizer_map(r, plan_anchors[1])[g] == row);
    return named;
}

static void drop_lists(runner *r)
{
    for (uint32_t b = 0; b < r->c->batch; b++)
        oracle_lists_free(&r->published[b]);
}

/* Reads what the session published for sequence b; tiles' lengths are the oracle's. */
static bool read_lists(runner *r, const kas_published_lists *source, const oracle_sequence *s, uint32_t layer,
                       uint32_t b, oracle_lists *lists)
{
    const oracle_rule *rule = &r->data->rule;
    uint32_t tiles = oracle_tile_count(rule, s), first = oracle_offset(s) / rule->tile;
    *lists = oracle_lists_make(source->rows, tiles, s->keys);
    for (uint32_t row = 0; row < source->rows; row++) {
        for (uint32_t u = 0; u < tiles; u++) {
            uint32_t keep = oracle_tile_at(rule, s, u).keep;
            uint64_t entry = ((uint64_t)b * source->rows + row) * source->row_capacity;
            if (source->tile_offset)
                entry += source->tile_offset[first + u] - source->tile_offset[first];
            if (!is_published(r, layer, row) || keep == 0)
                continue;
            lists->count[(size_t)row * tiles + u] = keep;
            if (!ok(r, "reading published lists",
                    kas_buffer_read(r->memory.stream, source->indices.buffer, source->indices.offset + entry * 4,
                                    oracle_list(lists, row, u), keep * sizeof(int32_t))))
                return false;
            result_digest(r->result, oracle_list(lists, row, u), keep * sizeof(int32_t));
        }
    }
    return true;
}

static bool check_sequence_lists(runner *r, uint32_t index, uint32_t layer, uint32_t b, const oracle_sequence *s,
                                 const oracle_lists *lists, const double *estimate)
{
    const oracle_rule *rule = &r->data->rule;
    double *pooled = memory_alloc(s->keys, sizeof(double));
    bool listed = true;
    for (uint32_t row = 0; row < lists->rows && listed; row++) {
        for (uint32_t u = 0; u < lists->tiles && listed; u++) {
            oracle_tile tile = oracle_tile_at(rule, s, u);
            const double *scores = NULL;
            if (!is_published(r, layer, row))
                continue;
            if (estimate && !expect_row_is_dirty(r->data, b, row)) {
                oracle_pool(rule, s, &tile, row, estimate, true, pooled);
                scores = pooled;
            } else if (!estimate && tile.keep < tile.candidates) {
                scores = expect_scores(r->expected, index, layer, b, row, u);
            }
            listed = verify_list(r->result, "published list", &tile, scores, oracle_list(lists, row, u));
        }
    }
    free(pooled);
    return listed;
}

/* Checks the lists that `layer` published against the oracle's scores and keeps them in r->published. */
static bool check_published(runner *r, uint32_t index, uint32_t layer)
{
    kas_published_lists source = {.struct_size = sizeof(source)};
    if (!ok(r, "kas_session_get_lists", kas_session_get_lists(r->session, r->c->phase, &source)))
        return false;
    if (!source.live || source.rows != r->data->rows) {
        result_fail(r->result, "kas_session_get_lists: live is %d, rows %u", source.live, source.rows);
        return false;
    }
    data_call call = data_call_at(r->data, index);
    for (uint32_t b = 0; b < r->c->batch; b++) {
        oracle_sequence s = data_sequence(r->data, &call, layer, b);
        oracle_lists lists = {0};
        oracle_output estimate = {0};
        oracle_sequence keys = s;
        keys.v = NULL;
        if (is_estimated(r, layer))
            estimate = oracle_attend(&r->data->rule, &keys, r->c->dtype, &r->published[b],
                                     r->data->rule.all_heads ? (const uint32_t[64]){0} : normalizer_map(r, layer),
                                     &r->data->dirty[b * r->c->kv_heads]);
        bool good = read_lists(r, &source, &s, layer, b, &lists) &&
                    check_sequence_lists(r, index, layer, b, &s, &lists, estimate.lse);
        oracle_output_free(&estimate);
        oracle_lists_free(&r->published[b]);
        r->published[b] = lists;
        if (!good)
            return false;
    }
    return true;
}

static bool run_layer(runner *r, uint32_t index, uint32_t layer)
{
    data_call call = data_call_at(r->data, index);
    kas_attention args = arguments(r, &call, layer);
    kas_role role = kas_plan_role(r->plan, layer);
    char what[32];
    kas_status status = r->c->phase == KAS_PHASE_PREFILL ? kas_prefill(r->session, r->memory.stream, &args)
                                                         : kas_decode(r->session, r->memory.stream, &args);
    snprintf(what, sizeof(what), "layer %u", layer);
    if (!ok(r, what, status))
        return false;
    /* A dense layer's attention first: its log-sum-exp serves its lists as well. */
    bool dense = role == KAS_ROLE_DENSE_SELECT || role == KAS_ROLE_DENSE;
    if (dense && !check_dense(r, what, index, layer, true, has(r, CASE_WITH_LSE)))
        return false;
    if ((role == KAS_ROLE_DENSE_SELECT || role == KAS_ROLE_ANCHOR) && !check_published(r, index, layer))
        return false;
    return dense || check_sparse(r, what, index, layer, r->published,
                                 role == KAS_ROLE_REUSE ? &r->data->head_map[layer * r->c->kv_heads] : NULL);
}

static bool run_layers(runner *r)
{
    bool good = true;
    for (uint32_t index = 0; index < r->data->calls && good; index++)
        for (uint32_t layer = 0; layer < DATA_LAYERS && good; layer++)
            good = run_layer(r, index, layer);
    drop_lists(r);
    return good;
}

/* ---- The whole ------------------------------------------------------------------------------------------------- */

static void check_bits(runner *r)
{
    uint32_t bits = 0, again = 0;
    if (!ok(r, "kas_session_check", kas_session_check(r->session, r->memory.stream, &bits)) ||
        !ok(r, "kas_session_check", kas_session_check(r->session, r->memory.stream, &again)))
        return;
    if (bits != r->data->expected_bits || again != 0)
        result_fail(r->result, "kas_session_check found bits %u, then %u; expected are %u, then 0", bits, again,
                    r->data->expected_bits);
}

static void report_rows(const runner *r, runner_rows_fn rows, void *user)
{
    for (const char *const *operation = cases_operations(r->c); *operation; operation++) {
        const char *variant = kas_session_variant(r->session, *operation);
        if (variant)
            rows(user, *operation, variant);
    }
}

static bool run_operation(runner *r)
{
    switch (r->c->operation) {
    case CASE_ATTEND:
        return run_attend(r);
    case CASE_LSE:
        return run_lse(r);
    case CASE_SCORES:
        return run_scores(r);
    case CASE_SELECT:
        return run_select(r);
    case CASE_LISTS:
        return run_lists(r);
    case CASE_MASS:
        return run_mass(r);
    default:
        return run_layers(r);
    }
}

void runner_run(kas_context *context, const case_data *data, expect_cache *expected, runner_rows_fn rows, void *user,
                conformance_result *result)
{
    runner r = {.data = data, .c = data->c, .expected = expected, .result = result};
    if (device_memory_open(&r.memory, context, result) && upload_all(&r) && make_session(&r)) {
        report_rows(&r, rows, user);
        if (run_operation(&r)) {
            check_bits(&r);
            device_memory_check(&r.memory);
        }
    }
    kas_session_destroy(r.session);
    kas_plan_destroy(r.plan);
    device_memory_close(&r.memory);
}
