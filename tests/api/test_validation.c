/*
 * test_validation.c - every rule that the public interface keeps for its arguments is broken once, on the null device.
 * Each time the status is the documented one, the sentence (in kas_last_error and in the log) names the argument, its
 * value and the bound, out-parameters keep their values, and the device has seen no launch.
 */
#include "core/registry.h"
#include "tests/null/null_backend.h"
#include "tests/null/world.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define POISON ((void *)(uintptr_t)0x5a5a5a50)

/* ---- What a refusal is ----------------------------------------------------------------------------------------- */

static char logged[1024];
static uint32_t log_lines;

static void keep_line(void *user, kas_log_level level, const char *message)
{
    (void)user;
    if (level != KAS_LOG_ERROR)
        return;
    log_lines++;
    snprintf(logged, sizeof(logged), "%s", message);
}

/* `words`: what the sentence must hold, NULL-terminated. */
static void check_refusal(kas_status status, kas_status expected, const char *call, uint32_t lines_before,
                          uint32_t launches_before, const char *const *words)
{
    if (status != expected)
        fail_msg("%s: %s (%s), expected: %s", call, kas_status_text(status), kas_last_error(),
                 kas_status_text(expected));
    if (log_lines == lines_before || strcmp(logged, kas_last_error()) != 0)
        fail_msg("%s: the log says \"%s\", the error is \"%s\"", call, logged, kas_last_error());
    if (null_launch_count() != launches_before)
        fail_msg("%s: the device was given work", call);
    for (; *words; words++)
        if (!strstr(kas_last_error(), *words))
            fail_msg("%s: \"%s\" does not name \"%s\"", call, kas_last_error(), *words);
}

#define REFUSED(expected, call, ...)                                                                                   \
    do {                                                                                                               \
        uint32_t lines_seen = log_lines, launches_seen = null_launch_count();                                          \
        kas_status refused = (call);                                                                                   \
        check_refusal(refused, expected, #call, lines_seen, launches_seen, (const char *const[]){__VA_ARGS__, NULL});  \
    } while (0)

#define INVALID(call, ...) REFUSED(KAS_ERROR_INVALID_ARGUMENT, call, __VA_ARGS__)

#define CHECK(call)                                                                                                    \
    do {                                                                                                               \
        if ((call) != KAS_OK)                                                                                          \
            fail_msg("%s: %s", #call, kas_last_error());                                                               \
    } while (0)

/* ---- The world of every test ----------------------------------------------------------------------------------- */

static world w, other; /* two contexts */

/* A backend whose driver is missing. */
static uint32_t absent_probe(char *reason, size_t reason_size)
{
    snprintf(reason, reason_size, "libabsent.so.1 was not found");
    return 0;
}

static const kas_backend absent_backend = {.name = "absent", .probe = absent_probe};

static int open_worlds(void **state)
{
    (void)state;
    kas_set_log(keep_line, NULL, KAS_LOG_DEBUG);
    null_install();
    if (!kas_registry_add(&absent_backend))
        return 1;
    CHECK(world_open(&w, "null"));
    CHECK(world_open(&other, "null"));
    return 0;
}

static int close_worlds(void **state)
{
    (void)state;
    world_close(&w);
    world_close(&other);
    kas_set_log(NULL, NULL, KAS_LOG_ERROR);
    return (int)null_alive();
}

/* ---- Devices and contexts -------------------------------------------------------------------------------------- */

static void backends_and_devices(void **state)
{
    (void)state;
    kas_backend_info backend = {.struct_size = sizeof(backend), .name = POISON};
    INVALID(kas_backend_get_info(0, NULL), "info");
    backend.struct_size = 3;
    INVALID(kas_backend_get_info(0, &backend), "info", "struct_size", "3", "40");
    backend.struct_size = sizeof(backend);
    INVALID(kas_backend_get_info(99, &backend), "index", "99", "backends");
    assert_ptr_equal(backend.name, POISON);
    for (uint32_t i = 0; i < kas_backend_count(); i++) {
        CHECK(kas_backend_get_info(i, &backend));
        assert_true(backend.available == (backend.device_count > 0));
        assert_true(backend.available == (backend.reason[0] == '\0'));
    }
    kas_device_info info = {.struct_size = sizeof(info), .memory = 77};
    INVALID(kas_device_get_info(NULL, &info), "name");
    INVALID(kas_device_get_info("null", NULL), "info");
    info.struct_size = 0;
    INVALID(kas_device_get_info("null", &info), "info", "struct_size", " 0");
    info.struct_size = sizeof(info);
    REFUSED(KAS_ERROR_NO_DEVICE, kas_device_get_info("abacus", &info), "abacus");
    REFUSED(KAS_ERROR_NO_DEVICE, kas_device_get_info("", &info), "device");
    REFUSED(KAS_ERROR_NO_DEVICE, kas_device_get_info("null:", &info), "null:");
    REFUSED(KAS_ERROR_NO_DEVICE, kas_device_get_info("null:-1", &info), "null:-1");
    REFUSED(KAS_ERROR_NO_DEVICE, kas_device_get_info("null:0x1", &info), "null:0x1");
    REFUSED(KAS_ERROR_NO_DEVICE, kas_device_get_info("null:99999999999999999999", &info), "null:9999");
    REFUSED(KAS_ERROR_NO_DEVICE, kas_device_get_info("null:7", &info), "null:7", "null:0");
    REFUSED(KAS_ERROR_NO_DEVICE, kas_device_get_info("absent", &info), "absent", "libabsent.so.1");
    assert_int_equal(info.memory, 77);
    CHECK(kas_device_get_info("null", &info));
    assert_string_equal(info.name, "null:0");
}

static void contexts(void **state)
{
    (void)state;
    kas_context *context = POISON;
    kas_context_desc desc = {.struct_size = sizeof(desc), .device = "null"};
    INVALID(kas_context_create(NULL, &context), "desc");
    desc.struct_size = 8;
    INVALID(kas_context_create(&desc, &context), "desc", "struct_size", "8");
    desc.struct_size = sizeof(desc);
    INVALID(kas_context_create(&desc, NULL), "context");
    desc.threads = 1025;
    INVALID(kas_context_create(&desc, &context), "threads", "1025", "1024");
    desc.threads = 0;
    desc.variant = "tenth";
    INVALID(kas_context_create(&desc, &context), "variant", "tenth");
    desc.variant = "first, lse=tenth";
    INVALID(kas_context_create(&desc, &context), "variant", "lse=tenth");
    desc.variant = "first\nattention=first";
    INVALID(kas_context_create(&desc, &context), "variant", "attention=first");
    desc.variant = "=first";
    INVALID(kas_context_create(&desc, &context), "variant", "=first");
    desc.variant = NULL;
    desc.device = "null:1";
    REFUSED(KAS_ERROR_NO_DEVICE, kas_context_create(&desc, &context), "null:1");
    desc.device = "absent";
    REFUSED(KAS_ERROR_NO_DEVICE, kas_context_create(&desc, &context), "libabsent.so.1");
    desc.device = NULL; /* the CPU */
    desc.import = &desc;
    INVALID(kas_context_create(&desc, &context), "import");
    assert_ptr_equal(context, POISON);
    kas_device_info info = {.struct_size = sizeof(info), .memory = 77};
    INVALID(kas_context_get_info(NULL, &info), "context");
    INVALID(kas_context_get_info(w.context, NULL), "info");
    info.struct_size = 1;
    INVALID(kas_context_get_info(w.context, &info), "info", "struct_size", "1");
    assert_int_equal(info.memory, 77);
    kas_context_destroy(NULL);
}

static void variants(void **state)
{
    (void)state;
    kas_variant_info info = {.struct_size = sizeof(info), .needs = 77};
    char count[16];
    snprintf(count, sizeof(count), "%u", kas_context_variant_count(w.context));
    INVALID(kas_context_get_variant(NULL, 0, &info), "context");
    INVALID(kas_context_get_variant(w.context, 0, NULL), "info");
    INVALID(kas_context_get_variant(w.context, 12345, &info), "index", "12345", count);
    info.struct_size = 2;
    INVALID(kas_context_get_variant(w.context, 0, &info), "info", "struct_size", "2");
    assert_int_equal(info.needs, 77);
    info.struct_size = sizeof(info);
    CHECK(kas_context_get_variant(w.context, 0, &info));
    assert_string_equal(info.name, "first");
    assert_int_equal(info.usable, 1);
    assert_int_equal(kas_context_variant_count(NULL), 0);
    assert_null(kas_session_variant(NULL, "attend"));
    assert_null(kas_session_variant(w.session, NULL));
    assert_null(kas_session_variant(w.session, "attention"));
    assert_string_equal(kas_session_variant(w.session, "attend"), "first");
}

/* The rows' operations are those that have a name, and each of them has rows. */
static void operation_names(void **state)
{
    (void)state;
    uint32_t named = 0, rows = 0;
    for (const char *name; (name = kas_operation_name(named)); named++)
        for (uint32_t i = 0; i < kas_context_variant_count(w.context); i++) {
            kas_variant_info info = {.struct_size = sizeof(info)};
            CHECK(kas_context_get_variant(w.context, i, &info));
            rows += strcmp(info.operation, name) == 0;
        }
    assert_string_equal(kas_operation_name(0), "attend");
    assert_true(named > 1);
    assert_int_equal(rows, kas_context_variant_count(w.context));
    assert_null(kas_operation_name(UINT32_MAX));
}

/* An entry with an operation prefers rows of that operation alone. */
static void preferred_rows(void **state)
{
    (void)state;
    const kas_context_desc desc = {
        .struct_size = sizeof(desc), .device = "null", .variant = "lse=second\nselect=first, scores=second\n"};
    const kas_session_desc shape = world_session_desc(w.plan);
    kas_context *context;
    kas_session *session;
    CHECK(kas_context_create(&desc, &context));
    CHECK(kas_session_create(context, &shape, &session));
    assert_string_equal(kas_session_variant(session, "lse"), "second");
    assert_string_equal(kas_session_variant(session, "scores"), "second");
    assert_string_equal(kas_session_variant(session, "select"), "first");
    assert_string_equal(kas_session_variant(session, "attend"), "first");
    kas_session_destroy(session);
    kas_context_destroy(context);
}

/* ---- Buffers, streams, timers ---------------------------------------------------------------------------------- */

static void buffers(void **state)
{
    (void)state;
    kas_buffer *buffer = POISON;
    INVALID(kas_buffer_create(NULL, 4, &buffer), "context");
    INVALID(kas_buffer_create(w.context, 4, NULL), "buffer");
    INVALID(kas_buffer_create(w.context, 0, &buffer), "size", "0", "1");
    REFUSED(KAS_ERROR_LIMIT, kas_buffer_create(w.context, UINT64_MAX, &buffer), "size", "18446744073709551615",
            "1073741824");
    INVALID(kas_buffer_import(NULL, 4096, 0, 4, &buffer), "context");
    INVALID(kas_buffer_import(w.context, 4096, 0, 4, NULL), "buffer");
    INVALID(kas_buffer_import(w.context, 0, 0, 4, &buffer), "handle", "0");
    INVALID(kas_buffer_import(w.context, 4096, 0, 0, &buffer), "size", "0");
    INVALID(kas_buffer_import(w.context, 4096, 24, 4, &buffer), "offset", "24", "16");
    INVALID(kas_buffer_import(w.context, 4096, UINT64_MAX - 15, 32, &buffer), "offset", "18446744073709551600", "32",
            "2^64");
    assert_ptr_equal(buffer, POISON);
    assert_null(kas_buffer_host(w.q));
    assert_null(kas_buffer_host(NULL));
    assert_int_equal(kas_buffer_size(NULL), 0);
    assert_int_equal(kas_buffer_size(w.out), WORLD_OUT_BYTES);
    kas_buffer_destroy(NULL);
}

static void transfers(void **state)
{
    (void)state;
    uint32_t word = 77;
    uint64_t size = WORLD_OUT_BYTES;
    char end[24];
    snprintf(end, sizeof(end), "%u", WORLD_OUT_BYTES);
    INVALID(kas_buffer_write(NULL, w.out, 0, &word, 4), "stream");
    INVALID(kas_buffer_write(w.stream, NULL, 0, &word, 4), "buffer");
    INVALID(kas_buffer_write(w.stream, w.out, 0, NULL, 4), "data");
    INVALID(kas_buffer_write(other.stream, w.out, 0, &word, 4), "stream", "buffer", "contexts");
    INVALID(kas_buffer_write(w.stream, w.out, size - 3, &word, 4), "buffer", "4", end);
    INVALID(kas_buffer_write(w.stream, w.out, UINT64_MAX, &word, 4), "buffer", "18446744073709551615", end);
    INVALID(kas_buffer_write(w.stream, w.out, 4, &word, UINT64_MAX), "buffer", "18446744073709551615", end);
    INVALID(kas_buffer_read(NULL, w.out, 0, &word, 4), "stream");
    INVALID(kas_buffer_read(w.stream, NULL, 0, &word, 4), "buffer");
    INVALID(kas_buffer_read(w.stream, w.out, 0, NULL, 4), "data");
    INVALID(kas_buffer_read(w.stream, other.out, 0, &word, 4), "stream", "buffer", "contexts");
    INVALID(kas_buffer_read(w.stream, w.out, size + 1, &word, 0), "buffer", end);
    INVALID(kas_buffer_read(w.stream, w.out, size, &word, 4), "buffer", "4", end);
    assert_int_equal(word, 77);
    CHECK(kas_buffer_write(w.stream, w.out, size, &word, 0));
    CHECK(kas_buffer_read(w.stream, w.out, size, &word, 0));
}

static void copies_and_fills(void **state)
{
    (void)state;
    uint64_t size = WORLD_OUT_BYTES;
    INVALID(kas_buffer_copy(NULL, w.out, 0, w.q, 0, 4), "stream");
    INVALID(kas_buffer_copy(w.stream, NULL, 0, w.q, 0, 4), "target");
    INVALID(kas_buffer_copy(w.stream, w.out, 0, NULL, 0, 4), "source");
    INVALID(kas_buffer_copy(w.stream, other.out, 0, w.q, 0, 4), "target", "contexts");
    INVALID(kas_buffer_copy(w.stream, w.out, 0, other.q, 0, 4), "source", "contexts");
    INVALID(kas_buffer_copy(w.stream, w.out, size, w.q, 0, 4), "target", "4");
    INVALID(kas_buffer_copy(w.stream, w.out, 0, w.q, UINT64_MAX - 3, 8), "source", "8");
    INVALID(kas_buffer_copy(w.stream, w.out, 2, w.q, 0, 4), "target", "2", "multiples of 4");
    INVALID(kas_buffer_copy(w.stream, w.out, 0, w.q, 6, 4), "source", "6", "multiples of 4");
    INVALID(kas_buffer_copy(w.stream, w.out, 0, w.q, 0, 7), "7", "multiples of 4");
    INVALID(kas_buffer_copy(w.stream, w.out, 8, w.out, 0, 12), "target_offset", "8", "12", "source_offset", "0");
    INVALID(kas_buffer_fill(NULL, w.out, 0, 4, 0), "stream");
    INVALID(kas_buffer_fill(w.stream, NULL, 0, 4, 0), "buffer");
    INVALID(kas_buffer_fill(other.stream, w.out, 0, 4, 0), "contexts");
    INVALID(kas_buffer_fill(w.stream, w.out, size - 4, 8, 0), "buffer", "8");
    INVALID(kas_buffer_fill(w.stream, w.out, 1, 4, 0), "buffer", "1", "multiples of 4");
    INVALID(kas_buffer_fill(w.stream, w.out, 0, 3, 0), "buffer", "3", "multiples of 4");
    CHECK(kas_buffer_copy(w.stream, w.out, 12, w.out, 0, 12));
    CHECK(kas_buffer_copy(w.stream, w.out, 4, w.out, 4, 0));
    CHECK(kas_buffer_fill(w.stream, w.out, size, 0, 0));
}

static void streams_and_timers(void **state)
{
    (void)state;
    kas_stream *stream = POISON;
    kas_timer *timer = POISON;
    double milliseconds = 77;
    INVALID(kas_stream_create(NULL, &stream), "context");
    INVALID(kas_stream_create(w.context, NULL), "stream");
    INVALID(kas_stream_import(NULL, 1, &stream), "context");
    INVALID(kas_stream_import(w.context, 1, NULL), "stream");
    REFUSED(KAS_ERROR_UNSUPPORTED, kas_stream_import(w.context, 1, &stream), "stream");
    INVALID(kas_stream_wait(NULL), "stream");
    INVALID(kas_timer_create(NULL, 1, &timer), "context");
    INVALID(kas_timer_create(w.context, 1, NULL), "timer");
    INVALID(kas_timer_create(w.context, 0, &timer), "marks", "0", "4096");
    INVALID(kas_timer_create(w.context, 4097, &timer), "marks", "4097", "4096");
    assert_ptr_equal(stream, POISON);
    assert_ptr_equal(timer, POISON);
    CHECK(kas_timer_create(w.context, 2, &timer));
    INVALID(kas_timer_mark(NULL, w.stream, 0), "timer");
    INVALID(kas_timer_mark(timer, NULL, 0), "stream");
    INVALID(kas_timer_mark(timer, other.stream, 0), "contexts");
    INVALID(kas_timer_mark(timer, w.stream, 2), "index", "2");
    INVALID(kas_timer_elapsed(NULL, 0, 1, &milliseconds), "timer");
    INVALID(kas_timer_elapsed(timer, 0, 1, NULL), "milliseconds");
    INVALID(kas_timer_elapsed(timer, 2, 0, &milliseconds), "first", "2");
    INVALID(kas_timer_elapsed(timer, 0, 9, &milliseconds), "second", "9", "2");
    REFUSED(KAS_ERROR_STATE, kas_timer_elapsed(timer, 0, 1, &milliseconds), "mark 0");
    CHECK(kas_timer_mark(timer, w.stream, 0));
    REFUSED(KAS_ERROR_STATE, kas_timer_elapsed(timer, 0, 1, &milliseconds), "mark 1");
    assert_true(milliseconds == 77);
    kas_timer_destroy(timer);
    kas_timer_destroy(NULL);
    kas_stream_destroy(NULL);
}

/* ---- Plans ------------------------------------------------------------------------------------------------------ */

/* The rules of a plan's fields have tests of their own, unit.plan; here stands what surrounds them. */
static void plans(void **state)
{
    (void)state;
    kas_plan *plan = POISON;
    kas_plan_desc desc = world_plan_desc(), view = {.struct_size = sizeof(view), .layers = 77};
    INVALID(kas_plan_create(NULL, &plan), "desc");
    INVALID(kas_plan_create(&desc, NULL), "plan");
    desc.struct_size = 5;
    INVALID(kas_plan_create(&desc, &plan), "struct_size", "5");
    desc = world_plan_desc();
    desc.heads = 5;
    INVALID(kas_plan_create(&desc, &plan), "heads", "5", "multiple", "kv_heads", "2");
    INVALID(kas_plan_parse(NULL, 0, &plan), "text");
    INVALID(kas_plan_parse("{}", 2, NULL), "plan");
    REFUSED(KAS_ERROR_FORMAT, kas_plan_parse("{", 1, &plan), "plan");
    REFUSED(KAS_ERROR_FORMAT, kas_plan_parse("{", (size_t)1 << 40, &plan), "1099511627776", "bytes");
    INVALID(kas_plan_load(NULL, &plan), "path");
    INVALID(kas_plan_load("plan.json", NULL), "plan");
    REFUSED(KAS_ERROR_IO, kas_plan_load("no/such/plan.json", &plan), "no/such/plan.json");
    INVALID(kas_plan_save(NULL, "plan.json"), "plan");
    INVALID(kas_plan_save(w.plan, NULL), "path");
    REFUSED(KAS_ERROR_IO, kas_plan_save(w.plan, "no/such/folder/plan.json"), "no/such/folder/plan.json");
    INVALID(kas_plan_get_desc(NULL, &view), "plan");
    INVALID(kas_plan_get_desc(w.plan, NULL), "desc");
    view.struct_size = 6;
    INVALID(kas_plan_get_desc(w.plan, &view), "struct_size", "6");
    assert_ptr_equal(plan, POISON);
    assert_int_equal(view.layers, 77);
    assert_int_equal(kas_plan_role(NULL, 0), KAS_ROLE_DENSE);
    assert_int_equal(kas_plan_role(w.plan, WORLD_LAYERS), KAS_ROLE_DENSE);
    kas_plan_destroy(NULL);
}

/* ---- Sessions --------------------------------------------------------------------------------------------------- */

/* Neither the session nor its sizes are given; a descriptor without the plan has its shape. */
#define SESSION_REFUSED(expected, given_plan, change, ...)                                                             \
    do {                                                                                                               \
        kas_session *session = POISON;                                                                                 \
        kas_workspace_size size = {77, 77, 77};                                                                        \
        kas_session_desc d = world_session_desc(given_plan);                                                           \
        d.heads = WORLD_HEADS;                                                                                         \
        d.kv_heads = WORLD_KV_HEADS;                                                                                   \
        change;                                                                                                        \
        REFUSED(expected, kas_session_create(w.context, &d, &session), __VA_ARGS__);                                   \
        REFUSED(expected, kas_session_workspace_size(w.context, &d, &size), __VA_ARGS__);                              \
        assert_ptr_equal(session, POISON);                                                                             \
        assert_true(size.lists == 77 && size.scratch == 77 && size.fixed == 77);                                       \
    } while (0)

#define SESSION_INVALID(change, ...) SESSION_REFUSED(KAS_ERROR_INVALID_ARGUMENT, NULL, change, __VA_ARGS__)
#define SESSION_UNBUILT(change, ...) SESSION_REFUSED(KAS_ERROR_UNSUPPORTED, w.plan, change, __VA_ARGS__, "not built")

static void session_handles(void **state)
{
    (void)state;
    kas_session *session = POISON;
    kas_workspace_size size;
    kas_session_desc desc = world_session_desc(w.plan);
    INVALID(kas_session_create(NULL, &desc, &session), "context");
    INVALID(kas_session_create(w.context, NULL, &session), "desc");
    INVALID(kas_session_create(w.context, &desc, NULL), "session");
    INVALID(kas_session_workspace_size(w.context, &desc, NULL), "size");
    INVALID(kas_session_workspace_size(NULL, &desc, &size), "context");
    desc.struct_size = 4;
    INVALID(kas_session_create(w.context, &desc, &session), "desc", "struct_size", "4");
    assert_ptr_equal(session, POISON);
    kas_session_destroy(NULL);
}

static void session_fields_not_built(void **state)
{
    (void)state;
    SESSION_UNBUILT(d.soft_cap = 30.0f, "soft_cap");
    SESSION_UNBUILT(d.window = 4096, "window");
    SESSION_UNBUILT(d.sinks.buffer = w.integers, "sinks");
    SESSION_UNBUILT(d.selection_key_bits = 4, "selection_key_bits");
    SESSION_UNBUILT(d.kv_dtype = KAS_DTYPE_F8_E4M3, "kv_dtype", "4");
    SESSION_UNBUILT(d.kv_dtype = KAS_DTYPE_F16, "kv_dtype", "2");
    SESSION_UNBUILT(d.dtype = KAS_DTYPE_I8, "dtype", "5");
    SESSION_UNBUILT(d.dtype = KAS_DTYPE_F8_E4M3, "dtype", "4");
}

static void session_shapes(void **state)
{
    (void)state;
    SESSION_INVALID(d.heads = 0, "heads", "0", "1024");
    SESSION_INVALID(d.heads = 1025, "heads", "1025", "1024");
    SESSION_INVALID(d.kv_heads = 0, "kv_heads", "0", "4");
    SESSION_INVALID(d.kv_heads = 3, "kv_heads", "3", "divisor", "4");
    SESSION_INVALID(d.kv_heads = 8, "kv_heads", "8", "4");
    SESSION_INVALID(d.head_dim = 0, "head_dim", "0", "256");
    SESSION_INVALID(d.head_dim = 257, "head_dim", "257", "256");
    SESSION_INVALID(d.dtype = KAS_DTYPE_DEFAULT, "dtype", "0", "F32");
    SESSION_INVALID(d.dtype = (kas_dtype)99, "dtype", "99", "F32");
    SESSION_INVALID(d.scale = NAN, "scale", "nan");
    SESSION_INVALID(d.scale = -INFINITY, "scale", "-inf");
    SESSION_REFUSED(KAS_ERROR_INVALID_ARGUMENT, w.plan, d.heads = 8, "heads", "8", "4");
    SESSION_REFUSED(KAS_ERROR_INVALID_ARGUMENT, w.plan, d.kv_heads = 4, "kv_heads", "4", "2");
    SESSION_REFUSED(KAS_ERROR_INVALID_ARGUMENT, w.plan, d.tile = 64, "tile", "64", "16");
}

static void session_limits(void **state)
{
    (void)state;
    SESSION_INVALID(d.max_keys = 0, "max_keys", "0", "1");
    SESSION_INVALID(d.max_keys = (1u << 30) + 1, "max_keys", "1073741825", "1073741824");
    SESSION_INVALID(d.max_batch = 65536, "max_batch", "65536", "65535");
    SESSION_INVALID(d.max_queries = WORLD_MAX_KEYS + 1, "max_queries", "321", "max_keys", "320");
    SESSION_INVALID(d.max_decode_queries = 9, "max_decode_queries", "9", "8");
    SESSION_INVALID((d.max_keys = 3, d.max_queries = 0), "max_decode_queries", "4", "3", "max_keys");
    SESSION_INVALID(d.page_size = (1u << 30) + 1, "page_size", "1073741825", "1073741824");
}

static void session_rules(void **state)
{
    (void)state;
    SESSION_INVALID(d.tile = 17, "tile", "17", "128");
    SESSION_INVALID(d.tile = 256, "tile", "256", "128");
    SESSION_INVALID(d.topk.fraction = NAN, "topk.fraction", "nan");
    SESSION_INVALID(d.topk.fraction = -0.5, "topk.fraction", "-0.5");
    SESSION_INVALID(d.topk.min = (1u << 30) + 1, "topk.min", "1073741825", "1073741824");
    SESSION_INVALID(d.topk.round = (1u << 30) + 1, "topk.round", "1073741825", "1073741824");
    SESSION_INVALID(d.topk.mode = (kas_topk_mode)2, "topk.mode", "2");
    SESSION_INVALID(d.pooling = (kas_pooling)2, "pooling", "2");
    SESSION_REFUSED(KAS_ERROR_INVALID_ARGUMENT, w.plan, (d.topk_override = 1, d.topk.fraction = INFINITY),
                    "topk.fraction", "inf");
}

/* Products that pass 32 or 64 bits end in a limit, not in a small number. */
static void session_sizes(void **state)
{
    (void)state;
    SESSION_REFUSED(KAS_ERROR_LIMIT, w.plan, d.scratch_limit = 1024, "scratch_limit", "1024", "prefill");
    SESSION_REFUSED(KAS_ERROR_LIMIT, NULL, (d.scratch_limit = 1024, d.max_queries = 0), "scratch_limit", "1024",
                    "decode");
    SESSION_REFUSED(KAS_ERROR_LIMIT, NULL,
                    (d.max_keys = d.max_queries = 1u << 30, d.tile = 128, d.topk.fraction = 0.99), "1073741824",
                    "2^32");
    SESSION_REFUSED(KAS_ERROR_LIMIT, NULL,
                    (d.max_keys = 1u << 30, d.max_queries = 1u << 20, d.tile = 128, d.topk.fraction = 1e-9,
                     d.topk.min = d.topk.round = 1, d.max_batch = 65535, d.heads = d.kv_heads = 1024),
                    "65535", "1073741824");
    SESSION_REFUSED(KAS_ERROR_LIMIT, NULL,
                    (d.max_keys = 1u << 30, d.max_queries = 1, d.tile = 128, d.topk.fraction = 1e-9,
                     d.topk.min = d.topk.round = 1, d.max_batch = 65535, d.heads = 1024, d.kv_heads = 1),
                    "scratch_limit");
}

static void session_rows(void **state)
{
    (void)state;
    kas_session *session = POISON;
    kas_session_desc desc = world_session_desc(w.plan);
    desc.head_dim = NULL_HEAD_DIM + 1;
    REFUSED(KAS_ERROR_UNSUPPORTED, kas_session_create(w.context, &desc, &session), "null:0", "attend", "head_dim 129");
    assert_ptr_equal(session, POISON);
}

static void session_memory(void **state)
{
    (void)state;
    kas_session *session = POISON;
    kas_session_desc desc = world_session_desc(w.plan);
    kas_slice *const slices[] = {&desc.lists, &desc.scratch};
    const char *const names[] = {"lists", "scratch"};
    for (int i = 0; i < 2; i++) {
        *slices[i] = (kas_slice){.buffer = other.k};
        INVALID(kas_session_create(w.context, &desc, &session), names[i], "context");
        *slices[i] = (kas_slice){.buffer = w.k, .offset = 8};
        INVALID(kas_session_create(w.context, &desc, &session), names[i], "offset", "8", "16");
        *slices[i] = (kas_slice){.buffer = w.integers};
        INVALID(kas_session_create(w.context, &desc, &session), names[i], "2048");
        *slices[i] = (kas_slice){.buffer = w.integers, .offset = UINT64_MAX - 15};
        INVALID(kas_session_create(w.context, &desc, &session), names[i], "2048", "18446744073709551600");
        *slices[i] = (kas_slice){0};
    }
    assert_ptr_equal(session, POISON);
}

static void session_questions(void **state)
{
    (void)state;
    kas_published_lists lists = {.struct_size = sizeof(lists), .rows = 77};
    uint32_t bits = 77;
    INVALID(kas_session_get_lists(NULL, KAS_PHASE_DECODE, &lists), "session");
    INVALID(kas_session_get_lists(w.session, KAS_PHASE_DECODE, NULL), "lists");
    INVALID(kas_session_get_lists(w.session, (kas_phase)2, &lists), "phase", "2");
    lists.struct_size = 7;
    INVALID(kas_session_get_lists(w.session, KAS_PHASE_DECODE, &lists), "lists", "struct_size", "7");
    assert_int_equal(lists.rows, 77);
    INVALID(kas_session_check(NULL, w.stream, &bits), "session");
    INVALID(kas_session_check(w.session, NULL, &bits), "stream");
    INVALID(kas_session_check(w.session, w.stream, NULL), "bits");
    INVALID(kas_session_check(w.session, other.stream, &bits), "contexts");
    assert_int_equal(bits, 77);
    assert_int_equal(kas_session_topk(NULL, 100, 100), 0);
}

/* ---- Calls ------------------------------------------------------------------------------------------------------ */

/* `a` is the world's prefill or decode before the change. */
#define CALL_REFUSED(expected, phase, change, ...)                                                                     \
    do {                                                                                                               \
        kas_attention a = w.phase;                                                                                     \
        change;                                                                                                        \
        REFUSED(expected, kas_##phase(w.session, w.stream, &a), __VA_ARGS__);                                          \
    } while (0)

#define CALL_INVALID(phase, change, ...) CALL_REFUSED(KAS_ERROR_INVALID_ARGUMENT, phase, change, __VA_ARGS__)

static void call_handles(void **state)
{
    (void)state;
    INVALID(kas_prefill(NULL, w.stream, &w.prefill), "session");
    INVALID(kas_prefill(w.session, NULL, &w.prefill), "stream");
    INVALID(kas_decode(w.session, w.stream, NULL), "args");
    INVALID(kas_decode(w.session, other.stream, &w.decode), "session", "stream", "contexts");
    INVALID(kas_attend(w.session, w.stream, (kas_phase)5, &w.decode), "phase", "5");
    CALL_INVALID(prefill, a.struct_size = 9, "args", "struct_size", "9");
}

static void call_counts(void **state)
{
    (void)state;
    CALL_INVALID(prefill, a.batch = 3, "batch", "3", "max_batch", "2");
    CALL_INVALID(prefill, a.queries = 0, "queries", "0", "1 to 40");
    CALL_INVALID(prefill, a.queries = 41, "queries", "41", "40", "max_queries");
    CALL_INVALID(decode, a.queries = 5, "queries", "5", "4", "max_decode_queries");
    CALL_INVALID(prefill, a.keys = 0, "keys", "0", "40", "320");
    CALL_INVALID(prefill, a.keys = 39, "keys", "39", "40");
    CALL_INVALID(decode, a.keys = 321, "keys", "321", "max_keys", "320");
    CALL_INVALID(decode, a.keys = UINT32_MAX, "keys", "4294967295", "320");
    CALL_INVALID(decode, a.final_len = 321, "final_len", "321", "320");
    CALL_INVALID(decode, a.final_len = 299, "final_len", "299", "keys", "300");
}

static void call_segments(void **state)
{
    (void)state;
    kas_kv_segment segments[2] = {{1, w.prefill.k, w.prefill.v}, {1, w.prefill.k, w.prefill.v}};
    CALL_INVALID(prefill, a.segment_count = 2, "segments");
    CALL_INVALID(prefill, (a.segment_count = 1, a.segments = segments), "segments", "1", "batch", "2");
    segments[1].count = 0;
    CALL_INVALID(prefill, (a.segment_count = 2, a.segments = segments), "segments[1].count", "0");
    segments[1].count = 2;
    CALL_INVALID(prefill, (a.segment_count = 2, a.segments = segments), "segments", "3", "batch", "2");
    segments[1].count = UINT32_MAX;
    CALL_INVALID(prefill, (a.segment_count = 2, a.segments = segments), "segments", "4294967296");
    segments[1].count = 1;
    segments[1].k.buffer = w.lse;
    CALL_INVALID(prefill, (a.segment_count = 2, a.segments = segments), "k:", "elements");
    segments[1].k.buffer = w.k;
    segments[1].v.buffer = NULL;
    CALL_INVALID(prefill, (a.segment_count = 2, a.segments = segments), "v has no buffer");
}

static kas_tensor *tensor_of(kas_attention *a, int which)
{
    kas_tensor *const tensors[] = {&a->q, &a->out, &a->k, &a->v};
    return tensors[which];
}

static void call_tensors(void **state)
{
    (void)state;
    static const char *const names[] = {"q", "out", "k", "v"};
    kas_buffer *const foreign[] = {other.q, other.out, other.k, other.v};
    for (int i = 0; i < 4; i++) {
        char no_buffer[16], context[40], offset[16], passes[16];
        snprintf(no_buffer, sizeof(no_buffer), "%s has no buffer", names[i]);
        snprintf(context, sizeof(context), "%s belongs to another context", names[i]);
        snprintf(offset, sizeof(offset), "%s.offset", names[i]);
        snprintf(passes, sizeof(passes), "%s:", names[i]);
        CALL_INVALID(prefill, tensor_of(&a, i)->buffer = NULL, no_buffer);
        CALL_INVALID(prefill, tensor_of(&a, i)->buffer = foreign[i], context);
        CALL_INVALID(prefill, tensor_of(&a, i)->offset = 6, offset, "6", "4");
        CALL_INVALID(prefill, tensor_of(&a, i)->buffer = w.integers, passes, "2048");
        CALL_INVALID(prefill, tensor_of(&a, i)->offset = UINT64_MAX - 3, passes, "18446744073709551612");
        CALL_INVALID(prefill, tensor_of(&a, i)->offset = 1u << 20, passes, "1048576");
        CALL_INVALID(prefill, tensor_of(&a, i)->stride[0] = UINT32_MAX, passes, "elements");
        CALL_INVALID(prefill, tensor_of(&a, i)->stride[1] = UINT32_MAX, passes, "elements");
        CALL_INVALID(prefill, tensor_of(&a, i)->stride[2] = UINT32_MAX, passes, "elements");
    }
}

static kas_slice *slice_of(kas_attention *a, int which)
{
    kas_slice *const slices[] = {&a->lse, &a->q_lens, &a->kv_lens, &a->q_starts, &a->final_lens};
    return slices[which];
}

static void call_slices(void **state)
{
    (void)state;
    static const char *const names[] = {"lse", "q_lens", "kv_lens", "q_starts", "final_lens"};
    for (int i = 0; i < 5; i++) {
        char context[40], offset[24], passes[16];
        snprintf(context, sizeof(context), "%s belongs to another context", names[i]);
        snprintf(offset, sizeof(offset), "%s.offset", names[i]);
        snprintf(passes, sizeof(passes), "%s:", names[i]);
        CALL_INVALID(prefill, *slice_of(&a, i) = (kas_slice){.buffer = other.integers}, context);
        CALL_INVALID(prefill, *slice_of(&a, i) = ((kas_slice){w.integers, 4}), offset, "4", "16");
        CALL_INVALID(prefill, *slice_of(&a, i) = ((kas_slice){w.integers, 2048}), passes, "2048");
        CALL_INVALID(prefill, *slice_of(&a, i) = ((kas_slice){w.integers, UINT64_MAX - 15}), passes,
                     "18446744073709551600");
    }
    kas_attention a = w.prefill;
    INVALID(kas_log_sum_exp(w.session, w.stream, KAS_PHASE_PREFILL, &a), "lse has no buffer");
}

/* Of packed rows the host knows only that one must fit; the rest is checked where it is read. */
static void packed_rows(void **state)
{
    (void)state;
    CALL_INVALID(decode, (a.q_starts.buffer = w.integers, a.q.offset = WORLD_OUT_BYTES - 4), "q:", "64 elements");
    CALL_INVALID(decode, (a.q_starts.buffer = w.integers, a.out.offset = WORLD_OUT_BYTES - 4), "out:", "64 elements");
    kas_attention a = w.decode;
    uint32_t bits = 77;
    const int32_t past = WORLD_BATCH * WORLD_QUERIES, within = 0;
    a.q_starts.buffer = w.integers;
    CHECK(kas_decode(w.session, w.stream, &a));
    CHECK(kas_session_check(w.session, w.stream, &bits));
    assert_int_equal(bits, 0);
    CHECK(kas_buffer_write(w.stream, w.integers, 0, &past, sizeof(past)));
    CHECK(kas_decode(w.session, w.stream, &a));
    CHECK(kas_session_check(w.session, w.stream, &bits));
    assert_int_equal(bits, KAS_CHECK_LENGTH);
    CHECK(kas_buffer_write(w.stream, w.integers, 0, &within, sizeof(within)));
}

static kas_session *make_session(kas_session_desc desc)
{
    kas_session *session = NULL;
    CHECK(kas_session_create(w.context, &desc, &session));
    return session;
}

static void paged_calls(void **state)
{
    (void)state;
    CALL_INVALID(decode, a.page_table.buffer = w.integers, "page_table", "page_size", "0");
    kas_session_desc desc = world_session_desc(w.plan);
    desc.page_size = WORLD_PAGE;
    kas_session *session = make_session(desc);
    kas_attention paged = w.decode, a;
    kas_kv_segment segment = {2, w.decode.k, w.decode.v};
    paged.page_table = (kas_slice){w.integers, WORLD_PAGES_AT};
    paged.page_count = WORLD_BATCH * WORLD_MAX_KEYS / WORLD_PAGE;
#define PAGED_INVALID(change, ...)                                                                                     \
    do {                                                                                                               \
        a = paged;                                                                                                     \
        change;                                                                                                        \
        INVALID(kas_decode(session, w.stream, &a), __VA_ARGS__);                                                       \
    } while (0)
    PAGED_INVALID(a.page_table.buffer = NULL, "page_table", "16");
    PAGED_INVALID(a.page_count = 0, "page_count", "16");
    PAGED_INVALID((a.segments = &segment, a.segment_count = 1), "segment", "1");
    PAGED_INVALID(a.page_table_stride = 18, "page_table_stride", "18", "300", "19");
    PAGED_INVALID(a.page_table.offset = 2040, "page_table.offset", "2040", "16");
    PAGED_INVALID(a.page_table.offset = 2032, "page_table:", "2032", "2048");
    PAGED_INVALID(a.page_table_stride = UINT32_MAX, "page_table:", "2048");
    PAGED_INVALID(a.page_count = 41, "k:", "elements");
    PAGED_INVALID(a.page_count = UINT32_MAX, "k:", "elements");
    /* The number of elements passes 64 bits. */
    PAGED_INVALID((a.page_count = UINT32_MAX, a.k.stride[0] = a.k.stride[1] = a.k.stride[2] = UINT32_MAX),
                  "k:", "18446744073709551615");
    PAGED_INVALID(
        (a.page_count = UINT32_MAX, a.v.stride[0] = a.v.stride[1] = a.v.stride[2] = UINT32_MAX, a.k.stride[0] = 0),
        "k:");
    kas_session_destroy(session);
}

static void fixed_lengths(void **state)
{
    (void)state;
    kas_session_desc desc = world_session_desc(w.plan);
    desc.topk_override = 1;
    desc.topk = (kas_topk){0.1, 16, 16, KAS_TOPK_FIXED};
    kas_session *session = make_session(desc);
    kas_attention a = w.prefill;
    INVALID(kas_prefill(session, w.stream, &a), "final_len", "0");
    a.keys = a.queries;
    a.kv_lens = (kas_slice){.buffer = w.integers};
    INVALID(kas_prefill(session, w.stream, &a), "final_len", "0");
    a.kv_lens.buffer = NULL;
    CHECK(kas_prefill(session, w.stream, &a));
    a = w.prefill;
    a.final_len = WORLD_KEYS;
    CHECK(kas_prefill(session, w.stream, &a));
    kas_session_destroy(session);
}

/* ---- Lists and scores of the caller ----------------------------------------------------------------------------- */

#define SCORES_INVALID(change, ...)                                                                                    \
    do {                                                                                                               \
        kas_scores s = world_scores(&w, KAS_PHASE_PREFILL);                                                            \
        kas_lists l = world_lists(&w, KAS_PHASE_PREFILL);                                                              \
        change;                                                                                                        \
        INVALID(kas_pooled_scores(w.session, w.stream, KAS_PHASE_PREFILL, &w.prefill, &s), __VA_ARGS__);               \
        INVALID(kas_select(w.session, w.stream, KAS_PHASE_PREFILL, &w.prefill, &s, &l), __VA_ARGS__);                  \
    } while (0)

static void callers_scores(void **state)
{
    (void)state;
    kas_lists lists = world_lists(&w, KAS_PHASE_PREFILL);
    INVALID(kas_pooled_scores(w.session, w.stream, KAS_PHASE_PREFILL, &w.prefill, NULL), "scores");
    INVALID(kas_select(w.session, w.stream, KAS_PHASE_PREFILL, &w.prefill, NULL, &lists), "scores");
    SCORES_INVALID(s.tiles = 2, "scores.tiles", "2", "3");
    SCORES_INVALID(s.tiles = 0, "scores.tiles", "0", "3");
    SCORES_INVALID(s.stride = 299, "scores.stride", "299", "300");
    SCORES_INVALID(s.stride = UINT32_MAX, "scores.stride", "4294967295", "1073741824");
    SCORES_INVALID(s.stride = 301, "scores.values:", "bytes");
    SCORES_INVALID(s.stride = 1u << 30, "scores.values:", "bytes");
    SCORES_INVALID(s.values.buffer = NULL, "scores.values has no buffer");
    SCORES_INVALID(s.values.buffer = other.scores, "scores.values", "context");
    SCORES_INVALID(s.values.offset = 4, "scores.values.offset", "4", "16");
}

#define LISTS_INVALID(change, ...)                                                                                     \
    do {                                                                                                               \
        kas_scores s = world_scores(&w, KAS_PHASE_PREFILL);                                                            \
        kas_lists l = world_lists(&w, KAS_PHASE_PREFILL);                                                              \
        change;                                                                                                        \
        INVALID(kas_attend_lists(w.session, w.stream, KAS_PHASE_PREFILL, &w.prefill, &l), __VA_ARGS__);                \
        INVALID(kas_select(w.session, w.stream, KAS_PHASE_PREFILL, &w.prefill, &s, &l), __VA_ARGS__);                  \
    } while (0)

static void callers_lists(void **state)
{
    (void)state;
    kas_scores scores = world_scores(&w, KAS_PHASE_PREFILL);
    kas_lists lists = world_lists(&w, KAS_PHASE_PREFILL);
    INVALID(kas_attend_lists(w.session, w.stream, KAS_PHASE_PREFILL, &w.prefill, NULL), "lists");
    INVALID(kas_select(w.session, w.stream, KAS_PHASE_PREFILL, &w.prefill, &scores, NULL), "lists");
    LISTS_INVALID(l.tiles = 2, "lists.tiles", "2", "3");
    LISTS_INVALID(l.width = 0, "lists.width", "0");
    LISTS_INVALID(l.width = (1u << 30) + 1, "lists.width", "1073741825", "1073741824");
    LISTS_INVALID((l.width = 1u << 30, l.tiles = UINT32_MAX), "lists", "4294967295", "1073741824");
    LISTS_INVALID(l.width = 301, "lists.indices:", "bytes");
    LISTS_INVALID(l.indices.buffer = NULL, "lists.indices has no buffer");
    LISTS_INVALID(l.indices.buffer = other.lists, "lists.indices", "context");
    LISTS_INVALID(l.indices.offset = 2, "lists.indices.offset", "2", "16");
    lists.width = 31; /* of 288 candidates 10 per cent are 28: rounded up 32 */
    INVALID(kas_select(w.session, w.stream, KAS_PHASE_PREFILL, &w.prefill, &scores, &lists), "lists.width", "31", "32");
}

static void callers_mass(void **state)
{
    (void)state;
    kas_scores scores = world_scores(&w, KAS_PHASE_DECODE);
    kas_lists lists = world_lists(&w, KAS_PHASE_DECODE);
    kas_slice mass = {.buffer = w.lse};
    kas_session_desc desc = world_session_desc(NULL);
    desc.heads = WORLD_HEADS;
    desc.kv_heads = WORLD_KV_HEADS;
    kas_session *session = make_session(desc);
#define MASS_INVALID(change, ...)                                                                                      \
    do {                                                                                                               \
        kas_slice m = mass;                                                                                            \
        change;                                                                                                        \
        INVALID(kas_pooled_mass(session, w.stream, KAS_PHASE_DECODE, &w.decode, &scores, &lists, &m), __VA_ARGS__);    \
    } while (0)
    INVALID(kas_pooled_mass(session, w.stream, KAS_PHASE_DECODE, &w.decode, NULL, &lists, &mass), "scores");
    INVALID(kas_pooled_mass(session, w.stream, KAS_PHASE_DECODE, &w.decode, &scores, NULL, &mass), "lists");
    INVALID(kas_pooled_mass(session, w.stream, KAS_PHASE_DECODE, &w.decode, &scores, &lists, NULL), "mass");
    INVALID(kas_pooled_mass(NULL, w.stream, KAS_PHASE_DECODE, &w.decode, &scores, &lists, &mass), "session");
    MASS_INVALID(m.buffer = NULL, "mass has no buffer");
    MASS_INVALID(m.buffer = other.lse, "mass", "context");
    MASS_INVALID(m.offset = 4, "mass.offset", "4", "16");
    MASS_INVALID(m.offset = kas_buffer_size(w.lse) - 32, "mass:", "48 bytes");
    CHECK(kas_pooled_mass(session, w.stream, KAS_PHASE_DECODE, &w.decode, &scores, &lists, &mass));
    REFUSED(KAS_ERROR_STATE, kas_pooled_mass(w.session, w.stream, KAS_PHASE_DECODE, &w.decode, &scores, &lists, &mass),
            "plan", "kas_pooled_mass");
    kas_session_destroy(session);
}

/* Logits of decode have the stride of the caller's scores. */
static void scores_of_a_great_stride(void **state)
{
    (void)state;
    kas_session_desc desc = world_session_desc(w.plan);
    desc.max_queries = 0;
    desc.max_decode_queries = 1;
    kas_session *session = make_session(desc);
    kas_scores scores = {.values = {.buffer = w.k}, .tiles = 1, .stride = 4096};
    REFUSED(KAS_ERROR_LIMIT, kas_pooled_scores(session, w.stream, KAS_PHASE_DECODE, &w.decode, &scores), "scratch",
            "bytes");
    INVALID(kas_prefill(session, w.stream, &w.prefill), "without prefill", "max_queries");
    scores.stride = WORLD_MAX_KEYS;
    CHECK(kas_pooled_scores(session, w.stream, KAS_PHASE_DECODE, &w.decode, &scores));
    kas_session_destroy(session);
}

/* All that is made of scores for one batch: the scores, lists chosen by them, and their sums over the lists. */
typedef struct scored {
    float scores[WORLD_BATCH * WORLD_KV_HEADS * WORLD_KEYS];
    int32_t lists[WORLD_BATCH * WORLD_KV_HEADS * WORLD_KEYS];
    float mass[WORLD_BATCH * WORLD_KV_HEADS * (WORLD_KV_HEADS + 1)];
} scored;

static void run_scored(kas_session *session, const kas_attention *args, scored *result)
{
    kas_scores scores = world_scores(&w, KAS_PHASE_DECODE);
    kas_lists lists = world_lists(&w, KAS_PHASE_DECODE);
    kas_slice mass = {.buffer = w.lse};
    CHECK(kas_buffer_fill(w.stream, w.scores, 0, sizeof(result->scores), 0xff));
    CHECK(kas_buffer_fill(w.stream, w.lists, 0, sizeof(result->lists), 0xff));
    CHECK(kas_buffer_fill(w.stream, w.lse, 0, sizeof(result->mass), 0xff));
    CHECK(kas_pooled_scores(session, w.stream, KAS_PHASE_DECODE, args, &scores));
    CHECK(kas_select(session, w.stream, KAS_PHASE_DECODE, args, &scores, &lists));
    CHECK(kas_pooled_mass(session, w.stream, KAS_PHASE_DECODE, args, &scores, &lists, &mass));
    CHECK(kas_buffer_read(w.stream, w.scores, 0, result->scores, sizeof(result->scores)));
    CHECK(kas_buffer_read(w.stream, w.lists, 0, result->lists, sizeof(result->lists)));
    CHECK(kas_buffer_read(w.stream, w.lse, 0, result->mass, sizeof(result->mass)));
}

/* Scores of sequences in buffers of their own are those of one buffer, and so is what follows from them. */
static void scores_of_segments(void **state)
{
    (void)state;
    static scored whole, parts;
    kas_session_desc desc = world_session_desc(NULL);
    desc.heads = WORLD_HEADS;
    desc.kv_heads = WORLD_KV_HEADS;
    kas_session *session = make_session(desc);
    kas_kv_segment segments[2] = {{1, w.prefill.k, w.prefill.v}, {1, w.prefill.k, w.prefill.v}};
    segments[1].k.offset = segments[1].v.offset = WORLD_KEYS * WORLD_KV_HEADS * WORLD_HEAD_DIM * sizeof(float);
    kas_attention a = w.decode;
    run_scored(session, &a, &whole);
    a.segments = segments;
    a.segment_count = 2;
    run_scored(session, &a, &parts);
    assert_memory_equal(&parts, &whole, sizeof(whole));
    /* The second segment's scores would begin between two places that can be bound. */
    kas_scores odd = world_scores(&w, KAS_PHASE_DECODE);
    odd.stride = WORLD_KEYS + 1;
    REFUSED(KAS_ERROR_LIMIT, kas_pooled_scores(session, w.stream, KAS_PHASE_DECODE, &a, &odd), "scores", "sequence 1",
            "16");
    kas_session_destroy(session);
}

/* ---- Steps ------------------------------------------------------------------------------------------------------ */

static kas_status run_layer(kas_session *session, kas_phase phase, const kas_attention *args, uint32_t layer)
{
    kas_attention a = *args;
    a.layer = layer;
    return phase == KAS_PHASE_DECODE ? kas_decode(session, w.stream, &a) : kas_prefill(session, w.stream, &a);
}

static int is_live(const kas_session *session, kas_phase phase)
{
    kas_published_lists lists = {.struct_size = sizeof(lists)};
    CHECK(kas_session_get_lists(session, phase, &lists));
    return lists.live;
}

/* A step of one phase, begun anew; the other phase's lists do not serve it. */
static void check_steps(kas_phase phase, const kas_attention *args)
{
    kas_session *session = make_session(world_session_desc(w.plan));
    REFUSED(KAS_ERROR_STATE, run_layer(session, phase, args, 1), "layer 1", "reuse");
    REFUSED(KAS_ERROR_STATE, run_layer(session, phase, args, 4), "layer 4", "reuse");
    CHECK(run_layer(session, phase, args, 3)); /* dense: publishes nothing */
    REFUSED(KAS_ERROR_STATE, run_layer(session, phase, args, 4), "layer 4");
    CHECK(run_layer(session, phase, args, 0));
    CHECK(run_layer(session, phase, args, 1));
    REFUSED(KAS_ERROR_STATE, run_layer(session, phase, args, 1), "layer 1"); /* a new step */
    assert_true(is_live(session, phase));                                    /* a refused call changes nothing */
    CHECK(run_layer(session, phase, args, 2));
    CHECK(run_layer(session, phase, args, 4));
    CHECK(run_layer(session, phase, args, 7)); /* past the plan: dense */
    REFUSED(KAS_ERROR_STATE, run_layer(session, phase, args, 4), "layer 4");
    CHECK(run_layer(session, phase, args, 3)); /* begins a step: the lists of the old one are gone */
    assert_false(is_live(session, phase));
    REFUSED(KAS_ERROR_STATE, run_layer(session, phase, args, 4), "layer 4");
    assert_false(is_live(session, phase == KAS_PHASE_DECODE ? KAS_PHASE_PREFILL : KAS_PHASE_DECODE));
    kas_session_destroy(session);
}

static void steps(void **state)
{
    (void)state;
    check_steps(KAS_PHASE_PREFILL, &w.prefill);
    check_steps(KAS_PHASE_DECODE, &w.decode);
}

/* Lists serve only a call of the shape that made them. */
static void reuse_of_other_shapes(void **state)
{
    (void)state;
    kas_attention a = w.prefill;
    a.layer = 0;
    CHECK(kas_prefill(w.session, w.stream, &a));
    a.layer = 1;
    a.batch = 1;
    REFUSED(KAS_ERROR_STATE, kas_prefill(w.session, w.stream, &a), "layer 1", "batch 2", "has 1");
    a.batch = 2;
    a.queries = 39;
    REFUSED(KAS_ERROR_STATE, kas_prefill(w.session, w.stream, &a), "queries 40", "39");
    a.queries = 40;
    a.keys = 299;
    REFUSED(KAS_ERROR_STATE, kas_prefill(w.session, w.stream, &a), "keys 300", "299");
    a.keys = 300;
    a.kv_lens = (kas_slice){.buffer = w.integers};
    REFUSED(KAS_ERROR_STATE, kas_prefill(w.session, w.stream, &a), "layer 1", "kv_lens");
    a.kv_lens = (kas_slice){0};
    CHECK(kas_prefill(w.session, w.stream, &a));
}

/* An anchor that was left out: the rows that its followers read may not be among those that the one before it made. */
static void reuse_of_another_anchor(void **state)
{
    (void)state;
    kas_session *session = make_session(world_session_desc(w.plan));
    CHECK(run_layer(session, KAS_PHASE_PREFILL, &w.prefill, 0));
    REFUSED(KAS_ERROR_STATE, run_layer(session, KAS_PHASE_PREFILL, &w.prefill, 4), "layer 4", "layer 2");
    CHECK(run_layer(session, KAS_PHASE_PREFILL, &w.prefill, 2));
    CHECK(run_layer(session, KAS_PHASE_PREFILL, &w.prefill, 4));
    kas_session_destroy(session);
}

/* With KAS_TOPK_FIXED the number of kept keys follows the final length, which must stay the same. */
static void reuse_of_another_final_length(void **state)
{
    (void)state;
    kas_session_desc desc = world_session_desc(w.plan);
    desc.topk_override = 1;
    desc.topk = (kas_topk){.fraction = 0.1, .min = 16, .round = 16, .mode = KAS_TOPK_FIXED};
    kas_session *session = make_session(desc);
    kas_attention a = w.prefill;
    a.final_len = 310;
    CHECK(run_layer(session, KAS_PHASE_PREFILL, &a, 0));
    a.final_len = 320;
    REFUSED(KAS_ERROR_STATE, run_layer(session, KAS_PHASE_PREFILL, &a, 1), "layer 1", "310", "320");
    a.final_len = 310;
    CHECK(run_layer(session, KAS_PHASE_PREFILL, &a, 1));
    kas_session_destroy(session);
}

static void sessions_without_a_plan(void **state)
{
    (void)state;
    kas_session_desc desc = world_session_desc(NULL);
    desc.heads = WORLD_HEADS;
    desc.kv_heads = WORLD_KV_HEADS;
    kas_session *session = make_session(desc);
    REFUSED(KAS_ERROR_STATE, kas_prefill(session, w.stream, &w.prefill), "plan", "kas_attend");
    REFUSED(KAS_ERROR_STATE, kas_decode(session, w.stream, &w.decode), "plan", "kas_attend");
    CHECK(kas_attend(session, w.stream, KAS_PHASE_DECODE, &w.decode));
    kas_session_destroy(session);
}

/* An anchor that estimates its normaliser reads the lists before it. */
static void estimates_without_lists(void **state)
{
    (void)state;
    static const uint32_t normalizer_map[WORLD_KV_HEADS] = {0, 1};
    kas_plan_desc desc = world_plan_desc();
    desc.normalizer = KAS_NORMALIZER_ESTIMATED;
    desc.normalizer_map = normalizer_map;
    kas_plan *plan = NULL;
    CHECK(kas_plan_create(&desc, &plan));
    kas_session *session = make_session(world_session_desc(plan));
    REFUSED(KAS_ERROR_STATE, run_layer(session, KAS_PHASE_PREFILL, &w.prefill, 2), "layer 2", "estimates");
    CHECK(run_layer(session, KAS_PHASE_DECODE, &w.decode, 2)); /* decode does not estimate */
    CHECK(run_layer(session, KAS_PHASE_PREFILL, &w.prefill, 0));
    CHECK(run_layer(session, KAS_PHASE_PREFILL, &w.prefill, 2));
    kas_session_destroy(session);
    kas_plan_destroy(plan);
}

/* ---- Limits of the device --------------------------------------------------------------------------------------- */

static void with_limits(null_limits limits, void (*body)(world *small))
{
    world small;
    null_set_limits(&limits);
    kas_status status = world_open(&small, "null");
    null_reset();
    if (status != KAS_OK)
        fail_msg("%s", kas_last_error());
    body(&small);
    world_close(&small);
}

/* A sequence's keys take 38,400 bytes: two sequences are bound one after the other. */
#define NARROW_BINDING 40960u

static void narrow_bindings(world *small)
{
    kas_session_desc desc = world_session_desc(small->plan);
    kas_session *session = POISON;
    desc.max_keys = desc.max_queries = 1u << 20;
    REFUSED(KAS_ERROR_LIMIT, kas_session_create(small->context, &desc, &session), "lists", "null:0", "40960");
    assert_ptr_equal(session, POISON);
    kas_attention a = small->prefill;
    a.layer = 3;
    uint32_t launched = null_launch_count();
    CHECK(kas_prefill(small->session, small->stream, &a));
    assert_int_equal(null_launch_count(), launched + 2);
    assert_int_equal(null_launch_at(launched)->call.seq_begin, 0);
    assert_int_equal(null_launch_at(launched + 1)->call.seq_begin, 1);
    a.batch = 1;
    a.k = (kas_tensor){.buffer = small->k, .stride = {1, 40, 16}};
    REFUSED(KAS_ERROR_LIMIT, kas_prefill(small->session, small->stream, &a), "k takes", "47968", "null:0", "40960");
    a.k = small->prefill.k;
    a.q = (kas_tensor){.buffer = small->k, .stride = {1, 300, 16}};
    REFUSED(KAS_ERROR_LIMIT, kas_prefill(small->session, small->stream, &a), "q takes", "47056", "null:0", "40960");
    kas_scores scores = {.values = {.buffer = small->k}, .tiles = 1, .stride = 2561};
    REFUSED(KAS_ERROR_LIMIT, kas_select(small->session, small->stream, KAS_PHASE_DECODE, &small->decode, &scores, NULL),
            "scores.values takes", "40976", "40960");
}

static void small_bindings(void **state)
{
    (void)state;
    with_limits((null_limits){1u << 26, NARROW_BINDING, 16, {UINT16_MAX, UINT16_MAX, UINT16_MAX}}, narrow_bindings);
}

static void narrow_grids(world *small)
{
    REFUSED(KAS_ERROR_LIMIT, kas_attend(small->session, small->stream, KAS_PHASE_PREFILL, &small->prefill), "attend",
            "x 2 x", "null:0");
    kas_session_desc desc = world_session_desc(NULL);
    desc.heads = WORLD_HEADS;
    desc.kv_heads = WORLD_KV_HEADS;
    kas_session *session = NULL;
    kas_scores scores = world_scores(small, KAS_PHASE_DECODE);
    kas_lists lists = world_lists(small, KAS_PHASE_DECODE);
    kas_slice mass = {.buffer = small->lse};
    CHECK(kas_session_create(small->context, &desc, &session));
    REFUSED(KAS_ERROR_LIMIT,
            kas_pooled_mass(session, small->stream, KAS_PHASE_DECODE, &small->decode, &scores, &lists, &mass), "batch",
            "2", "null:0", "1");
    kas_session_destroy(session);
}

static void small_grids(void **state)
{
    (void)state;
    with_limits((null_limits){1u << 26, 1u << 26, 16, {64, 1, 1}}, narrow_grids);
}

/* The largest session there is, over memory that nothing touches: its scores pass 64 bits. */
static void boundless(world *wide)
{
    kas_buffer *memory = NULL;
    kas_session *session = NULL;
    CHECK(kas_buffer_import(wide->context, 4096, 0, (uint64_t)1 << 61, &memory));
    kas_session_desc desc = world_session_desc(NULL);
    desc.heads = desc.kv_heads = 1024;
    desc.tile = 128;
    desc.topk = (kas_topk){1e-9, 1, 1, KAS_TOPK_ROLLING};
    desc.max_batch = 65535;
    desc.max_queries = 1u << 20;
    desc.max_keys = 1u << 30;
    desc.scratch_limit = (uint64_t)1 << 60;
    desc.lists.buffer = desc.scratch.buffer = memory;
    CHECK(kas_session_create(wide->context, &desc, &session));
    kas_attention a = {.struct_size = sizeof(a), .batch = 65535, .queries = 1u << 20, .keys = 1u << 30};
    kas_scores scores = {.values = {.buffer = memory}, .tiles = 8192, .stride = 1u << 30};
    INVALID(kas_select(session, wide->stream, KAS_PHASE_PREFILL, &a, &scores, NULL), "scores", "8192", "1073741824");
    kas_session_destroy(session);
    kas_buffer_destroy(memory);
}

static void sizes_past_64_bits(void **state)
{
    (void)state;
    uint64_t most = UINT64_MAX / 4;
    with_limits((null_limits){most, most, 16, {UINT32_MAX / 4, UINT32_MAX / 4, UINT32_MAX / 4}}, boundless);
}

/* A row that does not load leaves its operation out of a session without a plan. */
static void missing_operations(void **state)
{
    (void)state;
    kas_session_desc desc = world_session_desc(NULL);
    desc.heads = WORLD_HEADS;
    desc.kv_heads = WORLD_KV_HEADS;
    null_fail(NULL_KERNEL, 1, 2, KAS_ERROR_DRIVER); /* both rows of the first operation, attend */
    kas_session *session = make_session(desc);
    null_fail(NULL_KERNEL, 0, 0, KAS_OK);
    assert_null(kas_session_variant(session, "attend"));
    REFUSED(KAS_ERROR_DRIVER, kas_attend(session, w.stream, KAS_PHASE_PREFILL, &w.prefill), "null:0", "attend");
    CHECK(kas_attend(session, w.stream, KAS_PHASE_DECODE, &w.decode));
    kas_session_destroy(session);
}

/* The table of backends is finite; last of all, because nothing leaves it. */
static void too_many_backends(void **state)
{
    (void)state;
    uint32_t added = 0;
    while (kas_registry_add(&absent_backend))
        added++;
    assert_in_range(added, 0, 8);
    kas_backend_info info = {.struct_size = sizeof(info)};
    CHECK(kas_backend_get_info(kas_backend_count() - 1, &info));
    INVALID(kas_backend_get_info(kas_backend_count(), &info), "index");
}

/* ---- Status texts ------------------------------------------------------------------------------------------------ */

static void status_texts(void **state)
{
    (void)state;
    for (int status = KAS_OK; status <= KAS_ERROR_FORMAT; status++)
        assert_true(strlen(kas_status_text((kas_status)status)) > 1);
    assert_string_equal(kas_status_text((kas_status)-1), "not a status");
    assert_string_equal(kas_status_text((kas_status)12), "not a status");
    assert_string_equal(kas_version(), KAS_VERSION_STRING);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(backends_and_devices),
        cmocka_unit_test(contexts),
        cmocka_unit_test(variants),
        cmocka_unit_test(operation_names),
        cmocka_unit_test(preferred_rows),
        cmocka_unit_test(buffers),
        cmocka_unit_test(transfers),
        cmocka_unit_test(copies_and_fills),
        cmocka_unit_test(streams_and_timers),
        cmocka_unit_test(plans),
        cmocka_unit_test(session_handles),
        cmocka_unit_test(session_fields_not_built),
        cmocka_unit_test(session_shapes),
        cmocka_unit_test(session_limits),
        cmocka_unit_test(session_rules),
        cmocka_unit_test(session_sizes),
        cmocka_unit_test(session_rows),
        cmocka_unit_test(session_memory),
        cmocka_unit_test(session_questions),
        cmocka_unit_test(call_handles),
        cmocka_unit_test(call_counts),
        cmocka_unit_test(call_segments),
        cmocka_unit_test(call_tensors),
        cmocka_unit_test(call_slices),
        cmocka_unit_test(packed_rows),
        cmocka_unit_test(paged_calls),
        cmocka_unit_test(fixed_lengths),
        cmocka_unit_test(callers_scores),
        cmocka_unit_test(callers_lists),
        cmocka_unit_test(callers_mass),
        cmocka_unit_test(scores_of_a_great_stride),
        cmocka_unit_test(scores_of_segments),
        cmocka_unit_test(steps),
        cmocka_unit_test(reuse_of_other_shapes),
        cmocka_unit_test(reuse_of_another_anchor),
        cmocka_unit_test(reuse_of_another_final_length),
        cmocka_unit_test(sessions_without_a_plan),
        cmocka_unit_test(estimates_without_lists),
        cmocka_unit_test(small_bindings),
        cmocka_unit_test(small_grids),
        cmocka_unit_test(sizes_past_64_bits),
        cmocka_unit_test(missing_operations),
        cmocka_unit_test(status_texts),
        cmocka_unit_test(too_many_backends),
    };
    return cmocka_run_group_tests(tests, open_worlds, close_worlds);
}
