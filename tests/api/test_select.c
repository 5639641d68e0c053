/*
 * test_select.c - the waist on unlike devices: buffers, copies, launch, timing and the select operation give on every
 * device of this build the bits that the CPU gives, which are those of the oracle. Scores hold ties, NaN, infinities and
 * zeros of both signs.
 */
#include "../conformance/oracle.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define KV_HEADS 3u
#define BATCH 2u

typedef struct shape {
    kas_phase phase;
    uint32_t queries, keys;
    kas_topk topk;
} shape;

static const shape shapes[] = {
    {KAS_PHASE_PREFILL, 415, 1023, {0.1, 16, 16, KAS_TOPK_ROLLING}},
    {KAS_PHASE_PREFILL, 33, 799, {0.3, 1, 1, KAS_TOPK_ROLLING}},
    {KAS_PHASE_PREFILL, 64, 64, {0.1, 128, 128, KAS_TOPK_ROLLING}},
    {KAS_PHASE_DECODE, 1, 5003, {0.05, 7, 3, KAS_TOPK_ROLLING}},
    {KAS_PHASE_DECODE, 4, 799, {0.1, 128, 128, KAS_TOPK_FIXED}},
    {KAS_PHASE_DECODE, 1, 1, {0.1, 1, 1, KAS_TOPK_ROLLING}},
    {KAS_PHASE_DECODE, 1, 1023, {1.0, 1, 1, KAS_TOPK_ROLLING}},
    {KAS_PHASE_DECODE, 1, 129, {0.5, 1, 1, KAS_TOPK_ROLLING}},
    {KAS_PHASE_DECODE, 1, 2047, {0.97, 1, 1, KAS_TOPK_ROLLING}},
    {KAS_PHASE_DECODE, 8, 40001, {0.1, 1, 1, KAS_TOPK_ROLLING}},
};

static float special_score(uint32_t random)
{
    static const float special[] = {0.0f, -0.0f, INFINITY, -INFINITY, NAN, 1.0f, 1e-40f};
    if (random % 5 == 0)
        return special[(random >> 8) % 7];
    return (float)((random >> 8) % 997) / 64.0f - 3.0f;
}

static void fill_scores(float *scores, size_t count)
{
    uint64_t state = 12345;
    for (size_t i = 0; i < count; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        scores[i] = special_score((uint32_t)(state >> 33));
    }
}

typedef struct problem {
    const shape *s;
    uint32_t tiles, stride, width;
    size_t score_count, list_count;
    float *scores;
    int32_t *lists;
} problem;

static problem make_problem(const shape *s)
{
    oracle_rule rule = {.tile = 32, .phase = s->phase, .topk = s->topk};
    oracle_sequence sequence = {.queries = s->queries, .keys = s->keys, .final_len = s->keys};
    problem p = {.s = s, .tiles = oracle_tile_count(&rule, &sequence), .stride = s->keys + 5, .width = s->keys};
    p.score_count = (size_t)BATCH * KV_HEADS * p.tiles * p.stride;
    p.list_count = (size_t)BATCH * KV_HEADS * p.tiles * p.width;
    p.scores = malloc(p.score_count * sizeof(float));
    p.lists = malloc(p.list_count * sizeof(int32_t));
    fill_scores(p.scores, p.score_count);
    return p;
}

static void free_problem(problem *p)
{
    free(p->scores);
    free(p->lists);
}

#define check(call)                                                                                                    \
    do {                                                                                                               \
        if ((call) != KAS_OK)                                                                                          \
            fail_msg("%s: %s", #call, kas_last_error());                                                               \
    } while (0)

/* Runs kas_select of the problem on a device; the lists go to p->lists. */
static void select_on(kas_context *context, problem *p)
{
    const shape *s = p->s;
    kas_stream *stream;
    kas_session *session;
    kas_timer *timer;
    kas_buffer *scores, *lists;
    kas_session_desc desc = {.struct_size = sizeof(desc), .heads = KV_HEADS, .kv_heads = KV_HEADS, .head_dim = 64,
                             .dtype = KAS_DTYPE_F32, .topk = s->topk, .max_batch = BATCH,
                             .max_queries = s->phase == KAS_PHASE_PREFILL ? s->queries : 0,
                             .max_decode_queries = s->phase == KAS_PHASE_DECODE ? s->queries : 1, .max_keys = s->keys};
    check(kas_stream_create(context, &stream));
    check(kas_session_create(context, &desc, &session));
    check(kas_timer_create(context, 2, &timer));
    check(kas_buffer_create(context, p->score_count * sizeof(float), &scores));
    check(kas_buffer_create(context, p->list_count * sizeof(int32_t), &lists));
    check(kas_buffer_write(stream, scores, 0, p->scores, p->score_count * sizeof(float)));
    check(kas_buffer_fill(stream, lists, 0, p->list_count * sizeof(int32_t), 0xab));
    kas_attention args = {.struct_size = sizeof(args), .batch = BATCH, .queries = s->queries, .keys = s->keys,
                          .final_len = s->keys};
    kas_scores from = {.values = {.buffer = scores}, .tiles = p->tiles, .stride = p->stride};
    kas_lists to = {.indices = {.buffer = lists}, .tiles = p->tiles, .width = p->width};
    check(kas_timer_mark(timer, stream, 0));
    check(kas_select(session, stream, s->phase, &args, &from, &to));
    check(kas_timer_mark(timer, stream, 1));
    check(kas_buffer_read(stream, lists, 0, p->lists, p->list_count * sizeof(int32_t)));
    double elapsed = -1;
    check(kas_timer_elapsed(timer, 0, 1, &elapsed));
    assert_true(elapsed >= 0 && elapsed < 60000);
    kas_buffer_destroy(lists);
    kas_buffer_destroy(scores);
    kas_timer_destroy(timer);
    kas_session_destroy(session);
    kas_stream_destroy(stream);
}

static void check_list(const problem *p, uint32_t row, uint32_t u)
{
    oracle_rule rule = {.tile = 32, .phase = p->s->phase, .topk = p->s->topk};
    oracle_sequence sequence = {.queries = p->s->queries, .keys = p->s->keys, .final_len = p->s->keys};
    oracle_tile tile = oracle_tile_at(&rule, &sequence, u);
    size_t at = (size_t)row * p->tiles + u;
    double *scores = malloc((tile.candidates + 1) * sizeof(*scores));
    int32_t *expected = malloc((tile.keep + 1) * sizeof(*expected));
    for (uint32_t j = 0; j < tile.candidates; j++)
        scores[j] = p->scores[at * p->stride + j];
    oracle_select(scores, tile.candidates, tile.keep, expected);
    for (uint32_t n = 0; n < p->width; n++) {
        int32_t entry = n < tile.keep ? expected[n] : -1;
        if (p->lists[at * p->width + n] != entry)
            fail_msg("keys %u, row %u, tile %u, entry %u: %d, expected %d", p->s->keys, row, u, n,
                     p->lists[at * p->width + n], entry);
    }
    free(scores);
    free(expected);
}

/* The names of the device's rows of an operation as a preference; false without any. */
static bool prefer_rows(const kas_context *context, const char *operation, char *names, size_t size)
{
    size_t used = 0;
    for (uint32_t i = 0; i < kas_context_variant_count(context); i++) {
        kas_variant_info info = {.struct_size = sizeof(info)};
        check(kas_context_get_variant(context, i, &info));
        if (strcmp(info.operation, operation) == 0)
            used += (size_t)snprintf(names + used, size - used, "%s%s=%s", used ? "," : "", operation, info.name);
        assert_true(used < size);
    }
    return used != 0;
}

static void check_rows(const char *backend, const char *variant)
{
    kas_context_desc desc = {.struct_size = sizeof(desc), .device = backend, .variant = variant};
    kas_context *context;
    check(kas_context_create(&desc, &context));
    for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++) {
        problem p = make_problem(&shapes[i]);
        select_on(context, &p);
        for (uint32_t row = 0; row < BATCH * KV_HEADS; row++)
            for (uint32_t u = 0; u < p.tiles; u++)
                check_list(&p, row, u);
        free_problem(&p);
    }
    kas_context_destroy(context);
}

/* With the rows that the device takes by itself, and by splits wherever there are rows for them. */
static void check_device(const char *backend)
{
    kas_context_desc desc = {.struct_size = sizeof(desc), .device = backend};
    kas_context *context;
    char names[256];
    check_rows(backend, NULL);
    check(kas_context_create(&desc, &context));
    bool splits = prefer_rows(context, "select_split", names, sizeof(names));
    kas_context_destroy(context);
    if (splits)
        check_rows(backend, names);
}

/* A backend that is not part of the build is skipped. One without a device is a failure where its name says so: PoCL and
   lavapipe are installed with the tests, an NVIDIA GPU is not. */
static void check_backend(const char *name, bool promised)
{
    for (uint32_t i = 0; i < kas_backend_count(); i++) {
        kas_backend_info info = {.struct_size = sizeof(info)};
        check(kas_backend_get_info(i, &info));
        if (strcmp(info.name, name) != 0)
            continue;
        if (!info.available && !promised) {
            print_message("%s: %s\n", name, info.reason);
            skip();
        }
        if (!info.available)
            fail_msg("%s: %s", name, info.reason);
        check_device(name);
        return;
    }
    skip();
}

static void on_cpu(void **state)
{
    (void)state;
    check_backend("cpu", true);
}

static void on_opencl(void **state)
{
    (void)state;
    check_backend("opencl", true);
}

static void on_vulkan(void **state)
{
    (void)state;
    check_backend("vulkan", true);
}

static void on_cuda(void **state)
{
    (void)state;
    check_backend("cuda", false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(on_cpu),
        cmocka_unit_test(on_opencl),
        cmocka_unit_test(on_vulkan),
        cmocka_unit_test(on_cuda),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
