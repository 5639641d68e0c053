/*
 * test_failures.c DEVICE - whatever a call needs is refused to it in turn: the first host allocation, the second, and
 * so on until the call gets through; likewise, on the null device, device memory, streams, copies, kernels, launches,
 * waits and timers. Each time the call says what went wrong, leaves its out-parameters alone and leaks nothing, and the
 * same call succeeds afterwards with the same results.
 */
#define _POSIX_C_SOURCE 200809L
#include "tests/null/host_memory.h"
#include "tests/null/null_backend.h"
#include "tests/null/world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define POISON ((void *)(uintptr_t)0x5a5a5a50)
#define MOST_FAULTS 10000u

static const char *device;

#define CHECK(call)                                                                                                    \
    do {                                                                                                               \
        if ((call) != KAS_OK)                                                                                          \
            fail_msg("%s: %s", #call, kas_last_error());                                                               \
    } while (0)

#define TRY(expression)                                                                                                \
    do {                                                                                                               \
        kas_status try_status = (expression);                                                                          \
        if (try_status != KAS_OK)                                                                                      \
            return try_status;                                                                                         \
    } while (0)

static bool is_null_device(void)
{
    return strcmp(device, "null") == 0;
}

/* ---- Kinds of faults -------------------------------------------------------------------------------------------- */

typedef struct fault_kind {
    const char *name;
    null_call call;
    uint32_t count; /* calls that fail from the nth on; 0: host memory */
    kas_status status;
    bool tolerated; /* the library may get along without what it was refused */
} fault_kind;

static const fault_kind host_fault = {.name = "host allocation", .status = KAS_ERROR_OUT_OF_MEMORY};

static const fault_kind device_faults[] = {
    {"open", NULL_OPEN, 1, KAS_ERROR_DRIVER, false},
    {"device allocation", NULL_BUFFER, 1, KAS_ERROR_OUT_OF_DEVICE_MEMORY, false},
    {"stream", NULL_STREAM, 1, KAS_ERROR_DRIVER, false},
    {"copy", NULL_COPY, 1, KAS_ERROR_DRIVER, false},
    {"wait", NULL_WAIT, 1, KAS_ERROR_DRIVER, false},
    {"launch", NULL_LAUNCH, 1, KAS_ERROR_DRIVER, false},
    {"timer", NULL_TIMER, 1, KAS_ERROR_DRIVER, false},
    {"lost device", NULL_LAUNCH, 1, KAS_ERROR_DEVICE_LOST, false},
    {"kernel", NULL_KERNEL, 1, KAS_ERROR_DRIVER, true}, /* the other row serves */
    {"every kernel", NULL_KERNEL, UINT32_MAX, KAS_ERROR_DRIVER, false},
    {"memory of a kernel", NULL_KERNEL, 1, KAS_ERROR_OUT_OF_MEMORY, false}, /* no other row is taken instead */
    {"kernel of a lost device", NULL_KERNEL, 1, KAS_ERROR_DEVICE_LOST, false},
};

static void arm(const fault_kind *kind, uint32_t nth)
{
    if (kind->count == 0)
        host_memory_fail(nth);
    else
        null_fail(kind->call, nth, kind->count, kind->status);
}

static uint64_t asked(const fault_kind *kind)
{
    return kind->count == 0 ? host_memory_asked() : null_calls(kind->call);
}

/*
 * The memory of host devices' buffers is host memory. An operation without a kernel is missing where it is asked for:
 * a calibrator makes its session without a plan.
 */
static bool is_expected(const fault_kind *kind, kas_status status)
{
    return status == kind->status || (kind->count == 0 && status == KAS_ERROR_OUT_OF_DEVICE_MEMORY) ||
           (kind->count > 1 && status == KAS_ERROR_UNSUPPORTED);
}

/* ---- Scenarios --------------------------------------------------------------------------------------------------- */

/* Runs on an open world, leaves nothing behind, and returns what its first failing call did. */
typedef kas_status (*scenario)(world *w);

/* Of everything that a scenario read back; equal results have equal digests. */
static uint64_t digest;

static void add_digest(const void *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        digest = (digest ^ ((const unsigned char *)bytes)[i]) * 1099511628211u;
}

/* Returns a failure, having checked that the out-parameter was left alone. */
#define MAKE(call, out)                                                                                                \
    do {                                                                                                               \
        kas_status make_status = (call);                                                                               \
        if ((make_status == KAS_OK) == ((void *)(out) == POISON))                                                      \
            fail_msg("%s: %s", #call, make_status == KAS_OK ? "success, and nothing given" : "a failure that gives");  \
        if (make_status != KAS_OK)                                                                                     \
            return make_status;                                                                                        \
    } while (0)

static kas_status contexts(world *w)
{
    (void)w;
    kas_context *context = POISON;
    kas_context_desc desc = {.struct_size = sizeof(desc), .device = device, .threads = 2};
    desc.variant = is_null_device() ? "second" : NULL;
    MAKE(kas_context_create(&desc, &context), context);
    kas_context_destroy(context);
    return KAS_OK;
}

static kas_status buffers(world *w)
{
    kas_buffer *buffer = POISON;
    MAKE(kas_buffer_create(w->context, 12345, &buffer), buffer);
    kas_buffer_destroy(buffer);
    return KAS_OK;
}

static kas_status imported_buffers(world *w)
{
    static uint64_t memory[16];
    kas_buffer *buffer = POISON;
    MAKE(kas_buffer_import(w->context, (uintptr_t)memory, 0, sizeof(memory), &buffer), buffer);
    kas_buffer_destroy(buffer);
    return KAS_OK;
}

static kas_status streams(world *w)
{
    kas_stream *stream = POISON;
    MAKE(kas_stream_create(w->context, &stream), stream);
    kas_stream_destroy(stream);
    return KAS_OK;
}

/* A round of marks, one of which is recorded once more. */
static kas_status use_timer(world *w, kas_timer *timer)
{
    double milliseconds = -77;
    for (uint32_t mark = 0; mark < 3; mark++)
        TRY(kas_timer_mark(timer, w->stream, mark < 2 ? mark : 1));
    TRY(kas_stream_wait(w->stream));
    kas_status status = kas_timer_elapsed(timer, 0, 1, &milliseconds);
    assert_true(status == KAS_OK ? milliseconds >= 0 : milliseconds == -77);
    return status;
}

static kas_status timers(world *w)
{
    kas_timer *timer = POISON;
    MAKE(kas_timer_create(w->context, 2, &timer), timer);
    kas_status status = use_timer(w, timer);
    if (status == KAS_OK)
        status = use_timer(w, timer);
    kas_timer_destroy(timer);
    return status;
}

static kas_status plans(world *w)
{
    static const char text[] = "{\"version\": 1, \"layers\": 2, \"heads\": 2, \"kv_heads\": 1, \"anchors\": [0],"
                               " \"head_map\": [[0], [0]]}";
    kas_plan *plan = POISON;
    kas_plan_desc desc = world_plan_desc();
    (void)w;
    MAKE(kas_plan_create(&desc, &plan), plan);
    kas_plan_destroy(plan);
    plan = POISON;
    MAKE(kas_plan_parse(text, sizeof(text) - 1, &plan), plan);
    kas_plan_destroy(plan);
    return KAS_OK;
}

/* A failed save leaves no file, neither under the name nor beside it. */
static kas_status saved_plans(world *w)
{
    char folder[] = "/tmp/kascade-failures-XXXXXX", path[64];
    kas_plan *plan = POISON;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/plan.json", folder);
    kas_status status = kas_plan_save(w->plan, path);
    assert_int_equal(access(path, F_OK) == 0, status == KAS_OK);
    if (status == KAS_OK) {
        status = kas_plan_load(path, &plan);
        assert_int_equal(plan == POISON, status != KAS_OK);
        remove(path);
    }
    if (plan != POISON)
        kas_plan_destroy(plan);
    assert_int_equal(rmdir(folder), 0);
    return status;
}

/* A prompt of two layers, and the plan that comes of it. */
static kas_status calibrate(world *w, kas_calibrator *calibrator)
{
    static const uint32_t anchors[] = {0};
    kas_plan *plan = POISON;
    double objective = -77;
    kas_calibration found = {.struct_size = sizeof(found), .prompts = 77};
    kas_calibration_layer layer = {.struct_size = sizeof(layer),
                                   .tokens = WORLD_QUERIES,
                                   .q = {.buffer = w->q},
                                   .k = {.buffer = w->k},
                                   .before = {.buffer = w->v},
                                   .after = {.buffer = w->lse}};
    for (layer.layer = 0; layer.layer < 2; layer.layer++)
        TRY(kas_calibrator_feed(calibrator, w->stream, &layer));
    kas_status status = kas_calibrator_finish(calibrator, &found);
    assert_true(status == KAS_OK || found.prompts == 77);
    TRY(status);
    add_digest(found.similarity, 2 * 2 * WORLD_KV_HEADS * WORLD_KV_HEADS * sizeof(float));
    kas_plan_desc wish = {.struct_size = sizeof(wish),
                          .layers = 2,
                          .heads = WORLD_HEADS,
                          .kv_heads = WORLD_KV_HEADS,
                          .anchors = anchors,
                          .anchor_count = 1};
    MAKE(kas_calibration_plan(&found, &wish, &plan, &objective), plan);
    kas_plan_destroy(plan);
    return KAS_OK;
}

static kas_status calibrators(world *w)
{
    kas_calibrator *calibrator = POISON;
    kas_calibrator_desc desc = {.struct_size = sizeof(desc),
                                .layers = 2,
                                .heads = WORLD_HEADS,
                                .kv_heads = WORLD_KV_HEADS,
                                .head_dim = WORLD_HEAD_DIM,
                                .hidden = 8,
                                .max_tokens = WORLD_QUERIES,
                                .tile = WORLD_TILE,
                                .dtype = KAS_DTYPE_F32};
    MAKE(kas_calibrator_create(w->context, &desc, &calibrator), calibrator);
    kas_status status = calibrate(w, calibrator);
    kas_calibrator_destroy(calibrator);
    return status;
}

static kas_status make_session(world *w, const kas_session_desc *desc)
{
    kas_session *session = POISON;
    kas_workspace_size size = {77, 77, 77};
    kas_status status = kas_session_workspace_size(w->context, desc, &size);
    assert_true(status == KAS_OK || (size.lists == 77 && size.scratch == 77 && size.fixed == 77));
    TRY(status);
    MAKE(kas_session_create(w->context, desc, &session), session);
    kas_session_destroy(session);
    return KAS_OK;
}

static kas_status sessions(world *w)
{
    kas_session_desc desc = world_session_desc(w->plan);
    return make_session(w, &desc);
}

static kas_status paged_sessions(world *w)
{
    kas_session_desc desc = world_session_desc(w->plan);
    desc.page_size = WORLD_PAGE;
    desc.dtype = KAS_DTYPE_BF16;
    return make_session(w, &desc);
}

static kas_status callers_memory(world *w)
{
    kas_session_desc desc = world_session_desc(w->plan);
    desc.lists.buffer = w->k;
    desc.scratch.buffer = w->v;
    desc.max_batch = desc.max_decode_queries = 1;
    desc.max_queries = 0;
    return make_session(w, &desc);
}

static kas_status transfers(world *w)
{
    static const unsigned char poison[64] = {77, 77, 77};
    unsigned char bytes[64];
    memcpy(bytes, poison, sizeof(bytes));
    TRY(kas_buffer_write(w->stream, w->lse, 0, "0123456789abcdef", 16));
    TRY(kas_buffer_copy(w->stream, w->lse, 16, w->lse, 0, 16));
    TRY(kas_buffer_fill(w->stream, w->lse, 32, 32, 0x21));
    TRY(kas_stream_wait(w->stream));
    kas_status status = kas_buffer_read(w->stream, w->lse, 0, bytes, sizeof(bytes));
    if (status != KAS_OK)
        assert_memory_equal(bytes, poison, sizeof(bytes));
    else
        add_digest(bytes, sizeof(bytes));
    return status;
}

static kas_status read_out(world *w, uint32_t size)
{
    unsigned char bytes[WORLD_OUT_BYTES];
    TRY(kas_buffer_read(w->stream, w->out, 0, bytes, size));
    add_digest(bytes, size);
    return KAS_OK;
}

static kas_status prefill(world *w)
{
    kas_attention args = w->prefill;
    for (args.layer = 0; args.layer < WORLD_LAYERS; args.layer++) {
        TRY(kas_prefill(w->session, w->stream, &args));
        TRY(read_out(w, WORLD_OUT_BYTES));
    }
    return KAS_OK;
}

static kas_status decode(world *w)
{
    kas_attention args = w->decode;
    for (args.layer = 0; args.layer < WORLD_LAYERS; args.layer++) {
        TRY(kas_decode(w->session, w->stream, &args));
        TRY(read_out(w, WORLD_OUT_BYTES / WORLD_QUERIES));
    }
    return KAS_OK;
}

static kas_status run_operations(world *w, kas_phase phase, kas_attention args)
{
    kas_scores scores = world_scores(w, phase);
    kas_lists lists = world_lists(w, phase);
    TRY(kas_attend(w->session, w->stream, phase, &args));
    TRY(kas_pooled_scores(w->session, w->stream, phase, &args, &scores));
    TRY(kas_select(w->session, w->stream, phase, &args, &scores, &lists));
    TRY(kas_attend_lists(w->session, w->stream, phase, &args, &lists));
    TRY(read_out(w, phase == KAS_PHASE_PREFILL ? WORLD_OUT_BYTES : WORLD_OUT_BYTES / WORLD_QUERIES));
    args.lse.buffer = w->lse;
    return kas_log_sum_exp(w->session, w->stream, phase, &args);
}

static kas_status operations(world *w)
{
    TRY(run_operations(w, KAS_PHASE_PREFILL, w->prefill));
    return run_operations(w, KAS_PHASE_DECODE, w->decode);
}

static kas_status checks(world *w)
{
    uint32_t bits = 77;
    kas_status status = kas_session_check(w->session, w->stream, &bits);
    assert_int_equal(bits, status == KAS_OK ? 0 : 77);
    return status;
}

/* Everything from nothing: on real devices this is where programs are built. */
static kas_status whole(world *w)
{
    (void)w;
    world fresh;
    kas_status status = world_open(&fresh, device);
    if (status == KAS_OK)
        status = prefill(&fresh);
    if (status == KAS_OK)
        status = decode(&fresh);
    world_close(&fresh);
    return status;
}

/* ---- One fault after the other ----------------------------------------------------------------------------------- */

typedef struct counts {
    uint64_t blocks;
    uint32_t alive;
} counts;

static counts count(void)
{
    return (counts){host_memory_blocks(), null_alive()};
}

static kas_status run_balanced(world *w, const char *name, scenario run)
{
    counts before = count();
    digest = 14695981039346656037u;
    kas_status status = run(w);
    counts after = count();
    if (before.blocks != after.blocks || before.alive != after.alive)
        fail_msg("%s (%s): host blocks %llu, then %llu; handles %u, then %u", name,
                 status == KAS_OK ? "done" : kas_last_error(), (unsigned long long)before.blocks,
                 (unsigned long long)after.blocks, before.alive, after.alive);
    return status;
}

/* Fails the first, the second, ... call of a kind until the scenario has no more of them; how often it failed. */
static uint32_t walk(world *w, const char *name, scenario run, const fault_kind *kind)
{
    CHECK(run(w)); /* what a context keeps for the next time is made now */
    CHECK(run_balanced(w, name, run));
    uint64_t reference = digest;
    uint32_t failures = 0;
    for (uint32_t nth = 1; nth < MOST_FAULTS; nth++) {
        arm(kind, nth);
        kas_status status = run_balanced(w, name, run);
        bool met = asked(kind) >= nth;
        arm(kind, 0);
        if (!met && status != KAS_OK)
            fail_msg("%s: fails without a fault: %s", name, kas_last_error());
        if (!met)
            return failures;
        if (status == KAS_OK ? !kind->tolerated || digest != reference : !is_expected(kind, status))
            fail_msg("%s: %s %u failed, the call says: %s (%s)", name, kind->name, nth, kas_status_text(status),
                     kas_last_error());
        assert_true(status == KAS_OK || kas_last_error()[0] != '\0');
        failures += status != KAS_OK;
        CHECK(run_balanced(w, name, run));
        if (digest != reference)
            fail_msg("%s: other results after %s %u had failed", name, kind->name, nth);
    }
    fail_msg("%s: never gets through", name);
    return failures;
}

static const struct {
    const char *name;
    scenario run;
    bool allocates; /* host memory */
    bool on_host;   /* needs buffers in host memory */
} scenarios[] = {
    {"contexts", contexts, true, false},
    {"buffers", buffers, true, false},
    {"imported buffers", imported_buffers, true, true},
    {"streams", streams, true, false},
    {"timers", timers, true, false},
    {"plans", plans, true, false},
    {"saved plans", saved_plans, true, false},
    {"sessions", sessions, true, false},
    {"paged sessions", paged_sessions, true, false},
    {"callers' memory", callers_memory, true, false},
    {"calibrators", calibrators, true, false},
    {"transfers", transfers, false, false},
    {"prefill", prefill, false, false},
    {"decode", decode, false, false},
    {"operations", operations, false, false},
    {"checks", checks, false, false},
};

#define SCENARIOS (sizeof(scenarios) / sizeof(*scenarios))

static bool applies(const world *w, size_t index)
{
    kas_device_info info = {.struct_size = sizeof(info)};
    CHECK(kas_context_get_info(w->context, &info));
    return !scenarios[index].on_host || info.host_memory || is_null_device();
}

static void host_memory(void **state)
{
    (void)state;
    world w;
    fault_kind kind = host_fault;
    /* Programs kept by drivers save time and may be done without. */
    kind.tolerated = !is_null_device() && strcmp(device, "cpu") != 0;
    CHECK(world_open(&w, device));
    for (size_t i = 0; i < SCENARIOS; i++) {
        if (!applies(&w, i))
            continue;
        uint32_t failures = walk(&w, scenarios[i].name, scenarios[i].run, &kind);
        if ((failures > 0) != scenarios[i].allocates)
            fail_msg("%s: %u host allocations failed", scenarios[i].name, failures);
        print_message("%s: %u\n", scenarios[i].name, failures);
    }
    world_close(&w);
    print_message("whole: %u\n", walk(NULL, "whole", whole, &kind));
    assert_int_equal(host_memory_blocks(), 0);
    assert_int_equal(host_memory_mismatches(), 0);
}

static void device_calls(void **state)
{
    (void)state;
    world w;
    CHECK(world_open(&w, device));
    for (size_t f = 0; f < sizeof(device_faults) / sizeof(*device_faults); f++) {
        uint32_t failures = 0;
        for (size_t i = 0; i < SCENARIOS; i++)
            failures += walk(&w, scenarios[i].name, scenarios[i].run, &device_faults[f]);
        failures += device_faults[f].tolerated ? 1 : 0;
        print_message("%s: %u\n", device_faults[f].name, failures);
        assert_true(failures > 0);
    }
    world_close(&w);
    assert_int_equal(null_alive(), 0);
    assert_int_equal(host_memory_blocks(), 0);
}

/* A publishing layer that failed has left no list that a later layer could mistake for its own. */
static void failed_layers(void **state)
{
    (void)state;
    static const uint32_t publishing[] = {0, 2};
    world w;
    CHECK(world_open(&w, device));
    for (int n = 0; n < 4; n++) {
        kas_attention args = n % 2 ? w.decode : w.prefill;
        kas_status (*call)(kas_session *, kas_stream *, const kas_attention *) = n % 2 ? kas_decode : kas_prefill;
        for (uint32_t nth = 1;; nth++) {
            for (args.layer = 0; args.layer < publishing[n / 2]; args.layer++)
                CHECK(call(w.session, w.stream, &args));
            null_fail(NULL_LAUNCH, nth, 1, KAS_ERROR_DRIVER);
            args.layer = publishing[n / 2];
            kas_status status = call(w.session, w.stream, &args);
            null_fail(NULL_LAUNCH, 0, 0, KAS_OK);
            if (status == KAS_OK) {
                assert_true(nth > 1);
                break;
            }
            args.layer = 4;
            assert_int_equal(call(w.session, w.stream, &args), KAS_ERROR_STATE);
        }
    }
    world_close(&w);
}

/* ---- The first context of a process ------------------------------------------------------------------------------ */

/* In a process of its own: 0 a failure and then success, 1 no fault met, 2 anything else. */
static int first_context(uint32_t nth)
{
    kas_context *context = POISON;
    kas_context_desc desc = {.struct_size = sizeof(desc), .device = device, .threads = 3};
    host_memory_install();
    host_memory_fail(nth);
    kas_status status = kas_context_create(&desc, &context);
    bool met = host_memory_asked() >= nth;
    host_memory_fail(0);
    if (!met || status == KAS_OK) {
        if (status == KAS_OK)
            kas_context_destroy(context);
        return status != KAS_OK || host_memory_blocks() != 0 ? 2 : met ? 0 : 1;
    }
    if (context != POISON || status != KAS_ERROR_OUT_OF_MEMORY || host_memory_blocks() != 0) {
        fprintf(stderr, "allocation %u: %s, %llu blocks\n", nth, kas_last_error(),
                (unsigned long long)host_memory_blocks());
        return 2;
    }
    if (kas_context_create(&desc, &context) != KAS_OK) {
        fprintf(stderr, "after allocation %u failed: %s\n", nth, kas_last_error());
        return 2;
    }
    kas_context_destroy(context);
    return host_memory_blocks() != 0 ? 2 : 0;
}

/* Drivers are probed once a process: what fails then must not be remembered. */
static void first_contexts(void **state)
{
    (void)state;
    for (uint32_t nth = 1; nth < MOST_FAULTS; nth++) {
        int status = 0;
        fflush(NULL);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0)
            _exit(first_context(nth));
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFEXITED(status));
        if (WEXITSTATUS(status) == 1) {
            assert_true(nth > 1);
            return;
        }
        if (WEXITSTATUS(status) != 0)
            fail_msg("allocation %u of the first context of a process", nth);
    }
    fail_msg("never gets through");
}

static int install(void **state)
{
    (void)state;
    if (is_null_device())
        null_install();
    host_memory_install();
    return 0;
}

static int uninstall(void **state)
{
    (void)state;
    host_memory_uninstall();
    return 0;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: %s DEVICE\n", argv[0]);
        return 2;
    }
    device = argv[1];
    const struct CMUnitTest null_tests[] = {
        cmocka_unit_test_setup_teardown(host_memory, install, uninstall),
        cmocka_unit_test_setup_teardown(device_calls, install, uninstall),
        cmocka_unit_test_setup_teardown(failed_layers, install, uninstall),
    };
    /* first_contexts comes first: the process has not asked for a device yet. */
    const struct CMUnitTest other_tests[] = {
        cmocka_unit_test(first_contexts),
        cmocka_unit_test_setup_teardown(host_memory, install, uninstall),
    };
    return is_null_device() ? cmocka_run_group_tests(null_tests, NULL, NULL)
                            : cmocka_run_group_tests(other_tests, NULL, NULL);
}
