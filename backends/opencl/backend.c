/*
 * backend.c - the OpenCL device: kas_backend over the OpenCL 1.2 API. Every kernel takes the same arguments in the same
 * order: the call block, the byte offset of each slot, then the slots' buffers (kernels/common.clh).
 */
#include "code.h"
#include "device.h"
#include "program.h"
#include "variants.h"

#include "core/platform.h"
#include <kascade/opencl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

struct kas_backend_context {
    cl_context handle;
    cl_device_id device;
    bool owned;
    uint32_t local_memory;
    cl_command_queue setup; /* for touching new buffers */
    kas_cache callers_cache;
    kas_cache cache; /* the same, one thread at a time */
    atomic_bool lost;
    kas_mutex *mutex; /* guards callers_cache and the list of kernels, not what they hold */
    kas_backend_kernel *kernels;
};

struct kas_backend_buffer {
    cl_mem handle;
    size_t offset;
    bool owned;
};

struct kas_backend_stream {
    kas_backend_context *context;
    cl_command_queue handle;
    bool owned;
};

/* Kept until its context closes: a driver takes longer to build a program than most sessions live. One that could not
   be made is tried again by the next session that asks for it. */
struct kas_backend_kernel {
    kas_backend_kernel *next;
    const kas_variant *variant;
    char options[KAS_CL_OPTIONS_SIZE];
    kas_mutex *mutex; /* while it is made, and from the first argument set to the kernel enqueued: a cl_kernel holds its
                         arguments */
    cl_program program; /* NULL until made */
    cl_kernel handle;
};

struct kas_backend_timer {
    kas_backend_context *context;
    uint32_t count;
    cl_event events[];
};

/* Byte offsets of the slots, a kernel's second argument. */
typedef struct slot_offsets {
    cl_ulong at[KAS_SLOT_COUNT];
} slot_offsets;

_Static_assert(sizeof(kas_call) == 128, "kernels take the call block as it is");

/* ---- Errors ---------------------------------------------------------------------------------------------------- */

static kas_status check(kas_backend_context *context, cl_int error, const char *action)
{
    if (error == CL_SUCCESS)
        return KAS_OK;
    kas_status status = kas_cl_fail(error, action);
    if (status == KAS_ERROR_DEVICE_LOST)
        atomic_store(&context->lost, true);
    return status;
}

static kas_status check_alive(kas_backend_context *context)
{
    if (atomic_load(&context->lost))
        return kas_fail(KAS_ERROR_DEVICE_LOST,
                        "the OpenCL device was lost by an earlier error; its context is unusable");
    return KAS_OK;
}

/* ---- Devices and contexts -------------------------------------------------------------------------------------- */

static uint32_t probe(char *reason, size_t reason_size)
{
    if (!kas_cl_driver_load(reason, reason_size))
        return 0;
    return kas_cl_devices_find(reason, reason_size);
}

static kas_status device_info(uint32_t index, kas_device_info *info)
{
    return kas_cl_device_describe(kas_cl_device(index), info);
}

static kas_status adopt(kas_backend_context *context, const kas_opencl_import *import, uint64_t disabled,
                        kas_device_info *info)
{
    if (import->struct_size != sizeof(*import))
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "kas_opencl_import.struct_size is %u, expected %u",
                        import->struct_size, (unsigned)sizeof(*import));
    if (!import->context || !import->device)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "kas_opencl_import.%s is NULL",
                        import->context ? "device" : "context");
    context->handle = import->context;
    context->device = import->device;
    KAS_TRY(kas_cl_device_describe(context->device, info));
    info->features &= ~disabled;
    return KAS_OK;
}

static size_t load_cached(void *user, const char *key, void *data, size_t capacity)
{
    kas_backend_context *context = user;
    kas_mutex_lock(context->mutex);
    size_t size = context->callers_cache.load(context->callers_cache.user, key, data, capacity);
    kas_mutex_unlock(context->mutex);
    return size;
}

static void store_cached(void *user, const char *key, const void *data, size_t size)
{
    kas_backend_context *context = user;
    kas_mutex_lock(context->mutex);
    context->callers_cache.store(context->callers_cache.user, key, data, size);
    kas_mutex_unlock(context->mutex);
}

static void guard_cache(kas_backend_context *context, const kas_cache *cache)
{
    context->callers_cache = *cache;
    context->cache.user = context;
    context->cache.load = cache->load ? load_cached : NULL;
    context->cache.store = cache->store ? store_cached : NULL;
}

static kas_status attach(kas_backend_context *context, uint32_t index, const kas_context_desc *desc,
                         kas_device_info *info)
{
    cl_int error = CL_SUCCESS;
    context->mutex = kas_mutex_create();
    if (!context->mutex)
        return kas_fail_memory();
    guard_cache(context, &desc->cache);
    if (desc->import) {
        KAS_TRY(adopt(context, desc->import, desc->disable_features, info));
    } else {
        context->device = kas_cl_device(index);
        context->handle = kas_cl.CreateContext(NULL, 1, &context->device, NULL, NULL, &error);
        if (!context->handle)
            return kas_cl_fail(error, "creating an OpenCL context");
        context->owned = true;
    }
    context->local_memory = info->shared_memory;
    context->setup = kas_cl.CreateCommandQueue(context->handle, context->device, 0, &error);
    return context->setup ? KAS_OK : kas_cl_fail(error, "creating an OpenCL command queue");
}

static void unmake_kernel(kas_backend_kernel *kernel)
{
    if (kernel->handle)
        kas_cl.ReleaseKernel(kernel->handle);
    if (kernel->program)
        kas_cl.ReleaseProgram(kernel->program);
    kernel->handle = NULL;
    kernel->program = NULL;
}

static void release_kernel(kas_backend_kernel *kernel)
{
    unmake_kernel(kernel);
    kas_mutex_destroy(kernel->mutex);
    kas_release(kernel);
}

static void close_context(kas_backend_context *context)
{
    for (kas_backend_kernel *kernel = context->kernels, *next; kernel; kernel = next) {
        next = kernel->next;
        release_kernel(kernel);
    }
    if (context->setup)
        kas_cl.ReleaseCommandQueue(context->setup);
    if (context->owned)
        kas_cl.ReleaseContext(context->handle);
    kas_mutex_destroy(context->mutex);
    kas_release(context);
}

static kas_status open_context(uint32_t index, const kas_context_desc *desc, kas_device_info *info,
                               kas_backend_context **context)
{
    kas_backend_context *opened = kas_alloc(1, sizeof(*opened));
    if (!opened)
        return kas_fail_memory();
    kas_status status = attach(opened, index, desc, info);
    if (status != KAS_OK) {
        close_context(opened);
        return status;
    }
    *context = opened;
    return KAS_OK;
}

/* ---- Buffers --------------------------------------------------------------------------------------------------- */

/* OpenCL may put off the allocation to the first use; touching a byte brings its failure here. */
static cl_int allocate(kas_backend_context *context, uint64_t size, cl_mem *memory)
{
    static const cl_uchar zero;
    cl_int error = CL_SUCCESS;
    *memory = kas_cl.CreateBuffer(context->handle, CL_MEM_READ_WRITE, size, NULL, &error);
    if (!*memory)
        return error;
    error = kas_cl.EnqueueFillBuffer(context->setup, *memory, &zero, sizeof(zero), 0, sizeof(zero), 0, NULL, NULL);
    if (error == CL_SUCCESS)
        error = kas_cl.Finish(context->setup);
    if (error != CL_SUCCESS)
        kas_cl.ReleaseMemObject(*memory);
    return error;
}

static kas_status buffer_create(kas_backend_context *context, uint64_t size, kas_backend_buffer **buffer)
{
    KAS_TRY(check_alive(context));
    kas_backend_buffer *made = kas_alloc(1, sizeof(*made));
    if (!made)
        return kas_fail_memory();
    cl_int error = allocate(context, size, &made->handle);
    if (error != CL_SUCCESS) {
        kas_release(made);
        if (error == CL_MEM_OBJECT_ALLOCATION_FAILURE || error == CL_OUT_OF_RESOURCES)
            return kas_fail(KAS_ERROR_OUT_OF_DEVICE_MEMORY, "OpenCL has no %llu bytes of device memory: %s (%d)",
                            (unsigned long long)size, kas_cl_error_name(error), error);
        return check(context, error, "creating an OpenCL buffer");
    }
    made->owned = true;
    *buffer = made;
    return KAS_OK;
}

static kas_status buffer_import(kas_backend_context *context, uint64_t handle, uint64_t offset, uint64_t size,
                                kas_backend_buffer **buffer)
{
    cl_mem memory = (cl_mem)(uintptr_t)handle;
    size_t whole = 0;
    KAS_TRY(check_alive(context));
    cl_int error = kas_cl.GetMemObjectInfo(memory, CL_MEM_SIZE, sizeof(whole), &whole, NULL);
    if (error != CL_SUCCESS)
        return check(context, error, "asking an imported cl_mem for its size");
    if (offset > whole || size > whole - offset)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "%llu bytes from offset %llu pass the imported cl_mem's %zu bytes",
                        (unsigned long long)size, (unsigned long long)offset, whole);
    kas_backend_buffer *made = kas_alloc(1, sizeof(*made));
    if (!made)
        return kas_fail_memory();
    made->handle = memory;
    made->offset = offset;
    *buffer = made;
    return KAS_OK;
}

static void buffer_destroy(kas_backend_context *context, kas_backend_buffer *buffer)
{
    (void)context;
    if (buffer->owned)
        kas_cl.ReleaseMemObject(buffer->handle);
    kas_release(buffer);
}

static void *buffer_host(kas_backend_buffer *buffer)
{
    (void)buffer;
    return NULL;
}

/* ---- Streams and copies ---------------------------------------------------------------------------------------- */

static kas_status make_queue(kas_backend_context *context, cl_command_queue *queue)
{
    cl_int error = CL_SUCCESS;
    *queue = kas_cl.CreateCommandQueue(context->handle, context->device, CL_QUEUE_PROFILING_ENABLE, &error);
    return *queue ? KAS_OK : check(context, error, "creating an OpenCL command queue");
}

static kas_status adopt_queue(kas_backend_context *context, cl_command_queue queue)
{
    cl_context owner = NULL;
    cl_command_queue_properties properties = 0;
    cl_int error = kas_cl.GetCommandQueueInfo(queue, CL_QUEUE_CONTEXT, sizeof(owner), &owner, NULL);
    if (error == CL_SUCCESS)
        error = kas_cl.GetCommandQueueInfo(queue, CL_QUEUE_PROPERTIES, sizeof(properties), &properties, NULL);
    if (error != CL_SUCCESS)
        return check(context, error, "asking an imported cl_command_queue for its properties");
    if (owner != context->handle)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "the imported cl_command_queue belongs to another cl_context");
    if (properties & CL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE)
        return kas_fail(KAS_ERROR_UNSUPPORTED,
                        "the imported cl_command_queue runs out of order; an in-order one is needed");
    return KAS_OK;
}

static kas_status stream_create(kas_backend_context *context, bool imported, uint64_t handle,
                                kas_backend_stream **stream)
{
    KAS_TRY(check_alive(context));
    kas_backend_stream *made = kas_alloc(1, sizeof(*made));
    if (!made)
        return kas_fail_memory();
    made->context = context;
    made->owned = !imported;
    made->handle = (cl_command_queue)(uintptr_t)handle;
    kas_status status = imported ? adopt_queue(context, made->handle) : make_queue(context, &made->handle);
    if (status != KAS_OK) {
        kas_release(made);
        return status;
    }
    *stream = made;
    return KAS_OK;
}

static void stream_destroy(kas_backend_stream *stream)
{
    if (stream->owned)
        kas_cl.ReleaseCommandQueue(stream->handle);
    kas_release(stream);
}

static kas_status stream_wait(kas_backend_stream *stream)
{
    KAS_TRY(check_alive(stream->context));
    return check(stream->context, kas_cl.Finish(stream->handle), "waiting for an OpenCL command queue");
}

static kas_status write_buffer(kas_backend_stream *stream, kas_backend_buffer *buffer, uint64_t offset,
                               const void *data, uint64_t size)
{
    KAS_TRY(check_alive(stream->context));
    cl_int error = kas_cl.EnqueueWriteBuffer(stream->handle, buffer->handle, CL_TRUE, buffer->offset + offset, size,
                                             data, 0, NULL, NULL);
    return check(stream->context, error, "writing to an OpenCL buffer");
}

static kas_status read_buffer(kas_backend_stream *stream, kas_backend_buffer *buffer, uint64_t offset, void *data,
                              uint64_t size)
{
    KAS_TRY(check_alive(stream->context));
    cl_int error = kas_cl.EnqueueReadBuffer(stream->handle, buffer->handle, CL_TRUE, buffer->offset + offset, size,
                                            data, 0, NULL, NULL);
    return check(stream->context, error, "reading from an OpenCL buffer");
}

static kas_status copy_buffer(kas_backend_stream *stream, kas_backend_buffer *target, uint64_t target_offset,
                              kas_backend_buffer *source, uint64_t source_offset, uint64_t size)
{
    KAS_TRY(check_alive(stream->context));
    cl_int error =
        kas_cl.EnqueueCopyBuffer(stream->handle, source->handle, target->handle, source->offset + source_offset,
                                 target->offset + target_offset, size, 0, NULL, NULL);
    return check(stream->context, error, "copying between OpenCL buffers");
}

static kas_status fill_buffer(kas_backend_stream *stream, kas_backend_buffer *buffer, uint64_t offset, uint64_t size,
                              uint8_t value)
{
    KAS_TRY(check_alive(stream->context));
    cl_int error = kas_cl.EnqueueFillBuffer(stream->handle, buffer->handle, &value, sizeof(value),
                                            buffer->offset + offset, size, 0, NULL, NULL);
    return check(stream->context, error, "filling an OpenCL buffer");
}

/* ---- Kernels --------------------------------------------------------------------------------------------------- */

/* Whether a group of the kernel fits the device; drivers know only once the kernel is compiled. */
static kas_status check_fit(kas_backend_context *context, const kas_backend_kernel *kernel)
{
    const kas_cl_code *code = kernel->variant->code;
    size_t items = 0;
    cl_ulong memory = 0;
    cl_int error = kas_cl_most_items(context->device, kernel->handle, &items);
    if (error == CL_SUCCESS)
        error = kas_cl.GetKernelWorkGroupInfo(kernel->handle, context->device, CL_KERNEL_LOCAL_MEM_SIZE, sizeof(memory),
                                              &memory, NULL);
    if (error != CL_SUCCESS)
        return check(context, error, "asking OpenCL about a kernel");
    if (items < code->items)
        return kas_fail(KAS_ERROR_UNSUPPORTED,
                        "row %s of %s needs groups of %u work items, the device can run %zu of it",
                        kernel->variant->name, kas_op_name(kernel->variant->op), code->items, items);
    if (memory > context->local_memory)
        return kas_fail(KAS_ERROR_UNSUPPORTED, "row %s of %s needs %llu bytes of local memory, the device has %u",
                        kernel->variant->name, kas_op_name(kernel->variant->op), (unsigned long long)memory,
                        context->local_memory);
    return KAS_OK;
}

static kas_status make_kernel(kas_backend_context *context, kas_backend_kernel *kernel)
{
    const kas_variant *variant = kernel->variant;
    cl_int error = CL_SUCCESS;
    char name[64];
    KAS_TRY(kas_cl_program_build(context->handle, context->device, &context->cache, variant, kernel->options,
                                 &kernel->program));
    snprintf(name, sizeof(name), "kas_%s", kas_op_name(variant->op)); /* bare, select is a function of OpenCL C */
    kernel->handle = kas_cl.CreateKernel(kernel->program, name, &error);
    if (!kernel->handle)
        return check(context, error, "creating an OpenCL kernel");
    return check_fit(context, kernel);
}

/* Several threads may ask for one kernel: the first makes it, the others wait for that one alone. */
static kas_status make_once(kas_backend_context *context, kas_backend_kernel *kernel)
{
    kas_status status = KAS_OK;
    kas_mutex_lock(kernel->mutex);
    if (!kernel->program)
        status = make_kernel(context, kernel);
    if (status != KAS_OK)
        unmake_kernel(kernel);
    kas_mutex_unlock(kernel->mutex);
    return status;
}

static kas_backend_kernel *find_kernel(kas_backend_context *context, const kas_backend_kernel *wanted)
{
    for (kas_backend_kernel *k = context->kernels; k; k = k->next)
        if (k->variant == wanted->variant && strcmp(k->options, wanted->options) == 0)
            return k;
    return NULL;
}

/* The context's kernel like `wanted`, which becomes that one or is released. */
static kas_backend_kernel *keep_kernel(kas_backend_context *context, kas_backend_kernel *wanted)
{
    kas_mutex_lock(context->mutex);
    kas_backend_kernel *kept = find_kernel(context, wanted);
    if (!kept) {
        wanted->next = context->kernels;
        context->kernels = kept = wanted;
    }
    kas_mutex_unlock(context->mutex);
    if (kept != wanted)
        release_kernel(wanted);
    return kept;
}

static kas_status kernel_load(kas_backend_context *context, const kas_variant *variant, const kas_kernel_spec *spec,
                              kas_backend_kernel **kernel)
{
    KAS_TRY(check_alive(context));
    kas_backend_kernel *wanted = kas_alloc(1, sizeof(*wanted));
    if (!wanted)
        return kas_fail_memory();
    wanted->variant = variant;
    kas_cl_program_options(variant, spec, wanted->options, sizeof(wanted->options));
    wanted->mutex = kas_mutex_create();
    if (!wanted->mutex) {
        release_kernel(wanted);
        return kas_fail_memory();
    }
    kas_backend_kernel *kept = keep_kernel(context, wanted);
    KAS_TRY(make_once(context, kept));
    *kernel = kept;
    return KAS_OK;
}

static void kernel_unload(kas_backend_context *context, kas_backend_kernel *kernel)
{
    (void)context, (void)kernel;
}

/* Unused slots get the session's buffer, which every launch has: not every driver takes NULL. */
static cl_int set_arguments(cl_kernel kernel, const kas_launch *launch)
{
    slot_offsets offsets = {{0}};
    cl_int error = kas_cl.SetKernelArg(kernel, 0, sizeof(launch->call), &launch->call);
    for (cl_uint slot = 0; slot < KAS_SLOT_COUNT && error == CL_SUCCESS; slot++) {
        const kas_binding *binding = &launch->bindings[launch->bindings[slot].buffer ? slot : KAS_SLOT_SESSION];
        offsets.at[slot] = binding->buffer->offset + binding->offset;
        error = kas_cl.SetKernelArg(kernel, 2 + slot, sizeof(cl_mem), &binding->buffer->handle);
    }
    return error == CL_SUCCESS ? kas_cl.SetKernelArg(kernel, 1, sizeof(offsets), &offsets) : error;
}

static kas_status launch_kernel(kas_backend_stream *stream, const kas_launch *launch)
{
    const kas_cl_code *code = launch->variant->code;
    kas_backend_kernel *kernel = launch->kernel;
    const size_t local[3] = {code->items, 1, 1};
    const size_t global[3] = {(size_t)launch->grid[0] * code->items, launch->grid[1], launch->grid[2]};
    KAS_TRY(check_alive(stream->context));
    kas_mutex_lock(kernel->mutex);
    cl_int error = set_arguments(kernel->handle, launch);
    if (error == CL_SUCCESS)
        error = kas_cl.EnqueueNDRangeKernel(stream->handle, kernel->handle, 3, NULL, global, local, 0, NULL, NULL);
    kas_mutex_unlock(kernel->mutex);
    return check(stream->context, error, kas_op_name(launch->variant->op));
}

/* ---- Timers ---------------------------------------------------------------------------------------------------- */

static kas_status timer_create(kas_backend_context *context, uint32_t marks, kas_backend_timer **timer)
{
    kas_backend_timer *made = kas_alloc(1, sizeof(*made) + marks * sizeof(made->events[0]));
    if (!made)
        return kas_fail_memory();
    made->context = context;
    made->count = marks;
    *timer = made;
    return KAS_OK;
}

static void timer_destroy(kas_backend_timer *timer)
{
    for (uint32_t i = 0; i < timer->count; i++)
        if (timer->events[i])
            kas_cl.ReleaseEvent(timer->events[i]);
    kas_release(timer);
}

static kas_status timer_mark(kas_backend_timer *timer, kas_backend_stream *stream, uint32_t index)
{
    cl_event event = NULL;
    KAS_TRY(check_alive(timer->context));
    KAS_TRY(check(timer->context, kas_cl.EnqueueMarkerWithWaitList(stream->handle, 0, NULL, &event),
                  "enqueueing a timer's mark"));
    if (timer->events[index])
        kas_cl.ReleaseEvent(timer->events[index]);
    timer->events[index] = event;
    return KAS_OK;
}

static kas_status timer_elapsed(kas_backend_timer *timer, uint32_t first, uint32_t second, double *milliseconds)
{
    const uint32_t marks[2] = {first, second};
    cl_ulong times[2] = {0, 0};
    KAS_TRY(check_alive(timer->context));
    for (int i = 0; i < 2; i++) {
        cl_int error = kas_cl.GetEventProfilingInfo(timer->events[marks[i]], CL_PROFILING_COMMAND_END, sizeof(times[i]),
                                                    &times[i], NULL);
        if (error == CL_PROFILING_INFO_NOT_AVAILABLE)
            return kas_fail(KAS_ERROR_UNSUPPORTED,
                            "mark %u has no time: its work is not done, or its imported cl_command_queue was made "
                            "without CL_QUEUE_PROFILING_ENABLE",
                            marks[i]);
        KAS_TRY(check(timer->context, error, "reading a timer's mark"));
    }
    *milliseconds = ((double)times[1] - (double)times[0]) * 1e-6;
    return KAS_OK;
}

const kas_backend kas_backend_opencl = {
    .name = "opencl",
    .variants = kas_cl_variants,
    .variant_count = KAS_CL_VARIANT_COUNT,
    .probe = probe,
    .device_info = device_info,
    .open = open_context,
    .close = close_context,
    .buffer_create = buffer_create,
    .buffer_import = buffer_import,
    .buffer_destroy = buffer_destroy,
    .buffer_host = buffer_host,
    .stream_create = stream_create,
    .stream_destroy = stream_destroy,
    .stream_wait = stream_wait,
    .write = write_buffer,
    .read = read_buffer,
    .copy = copy_buffer,
    .fill = fill_buffer,
    .kernel_load = kernel_load,
    .kernel_unload = kernel_unload,
    .launch = launch_kernel,
    .timer_create = timer_create,
    .timer_destroy = timer_destroy,
    .timer_mark = timer_mark,
    .timer_elapsed = timer_elapsed,
};
