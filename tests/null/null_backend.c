/* null_backend.c - the table: each function asks whether it is to fail, counts, and hands its work to the CPU's. */
#include "null_backend.h"

#include "backends/cpu/cpu.h"
#include "core/registry.h"

#include <stdio.h>
#include <string.h>

#define cpu (&kas_backend_cpu)

/* Calls [nth, nth + count) of a kind fail, counted from `calls` = 0. */
typedef struct fault {
    uint32_t calls, nth, count;
    kas_status status;
} fault;

static fault faults[NULL_CALL_COUNT];
static null_limits limits;
static uint32_t alive, launch_count;
static null_launch launches[NULL_MOST_LAUNCHES];

static kas_status pass(null_call call)
{
    fault *f = &faults[call];
    uint32_t number = ++f->calls;
    if (f->nth != 0 && number >= f->nth && number - f->nth < f->count)
        return kas_fail(f->status, "the null device was told to fail call %u of kind %d", number, (int)call);
    return KAS_OK;
}

/* What came of making something. */
static kas_status made(kas_status status)
{
    alive += status == KAS_OK;
    return status;
}

/* ---- Device ------------------------------------------------------------------------------------------------------ */

static uint32_t null_probe(char *reason, size_t reason_size)
{
    (void)reason;
    (void)reason_size;
    return 1;
}

static kas_status null_device_info(uint32_t index, kas_device_info *info)
{
    KAS_TRY(cpu->device_info(index, info));
    snprintf(info->description, sizeof(info->description), "a device of the tests");
    info->features = 0;
    info->memory = 0;
    info->max_allocation = limits.max_allocation;
    info->max_binding = limits.max_binding;
    info->slice_alignment = limits.slice_alignment;
    memcpy(info->max_group_count, limits.max_group_count, sizeof(info->max_group_count));
    info->host_memory = 0;
    return KAS_OK;
}

static kas_status null_open(uint32_t index, const kas_context_desc *desc, kas_device_info *info,
                            kas_backend_context **context)
{
    KAS_TRY(pass(NULL_OPEN));
    kas_context_desc single = *desc;
    single.threads = 1;
    KAS_TRY(made(cpu->open(index, &single, info, context)));
    info->compute_units = 4;
    return KAS_OK;
}

static void null_close(kas_backend_context *context)
{
    alive--;
    cpu->close(context);
}

/* ---- Buffers and streams ----------------------------------------------------------------------------------------- */

static kas_status null_buffer_create(kas_backend_context *context, uint64_t size, kas_backend_buffer **buffer)
{
    KAS_TRY(pass(NULL_BUFFER));
    return made(cpu->buffer_create(context, size, buffer));
}

static kas_status null_buffer_import(kas_backend_context *context, uint64_t handle, uint64_t offset, uint64_t size,
                                     kas_backend_buffer **buffer)
{
    KAS_TRY(pass(NULL_BUFFER));
    return made(cpu->buffer_import(context, handle, offset, size, buffer));
}

static void null_buffer_destroy(kas_backend_context *context, kas_backend_buffer *buffer)
{
    alive--;
    cpu->buffer_destroy(context, buffer);
}

static void *null_buffer_host(kas_backend_buffer *buffer)
{
    (void)buffer;
    return NULL;
}

static kas_status null_stream_create(kas_backend_context *context, bool imported, uint64_t handle,
                                     kas_backend_stream **stream)
{
    KAS_TRY(pass(NULL_STREAM));
    return made(cpu->stream_create(context, imported, handle, stream));
}

static void null_stream_destroy(kas_backend_stream *stream)
{
    alive--;
    cpu->stream_destroy(stream);
}

static kas_status null_stream_wait(kas_backend_stream *stream)
{
    KAS_TRY(pass(NULL_WAIT));
    return cpu->stream_wait(stream);
}

static kas_status null_write(kas_backend_stream *stream, kas_backend_buffer *buffer, uint64_t offset, const void *data,
                             uint64_t size)
{
    KAS_TRY(pass(NULL_COPY));
    return cpu->write(stream, buffer, offset, data, size);
}

static kas_status null_read(kas_backend_stream *stream, kas_backend_buffer *buffer, uint64_t offset, void *data,
                            uint64_t size)
{
    KAS_TRY(pass(NULL_COPY));
    return cpu->read(stream, buffer, offset, data, size);
}

static kas_status null_copy(kas_backend_stream *stream, kas_backend_buffer *target, uint64_t target_offset,
                            kas_backend_buffer *source, uint64_t source_offset, uint64_t size)
{
    KAS_TRY(pass(NULL_COPY));
    return cpu->copy(stream, target, target_offset, source, source_offset, size);
}

static kas_status null_fill(kas_backend_stream *stream, kas_backend_buffer *buffer, uint64_t offset, uint64_t size,
                            uint8_t value)
{
    KAS_TRY(pass(NULL_COPY));
    return cpu->fill(stream, buffer, offset, size, value);
}

/* ---- Kernels and timers ------------------------------------------------------------------------------------------ */

static kas_status null_kernel_load(kas_backend_context *context, const kas_variant *variant,
                                   const kas_kernel_spec *spec, kas_backend_kernel **kernel)
{
    KAS_TRY(pass(NULL_KERNEL));
    return made(cpu->kernel_load(context, variant, spec, kernel));
}

static void null_kernel_unload(kas_backend_context *context, kas_backend_kernel *kernel)
{
    alive--;
    cpu->kernel_unload(context, kernel);
}

static kas_status null_launch_kernel(kas_backend_stream *stream, const kas_launch *launch)
{
    KAS_TRY(pass(NULL_LAUNCH));
    if (launch_count < NULL_MOST_LAUNCHES)
        launches[launch_count] = (null_launch){.op = launch->variant->op,
                                               .variant = launch->variant->name,
                                               .grid = {launch->grid[0], launch->grid[1], launch->grid[2]},
                                               .call = launch->call};
    launch_count++;
    return cpu->launch(stream, launch);
}

static kas_status null_timer_create(kas_backend_context *context, uint32_t marks, kas_backend_timer **timer)
{
    KAS_TRY(pass(NULL_TIMER));
    return made(cpu->timer_create(context, marks, timer));
}

static void null_timer_destroy(kas_backend_timer *timer)
{
    alive--;
    cpu->timer_destroy(timer);
}

static kas_status null_timer_mark(kas_backend_timer *timer, kas_backend_stream *stream, uint32_t index)
{
    KAS_TRY(pass(NULL_TIMER));
    return cpu->timer_mark(timer, stream, index);
}

static kas_status null_timer_elapsed(kas_backend_timer *timer, uint32_t first, uint32_t second, double *milliseconds)
{
    KAS_TRY(pass(NULL_TIMER));
    return cpu->timer_elapsed(timer, first, second, milliseconds);
}

/* ---- Table ------------------------------------------------------------------------------------------------------- */

static kas_variant rows[2 * KAS_CPU_VARIANT_COUNT];

static kas_backend table = {
    .name = "null",
    .variants = rows,
    .probe = null_probe,
    .device_info = null_device_info,
    .open = null_open,
    .close = null_close,
    .buffer_create = null_buffer_create,
    .buffer_import = null_buffer_import,
    .buffer_destroy = null_buffer_destroy,
    .buffer_host = null_buffer_host,
    .stream_create = null_stream_create,
    .stream_destroy = null_stream_destroy,
    .stream_wait = null_stream_wait,
    .write = null_write,
    .read = null_read,
    .copy = null_copy,
    .fill = null_fill,
    .kernel_load = null_kernel_load,
    .kernel_unload = null_kernel_unload,
    .launch = null_launch_kernel,
    .timer_create = null_timer_create,
    .timer_destroy = null_timer_destroy,
    .timer_mark = null_timer_mark,
    .timer_elapsed = null_timer_elapsed,
};

static void add_rows(const char *name)
{
    for (size_t i = 0; i < KAS_CPU_VARIANT_COUNT; i++) {
        if (kas_cpu_variants[i].needs != 0)
            continue;
        kas_variant *row = &rows[table.variant_count++];
        *row = kas_cpu_variants[i];
        row->name = name;
        row->max_head_dim = NULL_HEAD_DIM;
    }
}

void null_install(void)
{
    if (table.variant_count != 0)
        return;
    null_reset();
    add_rows("first");
    add_rows("second");
    if (!kas_registry_add(&table))
        fprintf(stderr, "the table of backends is full\n");
}

void null_reset(void)
{
    memset(faults, 0, sizeof(faults));
    launch_count = 0;
    limits = (null_limits){.max_allocation = 1u << 30,
                           .max_binding = 1u << 30,
                           .slice_alignment = 16,
                           .max_group_count = {UINT16_MAX, UINT16_MAX, UINT16_MAX}};
}

void null_set_limits(const null_limits *chosen)
{
    limits = *chosen;
}

void null_fail(null_call call, uint32_t nth, uint32_t count, kas_status status)
{
    faults[call] = (fault){.nth = nth, .count = count, .status = status};
}

uint32_t null_calls(null_call call)
{
    return faults[call].calls;
}

uint32_t null_alive(void)
{
    return alive;
}

uint32_t null_launch_count(void)
{
    return launch_count;
}

const null_launch *null_launch_at(uint32_t index)
{
    return &launches[index];
}
