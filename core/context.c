/* context.c - contexts, buffers, streams and timers: host-side checks in front of the backend's functions. */
#include "context.h"

#include "registry.h"

#include <string.h>

static kas_status check_context_desc(const kas_context_desc *desc)
{
    KAS_TRY(kas_require_struct("desc", desc, sizeof(*desc)));
    if (desc->threads > 1024)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "threads is %u, at most 1024", desc->threads);
    return KAS_OK;
}

/* ---- Preferred rows -------------------------------------------------------------------------------------------- */

#define SEPARATORS ", \t\r\n"

/* One entry of kas_context_desc.variant, "NAME" or "OPERATION=NAME"; its text is not terminated. */
typedef struct preference {
    const char *text;
    size_t length;
    const char *operation; /* NULL: every operation */
    size_t operation_length;
    const char *name;
    size_t name_length;
} preference;

/* Takes the entry that begins at or after *rest; false at the end of the text. */
static bool next_preference(const char **rest, preference *entry)
{
    const char *text = *rest + strspn(*rest, SEPARATORS);
    size_t length = strcspn(text, SEPARATORS);
    const char *equals = memchr(text, '=', length);
    *entry = (preference){.text = text, .length = length, .name = text, .name_length = length};
    if (equals) {
        entry->operation = text;
        entry->operation_length = (size_t)(equals - text);
        entry->name = equals + 1;
        entry->name_length = length - entry->operation_length - 1;
    }
    *rest = text + length;
    return length != 0;
}

static bool is_text(const char *text, size_t length, const char *other)
{
    return strlen(other) == length && memcmp(text, other, length) == 0;
}

static bool is_meant(const preference *entry, const kas_variant *row)
{
    return is_text(entry->name, entry->name_length, row->name) &&
           (!entry->operation || is_text(entry->operation, entry->operation_length, kas_op_name(row->op)));
}

static bool is_preferred(const kas_context *context, const kas_variant *row)
{
    preference entry;
    for (const char *rest = context->variant; rest && next_preference(&rest, &entry);)
        if (is_meant(&entry, row))
            return true;
    return false;
}

static bool has_variant(const kas_backend *backend, const preference *entry)
{
    for (uint32_t i = 0; i < backend->variant_count; i++)
        if (is_meant(entry, &backend->variants[i]))
            return true;
    return false;
}

static kas_status check_preferences(const kas_backend *backend, const char *text)
{
    preference entry;
    while (next_preference(&text, &entry))
        if (!has_variant(backend, &entry))
            return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "variant \"%.*s\" is no row of %s",
                            (int)(entry.length < 64 ? entry.length : 64), entry.text, backend->name);
    return KAS_OK;
}

/* ---- Contexts -------------------------------------------------------------------------------------------------- */

static kas_status fill_context(kas_context *context, const kas_context_desc *desc)
{
    const char *device = desc->device ? desc->device : "cpu";
    uint32_t index;
    KAS_TRY(kas_registry_find(device, &context->backend, &index));
    KAS_TRY(kas_registry_device_info(context->backend, index, &context->info));
    context->info.features &= ~desc->disable_features;
    if (desc->variant) {
        KAS_TRY(check_preferences(context->backend, desc->variant));
        context->variant = kas_strdup(desc->variant);
        if (!context->variant)
            return kas_fail_memory();
    }
    return context->backend->open(index, desc, &context->info, &context->handle);
}

kas_status kas_context_create(const kas_context_desc *desc, kas_context **context)
{
    KAS_TRY(check_context_desc(desc));
    KAS_TRY(kas_require("context", context));
    kas_context *made = kas_alloc(1, sizeof(*made));
    if (!made)
        return kas_fail_memory();
    kas_status status = fill_context(made, desc);
    if (status != KAS_OK) {
        kas_release(made->variant);
        kas_release(made);
        return status;
    }
    *context = made;
    return KAS_OK;
}

void kas_context_destroy(kas_context *context)
{
    if (!context)
        return;
    context->backend->close(context->handle);
    kas_release(context->variant);
    kas_release(context);
}

kas_status kas_context_get_info(const kas_context *context, kas_device_info *info)
{
    KAS_TRY(kas_require("context", context));
    KAS_TRY(kas_require_struct("info", info, sizeof(*info)));
    *info = context->info;
    return KAS_OK;
}

const char *kas_feature_name(uint64_t feature)
{
    static const struct {
        uint64_t feature;
        const char *name;
    } names[] = {
        {KAS_FEATURE_AVX2, "avx2"},
        {KAS_FEATURE_AVX512, "avx512"},
        {KAS_FEATURE_AVX512_BF16, "avx512-bf16"},
        {KAS_FEATURE_AVX512_FP16, "avx512-fp16"},
        {KAS_FEATURE_NEON, "neon"},
        {KAS_FEATURE_F16, "f16"},
        {KAS_FEATURE_SUBGROUP, "subgroup"},
        {KAS_FEATURE_COOPMAT, "cooperative-matrix"},
        {KAS_FEATURE_COOPMAT2, "cooperative-matrix-2"},
        {KAS_FEATURE_ADDRESS, "buffer-address"},
        {KAS_FEATURE_INT64, "int64"},
        {KAS_FEATURE_STORAGE16, "storage-16"},
        {KAS_FEATURE_SERIAL, "serial"},
        {KAS_FEATURE_MMA, "mma"},
        {KAS_FEATURE_WGMMA, "wgmma"},
    };
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (names[i].feature == feature)
            return names[i].name;
    return NULL;
}

/* ---- Variant rows ---------------------------------------------------------------------------------------------- */

const char *kas_op_name(kas_op op)
{
    static const char *const names[] = {
#define OP_NAME(name, text) text,
        KAS_OP_LIST(OP_NAME)
#undef OP_NAME
    };
    return names[op];
}

const char *kas_operation_name(uint32_t index)
{
    return index < KAS_OP_COUNT ? kas_op_name((kas_op)index) : NULL;
}

uint32_t kas_context_variant_count(const kas_context *context)
{
    return context ? context->backend->variant_count : 0;
}

static bool is_usable(const kas_context *context, const kas_variant *row)
{
    return (row->needs & ~context->info.features) == 0;
}

kas_status kas_context_get_variant(const kas_context *context, uint32_t index, kas_variant_info *info)
{
    KAS_TRY(kas_require("context", context));
    KAS_TRY(kas_require_struct("info", info, sizeof(*info)));
    if (index >= context->backend->variant_count)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "index is %u, the number of variant rows is %u", index,
                        context->backend->variant_count);
    const kas_variant *row = &context->backend->variants[index];
    info->name = row->name;
    info->operation = kas_op_name(row->op);
    info->dtypes = row->dtypes;
    info->min_head_dim = row->min_head_dim;
    info->max_head_dim = row->max_head_dim;
    info->head_dim_step = row->head_dim_step;
    info->needs = row->needs;
    info->usable = is_usable(context, row);
    return KAS_OK;
}

static bool fits(const kas_variant *row, const kas_kernel_spec *spec, bool estimated)
{
    return (row->dtypes & KAS_DTYPE_BIT(spec->dtype)) != 0 && spec->head_dim >= row->min_head_dim &&
           spec->head_dim <= row->max_head_dim && (spec->head_dim - row->min_head_dim) % row->head_dim_step == 0 &&
           (row->max_group == 0 || spec->group <= row->max_group) &&
           (row->max_queries == 0 || spec->queries <= row->max_queries) &&
           (row->tiles == 0 || (row->tiles & spec->tile)) &&
           !(row->no_pages && spec->page_size != 0) && !(row->no_estimate && estimated);
}

/* A failure that says nothing of the row: taking another row instead would hide it. */
static bool is_general(kas_status status)
{
    return status == KAS_ERROR_OUT_OF_MEMORY || status == KAS_ERROR_OUT_OF_DEVICE_MEMORY ||
           status == KAS_ERROR_DEVICE_LOST;
}

/*
 * One pass over the rows of `op`: the preferred ones, or all the others. `status` is that of the last row that was
 * tried, and stays as it is when none fits.
 */
static void load_first(kas_context *context, kas_op op, const kas_kernel_spec *spec, bool estimated, bool preferred,
                       const kas_variant **variant, kas_backend_kernel **kernel, kas_status *status)
{
    for (uint32_t i = 0; i < context->backend->variant_count; i++) {
        const kas_variant *row = &context->backend->variants[i];
        if (row->op != op || is_preferred(context, row) != preferred || !is_usable(context, row) ||
            !fits(row, spec, estimated))
            continue;
        kas_attempt_begin();
        *status = context->backend->kernel_load(context->handle, row, spec, kernel);
        kas_attempt_end();
        if (*status == KAS_OK)
            *variant = row;
        if (is_general(*status))
            kas_log(KAS_LOG_ERROR, "%s", kas_last_error());
        if (*status == KAS_OK || is_general(*status))
            return;
        kas_log(KAS_LOG_WARNING, "%s: row %s of %s does not load: %s", context->info.name, row->name, kas_op_name(op),
                kas_last_error());
    }
}

kas_status kas_variant_load(kas_context *context, kas_op op, const kas_kernel_spec *spec, bool estimated,
                            const kas_variant **variant, kas_backend_kernel **kernel)
{
    kas_status status = KAS_ERROR_UNSUPPORTED;
    load_first(context, op, spec, estimated, true, variant, kernel, &status);
    if (status != KAS_OK && !is_general(status))
        load_first(context, op, spec, estimated, false, variant, kernel, &status);
    if (status != KAS_ERROR_UNSUPPORTED)
        return status;
    return kas_fail(KAS_ERROR_UNSUPPORTED, "%s has no row of %s for head_dim %u, group %u, tile %u, page_size %u",
                    context->info.name, kas_op_name(op), spec->head_dim, spec->group, spec->tile, spec->page_size);
}

const kas_variant *kas_variant_find(const kas_context *context, kas_op op, const kas_kernel_spec *spec, bool preferred)
{
    for (uint32_t i = 0; i < context->backend->variant_count; i++) {
        const kas_variant *row = &context->backend->variants[i];
        if (row->op == op && is_usable(context, row) && fits(row, spec, false) &&
            (!preferred || is_preferred(context, row)))
            return row;
    }
    return NULL;
}

/* ---- Buffers --------------------------------------------------------------------------------------------------- */

static kas_status wrap_buffer(kas_context *context, kas_backend_buffer *handle, uint64_t size, kas_buffer **buffer)
{
    kas_buffer *made = kas_alloc(1, sizeof(*made));
    if (!made) {
        context->backend->buffer_destroy(context->handle, handle);
        return kas_fail_memory();
    }
    *made = (kas_buffer){context, handle, size};
    *buffer = made;
    return KAS_OK;
}

kas_status kas_buffer_create(kas_context *context, uint64_t size, kas_buffer **buffer)
{
    KAS_TRY(kas_require("context", context));
    KAS_TRY(kas_require("buffer", buffer));
    if (size == 0)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "size is 0, needed is 1 byte at least");
    if (size > context->info.max_allocation)
        return kas_fail(KAS_ERROR_LIMIT, "size is %llu bytes, one allocation of %s holds %llu", (unsigned long long)size,
                        context->info.name, (unsigned long long)context->info.max_allocation);
    kas_backend_buffer *handle;
    KAS_TRY(context->backend->buffer_create(context->handle, size, &handle));
    return wrap_buffer(context, handle, size, buffer);
}

kas_status kas_buffer_import(kas_context *context, uint64_t handle, uint64_t offset, uint64_t size,
                             kas_buffer **buffer)
{
    KAS_TRY(kas_require("context", context));
    KAS_TRY(kas_require("buffer", buffer));
    if (handle == 0 || size == 0)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "%s is 0", handle == 0 ? "handle" : "size");
    if (offset % context->info.slice_alignment != 0)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "offset is %llu, needed is a multiple of %u",
                        (unsigned long long)offset, context->info.slice_alignment);
    if (offset > UINT64_MAX - size)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "offset is %llu: with %llu bytes of size it passes 2^64",
                        (unsigned long long)offset, (unsigned long long)size);
    kas_backend_buffer *imported;
    KAS_TRY(context->backend->buffer_import(context->handle, handle, offset, size, &imported));
    return wrap_buffer(context, imported, size, buffer);
}

void kas_buffer_destroy(kas_buffer *buffer)
{
    if (!buffer)
        return;
    buffer->context->backend->buffer_destroy(buffer->context->handle, buffer->handle);
    kas_release(buffer);
}

uint64_t kas_buffer_size(const kas_buffer *buffer)
{
    return buffer ? buffer->size : 0;
}

void *kas_buffer_host(kas_buffer *buffer)
{
    return buffer ? buffer->context->backend->buffer_host(buffer->handle) : NULL;
}

static kas_status check_range(const kas_buffer *buffer, const char *name, uint64_t offset, uint64_t size)
{
    if (offset > buffer->size || size > buffer->size - offset)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "%s: %llu bytes from %llu pass its end at %llu", name,
                        (unsigned long long)size, (unsigned long long)offset, (unsigned long long)buffer->size);
    return KAS_OK;
}

static kas_status check_transfer(const kas_stream *stream, const char *name, const kas_buffer *buffer, uint64_t offset,
                                 uint64_t size)
{
    KAS_TRY(kas_require("stream", stream));
    KAS_TRY(kas_require(name, buffer));
    if (stream->context != buffer->context)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "stream and %s belong to different contexts", name);
    return check_range(buffer, name, offset, size);
}

kas_status kas_buffer_write(kas_stream *stream, kas_buffer *buffer, uint64_t offset, const void *data, uint64_t size)
{
    KAS_TRY(check_transfer(stream, "buffer", buffer, offset, size));
    KAS_TRY(kas_require("data", data));
    return size ? stream->context->backend->write(stream->handle, buffer->handle, offset, data, size) : KAS_OK;
}

kas_status kas_buffer_read(kas_stream *stream, const kas_buffer *buffer, uint64_t offset, void *data, uint64_t size)
{
    KAS_TRY(check_transfer(stream, "buffer", buffer, offset, size));
    KAS_TRY(kas_require("data", data));
    return size ? stream->context->backend->read(stream->handle, buffer->handle, offset, data, size) : KAS_OK;
}

static kas_status check_words(const char *name, uint64_t offset, uint64_t size)
{
    if (offset % 4 != 0 || size % 4 != 0)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "%s: offset %llu and size %llu are not multiples of 4", name,
                        (unsigned long long)offset, (unsigned long long)size);
    return KAS_OK;
}

kas_status kas_buffer_copy(kas_stream *stream, kas_buffer *target, uint64_t target_offset, const kas_buffer *source,
                           uint64_t source_offset, uint64_t size)
{
    KAS_TRY(check_transfer(stream, "target", target, target_offset, size));
    KAS_TRY(check_transfer(stream, "source", source, source_offset, size));
    KAS_TRY(check_words("target", target_offset, size));
    KAS_TRY(check_words("source", source_offset, size));
    if (target == source && target_offset < source_offset + size && source_offset < target_offset + size)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT,
                        "target_offset is %llu: %llu bytes from there overlap those from source_offset, %llu",
                        (unsigned long long)target_offset, (unsigned long long)size, (unsigned long long)source_offset);
    if (size == 0)
        return KAS_OK;
    return stream->context->backend->copy(stream->handle, target->handle, target_offset, source->handle, source_offset,
                                          size);
}

kas_status kas_buffer_fill(kas_stream *stream, kas_buffer *buffer, uint64_t offset, uint64_t size, uint8_t value)
{
    KAS_TRY(check_transfer(stream, "buffer", buffer, offset, size));
    KAS_TRY(check_words("buffer", offset, size));
    return size ? stream->context->backend->fill(stream->handle, buffer->handle, offset, size, value) : KAS_OK;
}

/* ---- Streams --------------------------------------------------------------------------------------------------- */

static kas_status make_stream(kas_context *context, bool imported, uint64_t handle, kas_stream **stream)
{
    KAS_TRY(kas_require("context", context));
    KAS_TRY(kas_require("stream", stream));
    kas_stream *made = kas_alloc(1, sizeof(*made));
    if (!made)
        return kas_fail_memory();
    made->context = context;
    kas_status status = context->backend->stream_create(context->handle, imported, handle, &made->handle);
    if (status != KAS_OK) {
        kas_release(made);
        return status;
    }
    *stream = made;
    return KAS_OK;
}

kas_status kas_stream_create(kas_context *context, kas_stream **stream)
{
    return make_stream(context, false, 0, stream);
}

kas_status kas_stream_import(kas_context *context, uint64_t handle, kas_stream **stream)
{
    return make_stream(context, true, handle, stream);
}

void kas_stream_destroy(kas_stream *stream)
{
    if (!stream)
        return;
    stream->context->backend->stream_destroy(stream->handle);
    kas_release(stream);
}

kas_status kas_stream_wait(kas_stream *stream)
{
    KAS_TRY(kas_require("stream", stream));
    return stream->context->backend->stream_wait(stream->handle);
}

/* ---- Timers ---------------------------------------------------------------------------------------------------- */

kas_status kas_timer_create(kas_context *context, uint32_t marks, kas_timer **timer)
{
    KAS_TRY(kas_require("context", context));
    KAS_TRY(kas_require("timer", timer));
    if (marks == 0 || marks > 4096)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "marks is %u, needed is 1 to 4096", marks);
    kas_timer *made = kas_alloc(1, sizeof(*made));
    bool *recorded = kas_alloc(marks, sizeof(*recorded));
    kas_status status = made && recorded ? context->backend->timer_create(context->handle, marks, &made->handle)
                                         : kas_fail_memory();
    if (status != KAS_OK) {
        kas_release(recorded);
        kas_release(made);
        return status;
    }
    made->context = context;
    made->marks = marks;
    made->recorded = recorded;
    *timer = made;
    return KAS_OK;
}

void kas_timer_destroy(kas_timer *timer)
{
    if (!timer)
        return;
    timer->context->backend->timer_destroy(timer->handle);
    kas_release(timer->recorded);
    kas_release(timer);
}

static kas_status check_mark(const char *name, const kas_timer *timer, uint32_t index)
{
    if (index >= timer->marks)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "%s is %u, the timer's number of marks is %u", name, index,
                        timer->marks);
    return KAS_OK;
}

kas_status kas_timer_mark(kas_timer *timer, kas_stream *stream, uint32_t index)
{
    KAS_TRY(kas_require("timer", timer));
    KAS_TRY(kas_require("stream", stream));
    if (timer->context != stream->context)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "timer and stream belong to different contexts");
    KAS_TRY(check_mark("index", timer, index));
    KAS_TRY(timer->context->backend->timer_mark(timer->handle, stream->handle, index));
    timer->recorded[index] = true;
    return KAS_OK;
}

kas_status kas_timer_elapsed(kas_timer *timer, uint32_t first, uint32_t second, double *milliseconds)
{
    KAS_TRY(kas_require("timer", timer));
    KAS_TRY(kas_require("milliseconds", milliseconds));
    KAS_TRY(check_mark("first", timer, first));
    KAS_TRY(check_mark("second", timer, second));
    if (!timer->recorded[first] || !timer->recorded[second])
        return kas_fail(KAS_ERROR_STATE, "mark %u was not recorded", timer->recorded[first] ? second : first);
    return timer->context->backend->timer_elapsed(timer->handle, first, second, milliseconds);
}
