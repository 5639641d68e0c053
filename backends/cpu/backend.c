/*
 * backend.c - the CPU as a device. Buffers are host memory, a stream runs each launch at once on the calling thread and
 * its helpers, which take grid cells from a shared counter. What a cell computes does not depend on the thread.
 */
#include "cpu.h"

#include "crew.h"

#include "core/platform.h"

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define MOST_THREADS 1024u
#define LEAST_CELLS 4u /* a thread, where a cell could take more rows: threads end at different times */

struct kas_backend_context {
    uint32_t thread_count; /* the calling thread included */
    kas_crew_member *crew;
    unsigned char *scratch; /* KAS_CPU_SCRATCH_BYTES a thread */
    kas_mutex *launch_lock; /* one launch at a time has the scratch */
};

struct kas_backend_buffer {
    unsigned char *memory;
    void *owned;
};

struct kas_backend_stream {
    kas_backend_context *context;
};

struct kas_backend_kernel {
    const kas_cpu_code *code;
    kas_dtype dtype;
};

struct kas_backend_timer {
    uint64_t *marks;
};

/* ---- Threads ----------------------------------------------------------------------------------------------------- */

typedef struct cells {
    kas_backend_context *context;
    const kas_cpu_job *job;
    kas_cpu_kernel run;
    const uint32_t *grid;
    _Atomic uint64_t next;
} cells;

/* Causal work grows with x, so cells are taken from the end: the heaviest first leaves the shortest tail. */
static void run_cells(void *user, uint32_t thread)
{
    cells *all = user;
    uint32_t width = all->grid[0], step = all->job->step;
    void *scratch = all->context->scratch + (size_t)thread * KAS_CPU_SCRATCH_BYTES;
    uint64_t steps = kas_div_up(all->grid[1], step), plane_size = steps * all->grid[2], count = width * plane_size;
    for (;;) {
        uint64_t taken = atomic_fetch_add_explicit(&all->next, 1, memory_order_relaxed);
        if (taken >= count)
            return;
        uint64_t plane = taken % plane_size;
        uint32_t x = width - 1 - (uint32_t)(taken / plane_size);
        all->run(all->job, x, (uint32_t)(plane % steps) * step, (uint32_t)(plane / steps), scratch);
    }
}

/* Rows of the grid a cell: as many as leave every thread some cells. */
static uint32_t rows_of_cells(const kas_backend_context *context, const kas_cpu_code *code, const uint32_t *grid)
{
    uint64_t all = (uint64_t)grid[0] * grid[1] * grid[2];
    uint64_t fair = all / ((uint64_t)LEAST_CELLS * context->thread_count);
    uint32_t most = kas_min_u32(kas_max_u32(code->most_rows, 1), grid[1]);
    return fair < 1 ? 1 : fair < most ? (uint32_t)fair : most;
}

static void run_job(kas_backend_context *context, const kas_cpu_job *job, kas_cpu_kernel run, const uint32_t *grid)
{
    cells all = {.context = context, .job = job, .run = run, .grid = grid};
    kas_mutex_lock(context->launch_lock);
    kas_crew_run(context->crew, run_cells, &all);
    kas_mutex_unlock(context->launch_lock);
}

/* ---- Device and context ------------------------------------------------------------------------------------------ */

static uint32_t cpu_probe(char *reason, size_t reason_size)
{
    (void)reason;
    (void)reason_size;
    return 1;
}

static uint64_t cpu_features(void)
{
    uint64_t features = 0;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        features |= KAS_FEATURE_AVX2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        features |= KAS_FEATURE_AVX512;
    if (features & KAS_FEATURE_AVX512 && __builtin_cpu_supports("avx512bf16"))
        features |= KAS_FEATURE_AVX512_BF16;
#elif defined(__aarch64__)
    features |= KAS_FEATURE_NEON;
#endif
    return features;
}

static kas_status cpu_device_info(uint32_t index, kas_device_info *info)
{
    (void)index;
    snprintf(info->description, sizeof(info->description), "host processor, %u threads", kas_processor_count());
    snprintf(info->driver, sizeof(info->driver), "libkascade " KAS_VERSION_STRING);
    info->features = cpu_features();
    info->memory = kas_physical_memory();
    info->max_allocation = UINT64_MAX / 4;
    info->max_binding = UINT64_MAX / 4;
    info->slice_alignment = 4;
    info->compute_units = kas_processor_count();
    for (int i = 0; i < 3; i++)
        info->max_group_count[i] = UINT32_MAX / 4;
    info->shared_memory = KAS_CPU_SCRATCH_BYTES;
    info->host_memory = 1;
    return KAS_OK;
}

static void cpu_close(kas_backend_context *context)
{
    kas_crew_leave(context->crew);
    kas_release(context->scratch);
    kas_mutex_destroy(context->launch_lock);
    kas_release(context);
}

static kas_status cpu_open(uint32_t index, const kas_context_desc *desc, kas_device_info *info,
                           kas_backend_context **context)
{
    (void)index;
    if (desc->import)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "import is given, but the CPU has nothing to import");
    kas_backend_context *made = kas_alloc(1, sizeof(*made));
    if (!made)
        return kas_fail_memory();
    made->thread_count = desc->threads ? desc->threads : kas_min_u32(kas_processor_count(), MOST_THREADS);
    made->scratch = kas_alloc(made->thread_count, KAS_CPU_SCRATCH_BYTES);
    made->launch_lock = kas_mutex_create();
    made->crew = kas_crew_enrol(made->thread_count - 1);
    if (!made->scratch || !made->launch_lock || !made->crew) {
        cpu_close(made);
        return kas_fail_memory();
    }
    info->compute_units = made->thread_count;
    *context = made;
    return KAS_OK;
}

/* ---- Buffers ------------------------------------------------------------------------------------------------------- */

static kas_status cpu_buffer_create(kas_backend_context *context, uint64_t size, kas_backend_buffer **buffer)
{
    (void)context;
    kas_backend_buffer *made = kas_alloc(1, sizeof(*made));
    if (!made)
        return kas_fail_memory();
    made->owned = kas_alloc(size, 1);
    if (!made->owned) {
        kas_release(made);
        return kas_fail(KAS_ERROR_OUT_OF_DEVICE_MEMORY, "%llu bytes cannot be allocated", (unsigned long long)size);
    }
    made->memory = made->owned;
    *buffer = made;
    return KAS_OK;
}

static kas_status cpu_buffer_import(kas_backend_context *context, uint64_t handle, uint64_t offset, uint64_t size,
                                    kas_backend_buffer **buffer)
{
    (void)context;
    (void)size;
    kas_backend_buffer *made = kas_alloc(1, sizeof(*made));
    if (!made)
        return kas_fail_memory();
    made->memory = (unsigned char *)(uintptr_t)handle + offset;
    *buffer = made;
    return KAS_OK;
}

static void cpu_buffer_destroy(kas_backend_context *context, kas_backend_buffer *buffer)
{
    (void)context;
    kas_release(buffer->owned);
    kas_release(buffer);
}

static void *cpu_buffer_host(kas_backend_buffer *buffer)
{
    return buffer->memory;
}

/* ---- Streams ------------------------------------------------------------------------------------------------------- */

static kas_status cpu_stream_create(kas_backend_context *context, bool imported, uint64_t handle,
                                    kas_backend_stream **stream)
{
    (void)handle;
    if (imported)
        return kas_fail(KAS_ERROR_UNSUPPORTED, "the CPU has no streams to import");
    kas_backend_stream *made = kas_alloc(1, sizeof(*made));
    if (!made)
        return kas_fail_memory();
    made->context = context;
    *stream = made;
    return KAS_OK;
}

static void cpu_stream_destroy(kas_backend_stream *stream)
{
    kas_release(stream);
}

static kas_status cpu_stream_wait(kas_backend_stream *stream)
{
    (void)stream;
    return KAS_OK;
}

static kas_status cpu_write(kas_backend_stream *stream, kas_backend_buffer *buffer, uint64_t offset, const void *data,
                            uint64_t size)
{
    (void)stream;
    memcpy(buffer->memory + offset, data, size);
    return KAS_OK;
}

static kas_status cpu_read(kas_backend_stream *stream, kas_backend_buffer *buffer, uint64_t offset, void *data,
                           uint64_t size)
{
    (void)stream;
    memcpy(data, buffer->memory + offset, size);
    return KAS_OK;
}

static kas_status cpu_copy(kas_backend_stream *stream, kas_backend_buffer *target, uint64_t target_offset,
                           kas_backend_buffer *source, uint64_t source_offset, uint64_t size)
{
    (void)stream;
    memmove(target->memory + target_offset, source->memory + source_offset, size);
    return KAS_OK;
}

static kas_status cpu_fill(kas_backend_stream *stream, kas_backend_buffer *buffer, uint64_t offset, uint64_t size,
                           uint8_t value)
{
    (void)stream;
    memset(buffer->memory + offset, value, size);
    return KAS_OK;
}

/* ---- Kernels ------------------------------------------------------------------------------------------------------- */

static kas_status cpu_kernel_load(kas_backend_context *context, const kas_variant *variant, const kas_kernel_spec *spec,
                                  kas_backend_kernel **kernel)
{
    (void)context;
    kas_backend_kernel *made = kas_alloc(1, sizeof(*made));
    if (!made)
        return kas_fail_memory();
    made->code = variant->code;
    made->dtype = spec->dtype;
    *kernel = made;
    return KAS_OK;
}

static void cpu_kernel_unload(kas_backend_context *context, kas_backend_kernel *kernel)
{
    (void)context;
    kas_release(kernel);
}

static kas_status cpu_launch(kas_backend_stream *stream, const kas_launch *launch)
{
    const kas_cpu_code *code = launch->kernel->code;
    kas_cpu_job job = {.call = &launch->call, .dtype = launch->kernel->dtype, .rows = launch->grid[1]};
    job.step = rows_of_cells(stream->context, code, launch->grid);
    for (int i = 0; i < KAS_SLOT_COUNT; i++)
        if (launch->bindings[i].buffer)
            job.slot[i] = launch->bindings[i].buffer->memory + launch->bindings[i].offset;
    job.session = job.slot[KAS_SLOT_SESSION];
    job.words = (const uint32_t *)(job.session + 1);
    run_job(stream->context, &job, code->run, launch->grid);
    return KAS_OK;
}

/* ---- Timers -------------------------------------------------------------------------------------------------------- */

static kas_status cpu_timer_create(kas_backend_context *context, uint32_t marks, kas_backend_timer **timer)
{
    (void)context;
    kas_backend_timer *made = kas_alloc(1, sizeof(*made));
    uint64_t *times = kas_alloc(marks, sizeof(*times));
    if (!made || !times) {
        kas_release(times);
        kas_release(made);
        return kas_fail_memory();
    }
    made->marks = times;
    *timer = made;
    return KAS_OK;
}

static void cpu_timer_destroy(kas_backend_timer *timer)
{
    kas_release(timer->marks);
    kas_release(timer);
}

static kas_status cpu_timer_mark(kas_backend_timer *timer, kas_backend_stream *stream, uint32_t index)
{
    (void)stream;
    timer->marks[index] = kas_clock();
    return KAS_OK;
}

static kas_status cpu_timer_elapsed(kas_backend_timer *timer, uint32_t first, uint32_t second, double *milliseconds)
{
    *milliseconds = ((double)timer->marks[second] - (double)timer->marks[first]) * 1e-6;
    return KAS_OK;
}

const kas_backend kas_backend_cpu = {
    .name = "cpu",
    .variants = kas_cpu_variants,
    .variant_count = KAS_CPU_VARIANT_COUNT,
    .probe = cpu_probe,
    .device_info = cpu_device_info,
    .open = cpu_open,
    .close = cpu_close,
    .buffer_create = cpu_buffer_create,
    .buffer_import = cpu_buffer_import,
    .buffer_destroy = cpu_buffer_destroy,
    .buffer_host = cpu_buffer_host,
    .stream_create = cpu_stream_create,
    .stream_destroy = cpu_stream_destroy,
    .stream_wait = cpu_stream_wait,
    .write = cpu_write,
    .read = cpu_read,
    .copy = cpu_copy,
    .fill = cpu_fill,
    .kernel_load = cpu_kernel_load,
    .kernel_unload = cpu_kernel_unload,
    .launch = cpu_launch,
    .timer_create = cpu_timer_create,
    .timer_destroy = cpu_timer_destroy,
    .timer_mark = cpu_timer_mark,
    .timer_elapsed = cpu_timer_elapsed,
};
