/* sequence.c - reading a text with a model; see sequence.h. */
#include "sequence.h"

#include "../half.h"

#include <stdlib.h>
#include <string.h>

#define ROW_BLOCK 256 /* rows of the linear layers and logits in one piece: bounds the host's memory */
#define CHUNK_STEP 128

typedef struct layer_cache {
    kas_buffer *k, *v;
} layer_cache;

struct lm_sequence {
    const lm_model *model;
    kas_context *context;
    lm_attention attention;
    kas_dtype dtype;
    uint32_t max_tokens, chunk, tile;
    void (*progress)(void *user, uint32_t tokens);
    void *progress_user;
    kas_status (*observe)(void *user, const lm_observation *observation);
    void *observe_user;

    const kas_plan *plan;
    kas_session *session;
    kas_stream *stream;
    kas_timer *timer;
    layer_cache *caches;
    kas_buffer *q, *out;     /* [chunk, heads, head_dim] */
    kas_buffer *window;      /* lists of LM_ATTENTION_WINDOW, [kv heads, tiles, window_width] */
    uint32_t window_width;
    int32_t *window_entries; /* host copy of one kv head's */
    unsigned char *staging;  /* a row block in the storage type, on its way to or from the device */

    float *x; /* [chunk, hidden]: the residual stream */
    float *before, *after; /* likewise, around the attention of the layer being observed */
    float *cosines, *sines;
    float *normed, *inner, *qkv, *attended, *logits; /* [ROW_BLOCK, ...] */

    uint32_t length; /* tokens read so far */
    lm_sequence_stats stats;
};

static size_t dtype_size(kas_dtype dtype)
{
    return dtype == KAS_DTYPE_F32 ? 4 : 2;
}

static uint32_t q_width(const lm_config *config)
{
    return config->heads * config->head_dim;
}

static uint32_t kv_width(const lm_config *config)
{
    return config->kv_heads * config->head_dim;
}

static uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* ---- Making a sequence ----------------------------------------------------------------------------------------- */

static kas_status check_desc(const lm_sequence_desc *desc, kas_plan_desc *plan)
{
    const lm_config *config = &desc->model->config;
    plan->struct_size = sizeof(*plan);
    TOOL_TRY_LIBRARY(kas_plan_get_desc(desc->plan, plan));
    if (plan->layers != config->layers || plan->heads != config->heads || plan->kv_heads != config->kv_heads)
        return tool_fail(KAS_ERROR_INVALID_ARGUMENT,
                         "the plan is for %u layers, %u heads and %u kv heads, the model has %u, %u and %u",
                         plan->layers, plan->heads, plan->kv_heads, config->layers, config->heads, config->kv_heads);
    if (desc->chunk == 0 || desc->chunk % CHUNK_STEP != 0)
        return tool_fail(KAS_ERROR_INVALID_ARGUMENT, "the chunk is %u tokens: it must be a multiple of %d",
                         desc->chunk, CHUNK_STEP);
    return KAS_OK;
}

static kas_status create_session(lm_sequence *sequence, const lm_sequence_desc *desc, const kas_plan_desc *plan)
{
    const lm_config *config = &sequence->model->config;
    kas_session_desc session = {
        .struct_size = sizeof(session),
        .plan = desc->attention == LM_ATTENTION_PLAN ? desc->plan : NULL,
        .heads = config->heads,
        .kv_heads = config->kv_heads,
        .head_dim = config->head_dim,
        .dtype = desc->dtype,
        .tile = plan->tile,
        .topk = plan->topk,
        .max_queries = min_u32(sequence->chunk, sequence->max_tokens),
        .max_keys = sequence->max_tokens,
    };
    TOOL_TRY_LIBRARY(kas_session_create(sequence->context, &session, &sequence->session));
    TOOL_TRY_LIBRARY(kas_stream_create(sequence->context, &sequence->stream));
    TOOL_TRY_LIBRARY(kas_timer_create(sequence->context, 2, &sequence->timer));
    return KAS_OK;
}

static kas_status create_window(lm_sequence *sequence)
{
    uint32_t tiles = sequence->chunk / sequence->tile + 1;
    sequence->window_width = kas_session_topk(sequence->session, sequence->max_tokens, sequence->max_tokens);
    size_t entries = (size_t)tiles * sequence->window_width;
    sequence->window_entries = malloc(entries * sizeof(int32_t));
    if (!sequence->window_entries)
        return tool_fail_memory();
    TOOL_TRY_LIBRARY(kas_buffer_create(sequence->context,
                                       sequence->model->config.kv_heads * entries * sizeof(int32_t),
                                       &sequence->window));
    return KAS_OK;
}

static kas_status create_buffers(lm_sequence *sequence)
{
    const lm_config *config = &sequence->model->config;
    uint64_t element = dtype_size(sequence->dtype);
    uint64_t cache = (uint64_t)sequence->max_tokens * kv_width(config) * element;
    uint64_t chunk = (uint64_t)sequence->chunk * q_width(config) * element;
    sequence->caches = calloc(config->layers, sizeof(*sequence->caches));
    if (!sequence->caches)
        return tool_fail_memory();
    for (uint32_t i = 0; i < config->layers; i++) {
        TOOL_TRY_LIBRARY(kas_buffer_create(sequence->context, cache, &sequence->caches[i].k));
        TOOL_TRY_LIBRARY(kas_buffer_create(sequence->context, cache, &sequence->caches[i].v));
    }
    TOOL_TRY_LIBRARY(kas_buffer_create(sequence->context, chunk, &sequence->q));
    TOOL_TRY_LIBRARY(kas_buffer_create(sequence->context, chunk, &sequence->out));
    return sequence->attention == LM_ATTENTION_WINDOW ? create_window(sequence) : KAS_OK;
}

static float *float_rows(size_t rows, size_t width)
{
    return malloc(rows * width * sizeof(float));
}

static kas_status create_scratch(lm_sequence *sequence)
{
    const lm_config *config = &sequence->model->config;
    uint32_t half = config->head_dim / 2;
    sequence->staging = malloc((size_t)ROW_BLOCK * q_width(config) * sizeof(float));
    sequence->x = float_rows(sequence->chunk, config->hidden);
    sequence->cosines = float_rows(sequence->chunk, half);
    sequence->sines = float_rows(sequence->chunk, half);
    sequence->normed = float_rows(ROW_BLOCK, config->hidden);
    sequence->inner = float_rows(ROW_BLOCK, 2 * (size_t)config->intermediate);
    sequence->qkv = float_rows(ROW_BLOCK, lm_qkv_width(config));
    sequence->attended = float_rows(ROW_BLOCK, q_width(config));
    sequence->logits = float_rows(ROW_BLOCK, config->vocab);
    if (sequence->observe) {
        sequence->before = float_rows(sequence->chunk, config->hidden);
        sequence->after = float_rows(sequence->chunk, config->hidden);
        if (!sequence->before || !sequence->after)
            return tool_fail_memory();
    }
    bool whole = sequence->staging && sequence->x && sequence->cosines && sequence->sines && sequence->normed &&
                 sequence->inner && sequence->qkv && sequence->attended && sequence->logits;
    return whole ? KAS_OK : tool_fail_memory();
}

static kas_status create(lm_sequence *sequence, const lm_sequence_desc *desc)
{
    kas_plan_desc plan;
    TOOL_TRY(check_desc(desc, &plan));
    sequence->model = desc->model;
    sequence->context = desc->context;
    sequence->attention = desc->attention;
    sequence->dtype = desc->dtype;
    sequence->max_tokens = desc->max_tokens;
    sequence->chunk = min_u32(desc->chunk, (desc->max_tokens + CHUNK_STEP - 1) / CHUNK_STEP * CHUNK_STEP);
    sequence->tile = plan.tile;
    sequence->plan = desc->plan;
    sequence->progress = desc->progress;
    sequence->progress_user = desc->progress_user;
    sequence->observe = desc->observe;
    sequence->observe_user = desc->observe_user;
    TOOL_TRY(create_session(sequence, desc, &plan));
    TOOL_TRY(create_buffers(sequence));
    return create_scratch(sequence);
}

kas_status lm_sequence_create(const lm_sequence_desc *desc, lm_sequence **sequence)
{
    lm_sequence *made = calloc(1, sizeof(*made));
    if (!made)
        return tool_fail_memory();
    kas_status status = create(made, desc);
    if (status != KAS_OK) {
        lm_sequence_destroy(made);
        return status;
    }
    *sequence = made;
    return KAS_OK;
}

void lm_sequence_destroy(lm_sequence *sequence)
{
    if (!sequence)
        return;
    kas_stream_destroy(sequence->stream);
    kas_timer_destroy(sequence->timer);
    kas_session_destroy(sequence->session);
    for (uint32_t i = 0; sequence->caches && i < sequence->model->config.layers; i++) {
        kas_buffer_destroy(sequence->caches[i].k);
        kas_buffer_destroy(sequence->caches[i].v);
    }
    kas_buffer_destroy(sequence->q);
    kas_buffer_destroy(sequence->out);
    kas_buffer_destroy(sequence->window);
    free(sequence->caches);
    free(sequence->window_entries);
    free(sequence->staging);
    free(sequence->x);
    free(sequence->before);
    free(sequence->after);
    free(sequence->cosines);
    free(sequence->sines);
    free(sequence->normed);
    free(sequence->inner);
    free(sequence->qkv);
    free(sequence->attended);
    free(sequence->logits);
    free(sequence);
}

/* ---- Rows between host floats and device storage --------------------------------------------------------------- */

static void narrow_row(kas_dtype dtype, const float *values, uint32_t width, unsigned char *stored)
{
    if (dtype == KAS_DTYPE_F32) {
        memcpy(stored, values, width * sizeof(float));
        return;
    }
    uint16_t *halves = (uint16_t *)(void *)stored;
    for (uint32_t i = 0; i < width; i++)
        halves[i] = dtype == KAS_DTYPE_F16 ? half_from_float(values[i]) : bfloat_from_float(values[i]);
}

static void widen_row(kas_dtype dtype, const unsigned char *stored, uint32_t width, float *values)
{
    if (dtype == KAS_DTYPE_F32) {
        memcpy(values, stored, width * sizeof(float));
        return;
    }
    const uint16_t *halves = (const uint16_t *)(const void *)stored;
    for (uint32_t i = 0; i < width; i++)
        values[i] = dtype == KAS_DTYPE_F16 ? half_to_float(halves[i]) : bfloat_to_float(halves[i]);
}

/*
 * Writes rows of `width` floats, `stride` apart, to rows first_row.. of a packed buffer. Where buffers are host memory
 * nothing is copied twice; the stream is idle between attention calls, so the memory may be touched.
 */
static kas_status store_rows(lm_sequence *sequence, kas_buffer *buffer, uint32_t first_row, const float *values,
                             uint32_t stride, uint32_t width, uint32_t rows)
{
    size_t row_bytes = width * dtype_size(sequence->dtype);
    unsigned char *host = kas_buffer_host(buffer);
    unsigned char *target = host ? host + first_row * row_bytes : sequence->staging;
    for (uint32_t i = 0; i < rows; i++)
        narrow_row(sequence->dtype, values + (size_t)i * stride, width, target + i * row_bytes);
    if (!host)
        TOOL_TRY_LIBRARY(kas_buffer_write(sequence->stream, buffer, first_row * row_bytes, target, rows * row_bytes));
    return KAS_OK;
}

static kas_status load_rows(lm_sequence *sequence, kas_buffer *buffer, uint32_t first_row, uint32_t width,
                            uint32_t rows, float *values)
{
    size_t row_bytes = width * dtype_size(sequence->dtype);
    const unsigned char *host = kas_buffer_host(buffer);
    const unsigned char *source = host ? host + first_row * row_bytes : sequence->staging;
    if (!host)
        TOOL_TRY_LIBRARY(kas_buffer_read(sequence->stream, buffer, first_row * row_bytes, sequence->staging,
                                         rows * row_bytes));
    for (uint32_t i = 0; i < rows; i++)
        widen_row(sequence->dtype, source + i * row_bytes, width, values + (size_t)i * width);
    return KAS_OK;
}

/* ---- Attention ------------------------------------------------------------------------------------------------- */

static kas_role layer_role(const lm_sequence *sequence, uint32_t layer)
{
    switch (sequence->attention) {
    case LM_ATTENTION_PLAN:
        return kas_plan_role(sequence->plan, layer);
    case LM_ATTENTION_WINDOW:
        return layer == 0 ? KAS_ROLE_DENSE : KAS_ROLE_REUSE;
    case LM_ATTENTION_DENSE:
        break;
    }
    return KAS_ROLE_DENSE;
}

/* The first keys and the newest of `candidates`, as many as the k rule keeps; returns how many. */
static uint32_t window_list(const lm_sequence *sequence, uint32_t candidates, int32_t *entries)
{
    uint32_t keep = kas_session_topk(sequence->session, candidates, sequence->max_tokens);
    uint32_t sinks = min_u32(keep, LM_WINDOW_SINKS);
    for (uint32_t i = 0; i < sinks; i++)
        entries[i] = (int32_t)i;
    for (uint32_t i = sinks; i < keep; i++)
        entries[i] = (int32_t)(candidates - keep + i);
    return keep;
}

static kas_status write_window_lists(lm_sequence *sequence, kas_phase phase, uint32_t queries, uint32_t keys,
                                     kas_lists *lists)
{
    uint32_t first = (keys - queries) / sequence->tile, last = (keys - 1) / sequence->tile;
    uint32_t tiles = phase == KAS_PHASE_PREFILL ? last - first + 1 : 1, width = sequence->window_width;
    for (uint32_t i = 0; i < tiles; i++) {
        int32_t *entries = sequence->window_entries + (size_t)i * width;
        uint32_t candidates = phase == KAS_PHASE_PREFILL ? (first + i) * sequence->tile : keys;
        for (uint32_t used = window_list(sequence, candidates, entries); used < width; used++)
            entries[used] = -1;
    }
    uint64_t bytes = (uint64_t)tiles * width * sizeof(int32_t);
    for (uint32_t g = 0; g < sequence->model->config.kv_heads; g++)
        TOOL_TRY_LIBRARY(kas_buffer_write(sequence->stream, sequence->window, g * bytes, sequence->window_entries,
                                          bytes));
    *lists = (kas_lists){.indices = {sequence->window, 0}, .tiles = tiles, .width = width};
    return KAS_OK;
}

static kas_status launch_attention(lm_sequence *sequence, kas_phase phase, const kas_attention *args,
                                   const kas_lists *lists)
{
    if (sequence->attention == LM_ATTENTION_PLAN)
        return phase == KAS_PHASE_PREFILL ? kas_prefill(sequence->session, sequence->stream, args)
                                          : kas_decode(sequence->session, sequence->stream, args);
    if (layer_role(sequence, args->layer) == KAS_ROLE_DENSE)
        return kas_attend(sequence->session, sequence->stream, phase, args);
    return kas_attend_lists(sequence->session, sequence->stream, phase, args, lists);
}

/* Attention of `queries` tokens in `q` over the first `keys` of the layer's cache, into `out`; waits and times. */
static kas_status attend(lm_sequence *sequence, kas_phase phase, uint32_t layer, uint32_t queries, uint32_t keys,
                         const kas_lists *lists)
{
    const kas_attention args = {
        .struct_size = sizeof(args),
        .layer = layer,
        .queries = queries,
        .keys = keys,
        .q = {.buffer = sequence->q},
        .k = {.buffer = sequence->caches[layer].k},
        .v = {.buffer = sequence->caches[layer].v},
        .out = {.buffer = sequence->out},
        .final_len = phase == KAS_PHASE_PREFILL ? sequence->max_tokens : 0,
    };
    TOOL_TRY_LIBRARY(kas_timer_mark(sequence->timer, sequence->stream, 0));
    TOOL_TRY_LIBRARY(launch_attention(sequence, phase, &args, lists));
    TOOL_TRY_LIBRARY(kas_timer_mark(sequence->timer, sequence->stream, 1));
    TOOL_TRY_LIBRARY(kas_stream_wait(sequence->stream));
    double milliseconds;
    TOOL_TRY_LIBRARY(kas_timer_elapsed(sequence->timer, 0, 1, &milliseconds));
    if (phase == KAS_PHASE_PREFILL)
        sequence->stats.prefill_attention_ms += milliseconds;
    else
        sequence->stats.decode_attention_ms += milliseconds;
    return KAS_OK;
}

/* Adds what `queries` tokens up to key `keys` attend to in every layer. */
static void count_keys(lm_sequence *sequence, uint32_t queries, uint32_t keys)
{
    for (uint32_t layer = 0; layer < sequence->model->config.layers; layer++) {
        kas_role role = layer_role(sequence, layer);
        bool dense = role == KAS_ROLE_DENSE || role == KAS_ROLE_DENSE_SELECT;
        for (uint32_t position = keys - queries; position < keys; position++) {
            uint32_t start = position / sequence->tile * sequence->tile;
            uint32_t listed = dense ? start : kas_session_topk(sequence->session, start, sequence->max_tokens);
            sequence->stats.keys_attended += listed + (position - start + 1);
            sequence->stats.keys_causal += position + 1;
        }
    }
}

/* ---- Layers ---------------------------------------------------------------------------------------------------- */

typedef struct row_block {
    uint32_t first, rows;
} row_block;

static bool next_block(row_block *block, uint32_t rows)
{
    block->first += block->rows;
    block->rows = min_u32(ROW_BLOCK, rows - block->first);
    return block->rows > 0;
}

/* q of the block to the device, k and v to the cache behind `position`. */
static kas_status project_block(lm_sequence *sequence, uint32_t layer, row_block block, uint32_t position)
{
    const lm_config *config = &sequence->model->config;
    uint32_t width = lm_qkv_width(config), half = config->head_dim / 2;
    lm_project(sequence->model, layer, sequence->x + (size_t)block.first * config->hidden, block.rows,
               sequence->cosines + (size_t)block.first * half, sequence->sines + (size_t)block.first * half,
               sequence->normed, sequence->qkv);
    const float *k = sequence->qkv + q_width(config), *v = k + kv_width(config);
    const layer_cache *cache = &sequence->caches[layer];
    TOOL_TRY(store_rows(sequence, sequence->q, block.first, sequence->qkv, width, q_width(config), block.rows));
    TOOL_TRY(store_rows(sequence, cache->k, position + block.first, k, width, kv_width(config), block.rows));
    return store_rows(sequence, cache->v, position + block.first, v, width, kv_width(config), block.rows);
}

static kas_status finish_block(lm_sequence *sequence, uint32_t layer, row_block block)
{
    const lm_config *config = &sequence->model->config;
    float *x = sequence->x + (size_t)block.first * config->hidden;
    TOOL_TRY(load_rows(sequence, sequence->out, block.first, q_width(config), block.rows, sequence->attended));
    lm_add_attention(sequence->model, layer, sequence->attended, block.rows, x);
    if (sequence->observe)
        memcpy(sequence->after + (size_t)block.first * config->hidden, x,
               (size_t)block.rows * config->hidden * sizeof(float));
    lm_add_mlp(sequence->model, layer, block.rows, sequence->normed, sequence->inner, x);
    return KAS_OK;
}

static kas_status observe(lm_sequence *sequence, uint32_t layer, uint32_t count)
{
    const lm_observation observation = {
        .layer = layer,
        .first = sequence->length,
        .rows = count,
        .stream = sequence->stream,
        .q = sequence->q,
        .k = sequence->caches[layer].k,
        .before = sequence->before,
        .after = sequence->after,
    };
    return sequence->observe(sequence->observe_user, &observation);
}

/* Runs all layers over `count` tokens behind the ones read so far; x then holds the last layer's output. */
static kas_status run_layers(lm_sequence *sequence, kas_phase phase, const uint32_t *tokens, uint32_t count)
{
    const lm_model *model = sequence->model;
    uint32_t position = sequence->length, keys = position + count;
    kas_lists lists = {0};
    if (sequence->attention == LM_ATTENTION_WINDOW)
        TOOL_TRY(write_window_lists(sequence, phase, count, keys, &lists));
    lm_embed(model, tokens, count, sequence->x);
    lm_rotation(model, position, count, sequence->cosines, sequence->sines);
    for (uint32_t layer = 0; layer < model->config.layers; layer++) {
        for (row_block block = {0}; next_block(&block, count);)
            TOOL_TRY(project_block(sequence, layer, block, position));
        if (sequence->observe)
            memcpy(sequence->before, sequence->x, (size_t)count * model->config.hidden * sizeof(float));
        TOOL_TRY(attend(sequence, phase, layer, count, keys, &lists));
        for (row_block block = {0}; next_block(&block, count);)
            TOOL_TRY(finish_block(sequence, layer, block));
        if (sequence->observe && phase == KAS_PHASE_PREFILL)
            TOOL_TRY(observe(sequence, layer, count));
        if (sequence->progress && phase == KAS_PHASE_PREFILL)
            sequence->progress(sequence->progress_user, position + (uint32_t)((uint64_t)count * (layer + 1) /
                                                                              model->config.layers));
    }
    sequence->length = keys;
    return KAS_OK;
}

/* The caches may hold nothing that the device found invalid. */
static kas_status check_session(lm_sequence *sequence)
{
    uint32_t bits;
    TOOL_TRY_LIBRARY(kas_session_check(sequence->session, sequence->stream, &bits));
    return bits ? tool_fail(KAS_ERROR_STATE, "the device found invalid lengths or lists (bits %u)", bits) : KAS_OK;
}

static kas_status check_tokens(const lm_sequence *sequence, const uint32_t *tokens, uint32_t count)
{
    if (count > sequence->max_tokens - sequence->length)
        return tool_fail(KAS_ERROR_LIMIT, "%u more tokens behind %u are past the limit of %u", count, sequence->length,
                         sequence->max_tokens);
    for (uint32_t i = 0; i < count; i++)
        if (tokens[i] >= sequence->model->config.vocab)
            return tool_fail(KAS_ERROR_INVALID_ARGUMENT, "token %u is %u: the vocabulary has %u", i, tokens[i],
                             sequence->model->config.vocab);
    return KAS_OK;
}

static kas_status prefill_chunk(lm_sequence *sequence, const uint32_t *tokens, uint32_t count, lm_logits_fn on_logits,
                                void *user)
{
    uint32_t hidden = sequence->model->config.hidden, position = sequence->length;
    TOOL_TRY(run_layers(sequence, KAS_PHASE_PREFILL, tokens, count));
    count_keys(sequence, count, position + count);
    sequence->stats.prefill_tokens += count;
    if (!on_logits)
        return KAS_OK;
    for (row_block block = {0}; next_block(&block, count);) {
        lm_logits(sequence->model, sequence->x + (size_t)block.first * hidden, block.rows, sequence->normed,
                  sequence->logits);
        on_logits(user, position + block.first, block.rows, sequence->logits);
    }
    return KAS_OK;
}

kas_status lm_sequence_prefill(lm_sequence *sequence, const uint32_t *tokens, uint32_t count, lm_logits_fn on_logits,
                               void *user)
{
    TOOL_TRY(check_tokens(sequence, tokens, count));
    for (uint32_t done = 0; done < count;) {
        /* Chunks end at multiples of the chunk, so that their boundaries are tile boundaries. */
        uint32_t room = sequence->chunk - sequence->length % sequence->chunk;
        uint32_t rows = min_u32(room, count - done);
        TOOL_TRY(prefill_chunk(sequence, tokens + done, rows, on_logits, user));
        done += rows;
    }
    return check_session(sequence);
}

kas_status lm_sequence_decode(lm_sequence *sequence, uint32_t token, float *logits)
{
    TOOL_TRY(check_tokens(sequence, &token, 1));
    TOOL_TRY(run_layers(sequence, KAS_PHASE_DECODE, &token, 1));
    sequence->stats.decode_tokens++;
    if (logits)
        lm_logits(sequence->model, sequence->x, 1, sequence->normed, logits);
    return check_session(sequence);
}

void lm_sequence_truncate(lm_sequence *sequence, uint32_t length)
{
    sequence->length = min_u32(sequence->length, length);
}

const lm_sequence_stats *lm_sequence_get_stats(const lm_sequence *sequence)
{
    return &sequence->stats;
}
