/*
 * test_opencl_embed.c - the library inside an OpenCL program: it adopts the program's context, queue and buffers, keeps
 * to the order of the program's events, gives back what it made, and survives a driver that fails. The library's table
 * of entry points is replaced by functions of this file, which count objects and make a call fail. Skipped without an
 * OpenCL device.
 */
#define _POSIX_C_SOURCE 200809L
#include "backends/opencl/code.h"
#include "backends/opencl/driver.h"

#include <kascade/opencl.h>

#include <dlfcn.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "embedded_work.h"

/* ---- The program's own OpenCL ----------------------------------------------------------------------------------- */

#define HOST_LIST(X)                                                                                                   \
    X(GetPlatformIDs)                                                                                                  \
    X(GetDeviceIDs)                                                                                                    \
    X(CreateContext)                                                                                                   \
    X(ReleaseContext)                                                                                                  \
    X(CreateCommandQueue)                                                                                              \
    X(ReleaseCommandQueue)                                                                                             \
    X(CreateBuffer)                                                                                                    \
    X(ReleaseMemObject)                                                                                                \
    X(EnqueueWriteBuffer)                                                                                              \
    X(EnqueueReadBuffer)                                                                                               \
    X(EnqueueBarrierWithWaitList)                                                                                      \
    X(EnqueueMarkerWithWaitList)                                                                                       \
    X(CreateUserEvent)                                                                                                 \
    X(SetUserEventStatus)                                                                                              \
    X(GetEventInfo)                                                                                                    \
    X(WaitForEvents)                                                                                                   \
    X(ReleaseEvent)                                                                                                    \
    X(Flush)

typedef struct host {
#define MEMBER(name) __typeof__(&cl##name) name;
    HOST_LIST(MEMBER)
    cl_device_id device;
    cl_context context;
    cl_command_queue queue;
} host;

static host cl;
static kas_cl_driver real; /* the library's entry points before they were replaced */

static int load_host(void)
{
    cl_platform_id platform;
    cl_uint count = 0;
    void *library = dlopen("libOpenCL.so.1", RTLD_NOW);
    if (!library)
        return 0;
#define LOAD(name) *(void **)&cl.name = dlsym(library, "cl" #name);
    HOST_LIST(LOAD)
    return cl.GetPlatformIDs(1, &platform, &count) == CL_SUCCESS && count > 0 &&
           cl.GetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 1, &cl.device, NULL) == CL_SUCCESS;
}

static cl_command_queue make_queue(cl_command_queue_properties properties)
{
    cl_int error;
    cl_command_queue queue = cl.CreateCommandQueue(cl.context, cl.device, properties, &error);
    assert_int_equal(error, CL_SUCCESS);
    return queue;
}

static int set_up(void **state)
{
    (void)state;
    kas_device_info info = {.struct_size = sizeof(info)};
    cl_int error;
    if (!load_host() || kas_device_get_info("opencl:0", &info) != KAS_OK)
        return 0;
    real = kas_cl;
    cl.context = cl.CreateContext(NULL, 1, &cl.device, NULL, NULL, &error);
    assert_int_equal(error, CL_SUCCESS);
    cl.queue = make_queue(CL_QUEUE_PROFILING_ENABLE);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    if (!cl.context)
        return 0;
    cl.ReleaseCommandQueue(cl.queue);
    cl.ReleaseContext(cl.context);
    return 0;
}

static void need_device(void)
{
    if (!cl.context) {
        print_message("skipped: no OpenCL device\n");
        skip();
    }
}

static cl_mem make_memory(uint64_t size)
{
    cl_int error;
    cl_mem memory = cl.CreateBuffer(cl.context, CL_MEM_READ_WRITE, size, NULL, &error);
    assert_int_equal(error, CL_SUCCESS);
    return memory;
}

static uint64_t handle_of(const void *handle)
{
    return (uint64_t)(uintptr_t)handle;
}

/* ---- A driver that fails ---------------------------------------------------------------------------------------- */

static int fail_at;           /* the first call that fails, counted from 1; 0: none */
static int fail_count;        /* calls that fail from there */
static cl_int fail_with;      /* what they answer */
static const char *fail_only; /* fails that entry point alone; NULL: any of them */
static const char *bad_text;  /* programs with these words in their options do not build */
static int calls;             /* that could have failed */
static int objects;           /* made and not released */

#define COMPILER_MESSAGE "kernel.cl:7:1: error: no such instruction"

static int fails(const char *name)
{
    if (fail_only && strcmp(fail_only, name) != 0)
        return 0;
    calls++;
    return fail_at && calls >= fail_at && calls < fail_at + fail_count;
}

/* Replaces an entry point that makes an object and reports its error through the last argument. */
#define MAKES(name, type, parameters, arguments)                                                                       \
    static type CL_API_CALL make_##name parameters                                                                     \
    {                                                                                                                  \
        if (fails("cl" #name)) {                                                                                       \
            *error = fail_with;                                                                                        \
            return NULL;                                                                                               \
        }                                                                                                              \
        type made = real.name arguments;                                                                               \
        objects += made != NULL;                                                                                       \
        return made;                                                                                                   \
    }
MAKES(CreateContext, cl_context,
      (const cl_context_properties *properties, cl_uint count, const cl_device_id *devices,
       void(CL_CALLBACK *notify)(const char *, const void *, size_t, void *), void *user, cl_int *error),
      (properties, count, devices, notify, user, error))
MAKES(CreateCommandQueue, cl_command_queue,
      (cl_context context, cl_device_id device, cl_command_queue_properties properties, cl_int *error),
      (context, device, properties, error))
MAKES(CreateBuffer, cl_mem, (cl_context context, cl_mem_flags flags, size_t size, void *memory, cl_int *error),
      (context, flags, size, memory, error))
MAKES(CreateProgramWithSource, cl_program,
      (cl_context context, cl_uint count, const char **texts, const size_t *lengths, cl_int *error),
      (context, count, texts, lengths, error))
MAKES(CreateProgramWithBinary, cl_program,
      (cl_context context, cl_uint count, const cl_device_id *devices, const size_t *lengths,
       const unsigned char **binaries, cl_int *verdicts, cl_int *error),
      (context, count, devices, lengths, binaries, verdicts, error))
MAKES(CreateKernel, cl_kernel, (cl_program program, const char *name, cl_int *error), (program, name, error))

#define RELEASES(name, type)                                                                                           \
    static cl_int CL_API_CALL release_##name(type object)                                                              \
    {                                                                                                                  \
        objects--;                                                                                                     \
        return real.name(object);                                                                                      \
    }
RELEASES(ReleaseContext, cl_context)
RELEASES(ReleaseCommandQueue, cl_command_queue)
RELEASES(ReleaseMemObject, cl_mem)
RELEASES(ReleaseProgram, cl_program)
RELEASES(ReleaseKernel, cl_kernel)

/* Replaces an entry point that answers its error. */
#define ANSWERS(name, parameters, arguments)                                                                           \
    static cl_int CL_API_CALL answer_##name parameters                                                                 \
    {                                                                                                                  \
        return fails("cl" #name) ? fail_with : real.name arguments;                                                    \
    }
ANSWERS(SetKernelArg, (cl_kernel kernel, cl_uint index, size_t size, const void *value), (kernel, index, size, value))
ANSWERS(EnqueueNDRangeKernel,
        (cl_command_queue queue, cl_kernel kernel, cl_uint dimensions, const size_t *offset, const size_t *global,
         const size_t *local, cl_uint count, const cl_event *events, cl_event *event),
        (queue, kernel, dimensions, offset, global, local, count, events, event))
ANSWERS(EnqueueWriteBuffer,
        (cl_command_queue queue, cl_mem memory, cl_bool blocking, size_t offset, size_t size, const void *data,
         cl_uint count, const cl_event *events, cl_event *event),
        (queue, memory, blocking, offset, size, data, count, events, event))
ANSWERS(EnqueueReadBuffer,
        (cl_command_queue queue, cl_mem memory, cl_bool blocking, size_t offset, size_t size, void *data, cl_uint count,
         const cl_event *events, cl_event *event),
        (queue, memory, blocking, offset, size, data, count, events, event))
ANSWERS(EnqueueFillBuffer,
        (cl_command_queue queue, cl_mem memory, const void *pattern, size_t pattern_size, size_t offset, size_t size,
         cl_uint count, const cl_event *events, cl_event *event),
        (queue, memory, pattern, pattern_size, offset, size, count, events, event))
ANSWERS(Finish, (cl_command_queue queue), (queue))

static cl_int CL_API_CALL build_program(cl_program program, cl_uint count, const cl_device_id *devices,
                                        const char *options, void(CL_CALLBACK *notify)(cl_program, void *), void *user)
{
    if (bad_text && strstr(options, bad_text))
        return CL_BUILD_PROGRAM_FAILURE;
    return fails("clBuildProgram") ? fail_with : real.BuildProgram(program, count, devices, options, notify, user);
}

static cl_int CL_API_CALL build_info(cl_program program, cl_device_id device, cl_program_build_info what, size_t size,
                                     void *value, size_t *needed)
{
    if (what != CL_PROGRAM_BUILD_LOG || !bad_text)
        return real.GetProgramBuildInfo(program, device, what, size, value, needed);
    snprintf(value, size, "%s", COMPILER_MESSAGE);
    return CL_SUCCESS;
}

static void replace_driver(void)
{
    kas_cl = real;
    kas_cl.CreateContext = make_CreateContext;
    kas_cl.CreateCommandQueue = make_CreateCommandQueue;
    kas_cl.CreateBuffer = make_CreateBuffer;
    kas_cl.CreateProgramWithSource = make_CreateProgramWithSource;
    kas_cl.CreateProgramWithBinary = make_CreateProgramWithBinary;
    kas_cl.CreateKernel = make_CreateKernel;
    kas_cl.ReleaseContext = release_ReleaseContext;
    kas_cl.ReleaseCommandQueue = release_ReleaseCommandQueue;
    kas_cl.ReleaseMemObject = release_ReleaseMemObject;
    kas_cl.ReleaseProgram = release_ReleaseProgram;
    kas_cl.ReleaseKernel = release_ReleaseKernel;
    kas_cl.SetKernelArg = answer_SetKernelArg;
    kas_cl.EnqueueNDRangeKernel = answer_EnqueueNDRangeKernel;
    kas_cl.EnqueueWriteBuffer = answer_EnqueueWriteBuffer;
    kas_cl.EnqueueReadBuffer = answer_EnqueueReadBuffer;
    kas_cl.EnqueueFillBuffer = answer_EnqueueFillBuffer;
    kas_cl.Finish = answer_Finish;
    kas_cl.BuildProgram = build_program;
    kas_cl.GetProgramBuildInfo = build_info;
}

static void no_faults(void)
{
    replace_driver();
    fail_at = calls = 0;
    fail_count = 1;
    fail_with = CL_OUT_OF_RESOURCES;
    fail_only = bad_text = NULL;
}

/* ---- The log ---------------------------------------------------------------------------------------------------- */

static char logged[1 << 16];

static void keep_log(void *user, kas_log_level level, const char *message)
{
    (void)user;
    (void)level;
    size_t used = strlen(logged);
    snprintf(logged + used, sizeof(logged) - used, "%s\n", message);
}

static void begin_log(void)
{
    logged[0] = 0;
    kas_set_log(keep_log, NULL, KAS_LOG_INFO);
}

/* ---- A cache of binaries, so that most contexts compile nothing ------------------------------------------------- */

enum { CACHE_ENTRIES = 64 };

typedef struct cache_entry {
    char key[128];
    void *data;
    size_t size;
} cache_entry;

static cache_entry entries[CACHE_ENTRIES];
static int stores;

static cache_entry *find_entry(const char *key)
{
    for (int i = 0; i < CACHE_ENTRIES; i++)
        if (!entries[i].data || strcmp(entries[i].key, key) == 0)
            return &entries[i];
    return NULL;
}

static size_t load_entry(void *user, const char *key, void *data, size_t capacity)
{
    (void)user;
    const cache_entry *entry = find_entry(key);
    if (!entry || !entry->data)
        return 0;
    if (data)
        memcpy(data, entry->data, entry->size < capacity ? entry->size : capacity);
    return entry->size;
}

static void store_entry(void *user, const char *key, const void *data, size_t size)
{
    (void)user;
    cache_entry *entry = find_entry(key);
    assert_non_null(entry);
    assert_true(size > 0 && strlen(key) < sizeof(entry->key));
    free(entry->data);
    entry->data = malloc(size);
    memcpy(entry->data, data, size);
    entry->size = size;
    snprintf(entry->key, sizeof(entry->key), "%s", key);
    stores++;
}

static void clear_entries(void)
{
    for (int i = 0; i < CACHE_ENTRIES; i++)
        free(entries[i].data);
    memset(entries, 0, sizeof(entries));
    stores = 0;
}

static const kas_cache cache = {.load = load_entry, .store = store_entry};

static kas_status adopt(kas_context **context)
{
    kas_opencl_import import = {.struct_size = sizeof(import), .context = cl.context, .device = cl.device};
    kas_context_desc desc = {.struct_size = sizeof(desc), .device = "opencl", .import = &import, .cache = cache};
    return kas_context_create(&desc, context);
}

/* ---- Embedding -------------------------------------------------------------------------------------------------- */

static void write_tensors(cl_mem memory, uint64_t offset)
{
    unsigned char *bytes = malloc(all_bytes);
    fill_tensors(bytes);
    assert_int_equal(cl.EnqueueWriteBuffer(cl.queue, memory, CL_TRUE, offset, all_bytes, bytes, 0, NULL, NULL),
                     CL_SUCCESS);
    free(bytes);
}

static void check_memory(cl_mem memory, uint64_t offset, const float *expected)
{
    unsigned char *bytes = malloc(all_bytes);
    assert_int_equal(cl.EnqueueReadBuffer(cl.queue, memory, CL_TRUE, offset, all_bytes, bytes, 0, NULL, NULL),
                     CL_SUCCESS);
    check_output(bytes, expected);
    free(bytes);
}

/* The library's own queue in the program's context, over the program's buffer from an offset. */
static void test_context_and_buffers(void **state)
{
    (void)state;
    need_device();
    no_faults();
    const uint64_t offset = 772;
    float *expected = expected_output();
    cl_mem memory = make_memory(offset + all_bytes);
    kas_context *context;
    kas_stream *stream;
    kas_buffer *buffer;
    kas_session *session;
    write_tensors(memory, offset);
    check(adopt(&context));
    check(kas_stream_create(context, &stream));
    check(kas_buffer_import(context, handle_of(memory), offset, all_bytes, &buffer));
    check(make_session(context, &session));
    check(run_layers(session, stream, buffer));
    check(kas_stream_wait(stream));
    check_memory(memory, offset, expected);
    kas_session_destroy(session);
    kas_buffer_destroy(buffer);
    kas_stream_destroy(stream);
    kas_context_destroy(context);
    assert_int_equal(objects, 0);
    cl.ReleaseMemObject(memory);
    free(expected);
}

static cl_int event_state(cl_event event)
{
    cl_int state = CL_COMPLETE;
    assert_int_equal(cl.GetEventInfo(event, CL_EVENT_COMMAND_EXECUTION_STATUS, sizeof(state), &state, NULL),
                     CL_SUCCESS);
    return state;
}

/* On the program's queue: the work begins behind an event of the program's and ends before another. */
static void test_queue_and_events(void **state)
{
    (void)state;
    need_device();
    no_faults();
    float *expected = expected_output();
    cl_mem memory = make_memory(all_bytes);
    kas_context *context;
    kas_stream *stream;
    kas_buffer *buffer;
    kas_session *session;
    cl_event gate, done;
    cl_int error;
    float before[4], unwritten[4];
    write_tensors(memory, 0);
    check(adopt(&context));
    check(kas_stream_import(context, handle_of(cl.queue), &stream));
    check(kas_buffer_import(context, handle_of(memory), 0, all_bytes, &buffer));
    check(make_session(context, &session));
    gate = cl.CreateUserEvent(cl.context, &error);
    assert_int_equal(error, CL_SUCCESS);
    assert_int_equal(cl.EnqueueBarrierWithWaitList(cl.queue, 1, &gate, NULL), CL_SUCCESS);
    check(run_layers(session, stream, buffer));
    assert_int_equal(cl.EnqueueMarkerWithWaitList(cl.queue, 0, NULL, &done), CL_SUCCESS);
    assert_int_equal(cl.Flush(cl.queue), CL_SUCCESS);
    /* Another queue sees that nothing has been written yet. */
    cl_command_queue other = make_queue(0);
    memset(unwritten, GUARD, sizeof(unwritten));
    assert_int_equal(cl.EnqueueReadBuffer(other, memory, CL_TRUE, out_at, sizeof(before), before, 0, NULL, NULL),
                     CL_SUCCESS);
    assert_memory_equal(before, unwritten, sizeof(before));
    assert_int_not_equal(event_state(done), CL_COMPLETE);
    assert_int_equal(cl.SetUserEventStatus(gate, CL_COMPLETE), CL_SUCCESS);
    assert_int_equal(cl.WaitForEvents(1, &done), CL_SUCCESS);
    check_memory(memory, 0, expected);
    kas_stream_destroy(stream);
    kas_session_destroy(session);
    kas_buffer_destroy(buffer);
    kas_context_destroy(context);
    assert_int_equal(objects, 0);
    cl.ReleaseEvent(gate);
    cl.ReleaseEvent(done);
    cl.ReleaseCommandQueue(other);
    cl.ReleaseMemObject(memory);
    free(expected);
}

static void test_wrong_imports(void **state)
{
    (void)state;
    need_device();
    no_faults();
    kas_opencl_import imports[] = {{.struct_size = 4, .context = cl.context, .device = cl.device},
                                   {.struct_size = sizeof(imports[0]), .device = cl.device},
                                   {.struct_size = sizeof(imports[0]), .context = cl.context}};
    kas_context *context = NULL;
    for (int i = 0; i < 3; i++) {
        kas_context_desc desc = {.struct_size = sizeof(desc), .device = "opencl", .import = &imports[i]};
        assert_int_equal(kas_context_create(&desc, &context), KAS_ERROR_INVALID_ARGUMENT);
        assert_null(context);
    }
    kas_stream *stream = NULL;
    kas_buffer *buffer = NULL;
    cl_mem memory = make_memory(1024);
    cl_int error;
    check(adopt(&context));
    assert_int_equal(kas_buffer_import(context, handle_of(memory), 512, 513, &buffer), KAS_ERROR_INVALID_ARGUMENT);
    assert_non_null(strstr(kas_last_error(), "1024"));
    cl_command_queue unordered = make_queue(CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE);
    assert_int_equal(kas_stream_import(context, handle_of(unordered), &stream), KAS_ERROR_UNSUPPORTED);
    cl_context elsewhere = cl.CreateContext(NULL, 1, &cl.device, NULL, NULL, &error);
    cl_command_queue foreign = cl.CreateCommandQueue(elsewhere, cl.device, 0, &error);
    assert_int_equal(kas_stream_import(context, handle_of(foreign), &stream), KAS_ERROR_INVALID_ARGUMENT);
    assert_null(buffer);
    assert_null(stream);
    cl.ReleaseCommandQueue(foreign);
    cl.ReleaseContext(elsewhere);
    cl.ReleaseCommandQueue(unordered);
    kas_context_destroy(context);
    cl.ReleaseMemObject(memory);
    assert_int_equal(objects, 0);
}

/* ---- Failures --------------------------------------------------------------------------------------------------- */

/* Makes a context and a session, works and reads; whatever was made is destroyed. */
static kas_status whole_life(void)
{
    const kas_context_desc desc = {.struct_size = sizeof(desc), .device = "opencl:0", .cache = cache};
    kas_context *context = NULL;
    kas_stream *stream = NULL;
    kas_buffer *buffer = NULL;
    kas_session *session = NULL;
    static unsigned char bytes[4096];
    kas_status status = kas_context_create(&desc, &context);
    if (status == KAS_OK)
        status = kas_stream_create(context, &stream);
    if (status == KAS_OK)
        status = kas_buffer_create(context, all_bytes, &buffer);
    if (status == KAS_OK)
        status = kas_buffer_write(stream, buffer, 0, bytes, sizeof(bytes));
    if (status == KAS_OK)
        status = make_session(context, &session);
    if (status == KAS_OK)
        status = run_layers(session, stream, buffer);
    if (status == KAS_OK)
        status = kas_buffer_read(stream, buffer, 0, bytes, sizeof(bytes));
    kas_session_destroy(session);
    kas_buffer_destroy(buffer);
    kas_stream_destroy(stream);
    kas_context_destroy(context);
    return status;
}

/* An entry point's first call of a life fails: a status and a sentence, and nothing left behind. */
static void refuse(const char *entry, cl_int error, kas_status expected)
{
    no_faults();
    fail_only = entry;
    fail_with = error;
    fail_at = 1;
    assert_int_equal(whole_life(), expected);
    assert_int_equal(calls >= 1, 1);
    assert_int_equal(objects, 0);
    assert_true(strlen(kas_last_error()) > 0);
}

static void test_out_of_resources(void **state)
{
    (void)state;
    need_device();
    no_faults();
    check(whole_life());
    refuse("clCreateContext", CL_OUT_OF_RESOURCES, KAS_ERROR_DRIVER);
    refuse("clCreateCommandQueue", CL_OUT_OF_HOST_MEMORY, KAS_ERROR_OUT_OF_MEMORY);
    refuse("clCreateBuffer", CL_MEM_OBJECT_ALLOCATION_FAILURE, KAS_ERROR_OUT_OF_DEVICE_MEMORY);
    refuse("clEnqueueFillBuffer", CL_MEM_OBJECT_ALLOCATION_FAILURE, KAS_ERROR_OUT_OF_DEVICE_MEMORY);
    refuse("clEnqueueWriteBuffer", CL_OUT_OF_RESOURCES, KAS_ERROR_DRIVER);
    refuse("clSetKernelArg", CL_OUT_OF_RESOURCES, KAS_ERROR_DRIVER);
    refuse("clEnqueueNDRangeKernel", CL_OUT_OF_RESOURCES, KAS_ERROR_DRIVER);
    assert_non_null(strstr(kas_last_error(), "CL_OUT_OF_RESOURCES"));
    refuse("clEnqueueReadBuffer", CL_OUT_OF_RESOURCES, KAS_ERROR_DRIVER);
    no_faults();
    check(whole_life());
    assert_int_equal(objects, 0);
}

/* A life in which `count` calls of an entry point fail from the nth on. */
static kas_status life_with_fault(const char *entry, int nth, int count)
{
    no_faults();
    fail_only = entry;
    fail_at = nth;
    fail_count = count;
    kas_status status = whole_life();
    assert_int_equal(objects, 0);
    if (status != KAS_OK)
        assert_true(strlen(kas_last_error()) > 0);
    return status;
}

/* Each call of an entry point in turn: the life ends there and says so. */
static void refuse_each(const char *entry, int least, kas_status expected)
{
    assert_int_equal(life_with_fault(entry, 0, 0), KAS_OK);
    int most = calls;
    assert_true(most >= least);
    for (int n = 1; n <= most; n++)
        assert_int_equal(life_with_fault(entry, n, 1), expected);
}

static void test_every_call_fails(void **state)
{
    (void)state;
    need_device();
    refuse_each("clCreateCommandQueue", 2, KAS_ERROR_DRIVER);
    refuse_each("clCreateBuffer", 3, KAS_ERROR_OUT_OF_DEVICE_MEMORY);
    refuse_each("clEnqueueNDRangeKernel", 5, KAS_ERROR_DRIVER);
    refuse_each("clEnqueueReadBuffer", 1, KAS_ERROR_DRIVER);
}

/* Each kernel in turn cannot be had, `count` calls of the entry point being what makes one: another row that fits
   serves, or the session is refused. */
static void miss_each_kernel(const char *entry, int count, kas_status expected)
{
    int refused = 0;
    assert_int_equal(life_with_fault(entry, 0, 0), KAS_OK);
    int most = calls;
    assert_true(most >= 5);
    for (int n = 1; n <= most; n++) {
        kas_status status = life_with_fault(entry, n, count);
        assert_true(status == KAS_OK || status == expected);
        refused += status != KAS_OK;
    }
    assert_true(refused > 0);
    assert_int_equal(life_with_fault(entry, 0, 0), KAS_OK);
}

static void test_every_kernel_fails(void **state)
{
    (void)state;
    need_device();
    miss_each_kernel("clBuildProgram", 2, KAS_ERROR_UNSUPPORTED); /* of the kept binary, then of the text */
    miss_each_kernel("clCreateKernel", 1, KAS_ERROR_DRIVER);
}

/* A lost device says so, and goes on saying so; another context of the same device works. */
static void lose_at(const char *call, cl_int error)
{
    const kas_context_desc desc = {.struct_size = sizeof(desc), .device = "opencl:0"};
    kas_context *context;
    kas_stream *stream;
    kas_buffer *buffer, *another = NULL;
    unsigned char bytes[64] = {0};
    no_faults();
    check(kas_context_create(&desc, &context));
    check(kas_stream_create(context, &stream));
    check(kas_buffer_create(context, sizeof(bytes), &buffer));
    fail_only = call;
    fail_with = error;
    calls = 0;
    fail_at = 1;
    kas_status status = kas_buffer_read(stream, buffer, 0, bytes, sizeof(bytes));
    if (status == KAS_OK)
        status = kas_stream_wait(stream);
    assert_int_equal(status, KAS_ERROR_DEVICE_LOST);
    assert_non_null(strstr(kas_last_error(), "lost"));
    assert_int_equal(kas_buffer_read(stream, buffer, 0, bytes, sizeof(bytes)), KAS_ERROR_DEVICE_LOST);
    assert_int_equal(kas_stream_wait(stream), KAS_ERROR_DEVICE_LOST);
    assert_int_equal(kas_buffer_create(context, sizeof(bytes), &another), KAS_ERROR_DEVICE_LOST);
    kas_buffer_destroy(buffer);
    kas_stream_destroy(stream);
    kas_context_destroy(context);
    assert_int_equal(objects, 0);
    no_faults();
    check(whole_life());
}

static void test_device_lost(void **state)
{
    (void)state;
    need_device();
    lose_at("clEnqueueReadBuffer", CL_DEVICE_NOT_AVAILABLE);
    lose_at("clFinish", CL_INVALID_COMMAND_QUEUE);
}

/* Texts of one engine do not compile: the log has the driver's words, and the next row that fits does the work. */
static void test_row_does_not_build(void **state)
{
    (void)state;
    need_device();
    char first[32], words[32];
    kas_context *context;
    kas_stream *stream;
    kas_buffer *buffer;
    kas_session *session;
    float *expected = expected_output();
    cl_mem memory = make_memory(all_bytes);
    write_tensors(memory, 0);
    no_faults();
    clear_entries();
    check(adopt(&context));
    check(make_session(context, &session));
    snprintf(first, sizeof(first), "%s", kas_session_variant(session, "attend"));
    kas_session_destroy(session);
    kas_context_destroy(context);
    clear_entries();
    snprintf(words, sizeof(words), "-DKAS_ENGINE=%uu",
             strcmp(first, "serial") == 0 ? KAS_CL_ENGINE_SERIAL : KAS_CL_ENGINE_ROWS);
    bad_text = words;
    begin_log();
    check(adopt(&context));
    if (strcmp(first, "serial") == 0) {
        check(make_session(context, &session));
        assert_string_not_equal(kas_session_variant(session, "attend"), first);
        check(kas_stream_create(context, &stream));
        check(kas_buffer_import(context, handle_of(memory), 0, all_bytes, &buffer));
        check(run_layers(session, stream, buffer));
        check(kas_stream_wait(stream));
        check_memory(memory, 0, expected);
        kas_session_destroy(session);
        kas_buffer_destroy(buffer);
        kas_stream_destroy(stream);
    } else {
        assert_int_equal(make_session(context, &session), KAS_ERROR_UNSUPPORTED);
    }
    kas_context_destroy(context);
    assert_non_null(strstr(logged, COMPILER_MESSAGE));
    assert_non_null(strstr(logged, "CL_BUILD_PROGRAM_FAILURE"));
    kas_set_log(NULL, NULL, KAS_LOG_ERROR);
    clear_entries();
    assert_int_equal(objects, 0);
    cl.ReleaseMemObject(memory);
    free(expected);
}

static void test_no_row_builds(void **state)
{
    (void)state;
    need_device();
    no_faults();
    clear_entries();
    bad_text = "-D";
    begin_log();
    assert_int_equal(whole_life(), KAS_ERROR_UNSUPPORTED);
    assert_true(strlen(kas_last_error()) > 0);
    assert_non_null(strstr(logged, COMPILER_MESSAGE));
    assert_int_equal(stores, 0);
    assert_int_equal(objects, 0);
    kas_set_log(NULL, NULL, KAS_LOG_ERROR);
}

/* A first build says what it does and is kept; a second one compiles nothing; a binary that the driver refuses is
   compiled anew. */
static void test_binary_cache(void **state)
{
    (void)state;
    need_device();
    no_faults();
    clear_entries();
    begin_log();
    check(whole_life());
    assert_non_null(strstr(logged, "compiling"));
    int first = stores;
    assert_true(first > 0);
    begin_log();
    check(whole_life());
    assert_null(strstr(logged, "compiling"));
    assert_int_equal(stores, first);
    for (int i = 0; i < CACHE_ENTRIES && entries[i].data; i++)
        memset(entries[i].data, 0x77, entries[i].size);
    check(whole_life());
    assert_non_null(strstr(logged, "refused"));
    assert_int_equal(stores, 2 * first);
    kas_set_log(NULL, NULL, KAS_LOG_ERROR);
    assert_int_equal(objects, 0);
}

/* ---- Without a driver: other processes, since drivers are looked for once --------------------------------------- */

static int print_backend(void)
{
    kas_device_info info = {.struct_size = sizeof(info)};
    kas_status status = kas_device_get_info("opencl:0", &info);
    printf("%d %s\n", status == KAS_ERROR_NO_DEVICE, kas_last_error());
    return 0;
}

static void ask_elsewhere(const char *environment, const char *words)
{
    char command[8500], path[4096], line[512] = "";
    ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - 1);
    assert_true(length > 0);
    path[length] = 0;
    snprintf(command, sizeof(command), "%s '%s' --backend", environment, path);
    FILE *output = popen(command, "r");
    assert_non_null(output);
    assert_non_null(fgets(line, sizeof(line), output));
    assert_int_equal(pclose(output), 0);
    assert_int_equal(line[0], '1');
    assert_non_null(strstr(line, words));
}

static void test_no_platform(void **state)
{
    (void)state;
    need_device();
    ask_elsewhere("OCL_ICD_VENDORS=/nonexistent OCL_ICD_FILENAMES=", "platform");
}

/* A file that is no library stands where the loader looks first. */
static void test_no_library(void **state)
{
    (void)state;
    need_device();
    char folder[] = "/tmp/kascade-no-opencl-XXXXXX", file[64], environment[96];
    assert_non_null(mkdtemp(folder));
    snprintf(file, sizeof(file), "%s/libOpenCL.so.1", folder);
    FILE *empty = fopen(file, "w");
    assert_non_null(empty);
    fputs("no library\n", empty);
    fclose(empty);
    snprintf(environment, sizeof(environment), "LD_LIBRARY_PATH=%s", folder);
    ask_elsewhere(environment, "libOpenCL.so.1");
    unlink(file);
    rmdir(folder);
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--backend") == 0)
        return print_backend();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_context_and_buffers), cmocka_unit_test(test_queue_and_events),
        cmocka_unit_test(test_wrong_imports),       cmocka_unit_test(test_out_of_resources),
        cmocka_unit_test(test_every_call_fails),    cmocka_unit_test(test_every_kernel_fails),
        cmocka_unit_test(test_device_lost),         cmocka_unit_test(test_row_does_not_build),
        cmocka_unit_test(test_no_row_builds),       cmocka_unit_test(test_binary_cache),
        cmocka_unit_test(test_no_platform),         cmocka_unit_test(test_no_library),
    };
    int failed = cmocka_run_group_tests(tests, set_up, tear_down);
    clear_entries();
    return failed;
}
