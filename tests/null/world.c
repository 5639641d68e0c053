/* world.c - making one of everything. */
#include "world.h"

#include <stdlib.h>
#include <string.h>

#define TRY(expression)                                                                                                \
    do {                                                                                                               \
        kas_status try_status = (expression);                                                                          \
        if (try_status != KAS_OK)                                                                                      \
            return try_status;                                                                                         \
    } while (0)

static const uint32_t anchors[] = {0, 2}, dense_layers[] = {3};
static const uint32_t head_map[WORLD_LAYERS * WORLD_KV_HEADS] = {0, 1, 0, 0, 0, 1, 0, 1, 1, 0};

#define QUERY_FLOATS (WORLD_BATCH * WORLD_QUERIES * WORLD_HEADS * WORLD_HEAD_DIM)
/* Room for contiguous keys to the session's most, and for as many pages. */
#define KEY_FLOATS (WORLD_BATCH * WORLD_MAX_KEYS * WORLD_KV_HEADS * WORLD_HEAD_DIM)
#define LSE_FLOATS (WORLD_BATCH * WORLD_HEADS * WORLD_QUERIES)
#define ROWS (WORLD_BATCH * WORLD_KV_HEADS * WORLD_TILES)
#define INTEGERS 512u

kas_plan_desc world_plan_desc(void)
{
    return (kas_plan_desc){
        .struct_size = sizeof(kas_plan_desc),
        .model = "world",
        .layers = WORLD_LAYERS,
        .heads = WORLD_HEADS,
        .kv_heads = WORLD_KV_HEADS,
        .tile = WORLD_TILE,
        .topk = {.fraction = 0.1, .min = 16, .round = 16},
        .anchors = anchors,
        .anchor_count = 2,
        .head_map = head_map,
        .dense_layers = dense_layers,
        .dense_layer_count = 1,
    };
}

kas_session_desc world_session_desc(const kas_plan *plan)
{
    return (kas_session_desc){
        .struct_size = sizeof(kas_session_desc),
        .plan = plan,
        .head_dim = WORLD_HEAD_DIM,
        .dtype = KAS_DTYPE_F32,
        .max_batch = WORLD_BATCH,
        .max_queries = WORLD_QUERIES,
        .max_decode_queries = 4,
        .max_keys = WORLD_MAX_KEYS,
    };
}

/* Values in [-1, 1) from a counter; `count` of them. */
static kas_status make_floats(world *w, uint32_t count, uint32_t seed, kas_buffer **buffer)
{
    TRY(kas_buffer_create(w->context, count * sizeof(float), buffer));
    float *values = malloc(count * sizeof(float));
    if (!values)
        return KAS_ERROR_OUT_OF_MEMORY;
    for (uint32_t i = 0; i < count; i++)
        values[i] = (float)((i * 2654435761u + seed) >> 8) / (float)(1u << 23) - 1.0f;
    kas_status status = kas_buffer_write(w->stream, *buffer, 0, values, count * sizeof(float));
    free(values);
    return status;
}

static kas_status make_integers(world *w)
{
    int32_t values[INTEGERS] = {0};
    for (uint32_t n = 0; n < WORLD_BATCH * WORLD_MAX_KEYS / WORLD_PAGE; n++)
        values[WORLD_PAGES_AT / sizeof(int32_t) + n] = (int32_t)n;
    TRY(kas_buffer_create(w->context, sizeof(values), &w->integers));
    return kas_buffer_write(w->stream, w->integers, 0, values, sizeof(values));
}

static kas_attention arguments(const world *w, uint32_t queries)
{
    return (kas_attention){
        .struct_size = sizeof(kas_attention),
        .batch = WORLD_BATCH,
        .queries = queries,
        .keys = WORLD_KEYS,
        .q = {.buffer = w->q},
        .k = {.buffer = w->k},
        .v = {.buffer = w->v},
        .out = {.buffer = w->out},
    };
}

kas_status world_open(world *w, const char *device)
{
    memset(w, 0, sizeof(*w));
    kas_context_desc desc = {.struct_size = sizeof(desc), .device = device, .threads = 2};
    TRY(kas_context_create(&desc, &w->context));
    TRY(kas_stream_create(w->context, &w->stream));
    TRY(make_floats(w, QUERY_FLOATS, 1, &w->q));
    TRY(make_floats(w, KEY_FLOATS, 2, &w->k));
    TRY(make_floats(w, KEY_FLOATS, 3, &w->v));
    TRY(make_floats(w, QUERY_FLOATS, 4, &w->out));
    TRY(make_floats(w, LSE_FLOATS, 5, &w->lse));
    TRY(make_floats(w, ROWS * WORLD_KEYS, 6, &w->scores));
    TRY(make_floats(w, ROWS * WORLD_KEYS, 7, &w->lists));
    TRY(make_integers(w));
    kas_plan_desc plan = world_plan_desc();
    TRY(kas_plan_create(&plan, &w->plan));
    kas_session_desc session = world_session_desc(w->plan);
    TRY(kas_session_create(w->context, &session, &w->session));
    w->prefill = arguments(w, WORLD_QUERIES);
    w->decode = arguments(w, 1);
    return kas_stream_wait(w->stream);
}

void world_close(world *w)
{
    kas_session_destroy(w->session);
    kas_plan_destroy(w->plan);
    kas_buffer *buffers[] = {w->q, w->k, w->v, w->out, w->lse, w->scores, w->lists, w->integers};
    for (size_t i = 0; i < sizeof(buffers) / sizeof(*buffers); i++)
        kas_buffer_destroy(buffers[i]);
    kas_stream_destroy(w->stream);
    kas_context_destroy(w->context);
}

static uint32_t tiles_of(kas_phase phase)
{
    return phase == KAS_PHASE_PREFILL ? WORLD_TILES : 1;
}

kas_scores world_scores(const world *w, kas_phase phase)
{
    return (kas_scores){.values = {.buffer = w->scores}, .tiles = tiles_of(phase), .stride = WORLD_KEYS};
}

kas_lists world_lists(const world *w, kas_phase phase)
{
    return (kas_lists){.indices = {.buffer = w->lists}, .tiles = tiles_of(phase), .width = WORLD_KEYS};
}
