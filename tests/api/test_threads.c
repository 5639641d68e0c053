/*
 * test_threads.c - the CPU device on several threads: sessions side by side in one context, contexts that come and go
 * side by side and share their helpers, and results that are the same bits at every number of threads. With --long
 * everything runs longer. Run by ctest under the thread sanitizer as well.
 */
#define _POSIX_C_SOURCE 200809L
#include "../conformance/storage.h"

#include <dirent.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#define MOST_KV_HEADS 5u
#define LAYERS 4u
#define WORKERS 8u
#define FEW_RERUNS 5u

static double side_by_side_seconds = 2;
static uint32_t reruns = FEW_RERUNS;

/* A text that is prefilled and then decoded for one token by every layer of a small plan. */
typedef struct scene {
    kas_dtype dtype;
    uint32_t kv_heads, group, dim, keys;
    bool often; /* of those that --long runs again and again */
} scene;

/*
 * Odd sizes, every storage type; those of more than 256 keys have several query blocks and splits of keys. The thread
 * sanitizer looks at every element that a product reads: long texts have narrow heads, the narrowest run often. A cell
 * of decode takes several of many kv heads, fewer the more threads there are.
 */
static const scene scenes[] = {
    {KAS_DTYPE_F32, 2, 2, 64, 203, false},  {KAS_DTYPE_F16, 2, 3, 40, 150, false},
    {KAS_DTYPE_BF16, 2, 1, 128, 97, false}, {KAS_DTYPE_F32, 2, 4, 48, 799, false},
    {KAS_DTYPE_BF16, 2, 4, 32, 799, false}, {KAS_DTYPE_F32, MOST_KV_HEADS, 2, 16, 799, false},
    {KAS_DTYPE_F32, 2, 2, 8, 299, true},    {KAS_DTYPE_F16, 2, 3, 5, 301, true},
    {KAS_DTYPE_BF16, 2, 1, 16, 333, true},
};
#define SCENES (sizeof(scenes) / sizeof(scenes[0]))

/* What a scene needs of a context; everything but the context is one thread's own. */
typedef struct stage {
    const scene *scene;
    kas_stream *stream;
    kas_session *session;
    kas_buffer *q, *k, *v, *out, *lse;
    size_t q_bytes, lse_bytes;
} stage;

/* cmocka's assertions belong to the main thread: workers return a sentence, NULL when all is well. */
#define TRY(call)                                                                                                      \
    do {                                                                                                               \
        if ((call) != KAS_OK)                                                                                          \
            return #call;                                                                                              \
    } while (0)
#define TRY_TEXT(call)                                                                                                 \
    do {                                                                                                               \
        const char *failure_text = (call);                                                                             \
        if (failure_text)                                                                                              \
            return failure_text;                                                                                       \
    } while (0)

static uint64_t digest(uint64_t hash, const void *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        hash = (hash ^ ((const unsigned char *)bytes)[i]) * 0x100000001b3u;
    return hash;
}

static void fill(kas_buffer *buffer, kas_dtype dtype, size_t count, uint64_t state)
{
    for (size_t i = 0; i < count; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        storage_put(dtype, kas_buffer_host(buffer), i, (float)(state >> 40) / (float)(1u << 22) - 2.0f);
    }
}

static const char *make_session(kas_context *context, stage *s)
{
    static const uint32_t anchors[] = {0, 2};
    uint32_t kv_heads = s->scene->kv_heads, maps[LAYERS * MOST_KV_HEADS];
    for (uint32_t i = 0; i < LAYERS * kv_heads; i++)
        maps[i] = i / kv_heads % 2 == 0 ? i % kv_heads : i % kv_heads / 2;
    kas_plan *plan = NULL;
    const kas_plan_desc plan_desc = {.struct_size = sizeof(plan_desc), .layers = LAYERS,
                                     .heads = kv_heads * s->scene->group, .kv_heads = kv_heads,
                                     .topk = {.fraction = 0.1, .min = 16, .round = 16}, .anchors = anchors,
                                     .anchor_count = 2, .head_map = maps};
    TRY(kas_plan_create(&plan_desc, &plan));
    const kas_session_desc desc = {.struct_size = sizeof(desc), .plan = plan, .head_dim = s->scene->dim,
                                   .dtype = s->scene->dtype, .max_queries = s->scene->keys,
                                   .max_keys = s->scene->keys};
    kas_status status = kas_session_create(context, &desc, &s->session);
    kas_plan_destroy(plan);
    return status == KAS_OK ? NULL : "kas_session_create";
}

static const char *stage_open(kas_context *context, const scene *of, stage *s)
{
    size_t head_row = (size_t)of->keys * of->kv_heads * of->dim;
    *s = (stage){.scene = of};
    s->q_bytes = head_row * of->group * storage_size(of->dtype);
    s->lse_bytes = (size_t)of->keys * of->kv_heads * of->group * sizeof(float);
    TRY(kas_stream_create(context, &s->stream));
    TRY(kas_buffer_create(context, s->q_bytes, &s->q));
    TRY(kas_buffer_create(context, s->q_bytes, &s->out));
    TRY(kas_buffer_create(context, head_row * storage_size(of->dtype), &s->k));
    TRY(kas_buffer_create(context, head_row * storage_size(of->dtype), &s->v));
    TRY(kas_buffer_create(context, s->lse_bytes, &s->lse));
    fill(s->q, of->dtype, head_row * of->group, 1);
    fill(s->k, of->dtype, head_row, 2);
    fill(s->v, of->dtype, head_row, 3);
    return make_session(context, s);
}

static void stage_close(stage *s)
{
    kas_session_destroy(s->session);
    kas_buffer_destroy(s->q);
    kas_buffer_destroy(s->k);
    kas_buffer_destroy(s->v);
    kas_buffer_destroy(s->out);
    kas_buffer_destroy(s->lse);
    kas_stream_destroy(s->stream);
}

/* The digest of all that the layers of both phases write. */
static const char *stage_run(stage *s, uint64_t *result)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (uint32_t i = 0; i < 2 * LAYERS; i++) {
        bool decode = i >= LAYERS;
        const kas_attention args = {.struct_size = sizeof(args), .layer = i % LAYERS,
                                    .queries = decode ? 1 : s->scene->keys, .keys = s->scene->keys,
                                    .q = {.buffer = s->q}, .k = {.buffer = s->k}, .v = {.buffer = s->v},
                                    .out = {.buffer = s->out}, .lse = {.buffer = s->lse}};
        TRY(decode ? kas_decode(s->session, s->stream, &args) : kas_prefill(s->session, s->stream, &args));
        TRY(kas_stream_wait(s->stream));
        hash = digest(hash, kas_buffer_host(s->out), s->q_bytes);
        hash = digest(hash, kas_buffer_host(s->lse), s->lse_bytes);
    }
    *result = hash;
    return NULL;
}

static const char *run_once(kas_context *context, const scene *of, uint64_t *result)
{
    stage s;
    const char *failure = stage_open(context, of, &s);
    if (!failure)
        failure = stage_run(&s, result);
    stage_close(&s);
    return failure;
}

static kas_context *open_context(uint32_t threads)
{
    const kas_context_desc desc = {.struct_size = sizeof(desc), .device = "cpu", .threads = threads};
    kas_context *context = NULL;
    return kas_context_create(&desc, &context) == KAS_OK ? context : NULL;
}

/* What one thread without company computes: the bits that every other run has to have. */
static uint64_t expected[SCENES];

static int compute_expected(void **state)
{
    (void)state;
    /* A sanitizer starts a thread of its own beside the first one: it shall not be counted below. */
    kas_context_destroy(open_context(2));
    kas_context *context = open_context(1);
    assert_non_null(context);
    for (size_t i = 0; i < SCENES; i++)
        assert_null(run_once(context, &scenes[i], &expected[i]));
    kas_context_destroy(context);
    return 0;
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec * 1e-9;
}

/* ---- Side by side ------------------------------------------------------------------------------------------------ */

typedef struct worker {
    pthread_t thread;
    kas_context *context; /* NULL: one of its own each time */
    uint32_t number, runs;
    double deadline;
    const char *failure;
} worker;

static const char *compare_once(kas_context *context, size_t scene_index)
{
    uint64_t result = 0;
    TRY_TEXT(run_once(context, &scenes[scene_index], &result));
    return result == expected[scene_index] ? NULL : "other bits than one thread without company";
}

/* At least one run, so that a slow machine does not pass by doing nothing. */
static void *work(void *argument)
{
    worker *w = argument;
    do {
        kas_context *context = w->context ? w->context : open_context(3);
        w->failure = context ? compare_once(context, (w->number + w->runs) % SCENES) : "kas_context_create";
        if (!w->context)
            kas_context_destroy(context);
        w->runs++;
    } while (!w->failure && now() < w->deadline);
    return NULL;
}

static void start_workers(worker *workers, kas_context *context)
{
    for (uint32_t i = 0; i < WORKERS; i++) {
        workers[i] = (worker){.context = context, .number = i, .deadline = now() + side_by_side_seconds};
        assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
}

static void finish_workers(worker *workers)
{
    for (uint32_t i = 0; i < WORKERS; i++)
        pthread_join(workers[i].thread, NULL);
    for (uint32_t i = 0; i < WORKERS; i++)
        if (workers[i].failure)
            fail_msg("worker %u, run %u: %s", i, workers[i].runs, workers[i].failure);
}

static void sessions_side_by_side(void **state)
{
    (void)state;
    worker workers[WORKERS];
    kas_context *context = open_context(3);
    assert_non_null(context);
    start_workers(workers, context);
    finish_workers(workers);
    kas_context_destroy(context);
}

/* Threads of this process; 0 where the system does not tell. */
static uint32_t count_threads(void)
{
    DIR *folder = opendir("/proc/self/task");
    uint32_t count = 0;
    if (!folder)
        return 0;
    for (struct dirent *entry; (entry = readdir(folder));)
        count += entry->d_name[0] != '.';
    closedir(folder);
    return count;
}

/* A thread that was joined may be listed a moment longer. */
static void expect_threads(uint32_t most)
{
    double deadline = now() + 5;
    while (count_threads() > most && now() < deadline)
        sched_yield();
    assert_in_range(count_threads(), 0, most);
}

/* Contexts of 3 threads: 2 helpers in all, however many contexts there are. */
static void contexts_share_helpers(void **state)
{
    (void)state;
    kas_context *contexts[WORKERS];
    uint32_t before = count_threads();
    if (before == 0)
        skip();
    for (uint32_t i = 0; i < WORKERS; i++) {
        contexts[i] = open_context(3);
        assert_non_null(contexts[i]);
        expect_threads(before + 2);
        assert_in_range(count_threads(), before + 2, before + 2);
    }
    for (uint32_t i = 0; i < WORKERS; i++)
        kas_context_destroy(contexts[i]);
    expect_threads(before);
}

static void contexts_side_by_side(void **state)
{
    (void)state;
    worker workers[WORKERS];
    uint32_t before = count_threads(), most = 0;
    start_workers(workers, NULL);
    while (now() < workers[WORKERS - 1].deadline) {
        const struct timespec pause = {0, 1000000};
        uint32_t count = count_threads();
        most = count > most ? count : most;
        nanosleep(&pause, NULL);
    }
    finish_workers(workers);
    /* A generation of helpers is joined before the next one starts, but may be listed a moment longer. */
    assert_in_range(most, 0, before + WORKERS + 2 * 2);
    expect_threads(before);
}

/* ---- Same bits --------------------------------------------------------------------------------------------------- */

static void expect_same_bits(kas_context *context, uint32_t threads, size_t scene_index, uint32_t runs)
{
    stage s;
    assert_null(stage_open(context, &scenes[scene_index], &s));
    for (uint32_t run = 0; run < runs; run++) {
        uint64_t result = 0;
        assert_null(stage_run(&s, &result));
        if (result != expected[scene_index])
            fail_msg("scene %zu, %u threads, run %u: other bits than with one thread", scene_index, threads, run);
    }
    stage_close(&s);
}

static void same_bits_at_any_thread_count(void **state)
{
    static const uint32_t counts[] = {1, 2, 3, 5};
    (void)state;
    for (size_t n = 0; n < sizeof(counts) / sizeof(counts[0]); n++) {
        kas_context *context = open_context(counts[n]);
        assert_non_null(context);
        for (size_t i = 0; i < SCENES; i++)
            expect_same_bits(context, counts[n], i, scenes[i].often ? reruns : FEW_RERUNS);
        kas_context_destroy(context);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(contexts_share_helpers),
        cmocka_unit_test(sessions_side_by_side),
        cmocka_unit_test(contexts_side_by_side),
        cmocka_unit_test(same_bits_at_any_thread_count),
    };
    if (argc > 1 && strcmp(argv[1], "--long") == 0) {
        side_by_side_seconds = 60;
        reruns = 200;
    }
    return cmocka_run_group_tests(tests, compute_expected, NULL);
}
