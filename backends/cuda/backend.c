/*
 * backend.c - the CUDA device: kas_backend over the driver API. Every function makes the context current for its own
 * duration, so it serves any thread and leaves an application's context stack alone.
 */
#include "code.h"
#include "driver.h"

#include "core/platform.h"
#include <kascade/cuda.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define KAS_CUDA_IMAGE_DECLARE(name) extern const unsigned char kas_cuda_image_##name[];
KAS_CUDA_IMAGES(KAS_CUDA_IMAGE_DECLARE)
#undef KAS_CUDA_IMAGE_DECLARE

static const unsigned char *const images[KAS_CUDA_IMAGE_COUNT] = {
#define KAS_CUDA_IMAGE_POINTER(name) kas_cuda_image_##name,
    KAS_CUDA_IMAGES(KAS_CUDA_IMAGE_POINTER)
#undef KAS_CUDA_IMAGE_POINTER
};

struct kas_backend_context {
    CUcontext handle;
    CUdevice device;
    bool retained; /* the primary context, retained here */
    bool overlaps; /* kernels wait for their predecessors themselves: see kas_wait_for_predecessor of common.cuh */
    atomic_bool lost;
    kas_mutex *mutex; /* guards modules */
    CUmodule modules[KAS_CUDA_IMAGE_COUNT];
};

struct kas_backend_buffer {
    CUdeviceptr pointer;
    bool owned;
};

struct kas_backend_stream {
    kas_backend_context *context;
    CUstream handle;
    bool owned;
};

/* One kernel, as its shape constant describes it. */
typedef struct function_shape {
    uint32_t threads;
    uint32_t shared;
} function_shape;

/* A kernel that may be launched. */
typedef struct loaded_function {
    CUfunction handle;
    function_shape shape;
} loaded_function;

struct kas_backend_kernel {
    uint32_t count; /* of row classes, at least 1 */
    uint32_t rows[KAS_CUDA_MAX_ROW_CLASSES];
    loaded_function functions[KAS_CUDA_MAX_ROW_CLASSES];
    loaded_function few; /* see kas_cuda_code */
    uint32_t few_blocks, few_groups;
    uint32_t group;
    bool team;
};

struct kas_backend_timer {
    kas_backend_context *context;
    uint32_t count;
    CUevent events[];
};

/* ---- Errors and the current context ---------------------------------------------------------------------------- */

static kas_status fail(kas_backend_context *context, CUresult error, const char *action)
{
    char text[160];
    kas_cuda_error_text(error, text, sizeof(text));
    if (kas_cuda_error_is_sticky(error)) {
        if (context)
            atomic_store(&context->lost, true);
        return kas_fail(KAS_ERROR_DEVICE_LOST, "%s: the CUDA device is lost: %s", action, text);
    }
    if (error == CUDA_ERROR_OUT_OF_MEMORY)
        return kas_fail(KAS_ERROR_OUT_OF_DEVICE_MEMORY, "%s: %s", action, text);
    return kas_fail(KAS_ERROR_DRIVER, "%s: %s", action, text);
}

static kas_status enter(kas_backend_context *context)
{
    if (atomic_load(&context->lost))
        return kas_fail(KAS_ERROR_DEVICE_LOST, "the CUDA device was lost by an earlier error; its context is unusable");
    CUresult error = kas_cuda.context_push(context->handle);
    return error == CUDA_SUCCESS ? KAS_OK : fail(context, error, "making the CUDA context current");
}

/* Ends what `enter` began; the status of a driver call made in between. */
static kas_status leave(kas_backend_context *context, CUresult error, const char *action)
{
    CUcontext popped;
    kas_cuda.context_pop(&popped);
    return error == CUDA_SUCCESS ? KAS_OK : fail(context, error, action);
}

/* For destruction, which has to happen on a lost device too and has nobody to report to. */
static bool enter_quietly(kas_backend_context *context)
{
    return kas_cuda.context_push(context->handle) == CUDA_SUCCESS;
}

static void leave_quietly(void)
{
    CUcontext popped;
    kas_cuda.context_pop(&popped);
}

/* ---- Devices and contexts -------------------------------------------------------------------------------------- */

static uint32_t probe(char *reason, size_t reason_size)
{
    if (!kas_cuda_driver_load(reason, reason_size))
        return 0;
    int count = 0;
    if (kas_cuda.device_count(&count) != CUDA_SUCCESS || count < 1) {
        snprintf(reason, reason_size, "the NVIDIA driver permits this process no device");
        return 0;
    }
    return (uint32_t)count;
}

static int attribute_of(CUdevice device, int attribute)
{
    int value = 0;
    return kas_cuda.device_attribute(&value, attribute, device) == CUDA_SUCCESS ? value : 0;
}

static uint64_t features_of(CUdevice device)
{
    int major = attribute_of(device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR);
    int minor = attribute_of(device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR);
    uint64_t features = KAS_FEATURE_F16 | KAS_FEATURE_SUBGROUP | KAS_FEATURE_INT64 | KAS_FEATURE_STORAGE16;
    if (major >= 8)
        features |= KAS_FEATURE_MMA;
    if (major == 9 && minor == 0)
        features |= KAS_FEATURE_WGMMA;
    return features;
}

static kas_status device_info(uint32_t index, kas_device_info *info)
{
    CUdevice device;
    size_t memory = 0;
    int version = 0;
    CUresult error = kas_cuda.device_get(&device, (int)index);
    if (error == CUDA_SUCCESS)
        error = kas_cuda.device_name(info->description, sizeof(info->description), device);
    if (error == CUDA_SUCCESS)
        error = kas_cuda.device_memory(&memory, device);
    if (error == CUDA_SUCCESS)
        error = kas_cuda.driver_version(&version);
    if (error != CUDA_SUCCESS)
        return fail(NULL, error, "asking the CUDA driver about a device");
    snprintf(info->driver, sizeof(info->driver), "CUDA %d.%d, compute capability %d.%d", version / 1000,
             version % 1000 / 10, attribute_of(device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR),
             attribute_of(device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR));
    info->features = features_of(device);
    info->memory = memory;
    info->max_allocation = memory;
    info->max_binding = memory;
    info->slice_alignment = 16; /* kernels move 16 bytes at a time where they may */
    info->compute_units = (uint32_t)attribute_of(device, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
    info->max_group_count[0] = (uint32_t)attribute_of(device, CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X);
    info->max_group_count[1] = (uint32_t)attribute_of(device, CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y);
    info->max_group_count[2] = (uint32_t)attribute_of(device, CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z);
    info->shared_memory = (uint32_t)attribute_of(device, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN);
    info->host_memory = 0;
    return KAS_OK;
}

/* The caller's context, once it is known to belong to the device. */
static kas_status adopt(kas_backend_context *context, const kas_cuda_import *import)
{
    if (import->device != context->device)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "kas_cuda_import.device is %d, but the named device is CUDA's %d",
                        import->device, context->device);
    CUdevice device = -1;
    context->handle = (CUcontext)import->context;
    KAS_TRY(enter(context));
    KAS_TRY(leave(context, kas_cuda.context_device(&device), "asking an imported CUDA context for its device"));
    if (device != context->device)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "kas_cuda_import.context belongs to CUDA device %d, not %d", device,
                        context->device);
    return KAS_OK;
}

static kas_status attach(kas_backend_context *context, uint32_t index, const kas_cuda_import *import)
{
    if (import && import->struct_size != sizeof(*import))
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "kas_cuda_import.struct_size is %u, expected %u",
                        import->struct_size, (unsigned)sizeof(*import));
    CUresult error = kas_cuda.device_get(&context->device, (int)index);
    if (error != CUDA_SUCCESS)
        return fail(NULL, error, "opening a CUDA device");
    context->overlaps = attribute_of(context->device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR) == 9;
    if (import && import->context)
        return adopt(context, import);
    error = kas_cuda.primary_retain(&context->handle, context->device);
    if (error != CUDA_SUCCESS)
        return fail(NULL, error, "retaining the CUDA device's primary context");
    context->retained = true;
    return KAS_OK;
}

static void close_context(kas_backend_context *context)
{
    if (context->handle && enter_quietly(context)) {
        for (uint32_t i = 0; i < KAS_CUDA_IMAGE_COUNT; i++)
            if (context->modules[i])
                kas_cuda.module_unload(context->modules[i]);
        leave_quietly();
    }
    if (context->retained)
        kas_cuda.primary_release(context->device);
    kas_mutex_destroy(context->mutex);
    kas_release(context);
}

static kas_status open_context(uint32_t index, const kas_context_desc *desc, kas_device_info *info,
                               kas_backend_context **context)
{
    (void)info;
    kas_backend_context *opened = kas_alloc(1, sizeof(*opened));
    if (!opened)
        return kas_fail_memory();
    opened->mutex = kas_mutex_create();
    kas_status status = opened->mutex ? attach(opened, index, desc->import) : kas_fail_memory();
    if (status != KAS_OK) {
        close_context(opened);
        return status;
    }
    *context = opened;
    return KAS_OK;
}

/* ---- Buffers --------------------------------------------------------------------------------------------------- */

static kas_status fail_allocation(kas_backend_context *context, CUresult error, uint64_t size)
{
    size_t available = 0, total = 0;
    if (error != CUDA_ERROR_OUT_OF_MEMORY)
        return fail(context, error, "allocating device memory");
    kas_cuda.memory_info(&available, &total);
    return kas_fail(KAS_ERROR_OUT_OF_DEVICE_MEMORY, "%llu bytes of CUDA memory were asked for; %zu of %zu are free",
                    (unsigned long long)size, available, total);
}

static kas_status buffer_create(kas_backend_context *context, uint64_t size, kas_backend_buffer **buffer)
{
    kas_backend_buffer *made = kas_alloc(1, sizeof(*made));
    if (!made)
        return kas_fail_memory();
    kas_status status = enter(context);
    if (status == KAS_OK) {
        CUresult error = kas_cuda.memory_allocate(&made->pointer, size);
        if (error != CUDA_SUCCESS)
            status = fail_allocation(context, error, size);
        leave_quietly();
    }
    if (status != KAS_OK) {
        kas_release(made);
        return status;
    }
    made->owned = true;
    *buffer = made;
    return KAS_OK;
}

static kas_status buffer_import(kas_backend_context *context, uint64_t handle, uint64_t offset, uint64_t size,
                                kas_backend_buffer **buffer)
{
    (void)context;
    (void)size;
    kas_backend_buffer *made = kas_alloc(1, sizeof(*made));
    if (!made)
        return kas_fail_memory();
    made->pointer = handle + offset;
    *buffer = made;
    return KAS_OK;
}

static void buffer_destroy(kas_backend_context *context, kas_backend_buffer *buffer)
{
    if (buffer->owned && enter_quietly(context)) {
        kas_cuda.memory_free(buffer->pointer);
        leave_quietly();
    }
    kas_release(buffer);
}

static void *buffer_host(kas_backend_buffer *buffer)
{
    (void)buffer;
    return NULL;
}

/* ---- Streams, copies ------------------------------------------------------------------------------------------- */

static kas_status stream_create(kas_backend_context *context, bool imported, uint64_t handle,
                                kas_backend_stream **stream)
{
    kas_backend_stream *made = kas_alloc(1, sizeof(*made));
    if (!made)
        return kas_fail_memory();
    made->context = context;
    made->handle = (CUstream)(uintptr_t)handle;
    if (!imported) {
        kas_status status = enter(context);
        if (status == KAS_OK)
            status = leave(context, kas_cuda.stream_create(&made->handle, CU_STREAM_NON_BLOCKING),
                           "creating a CUDA stream");
        if (status != KAS_OK) {
            kas_release(made);
            return status;
        }
        made->owned = true;
    }
    *stream = made;
    return KAS_OK;
}

static void stream_destroy(kas_backend_stream *stream)
{
    if (stream->owned && enter_quietly(stream->context)) {
        kas_cuda.stream_destroy(stream->handle);
        leave_quietly();
    }
    kas_release(stream);
}

static kas_status stream_wait(kas_backend_stream *stream)
{
    KAS_TRY(enter(stream->context));
    return leave(stream->context, kas_cuda.stream_wait(stream->handle), "waiting for a CUDA stream");
}

/* Waits, because the driver reads page-locked host memory only when the stream gets there. */
static kas_status write_buffer(kas_backend_stream *stream, kas_backend_buffer *buffer, uint64_t offset,
                               const void *data, uint64_t size)
{
    KAS_TRY(enter(stream->context));
    CUresult error = kas_cuda.copy_in(buffer->pointer + offset, data, size, stream->handle);
    if (error == CUDA_SUCCESS)
        error = kas_cuda.stream_wait(stream->handle);
    return leave(stream->context, error, "copying to CUDA memory");
}

static kas_status read_buffer(kas_backend_stream *stream, kas_backend_buffer *buffer, uint64_t offset, void *data,
                              uint64_t size)
{
    KAS_TRY(enter(stream->context));
    CUresult error = kas_cuda.copy_out(data, buffer->pointer + offset, size, stream->handle);
    if (error == CUDA_SUCCESS)
        error = kas_cuda.stream_wait(stream->handle);
    return leave(stream->context, error, "copying from CUDA memory");
}

static kas_status copy_buffer(kas_backend_stream *stream, kas_backend_buffer *target, uint64_t target_offset,
                              kas_backend_buffer *source, uint64_t source_offset, uint64_t size)
{
    KAS_TRY(enter(stream->context));
    return leave(stream->context,
                 kas_cuda.copy_device(target->pointer + target_offset, source->pointer + source_offset, size,
                                      stream->handle),
                 "copying within CUDA memory");
}

static kas_status fill_buffer(kas_backend_stream *stream, kas_backend_buffer *buffer, uint64_t offset, uint64_t size,
                              uint8_t value)
{
    KAS_TRY(enter(stream->context));
    return leave(stream->context, kas_cuda.fill(buffer->pointer + offset, value, size, stream->handle),
                 "filling CUDA memory");
}

/* ---- Kernels --------------------------------------------------------------------------------------------------- */

static kas_status fail_image(kas_backend_context *context, CUresult error, const char *kernel)
{
    if (error == CUDA_ERROR_NO_BINARY_FOR_GPU || error == CUDA_ERROR_UNSUPPORTED_PTX_VERSION)
        return kas_fail(KAS_ERROR_UNSUPPORTED,
                        "kernel %s has no code for this device that its driver takes; a driver for CUDA %d.%d or newer "
                        "compiles it",
                        kernel, KAS_CUDA_TOOLKIT / 1000, KAS_CUDA_TOOLKIT % 1000 / 10);
    return fail(context, error, "loading CUDA kernels");
}

/* The image's module, loaded at its first use. Called with the context current. */
static CUresult load_module(kas_backend_context *context, kas_cuda_image image, CUmodule *module)
{
    CUresult error = CUDA_SUCCESS;
    kas_mutex_lock(context->mutex);
    if (!context->modules[image])
        error = kas_cuda.module_load(&context->modules[image], images[image], 0, NULL, NULL);
    *module = context->modules[image];
    kas_mutex_unlock(context->mutex);
    return error;
}

/* More than eight blocks, which some devices have no room for. */
static CUresult allow_large_clusters(CUfunction function)
{
    return kas_cuda.function_attribute(function, CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1);
}

/* Finds a kernel and its shape. Setting the attribute also makes the driver place a lazily loaded kernel now. */
static CUresult load_function(CUmodule module, const char *name, loaded_function *function)
{
    char shape_name[96];
    function_shape *shape = &function->shape;
    CUdeviceptr pointer = 0;
    size_t bytes = 0;
    snprintf(shape_name, sizeof(shape_name), "%s_shape", name);
    CUresult error = kas_cuda.module_function(&function->handle, module, name);
    if (error == CUDA_SUCCESS)
        error = kas_cuda.module_global(&pointer, &bytes, module, shape_name);
    if (error == CUDA_SUCCESS)
        error = kas_cuda.copy_out_now(shape, pointer, sizeof(*shape));
    if (error == CUDA_SUCCESS)
        error = kas_cuda.function_attribute(function->handle, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                                            (int)shape->shared);
    return error;
}

static const char *dtype_suffix(kas_dtype dtype)
{
    switch (dtype) {
    case KAS_DTYPE_F16:
        return "_f16";
    case KAS_DTYPE_BF16:
        return "_bf16";
    default:
        return "_f32";
    }
}

static void name_kernel(const kas_cuda_code *code, const kas_kernel_spec *spec, uint32_t rows, char *name, size_t size)
{
    int used = snprintf(name, size, "%s%s", code->kernel, code->by_dtype ? dtype_suffix(spec->dtype) : "");
    for (const uint16_t *d = code->head_dims; *d; d++)
        if (*d >= spec->head_dim) {
            used += snprintf(name + used, size - (size_t)used, "_%u", *d);
            break;
        }
    if (rows)
        snprintf(name + used, size - (size_t)used, "_%u", rows);
}

static kas_status kernel_load(kas_backend_context *context, const kas_variant *variant, const kas_kernel_spec *spec,
                              kas_backend_kernel **kernel)
{
    const kas_cuda_code *code = variant->code;
    kas_backend_kernel *made = kas_alloc(1, sizeof(*made));
    if (!made)
        return kas_fail_memory();
    char name[80] = "";
    CUmodule module;
    kas_status status = enter(context);
    if (status == KAS_OK) {
        CUresult error = load_module(context, code->image, &module);
        made->group = spec->group;
        made->team = code->team;
        do {
            uint32_t i = made->count++;
            made->rows[i] = code->rows[i];
            name_kernel(code, spec, code->rows[i], name, sizeof(name));
            if (error == CUDA_SUCCESS)
                error = load_function(module, name, &made->functions[i]);
            if (error == CUDA_SUCCESS && code->team)
                error = allow_large_clusters(made->functions[i].handle);
        } while (made->count < KAS_CUDA_MAX_ROW_CLASSES && code->rows[made->count]);
        if (error == CUDA_SUCCESS && code->few) {
            error = load_function(module, code->few, &made->few);
            made->few_blocks = code->blocks;
            made->few_groups = 2 * (uint32_t)attribute_of(context->device, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT) /
                               code->blocks;
        }
        if (error != CUDA_SUCCESS)
            status = fail_image(context, error, name);
        leave_quietly();
    }
    if (status != KAS_OK) {
        kas_release(made);
        return status;
    }
    *kernel = made;
    return KAS_OK;
}

static void kernel_unload(kas_backend_context *context, kas_backend_kernel *kernel)
{
    (void)context; /* modules stay loaded for the next session */
    kas_release(kernel);
}

/* The function of a launch, and how many of its thread blocks along x make a cluster; 0: none do. */
static const loaded_function *choose_function(const kas_backend_kernel *kernel, const kas_launch *work,
                                              uint32_t *cluster)
{
    uint64_t groups = (uint64_t)work->grid[0] * work->grid[1] * work->grid[2];
    *cluster = kernel->team ? work->grid[0] : 0;
    if (groups <= kernel->few_groups) {
        *cluster = kernel->few_blocks;
        return &kernel->few;
    }
    uint32_t i = 0; /* the least row class that holds a decode launch's query rows */
    while (i + 1 < kernel->count && kernel->rows[i] < kernel->group * work->call.queries)
        i++;
    return &kernel->functions[i];
}

/* kas_key_maps of kernels/wgmma.cuh. */
typedef struct key_maps {
    CUtensorMap k, v;
    uint32_t present;
} key_maps;

/* A contiguous cache tensor of the launch's sequences. */
typedef struct cache_tensor {
    CUdeviceptr slot;
    uint64_t size; /* bytes bound */
    uint32_t base, stride_seq, stride_token, stride_head;
} cache_tensor;

/*
 * Describes tiles of 128 keys and half a row of 128 elements of 16 bits. false: the engine or the driver does not take
 * this tensor. How many kv heads there are follows from what is bound. Called with the context current.
 */
static bool map_tensor(const cache_tensor *tensor, uint32_t keys, uint32_t sequences, CUtensorMap *map)
{
    enum { HEAD_DIM = 128, KEYS = 128, ELEMENT = 2, RANK = 4 };
    const uint64_t seq = tensor->stride_seq, token = tensor->stride_token, head = tensor->stride_head;
    const uint64_t before = (sequences - 1) * seq + (keys - 1) * token + tensor->base + HEAD_DIM;
    const uint64_t elements = tensor->size / ELEMENT;
    if (!kas_cuda.tensor_map || keys == 0 || before > elements || head == 0)
        return false;
    const uint64_t extents[RANK] = {HEAD_DIM, keys, (elements - before) / head + 1, sequences};
    const uint64_t strides[RANK - 1] = {token * ELEMENT, head * ELEMENT, (sequences > 1 ? seq : HEAD_DIM) * ELEMENT};
    const uint32_t box[RANK] = {HEAD_DIM / 2, KEYS, 1, 1}, steps[RANK] = {1, 1, 1, 1};
    void *base = (void *)(uintptr_t)(tensor->slot + (uint64_t)tensor->base * ELEMENT);
    return kas_cuda.tensor_map(map, CU_TENSOR_MAP_DATA_TYPE_UINT16, RANK, base, extents, strides, box, steps,
                               CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                               CU_TENSOR_MAP_L2_PROMOTION_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

/* The maps of a launch's keys and, where they are bound, values; absent where the cache is paged. */
static void map_keys(const kas_launch *work, const CUdeviceptr *slots, key_maps *maps)
{
    const kas_call *call = &work->call;
    const cache_tensor k = {slots[KAS_SLOT_K], work->bindings[KAS_SLOT_K].size, call->k_base, call->k_stride_seq,
                            call->k_stride_token, call->k_stride_head};
    const cache_tensor v = {slots[KAS_SLOT_V], work->bindings[KAS_SLOT_V].size, call->v_base, call->v_stride_seq,
                            call->v_stride_token, call->v_stride_head};
    maps->present = !(call->flags & KAS_CALL_PAGED) && map_tensor(&k, call->keys, work->grid[2], &maps->k) &&
                    (!v.slot || map_tensor(&v, call->keys, work->grid[2], &maps->v));
}

/*
 * What the launch asks for beyond its grid; their number. Clusters do not begin early: they would take places as these
 * become free, two blocks on one multiprocessor and none on another.
 */
static unsigned fill_attributes(const kas_backend_context *context, uint32_t cluster, CUlaunchAttribute *attribute)
{
    if (cluster)
        *attribute = (CUlaunchAttribute){.id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, .value.cluster = {cluster, 1, 1}};
    else
        *attribute =
            (CUlaunchAttribute){.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION, .value.overlaps = 1};
    return cluster || context->overlaps;
}

static kas_status launch(kas_backend_stream *stream, const kas_launch *work)
{
    const kas_cuda_code *code = work->variant->code;
    kas_call call = work->call;
    CUdeviceptr slots[KAS_SLOT_COUNT];
    key_maps maps = {0};
    void *arguments[] = {&call, slots, &maps}; /* as many as the kernel has are read */
    for (uint32_t i = 0; i < KAS_SLOT_COUNT; i++) {
        const kas_binding *binding = &work->bindings[i];
        slots[i] = binding->buffer ? binding->buffer->pointer + binding->offset : 0;
    }
    uint32_t cluster;
    const loaded_function *function = choose_function(work->kernel, work, &cluster);
    CUlaunchAttribute attribute;
    const CUlaunchConfig config = {
        .grid_x = work->grid[0] * (function == &work->kernel->few ? cluster : 1),
        .grid_y = work->grid[1],
        .grid_z = work->grid[2],
        .block_x = function->shape.threads,
        .block_y = 1,
        .block_z = 1,
        .shared = function->shape.shared,
        .stream = stream->handle,
        .attributes = &attribute,
        .attribute_count = fill_attributes(stream->context, cluster, &attribute),
    };
    KAS_TRY(enter(stream->context));
    if (code->key_maps)
        map_keys(work, slots, &maps);
    return leave(stream->context, kas_cuda.launch(&config, function->handle, arguments, NULL), work->variant->name);
}

/* ---- Timers ---------------------------------------------------------------------------------------------------- */

static void timer_destroy(kas_backend_timer *timer)
{
    if (enter_quietly(timer->context)) {
        for (uint32_t i = 0; i < timer->count; i++)
            kas_cuda.event_destroy(timer->events[i]);
        leave_quietly();
    }
    kas_release(timer);
}

static kas_status timer_create(kas_backend_context *context, uint32_t marks, kas_backend_timer **timer)
{
    kas_backend_timer *made = kas_alloc(1, sizeof(*made) + marks * sizeof(made->events[0]));
    if (!made)
        return kas_fail_memory();
    made->context = context;
    kas_status status = enter(context);
    if (status == KAS_OK) {
        CUresult error = CUDA_SUCCESS;
        while (error == CUDA_SUCCESS && made->count < marks) {
            error = kas_cuda.event_create(&made->events[made->count], 0);
            made->count += error == CUDA_SUCCESS;
        }
        status = leave(context, error, "creating a CUDA event");
    }
    if (status != KAS_OK) {
        timer_destroy(made);
        return status;
    }
    *timer = made;
    return KAS_OK;
}

static kas_status timer_mark(kas_backend_timer *timer, kas_backend_stream *stream, uint32_t index)
{
    KAS_TRY(enter(timer->context));
    return leave(timer->context, kas_cuda.event_record(timer->events[index], stream->handle), "recording a CUDA event");
}

static kas_status timer_elapsed(kas_backend_timer *timer, uint32_t first, uint32_t second, double *milliseconds)
{
    float elapsed = 0;
    KAS_TRY(enter(timer->context));
    KAS_TRY(leave(timer->context, kas_cuda.event_elapsed(&elapsed, timer->events[first], timer->events[second]),
                  "reading CUDA events"));
    *milliseconds = elapsed;
    return KAS_OK;
}

/* ---- The table ------------------------------------------------------------------------------------------------- */

const kas_backend kas_backend_cuda = {
    .name = "cuda",
    .variants = kas_cuda_variants,
    .variant_count = KAS_CUDA_VARIANT_COUNT,
    .groups_per_unit = 2, /* as many as their shared memory leaves room for */
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
    .launch = launch,
    .timer_create = timer_create,
    .timer_destroy = timer_destroy,
    .timer_mark = timer_mark,
    .timer_elapsed = timer_elapsed,
};
