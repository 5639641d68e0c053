/* work.c - the checks of every attention call, its shared launch, and the loops that cut it into pieces. */
#include "work.h"

/* ---- Checks ---------------------------------------------------------------------------------------------------- */

static kas_status check_handles(kas_session *session, kas_stream *stream, kas_phase phase, const kas_attention *args)
{
    KAS_TRY(kas_require("session", session));
    KAS_TRY(kas_require("stream", stream));
    KAS_TRY(kas_require_struct("args", args, sizeof(*args)));
    if (session->context != stream->context)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "session and stream belong to different contexts");
    if (phase != KAS_PHASE_PREFILL && phase != KAS_PHASE_DECODE)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "phase is %d, needed is 0 or 1", (int)phase);
    return KAS_OK;
}

static kas_status check_counts(const kas_work *work)
{
    const kas_shape *shape = &work->session->shape;
    bool decode = work->phase == KAS_PHASE_DECODE;
    uint32_t most = decode ? shape->max_decode_queries : shape->max_queries;
    if (work->batch > shape->max_batch)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "batch is %u, the session's max_batch is %u", work->batch,
                        shape->max_batch);
    if (most == 0)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "the session was created without prefill: its max_queries is 0");
    if (work->queries == 0 || work->queries > most)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "queries is %u, needed is 1 to %u (%s)", work->queries, most,
                        decode ? "max_decode_queries" : "max_queries");
    if (work->keys < work->queries || work->keys > shape->max_keys)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "keys is %u, needed is queries, %u, to max_keys, %u", work->keys,
                        work->queries, shape->max_keys);
    if (work->args->final_len > shape->max_keys)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "final_len is %u, max_keys is %u", work->args->final_len,
                        shape->max_keys);
    return KAS_OK;
}

static kas_status check_final(const kas_work *work)
{
    const kas_attention *args = work->args;
    bool known = args->final_len || args->final_lens.buffer;
    if (work->session->block.topk_fixed && work->phase == KAS_PHASE_PREFILL && !known &&
        (work->ragged || work->queries != work->keys))
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT,
                        "final_len is 0: ragged or chunked prefill with KAS_TOPK_FIXED needs the final length");
    if (known && args->final_len && args->final_len < work->keys && !work->ragged)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "final_len is %u, less than keys, %u", args->final_len, work->keys);
    return KAS_OK;
}

static kas_status check_paging(const kas_work *work)
{
    const kas_attention *args = work->args;
    uint32_t page_size = work->session->block.page_size;
    if (page_size == 0) {
        if (args->page_table.buffer)
            return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "page_table is given, but the session's page_size is 0");
        return KAS_OK;
    }
    if (!(work->needs & KAS_NEEDS_K))
        return KAS_OK;
    if (!args->page_table.buffer || args->page_count == 0)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "%s is absent, needed with the session's page_size, %u",
                        args->page_table.buffer ? "page_count" : "page_table", page_size);
    if (args->segment_count)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "segment_count is %u, segments are not for paged caches",
                        args->segment_count);
    if (work->base.call.page_table_stride < kas_div_up(work->keys, page_size))
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "page_table_stride is %u, %u keys need %llu",
                        work->base.call.page_table_stride, work->keys,
                        (unsigned long long)kas_div_up(work->keys, page_size));
    return KAS_OK;
}

static kas_status check_segments(const kas_work *work)
{
    uint64_t sum = 0;
    if (work->args->segment_count)
        KAS_TRY(kas_require("segments", work->args->segments));
    for (uint32_t i = 0; i < work->args->segment_count; i++) {
        if (work->args->segments[i].count == 0)
            return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "segments[%u].count is 0", i);
        sum += work->args->segments[i].count;
    }
    if (work->args->segment_count && sum != work->batch)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "segments hold %llu sequences, batch is %u",
                        (unsigned long long)sum, work->batch);
    return KAS_OK;
}

kas_status kas_work_check_slice(const kas_work *work, const char *name, const kas_slice *slice, uint64_t size)
{
    const kas_device_info *info = &work->session->context->info;
    if (!slice->buffer)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "%s has no buffer", name);
    if (slice->buffer->context != work->session->context)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "%s belongs to another context", name);
    if (slice->offset % info->slice_alignment != 0)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "%s.offset is %llu, needed is a multiple of %u", name,
                        (unsigned long long)slice->offset, info->slice_alignment);
    if (slice->offset > slice->buffer->size || slice->buffer->size - slice->offset < size)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "%s: %llu bytes from %llu pass the end of its buffer at %llu", name,
                        (unsigned long long)size, (unsigned long long)slice->offset,
                        (unsigned long long)slice->buffer->size);
    if (size > info->max_binding)
        return kas_fail(KAS_ERROR_LIMIT, "%s takes %llu bytes, a kernel of %s can address %llu", name,
                        (unsigned long long)size, info->name, (unsigned long long)info->max_binding);
    return KAS_OK;
}

/* ---- Tensors --------------------------------------------------------------------------------------------------- */

/*
 * Where a tensor's elements lie: `extent` counts them from the offset to one past the last. A packed tensor whose
 * outer stride passes 32 bits has no end that fits a buffer.
 */
typedef struct layout {
    uint32_t stride[3];
    uint64_t extent;
} layout;

/* (count - 1) * stride, behind `sum`; all the 64 bits when that is more than they hold. */
static uint64_t reach(uint64_t sum, uint32_t count, uint32_t stride)
{
    uint64_t step = (uint64_t)(count - 1) * stride;
    return step > UINT64_MAX - sum ? UINT64_MAX : sum + step;
}

static layout layout_of(const kas_work *work, const kas_tensor *tensor, uint32_t outer, uint32_t tokens, uint32_t heads)
{
    uint32_t dim = work->session->block.head_dim;
    layout found = {{tensor->stride[0], tensor->stride[1], tensor->stride[2]}, 0};
    if (!found.stride[0] && !found.stride[1] && !found.stride[2]) {
        uint64_t packed = (uint64_t)tokens * heads * dim;
        found.stride[0] = packed > UINT32_MAX ? UINT32_MAX : (uint32_t)packed;
        found.stride[1] = heads * dim;
        found.stride[2] = dim;
        found.extent = packed > UINT32_MAX && outer > 1 ? UINT64_MAX : packed * outer;
        return found;
    }
    found.extent = reach(reach(reach(dim, heads, found.stride[2]), tokens, found.stride[1]), outer, found.stride[0]);
    return found;
}

static kas_status check_tensor(const kas_work *work, const char *name, const kas_tensor *tensor, uint64_t extent)
{
    const kas_session *session = work->session;
    if (!tensor->buffer)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "%s has no buffer", name);
    if (tensor->buffer->context != session->context)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "%s belongs to another context", name);
    if (tensor->offset % session->element_size != 0)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "%s.offset is %llu, needed is a multiple of %u", name,
                        (unsigned long long)tensor->offset, session->element_size);
    uint64_t size = tensor->buffer->size;
    if (tensor->offset > size || (size - tensor->offset) / session->element_size < extent)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "%s: %llu elements from byte %llu pass the end of its buffer at %llu",
                        name, (unsigned long long)extent, (unsigned long long)tensor->offset, (unsigned long long)size);
    return KAS_OK;
}

/* Binds a tensor at the aligned offset below it; the rest becomes the base in elements. */
static kas_status bind_tensor(const kas_work *work, kas_launch *launch, uint32_t slot, const char *name,
                              const kas_tensor *tensor, uint64_t extent, uint32_t *base)
{
    const kas_device_info *info = &work->session->context->info;
    uint64_t excess = tensor->offset % info->slice_alignment;
    uint64_t size = excess + extent * work->session->element_size;
    if (size > info->max_binding)
        return kas_fail(KAS_ERROR_LIMIT, "%s takes %llu bytes, a kernel of %s can address %llu", name,
                        (unsigned long long)size, info->name, (unsigned long long)info->max_binding);
    launch->bindings[slot] = (kas_binding){tensor->buffer->handle, tensor->offset - excess, size};
    *base = (uint32_t)(excess / work->session->element_size);
    return KAS_OK;
}

/* q or out. With q_starts rows are the caller's to know: the binding then reaches to the buffer's end. */
static kas_status bind_rows(kas_work *work, uint32_t slot, const char *name, const kas_tensor *tensor, uint32_t *stride,
                            uint32_t *base)
{
    layout found = layout_of(work, tensor, work->batch, work->queries, work->session->block.heads);
    if (work->args->q_starts.buffer && tensor->buffer) {
        layout single = layout_of(work, tensor, 1, 1, work->session->block.heads);
        KAS_TRY(check_tensor(work, name, tensor, single.extent));
        found.extent = (tensor->buffer->size - tensor->offset) / work->session->element_size;
        uint64_t most = work->session->context->info.max_binding / work->session->element_size -
                        work->session->context->info.slice_alignment;
        found.extent = found.extent < most ? found.extent : most;
    }
    KAS_TRY(check_tensor(work, name, tensor, found.extent));
    for (int i = 0; i < 3; i++)
        stride[i] = found.stride[i];
    return bind_tensor(work, &work->base, slot, name, tensor, found.extent, base);
}

/* Operations without keys take all sequences as one run. */
static bool has_segments(const kas_work *work)
{
    return work->args->segment_count != 0 && (work->needs & KAS_NEEDS_K);
}

static kas_kv kv_run(const kas_work *work, uint32_t index)
{
    if (has_segments(work)) {
        const kas_kv_segment *segment = &work->args->segments[index];
        return (kas_kv){segment->count, segment->k, segment->v};
    }
    return (kas_kv){work->batch, work->args->k, work->args->v};
}

/* Blocks of a cache tensor and tokens in each: sequences of keys, or pages. */
static layout kv_layout(const kas_work *work, const kas_tensor *tensor, uint32_t sequences)
{
    uint32_t page_size = work->session->block.page_size;
    if (page_size)
        return layout_of(work, tensor, work->args->page_count, page_size, work->session->block.kv_heads);
    return layout_of(work, tensor, sequences, work->keys, work->session->block.kv_heads);
}

static kas_status check_kv(const kas_work *work)
{
    for (uint32_t i = 0; i < work->kv_count; i++) {
        kas_kv run = kv_run(work, i);
        if (work->needs & KAS_NEEDS_K)
            KAS_TRY(check_tensor(work, "k", &run.k, kv_layout(work, &run.k, run.count).extent));
        if (work->needs & KAS_NEEDS_V)
            KAS_TRY(check_tensor(work, "v", &run.v, kv_layout(work, &run.v, run.count).extent));
    }
    return KAS_OK;
}

/* Binds `count` sequences of a cache tensor from sequence `skip` of its run. */
static kas_status bind_cache(kas_work *work, uint32_t slot, const char *name, kas_tensor tensor, uint32_t skip,
                             uint32_t count, uint32_t *stride, uint32_t *base)
{
    layout found = kv_layout(work, &tensor, count);
    for (int i = 0; i < 3; i++)
        stride[i] = found.stride[i];
    if (!work->session->block.page_size)
        tensor.offset += (uint64_t)skip * found.stride[0] * work->session->element_size;
    return bind_tensor(work, &work->base, slot, name, &tensor, found.extent, base);
}

/* ---- The shared launch ----------------------------------------------------------------------------------------- */

static kas_status bind_lengths(kas_work *work, uint32_t slot, const char *name, const kas_slice *slice, uint32_t flag)
{
    if (!slice->buffer)
        return KAS_OK;
    uint64_t size = (uint64_t)work->batch * sizeof(int32_t);
    KAS_TRY(kas_work_check_slice(work, name, slice, size));
    kas_bind(&work->base, slot, slice, size);
    work->base.call.flags |= flag;
    return KAS_OK;
}

static kas_status bind_arrays(kas_work *work)
{
    const kas_attention *args = work->args;
    KAS_TRY(bind_lengths(work, KAS_SLOT_Q_LENS, "q_lens", &args->q_lens, KAS_CALL_Q_LENS));
    KAS_TRY(bind_lengths(work, KAS_SLOT_KV_LENS, "kv_lens", &args->kv_lens, KAS_CALL_KV_LENS));
    KAS_TRY(bind_lengths(work, KAS_SLOT_Q_STARTS, "q_starts", &args->q_starts, KAS_CALL_Q_STARTS));
    KAS_TRY(bind_lengths(work, KAS_SLOT_FINAL_LENS, "final_lens", &args->final_lens, KAS_CALL_FINAL_LENS));
    if (!args->page_table.buffer)
        return KAS_OK;
    uint64_t size = (uint64_t)work->batch * work->base.call.page_table_stride * sizeof(int32_t);
    KAS_TRY(kas_work_check_slice(work, "page_table", &args->page_table, size));
    kas_bind(&work->base, KAS_SLOT_PAGES, &args->page_table, size);
    work->base.call.flags |= KAS_CALL_PAGED;
    return KAS_OK;
}

static uint64_t lse_bytes(const kas_work *work)
{
    return (uint64_t)work->batch * work->session->block.heads * work->queries * sizeof(float);
}

/* Rows of a tensor that whole lie within its binding, in units of q_stride_seq. */
static uint32_t packed_rows(const kas_work *work, uint32_t slot, const kas_tensor *tensor)
{
    layout single = layout_of(work, tensor, 1, 1, work->session->block.heads);
    uint64_t elements = work->base.bindings[slot].size / work->session->element_size;
    uint64_t excess = tensor->offset % work->session->context->info.slice_alignment / work->session->element_size;
    uint64_t rows = single.stride[1] ? (elements - excess - single.extent) / single.stride[1] + 1 : UINT32_MAX;
    uint32_t most = UINT32_MAX / KAS_ROWS_UNIT;
    return (rows < most ? (uint32_t)rows : most) * KAS_ROWS_UNIT;
}

/* Where sequences begin at rows of the caller's choice, kernels are told how many rows there are. */
static void limit_rows(kas_work *work)
{
    kas_call *call = &work->base.call;
    uint32_t rows = UINT32_MAX;
    if (!(work->needs & (KAS_NEEDS_Q | KAS_NEEDS_OUT)))
        call->flags &= ~KAS_CALL_Q_STARTS;
    if (!(call->flags & KAS_CALL_Q_STARTS))
        return;
    if (work->needs & KAS_NEEDS_Q)
        rows = packed_rows(work, KAS_SLOT_Q, &work->args->q);
    if (work->needs & KAS_NEEDS_OUT)
        rows = kas_min_u32(rows, packed_rows(work, KAS_SLOT_OUT, &work->args->out));
    call->q_stride_seq = rows;
    call->out_stride_seq = 0;
}

static kas_status bind_tensors(kas_work *work)
{
    kas_call *call = &work->base.call;
    if (work->needs & KAS_NEEDS_Q)
        KAS_TRY(bind_rows(work, KAS_SLOT_Q, "q", &work->args->q, &call->q_stride_seq, &call->q_base));
    if (work->needs & KAS_NEEDS_OUT)
        KAS_TRY(bind_rows(work, KAS_SLOT_OUT, "out", &work->args->out, &call->out_stride_seq, &call->out_base));
    limit_rows(work);
    if (work->args->lse.buffer || (work->needs & KAS_NEEDS_LSE))
        KAS_TRY(kas_work_check_slice(work, "lse", &work->args->lse, lse_bytes(work)));
    return check_kv(work);
}

static void fill_call(kas_work *work)
{
    kas_session *session = work->session;
    const kas_attention *args = work->args;
    kas_call *call = &work->base.call;
    uint32_t page_size = session->block.page_size;
    call->flags = work->phase == KAS_PHASE_DECODE ? KAS_CALL_DECODE : 0;
    call->layer = kas_identity_layer(session);
    call->queries = work->queries;
    call->keys = work->keys;
    call->final_len = args->final_len ? args->final_len : work->keys;
    call->lse_stride = work->queries;
    call->page_count = args->page_count;
    call->page_table_stride = args->page_table_stride;
    if (page_size && !call->page_table_stride)
        call->page_table_stride = (uint32_t)kas_div_up(session->shape.max_keys, page_size);
    kas_bind(&work->base, KAS_SLOT_SESSION, &session->fixed.slice, session->status_offset);
    kas_slice status = {session->fixed.slice.buffer, session->fixed.slice.offset + session->status_offset};
    kas_bind(&work->base, KAS_SLOT_STATUS, &status, sizeof(uint32_t));
}

kas_status kas_work_begin(kas_work *work, kas_session *session, kas_stream *stream, kas_phase phase,
                          const kas_attention *args, uint32_t needs)
{
    KAS_TRY(check_handles(session, stream, phase, args));
    bool decode = phase == KAS_PHASE_DECODE;
    *work = (kas_work){
        .session = session,
        .stream = stream,
        .args = args,
        .phase = phase,
        .needs = needs,
        .batch = args->batch ? args->batch : 1,
        .queries = args->queries || !decode ? args->queries : 1,
        .keys = args->keys || !args->kv_lens.buffer ? args->keys : session->shape.max_keys,
        .ragged = args->q_lens.buffer || args->kv_lens.buffer,
        .piece_multiple = 1,
    };
    work->kv_count = has_segments(work) ? args->segment_count : 1;
    KAS_TRY(check_counts(work));
    KAS_TRY(check_final(work));
    work->tiles = decode ? 1 : kas_call_tiles(work->queries, work->keys, session->block.tile, work->ragged);
    fill_call(work);
    KAS_TRY(check_paging(work));
    KAS_TRY(check_segments(work));
    KAS_TRY(bind_arrays(work));
    return bind_tensors(work);
}

/* ---- Pieces ---------------------------------------------------------------------------------------------------- */

/* Sequences of a run whose keys a kernel can address at once; 1 when even one may be too large (binding says so). */
static uint32_t addressable(const kas_work *work, const kas_kv *run, uint32_t most)
{
    if (work->session->block.page_size || !(work->needs & KAS_NEEDS_K))
        return most;
    uint64_t limit = work->session->context->info.max_binding - work->session->context->info.slice_alignment;
    uint64_t k = (uint64_t)kv_layout(work, &run->k, 1).stride[0] * work->session->element_size;
    uint64_t v = work->needs & KAS_NEEDS_V ? (uint64_t)kv_layout(work, &run->v, 1).stride[0] * work->session->element_size
                                           : 0;
    uint64_t larger = k > v ? k : v;
    if (larger == 0 || limit / larger >= most)
        return most;
    return kas_max_u32((uint32_t)(limit / larger), 1);
}

static kas_status bind_piece(kas_work *work, const kas_kv *run, uint32_t skip, const kas_piece *piece)
{
    kas_call *call = &work->base.call;
    call->seq_begin = piece->begin;
    if (work->needs & KAS_NEEDS_K)
        KAS_TRY(bind_cache(work, KAS_SLOT_K, "k", run->k, skip, piece->count, &call->k_stride_seq, &call->k_base));
    if (work->needs & KAS_NEEDS_V)
        KAS_TRY(bind_cache(work, KAS_SLOT_V, "v", run->v, skip, piece->count, &call->v_stride_seq, &call->v_base));
    return KAS_OK;
}

kas_status kas_work_pieces(kas_work *work, uint32_t sequences, uint32_t tiles,
                           kas_status (*body)(kas_work *work, const kas_piece *piece, void *user), void *user)
{
    uint32_t first = 0;
    for (uint32_t index = 0; index < work->kv_count; index++) {
        kas_kv run = kv_run(work, index);
        uint32_t most = addressable(work, &run, kas_min_u32(sequences, run.count));
        if (most < run.count)
            most -= most % work->piece_multiple;
        if (most == 0)
            return kas_fail(KAS_ERROR_LIMIT,
                            "a launch cannot take %u sequences and, by the stride of the scores, begins at every %u-th only: "
                            "pass fewer sequences, or scores with a stride that is a multiple of 64",
                            run.count, work->piece_multiple);
        for (uint32_t skip = 0; skip < run.count; skip += most) {
            kas_piece piece = {first + skip, kas_min_u32(most, run.count - skip), 0, 0};
            KAS_TRY(bind_piece(work, &run, skip, &piece));
            for (uint32_t tile = 0; tile < work->tiles; tile += tiles) {
                piece.tile_begin = work->base.call.tile_begin = tile;
                piece.tile_count = work->base.call.tile_count = kas_min_u32(tiles, work->tiles - tile);
                KAS_TRY(body(work, &piece, user));
            }
        }
        first += run.count;
    }
    return KAS_OK;
}

/* ---- Launching ------------------------------------------------------------------------------------------------- */

void kas_bind(kas_launch *launch, uint32_t slot, const kas_slice *slice, uint64_t size)
{
    launch->bindings[slot] = (kas_binding){slice->buffer->handle, slice->offset, size};
}

void kas_bind_scratch(const kas_work *work, kas_launch *launch, uint32_t slot, uint64_t offset, uint64_t size)
{
    const kas_slice *scratch = &work->session->scratch.slice;
    if (size != 0)
        launch->bindings[slot] = (kas_binding){scratch->buffer->handle, scratch->offset + offset, size};
}

kas_status kas_work_launch(const kas_work *work, kas_op op, kas_launch *launch, uint32_t x, uint32_t y, uint32_t z)
{
    const kas_loaded_kernel *loaded = &work->session->kernels[op];
    const kas_device_info *info = &work->session->context->info;
    if (x == 0 || y == 0 || z == 0)
        return KAS_OK;
    if (!loaded->variant && loaded->refused)
        return kas_fail(KAS_ERROR_DRIVER, "%s: the driver refused every row of %s when the session was created (see the log)",
                        info->name, kas_op_name(op));
    if (!loaded->variant)
        return kas_fail(KAS_ERROR_UNSUPPORTED, "%s has no row of %s for this session", info->name, kas_op_name(op));
    if (x > info->max_group_count[0] || y > info->max_group_count[1] || z > info->max_group_count[2])
        return kas_fail(KAS_ERROR_LIMIT, "%s: a grid of %u x %u x %u passes the limits of %s", kas_op_name(op), x, y, z,
                        info->name);
    launch->variant = loaded->variant;
    launch->kernel = loaded->kernel;
    launch->grid[0] = x;
    launch->grid[1] = y;
    launch->grid[2] = z;
    return work->session->context->backend->launch(work->stream->handle, launch);
}
