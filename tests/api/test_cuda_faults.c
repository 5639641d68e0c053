/*
 * test_cuda_faults.c - a CUDA driver that is missing something or fails: each fault gives a status and a sentence, the
 * process lives, other devices go on working. What it refuses to describe is done without. The driver is
 * tests/api/fake_cuda, found through LD_LIBRARY_PATH; the first argument names the fault.
 */
#define _POSIX_C_SOURCE 200809L

#include <kascade/kascade.h>

#include <dlfcn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void expect(bool holds, const char *what)
{
    if (!holds) {
        fprintf(stderr, "%s: not so; the last error: %s\n", what, kas_last_error());
        exit(1);
    }
}

static void expect_fault(kas_status status, kas_status expected, const char *words)
{
    printf("status %d: %s\n", status, kas_last_error());
    expect(status == expected, "the status is the expected one");
    expect(strstr(kas_last_error(), words) != NULL, words);
}

static kas_status open_device(const char *device, kas_context **context)
{
    return kas_context_create(&(kas_context_desc){.struct_size = sizeof(kas_context_desc), .device = device}, context);
}

static void expect_cpu_works(void)
{
    kas_context *context = NULL;
    kas_buffer *buffer = NULL;
    expect(open_device("cpu", &context) == KAS_OK && kas_buffer_create(context, 64, &buffer) == KAS_OK, "cpu works");
    kas_buffer_destroy(buffer);
    kas_context_destroy(context);
}

/* No device is there, for a reason that has `words`. */
static void test_absent(const char *words)
{
    kas_context *context = NULL;
    expect_fault(open_device("cuda:0", &context), KAS_ERROR_NO_DEVICE, words);
}

static void test_memory(void)
{
    kas_context *context = NULL;
    kas_buffer *buffer = NULL;
    expect(open_device("cuda:0", &context) == KAS_OK, "the device opens");
    expect_fault(kas_buffer_create(context, 4096, &buffer), KAS_ERROR_OUT_OF_DEVICE_MEMORY, "4096 bytes");
    expect(buffer == NULL, "the out-parameter is untouched");
    kas_context_destroy(context);
}

/* A session on the device with something to work on. */
typedef struct attention_world {
    kas_context *context;
    kas_stream *stream;
    kas_session *session;
    kas_buffer *memory;
} attention_world;

static attention_world open_world(const kas_session_desc *desc)
{
    attention_world world = {0};
    expect(open_device("cuda:0", &world.context) == KAS_OK &&
               kas_stream_create(world.context, &world.stream) == KAS_OK &&
               kas_buffer_create(world.context, 1 << 20, &world.memory) == KAS_OK,
           "the device opens");
    expect(kas_session_create(world.context, desc, &world.session) == KAS_OK, "a session is made");
    return world;
}

static void close_world(attention_world *world)
{
    kas_buffer_destroy(world->memory);
    kas_session_destroy(world->session);
    kas_stream_destroy(world->stream);
    kas_context_destroy(world->context);
}

/* All queries or the last one against 64 packed keys. */
static kas_attention arguments(const attention_world *world, uint32_t queries)
{
    return (kas_attention){.struct_size = sizeof(kas_attention), .queries = queries, .keys = 64,
                           .q = {.buffer = world->memory}, .k = {.buffer = world->memory},
                           .v = {.buffer = world->memory}, .out = {.buffer = world->memory, .offset = 1 << 19}};
}

static kas_status attend(const attention_world *world, kas_phase phase, const kas_attention *args)
{
    return kas_attend(world->session, world->stream, phase, args);
}

static void test_lost(void)
{
    const kas_session_desc desc = {.struct_size = sizeof(desc), .heads = 8, .kv_heads = 2, .head_dim = 128,
                                   .dtype = KAS_DTYPE_F16, .max_keys = 64};
    attention_world world = open_world(&desc);
    const kas_attention args = arguments(&world, 0);
    expect(attend(&world, KAS_PHASE_DECODE, &args) == KAS_OK, "the launch that goes wrong is accepted");
    expect_fault(kas_stream_wait(world.stream), KAS_ERROR_DEVICE_LOST, "lost");
    expect_fault(attend(&world, KAS_PHASE_DECODE, &args), KAS_ERROR_DEVICE_LOST, "earlier error");
    close_world(&world);
}

/* Keys go to the tensor copy engine where it can take them, and otherwise the same kernel does without. */
static void test_maps(void)
{
    const kas_session_desc desc = {.struct_size = sizeof(desc), .heads = 2, .kv_heads = 2, .head_dim = 128,
                                   .dtype = KAS_DTYPE_F16, .max_keys = 64, .max_queries = 64};
    attention_world world = open_world(&desc);
    void *driver = dlopen("libcuda.so.1", RTLD_NOW);
    const unsigned *maps = driver ? dlsym(driver, "fake_cuda_maps") : NULL;
    expect(maps != NULL, "the driver is the fake one");
    kas_attention args = arguments(&world, 64);
    expect(attend(&world, KAS_PHASE_PREFILL, &args) == KAS_OK && *maps == 1, "packed keys have maps");
    args.v.offset = 2;
    expect(attend(&world, KAS_PHASE_PREFILL, &args) == KAS_OK && *maps == 0, "values at byte 2 have none");
    args.v.offset = 16;
    expect(attend(&world, KAS_PHASE_PREFILL, &args) == KAS_OK && *maps == 1, "values at byte 16 have one");
    args.k = (kas_tensor){.buffer = world.memory, .stride = {64 * 257, 257, 128}};
    expect(attend(&world, KAS_PHASE_PREFILL, &args) == KAS_OK && *maps == 0, "odd strides have none");
    dlclose(driver);
    close_world(&world);
}

int main(int argc, char **argv)
{
    const char *fault = argc > 1 ? argv[1] : "";
    setenv("FAKE_CUDA", fault, 1);
    if (strcmp(fault, "none") == 0)
        test_absent("no device");
    else if (strcmp(fault, "old") == 0)
        test_absent("supports CUDA 11.4");
    else if (strcmp(fault, "lacks") == 0)
        test_absent("it lacks cuMemsetD8Async");
    else if (strcmp(fault, "memory") == 0)
        test_memory();
    else if (strcmp(fault, "lost") == 0)
        test_lost();
    else if (strcmp(fault, "maps") == 0)
        test_maps();
    else
        expect(false, "the argument is none, old, lacks, memory, lost or maps");
    expect_cpu_works();
    return 0;
}
