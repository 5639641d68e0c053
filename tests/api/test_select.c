/*
 * test_select.c - the waist on unlike devices: buffers, copies, launch, timing and every row of selection give on every
 * device of this build the bits that the CPU gives, which are those of the oracle. Scores hold ties, NaN, infinities
 * and zeros of both signs, and long lists what a row that looks at a few of them first could be wrong about.
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

typedef enum score_kind {
    SCORES_SPECIAL,  /* of few values, and others than numbers */
    SCORES_SMOOTH,   /* hardly two alike, over many powers of two, as softmax gives them */
    SCORES_FLAT,     /* three values */
    SCORES_CRESTED,  /* greater ones where a sample of one in eight looks */
    SCORES_FURROWED, /* lesser ones there */
} score_kind;

typedef struct shape {
    kas_phase phase;
    uint32_t queries, keys;
    kas_topk topk;
    score_kind scores;
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
    {KAS_PHASE_PREFILL, 96, 8219, {0.1, 128, 128, KAS_TOPK_ROLLING}, SCORES_SMOOTH},
    {KAS_PHASE_DECODE, 1, 4097, {0.1, 128, 128, KAS_TOPK_ROLLING}, SCORES_SMOOTH},
    {KAS_PHASE_DECODE, 1, 32767, {0.1, 128, 128, KAS_TOPK_ROLLING}, SCORES_SMOOTH},
    {KAS_PHASE_DECODE, 1, 131075, {0.1, 128, 128, KAS_TOPK_ROLLING}, SCORES_SMOOTH},
    {KAS_PHASE_DECODE, 1, 32771, {0.0001, 1, 1, KAS_TOPK_ROLLING}, SCORES_SMOOTH},
    {KAS_PHASE_DECODE, 1, 32771, {0.9999, 1, 1, KAS_TOPK_ROLLING}, SCORES_SMOOTH},
    {KAS_PHASE_DECODE, 1, 32771, {0.4, 1, 1, KAS_TOPK_ROLLING}, SCORES_FLAT},
    {KAS_PHASE_DECODE, 1, 16387, {0.1, 1, 1, KAS_TOPK_ROLLING}, SCORES_CRESTED},
    {KAS_PHASE_DECODE, 1, 16387, {0.1, 1, 1, KAS_TOPK_ROLLING}, SCORES_FURROWED},
};

static float special_score(uint32_t random)
{
    static const float special[] = {0.0f, -0.0f, INFINITY, -INFINITY, NAN, 1.0f, 1e-40f};
    if (random % 5 == 0)
        return special[(random >> 8) % 7];
    return (float)((random >> 8) % 997) / 64.0f - 3.0f;
}

/* Close to the exponential of a normal number. */
static float smooth_score(uint32_t random)
{
    float sum = 0;
    for (int i = 0; i < 4; i++)
        sum += (float)((random >> 8 * i) & 255u);
    return expf((sum - 510.0f) / 64.0f) * (1.0f + (float)(random % 65521u) * 0x1p-22f);
}

/* Whether a row that samples 2,048 of 16,387 candidates looks at candidate j (select.glsl of Vulkan). */
static bool is_sampled(uint32_t j)
{
    return j % 8 == j / 8 * 7 % 8;
}

static float score_of(score_kind kind, uint32_t j, uint32_t random)
{
    switch (kind) {
    case SCORES_SPECIAL:
        return special_score(random);
    case SCORES_FLAT:
        return (float)(random >> 8) * (1.0f / 0x1p24f) < 0.3f ? 0.0f : (random & 1u) ? 0.5f : 0.25f;
    case SCORES_CRESTED:
        return smooth_score(random) + (is_sampled(j) ? 1000.0f : 0.0f);
    case SCORES_FURROWED:
        return smooth_score(random) + (is_sampled(j) ? 0.0f : 1000.0f);
    default:
        return smooth_score(random);
    }
}

static void fill_scores(float *scores, size_t count, uint32_t stride, score_kind kind)
{
    uint64_t state = 12345;
    for (size_t i = 0; i < count; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        scores[i] = score_of(kind, (uint32_t)(i % stride), (uint32_t)(state >> 32));
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
    fill_scores(p.scores, p.score_count, p.stride, s->scores);
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

static bool is_selection(const kas_variant_info *row)
{
    return strcmp(row->operation, "select") == 0 || strcmp(row->operation, "select_split") == 0;
}

/* With the rows that the device takes by itself, and with each of its rows of selection. */
static void check_device(const char *backend)
{
    kas_context_desc desc = {.struct_size = sizeof(desc), .device = backend};
    kas_context *context;
    check_rows(backend, NULL);
    check(kas_context_create(&desc, &context));
    for (uint32_t i = 0; i < kas_context_variant_count(context); i++) {
        kas_variant_info row = {.struct_size = sizeof(row)};
        char name[128];
        check(kas_context_get_variant(context, i, &row));
        if (!is_selection(&row))
            continue;
        snprintf(name, sizeof(name), "%s=%s", row.operation, row.name);
        check_rows(backend, name);
    }
    kas_context_destroy(context);
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
