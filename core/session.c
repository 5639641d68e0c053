/*
 * session.c - creating sessions: checks of the descriptor, the tables kernels read (tile offsets, head maps, active
 * rows), the choice of a kernel for every operation, and device memory.
 */
#include "session.h"

#include "kernel/tile.h"
#include "plan.h"

#include <string.h>

#define MOST_BATCH 65535u
/* Keys of a list that is split: fewer take one work group less time than the launches of select_split. */
#define LEAST_SPLIT_SELECTION 49152u

_Static_assert(sizeof(kas_call) <= 128, "a call block must fit the push constants of every Vulkan device");
_Static_assert(sizeof(kas_session_block) % 4 == 0, "the tables behind the block are words");

/* ---- Checks of the descriptor ---------------------------------------------------------------------------------- */

static kas_status check_unbuilt(const kas_session_desc *desc)
{
    if (desc->soft_cap != 0.0f)
        return kas_fail(KAS_ERROR_UNSUPPORTED, "soft_cap is not built yet");
    if (desc->window != 0)
        return kas_fail(KAS_ERROR_UNSUPPORTED, "window is not built yet");
    if (desc->sinks.buffer)
        return kas_fail(KAS_ERROR_UNSUPPORTED, "sinks is not built yet");
    if (desc->selection_key_bits != 0)
        return kas_fail(KAS_ERROR_UNSUPPORTED, "selection_key_bits is not built yet");
    if (desc->kv_dtype != KAS_DTYPE_DEFAULT && desc->kv_dtype != desc->dtype)
        return kas_fail(KAS_ERROR_UNSUPPORTED, "kv_dtype is %d, other types than dtype are not built yet",
                        (int)desc->kv_dtype);
    return KAS_OK;
}

static kas_status check_shape(const kas_session_desc *desc)
{
    if (desc->heads == 0 || desc->heads > KAS_PLAN_MAX_HEADS)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "heads is %u, needed is 1 to %u", desc->heads, KAS_PLAN_MAX_HEADS);
    if (desc->kv_heads == 0 || desc->heads % desc->kv_heads != 0)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "kv_heads is %u, needed is a divisor of heads, %u", desc->kv_heads,
                        desc->heads);
    if (desc->head_dim == 0 || desc->head_dim > KAS_MAX_HEAD_DIM)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "head_dim is %u, needed is 1 to %d", desc->head_dim,
                        KAS_MAX_HEAD_DIM);
    if (desc->dtype == KAS_DTYPE_F8_E4M3 || desc->dtype == KAS_DTYPE_I8)
        return kas_fail(KAS_ERROR_UNSUPPORTED, "dtype is %d: 8-bit types are not built yet", (int)desc->dtype);
    if (desc->dtype != KAS_DTYPE_F32 && desc->dtype != KAS_DTYPE_F16 && desc->dtype != KAS_DTYPE_BF16)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "dtype is %d, needed is F32, F16 or BF16", (int)desc->dtype);
    if (!isfinite(desc->scale))
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "scale is %g, needed is a finite number", (double)desc->scale);
    return KAS_OK;
}

static kas_status check_limits(const kas_session_desc *desc)
{
    if (desc->max_keys == 0 || desc->max_keys > KAS_MOST_KEYS)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "max_keys is %u, needed is 1 to %u", desc->max_keys, KAS_MOST_KEYS);
    if (desc->max_batch > MOST_BATCH)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "max_batch is %u, at most %u", desc->max_batch, MOST_BATCH);
    if (desc->max_queries > desc->max_keys)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "max_queries is %u, more than max_keys, %u", desc->max_queries,
                        desc->max_keys);
    uint32_t decode = kas_min_u32(KAS_MAX_DECODE_QUERIES, desc->max_keys);
    if (desc->max_decode_queries > decode)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "max_decode_queries is %u, at most %u (%d, and max_keys)",
                        desc->max_decode_queries, decode, KAS_MAX_DECODE_QUERIES);
    if (desc->page_size > KAS_MOST_KEYS)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "page_size is %u, at most %u", desc->page_size, KAS_MOST_KEYS);
    return KAS_OK;
}

/* The descriptor with the plan's values and every default in place. */
static kas_status resolve(const kas_session_desc *given, kas_session_desc *desc)
{
    *desc = *given;
    if (given->plan) {
        kas_plan_desc plan = {.struct_size = sizeof(plan)};
        KAS_TRY(kas_plan_get_desc(given->plan, &plan));
        if (desc->heads && desc->heads != plan.heads)
            return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "heads is %u, the plan's is %u", desc->heads, plan.heads);
        if (desc->kv_heads && desc->kv_heads != plan.kv_heads)
            return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "kv_heads is %u, the plan's is %u", desc->kv_heads,
                            plan.kv_heads);
        if (desc->tile && desc->tile != plan.tile)
            return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "tile is %u, the plan's is %u", desc->tile, plan.tile);
        desc->heads = plan.heads;
        desc->kv_heads = plan.kv_heads;
        desc->tile = plan.tile;
        desc->pooling = plan.pooling;
        if (!desc->topk_override)
            desc->topk = plan.topk;
    }
    kas_plan_complete_rule(&desc->tile, &desc->topk);
    desc->max_batch = desc->max_batch ? desc->max_batch : 1;
    desc->max_decode_queries = desc->max_decode_queries ? desc->max_decode_queries : 1;
    desc->scratch_limit = desc->scratch_limit ? desc->scratch_limit : (uint64_t)1 << 30;
    return KAS_OK;
}

static kas_status check_desc(const kas_session_desc *desc)
{
    KAS_TRY(check_unbuilt(desc));
    KAS_TRY(check_shape(desc));
    KAS_TRY(check_limits(desc));
    static const kas_plan_origin origin = {KAS_ERROR_INVALID_ARGUMENT, "kas_session_desc"};
    return kas_plan_check_rule(&origin, desc->tile, &desc->topk, desc->pooling);
}

/* ---- Block, tables and sizes ----------------------------------------------------------------------------------- */

static uint32_t fraction_bits(double fraction)
{
    double scaled = ceil(fraction * 4294967296.0);
    return scaled >= 4294967295.0 ? UINT32_MAX : (uint32_t)scaled;
}

static void fill_block(kas_session *session, const kas_session_desc *desc)
{
    kas_session_block *block = &session->block;
    bool all = desc->pooling == KAS_POOLING_ALL_HEADS;
    block->heads = desc->heads;
    block->kv_heads = desc->kv_heads;
    block->group = desc->heads / desc->kv_heads;
    block->head_dim = desc->head_dim;
    block->scale = desc->scale != 0.0f ? desc->scale : 1.0f / sqrtf((float)desc->head_dim);
    block->tile = desc->tile;
    block->topk_fraction = fraction_bits(desc->topk.fraction);
    block->topk_min = desc->topk.min;
    block->topk_round = desc->topk.round;
    block->topk_all = desc->topk.fraction >= 1.0;
    block->topk_fixed = desc->topk.mode == KAS_TOPK_FIXED;
    block->list_rows = all ? 1 : desc->kv_heads;
    block->pool_heads = all ? desc->kv_heads : 1;
    block->max_keys = desc->max_keys;
    block->page_size = desc->page_size;
}

/* Sequences whose keys one launch can address: the others of a batch run in launches of their own. */
static uint32_t sequences_at_once(const kas_session *session, const kas_session_desc *desc)
{
    const kas_session_block *block = &session->block;
    uint64_t sequence = (uint64_t)desc->max_keys * block->kv_heads * block->head_dim * session->element_size;
    uint64_t most = session->context->info.max_binding / sequence;
    if (desc->page_size || most >= desc->max_batch)
        return desc->max_batch;
    return (uint32_t)kas_div_up(desc->max_batch, kas_div_up(desc->max_batch, most ? most : 1));
}

/* On host devices a fixed number: results must not depend on how many threads a context has. */
static uint32_t enough_groups(const kas_context *context, uint32_t groups_per_unit)
{
    uint32_t units = context->info.host_memory ? 16 : context->info.compute_units;
    return units * (groups_per_unit ? groups_per_unit : 4);
}

static kas_kernel_spec kernel_spec(const kas_session *session, uint32_t queries)
{
    return (kas_kernel_spec){
        .dtype = session->dtype,
        .head_dim = session->block.head_dim,
        .group = session->block.group,
        .tile = session->block.tile,
        .page_size = session->block.page_size,
        .queries = queries,
    };
}

/* Whether the context's preferences put another row before the best one. */
static bool prefers_another(const kas_context *context, kas_op op, const kas_kernel_spec *spec)
{
    const kas_variant *preferred = kas_variant_find(context, op, spec, true);
    return preferred && preferred != kas_variant_find(context, op, spec, false);
}

/*
 * The row by which teams make an anchor's lists and output; NULL: a chain of launches does. Teams pool a single kv head,
 * and whoever prefers another row of the chain than its best wants the chain.
 */
static const kas_variant *find_team(const kas_session *session, const kas_kernel_spec *spec)
{
    static const kas_op chained[] = {KAS_OP_LOGITS, KAS_OP_POOL, KAS_OP_SELECT, KAS_OP_SPARSE_SPLIT, KAS_OP_MERGE};
    if (session->block.pool_heads != 1)
        return NULL;
    for (size_t i = 0; i < sizeof(chained) / sizeof(chained[0]); i++)
        if (prefers_another(session->context, chained[i], spec))
            return NULL;
    return kas_variant_find(session->context, KAS_OP_ANCHOR, spec, false);
}

/*
 * Whether select_split is to make lists, and from how many keys on: its launches take longer than the single work group
 * of select where a list is short. Never without a row, nor for whoever prefers a row of select; at any length for
 * whoever prefers one of select_split, so that it can be measured and tested.
 */
static void fill_selection(kas_session *session, const kas_kernel_spec *spec)
{
    const kas_context *context = session->context;
    bool asked = kas_variant_find(context, KAS_OP_SELECT_SPLIT, spec, true);
    if (!kas_variant_find(context, KAS_OP_SELECT_SPLIT, spec, false) ||
        (!asked && kas_variant_find(context, KAS_OP_SELECT, spec, true)))
        return;
    session->shape.select_groups = asked ? UINT32_MAX : enough_groups(context, 1);
    session->shape.select_keys = asked ? 1 : LEAST_SPLIT_SELECTION;
}

static void fill_shape(kas_session *session, const kas_session_desc *desc)
{
    const kas_session_block *block = &session->block;
    const kas_device_info *info = &session->context->info;
    const kas_backend *backend = session->context->backend;
    uint32_t score_groups = backend->score_groups_per_unit ? backend->score_groups_per_unit : backend->groups_per_unit;
    const kas_kernel_spec spec = kernel_spec(session, desc->max_decode_queries);
    const kas_variant *team = find_team(session, &spec);
    session->shape = (kas_shape){
        .heads = block->heads,
        .kv_heads = block->kv_heads,
        .group = block->group,
        .head_dim = block->head_dim,
        .tile = block->tile,
        .list_rows = block->list_rows,
        .pool_heads = block->pool_heads,
        .max_batch = desc->max_batch,
        .max_queries = desc->max_queries,
        .max_decode_queries = desc->max_decode_queries,
        .max_keys = desc->max_keys,
        .split_groups = block->kv_heads * sequences_at_once(session, desc),
        .section_limit = info->max_binding,
        .enough_groups = enough_groups(session->context, backend->groups_per_unit),
        .enough_score_groups = enough_groups(session->context, score_groups),
        .waves = backend->groups_per_unit != 0,
        .team = team ? team->team : 0,
        .team_keys = team ? team->team_keys : 0,
    };
    fill_selection(session, &spec);
    memcpy(session->shape.group_limit, info->max_group_count, sizeof(info->max_group_count));
}

/* Keys kept of n candidates whatever the final length: the most that a list of theirs can hold. */
static uint32_t most_kept(const kas_session_block *block, uint32_t candidates)
{
    return KAS_TOPK(*block, candidates, block->max_keys);
}

static kas_status fill_tile_offsets(kas_session *session)
{
    uint32_t tile = session->block.tile;
    uint32_t tiles = (session->shape.max_keys - 1) / tile + 1;
    session->tile_offsets = kas_alloc(tiles + 1, sizeof(uint32_t));
    if (!session->tile_offsets)
        return kas_fail_memory();
    uint64_t sum = 0;
    for (uint32_t i = 0; i <= tiles; i++) {
        if (sum > UINT32_MAX)
            return kas_fail(KAS_ERROR_LIMIT, "lists of %u keys at this fraction pass 2^32 entries a kv head",
                            session->shape.max_keys);
        session->tile_offsets[i] = (uint32_t)sum;
        sum += i < tiles ? most_kept(&session->block, i * tile) : 0;
    }
    uint32_t queries = session->shape.max_queries;
    if (queries != 0) {
        uint32_t touched = kas_call_tiles(queries, session->shape.max_keys, tile, true);
        session->block.list_capacity = session->tile_offsets[tiles] - session->tile_offsets[tiles - touched];
    }
    session->block.list_capacity_decode = most_kept(&session->block, session->shape.max_keys);
    return KAS_OK;
}

/* Roles and active row counts; row `layers` of every map is the identity, for operations without a layer. */
static kas_status copy_plan(kas_session *session, const kas_plan *plan)
{
    session->layers = plan ? plan->layers : 0;
    session->roles = kas_alloc(session->layers + 1, sizeof(*session->roles));
    session->active_counts = kas_alloc(session->layers + 1, sizeof(*session->active_counts));
    if (!session->roles || !session->active_counts)
        return kas_fail_memory();
    for (uint32_t layer = 0; layer < session->layers; layer++)
        session->roles[layer] = kas_plan_role(plan, layer);
    session->estimated = plan && plan->normalizer == KAS_NORMALIZER_ESTIMATED;
    return KAS_OK;
}

/* Where the tables lie behind the block, and the status word behind them. */
static void layout_fixed(kas_session *session)
{
    kas_session_block *block = &session->block;
    uint32_t rows = session->layers + 1;
    block->tile_offsets_at = 0;
    block->head_map_at = (session->shape.max_keys - 1) / block->tile + 2;
    block->normalizer_map_at = block->head_map_at + rows * block->kv_heads;
    block->active_rows_at = block->normalizer_map_at + rows * block->kv_heads;
    uint64_t words = (uint64_t)block->active_rows_at + (uint64_t)rows * block->list_rows;
    session->status_offset = kas_round_up(sizeof(*block) + words * sizeof(uint32_t), KAS_SECTION_ALIGNMENT);
}

static uint32_t anchor_number(const kas_plan *plan, uint32_t layer)
{
    uint32_t number = 0;
    while (number < plan->anchor_count && plan->anchors[number] != layer)
        number++;
    return number;
}

static void fill_layer_maps(kas_session *session, const kas_plan *plan, uint32_t layer, uint32_t *words)
{
    const kas_session_block *block = &session->block;
    uint32_t kv_heads = block->kv_heads;
    bool single_row = block->list_rows == 1;
    bool mapped = layer < session->layers && session->roles[layer] == KAS_ROLE_REUSE;
    for (uint32_t g = 0; g < kv_heads; g++) {
        uint32_t row = mapped ? plan->head_map[(size_t)layer * kv_heads + g] : g;
        words[block->head_map_at + layer * kv_heads + g] = single_row ? 0 : row;
        words[block->normalizer_map_at + layer * kv_heads + g] = single_row ? 0 : g;
    }
    if (layer < session->layers && !single_row && plan->normalizer_map && session->roles[layer] == KAS_ROLE_ANCHOR)
        memcpy(&words[block->normalizer_map_at + layer * kv_heads],
               &plan->normalizer_map[(size_t)(anchor_number(plan, layer) - 1) * kv_heads], kv_heads * sizeof(*words));
    bool publishes = layer < session->layers && kas_role_publishes(session->roles[layer]);
    uint32_t count = 0;
    for (uint32_t row = 0; row < block->list_rows; row++)
        if (!publishes || kas_plan_row_is_read(plan, layer, row))
            words[block->active_rows_at + layer * block->list_rows + count++] = row;
    session->active_counts[layer] = count;
    while (count < block->list_rows)
        words[block->active_rows_at + layer * block->list_rows + count++] = KAS_NO_ROW;
}

static void fill_tables(kas_session *session, const kas_plan *plan, uint32_t *words)
{
    uint32_t tiles = (session->shape.max_keys - 1) / session->block.tile + 1;
    memcpy(words, session->tile_offsets, (tiles + 1) * sizeof(*words));
    for (uint32_t layer = 0; layer <= session->layers; layer++)
        fill_layer_maps(session, plan, layer, words);
}

/* ---- Workspace ------------------------------------------------------------------------------------------------- */

static kas_status size_lists(kas_session *session)
{
    uint64_t rows = (uint64_t)session->shape.max_batch * session->block.list_rows;
    uint64_t limit = session->shape.section_limit;
    uint64_t prefill, decode;
    if (!kas_multiply(rows, session->block.list_capacity, sizeof(uint32_t), &prefill) ||
        !kas_multiply(rows, session->block.list_capacity_decode, sizeof(uint32_t), &decode) || prefill > limit ||
        decode > limit)
        return kas_fail(KAS_ERROR_LIMIT, "lists of %u sequences pass what a kernel of %s can address, %llu bytes",
                        session->shape.max_batch, session->context->info.name, (unsigned long long)limit);
    session->list_bytes_prefill = kas_round_up(prefill, KAS_SECTION_ALIGNMENT);
    session->list_bytes_decode = kas_round_up(decode, KAS_SECTION_ALIGNMENT);
    return KAS_OK;
}

static kas_status size_phase(kas_session *session, kas_phase phase, uint64_t limit)
{
    const kas_shape *shape = &session->shape;
    kas_scratch_plan whole, fitted;
    bool fits;
    if (phase == KAS_PHASE_PREFILL) {
        uint32_t tiles = kas_call_tiles(shape->max_queries, shape->max_keys, shape->tile, true);
        kas_plan_prefill(shape, shape->max_batch, shape->max_queries, shape->max_keys, tiles, shape->list_rows, true,
                         UINT64_MAX, &whole);
        fits = kas_plan_prefill(shape, shape->max_batch, shape->max_queries, shape->max_keys, tiles, shape->list_rows,
                                true, limit, &fitted);
    } else {
        uint32_t splits =
            kas_plan_splits(shape->max_keys, shape->split_groups, shape->enough_groups, shape->waves).splits;
        uint32_t stride = kas_score_stride(shape->max_keys);
        uint32_t score_splits = kas_most_score_splits(shape);
        if (shape->team)
            score_splits = kas_max_u32(score_splits, kas_plan_team(shape, shape->max_keys, 1).splits);
        uint32_t select_splits = kas_plan_select_splits(shape, shape->max_keys).splits;
        kas_plan_decode(shape, shape->max_batch, shape->max_decode_queries, stride, shape->list_rows, true, splits,
                        score_splits, select_splits, UINT64_MAX, &whole);
        fits = kas_plan_decode(shape, shape->max_batch, shape->max_decode_queries, stride, shape->list_rows, true,
                               splits, score_splits, select_splits, limit, &fitted);
    }
    if (!fits)
        return kas_fail(KAS_ERROR_LIMIT, "scratch_limit is %llu bytes, the smallest piece of a %s takes %llu",
                        (unsigned long long)limit, phase == KAS_PHASE_PREFILL ? "prefill" : "decode",
                        (unsigned long long)fitted.total);
    uint64_t size = whole.total < limit ? whole.total : limit;
    session->scratch_size = size > session->scratch_size ? size : session->scratch_size;
    return KAS_OK;
}

static kas_status size_scratch(kas_session *session, uint64_t limit)
{
    uint64_t largest = session->context->info.max_allocation;
    limit = limit < largest ? limit : largest;
    if (session->shape.max_queries != 0)
        KAS_TRY(size_phase(session, KAS_PHASE_PREFILL, limit));
    return size_phase(session, KAS_PHASE_DECODE, limit);
}

/* The block, its tables and the status word. */
static uint64_t fixed_bytes(const kas_session *session)
{
    return session->status_offset + KAS_SECTION_ALIGNMENT;
}

/* Everything that needs no device: block, tables on the host, sizes. */
static kas_status plan_session(kas_session *session, const kas_session_desc *given, kas_session_desc *desc)
{
    KAS_TRY(resolve(given, desc));
    KAS_TRY(check_desc(desc));
    session->dtype = desc->dtype;
    session->element_size = desc->dtype == KAS_DTYPE_F32 ? 4 : 2;
    fill_block(session, desc);
    fill_shape(session, desc);
    KAS_TRY(copy_plan(session, desc->plan));
    KAS_TRY(fill_tile_offsets(session));
    layout_fixed(session);
    KAS_TRY(size_lists(session));
    return size_scratch(session, desc->scratch_limit);
}

/* ---- Device side ----------------------------------------------------------------------------------------------- */

static kas_status check_given(const kas_session *session, const char *name, const kas_slice *slice, uint64_t size)
{
    if (slice->buffer->context != session->context)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "%s belongs to another context", name);
    if (slice->offset % session->context->info.slice_alignment != 0)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "%s.offset is %llu, needed is a multiple of %u", name,
                        (unsigned long long)slice->offset, session->context->info.slice_alignment);
    if (slice->offset > slice->buffer->size || slice->buffer->size - slice->offset < size)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "%s: %llu bytes from %llu are needed, its buffer has %llu", name,
                        (unsigned long long)size, (unsigned long long)slice->offset,
                        (unsigned long long)slice->buffer->size);
    return KAS_OK;
}

static kas_status get_memory(kas_session *session, const char *name, const kas_slice *given, uint64_t size,
                             kas_memory *memory)
{
    if (given && given->buffer) {
        KAS_TRY(check_given(session, name, given, size));
        memory->slice = *given;
        return KAS_OK;
    }
    if (size == 0)
        return KAS_OK;
    KAS_TRY(kas_buffer_create(session->context, size, &memory->owned));
    memory->slice.buffer = memory->owned;
    return KAS_OK;
}

static kas_status upload_tables(kas_session *session, const kas_plan *plan)
{
    uint64_t size = fixed_bytes(session);
    unsigned char *image = kas_alloc(size, 1);
    if (!image)
        return kas_fail_memory();
    fill_tables(session, plan, (uint32_t *)(void *)(image + sizeof(kas_session_block)));
    memcpy(image, &session->block, sizeof(session->block));
    kas_stream *stream;
    kas_status status = kas_stream_create(session->context, &stream);
    if (status == KAS_OK) {
        status = kas_buffer_write(stream, session->fixed.slice.buffer, 0, image, size);
        if (status == KAS_OK)
            status = kas_stream_wait(stream);
        kas_stream_destroy(stream);
    }
    kas_release(image);
    return status;
}

/* Whether others do the operation where no row of it loads. */
static bool has_substitute(kas_op op)
{
    return op == KAS_OP_ANCHOR || op == KAS_OP_SELECT_SPLIT;
}

static bool splits_selection(const kas_session *session)
{
    return kas_plan_select_splits(&session->shape, session->shape.max_keys).splits > 1;
}

/*
 * A session with a plan needs every operation that layers are made of: all but mass, which serves calibration, and
 * publish, anchor and select_split, for which others do. One without uses single operations, and a device may have rows
 * for some of them only: what is missing answers when it is called (see kas_work_launch).
 */
static kas_status load_kernels(kas_session *session, bool complete)
{
    const kas_kernel_spec spec = kernel_spec(session, session->shape.max_decode_queries);
    int found = 0;
    kas_status missing = KAS_ERROR_UNSUPPORTED;
    for (int op = 0; op < KAS_OP_COUNT; op++) {
        kas_loaded_kernel *loaded = &session->kernels[op];
        if ((complete && op == KAS_OP_MASS) || (!complete && op == KAS_OP_PUBLISH) ||
            (op == KAS_OP_ANCHOR && !(complete && session->shape.team)) ||
            (op == KAS_OP_SELECT_SPLIT && !splits_selection(session)))
            continue;
        kas_status status = kas_variant_load(session->context, (kas_op)op, &spec, session->estimated, &loaded->variant,
                                             &loaded->kernel);
        loaded->refused = status == KAS_ERROR_DRIVER;
        if (status == KAS_OK)
            found++;
        else if (op == KAS_OP_PUBLISH && status == KAS_ERROR_UNSUPPORTED)
            continue;
        else if ((complete && !has_substitute((kas_op)op)) ||
                 (status != KAS_ERROR_UNSUPPORTED && status != KAS_ERROR_DRIVER))
            return status;
        else
            missing = status;
    }
    return found ? KAS_OK : missing;
}

static kas_status build_session(kas_session *session, const kas_session_desc *given)
{
    kas_session_desc desc;
    KAS_TRY(plan_session(session, given, &desc));
    KAS_TRY(load_kernels(session, desc.plan != NULL));
    KAS_TRY(get_memory(session, "fixed", NULL, fixed_bytes(session), &session->fixed));
    KAS_TRY(get_memory(session, "lists", &desc.lists, session->list_bytes_prefill + session->list_bytes_decode,
                       &session->lists));
    KAS_TRY(get_memory(session, "scratch", &desc.scratch, session->scratch_size, &session->scratch));
    return upload_tables(session, desc.plan);
}

static kas_status check_create(const kas_context *context, const kas_session_desc *desc, const char *name,
                               const void *out)
{
    KAS_TRY(kas_require("context", context));
    KAS_TRY(kas_require_struct("desc", desc, sizeof(*desc)));
    return kas_require(name, out);
}

kas_status kas_session_create(kas_context *context, const kas_session_desc *desc, kas_session **session)
{
    KAS_TRY(check_create(context, desc, "session", session));
    kas_session *made = kas_alloc(1, sizeof(*made));
    if (!made)
        return kas_fail_memory();
    made->context = context;
    kas_status status = build_session(made, desc);
    if (status != KAS_OK) {
        kas_session_destroy(made);
        return status;
    }
    *session = made;
    return KAS_OK;
}

void kas_session_destroy(kas_session *session)
{
    if (!session)
        return;
    for (int op = 0; op < KAS_OP_COUNT; op++)
        if (session->kernels[op].kernel)
            session->context->backend->kernel_unload(session->context->handle, session->kernels[op].kernel);
    kas_buffer_destroy(session->fixed.owned);
    kas_buffer_destroy(session->lists.owned);
    kas_buffer_destroy(session->scratch.owned);
    kas_release(session->roles);
    kas_release(session->active_counts);
    kas_release(session->tile_offsets);
    kas_release(session);
}

kas_status kas_session_workspace_size(kas_context *context, const kas_session_desc *desc, kas_workspace_size *size)
{
    KAS_TRY(check_create(context, desc, "size", size));
    kas_session session = {.context = context};
    kas_session_desc resolved;
    kas_status status = plan_session(&session, desc, &resolved);
    if (status == KAS_OK)
        *size = (kas_workspace_size){
            .lists = session.list_bytes_prefill + session.list_bytes_decode,
            .scratch = session.scratch_size,
            .fixed = fixed_bytes(&session),
        };
    kas_release(session.roles);
    kas_release(session.active_counts);
    kas_release(session.tile_offsets);
    return status;
}

/* ---- Questions to a session ------------------------------------------------------------------------------------ */

kas_status kas_session_get_lists(const kas_session *session, kas_phase phase, kas_published_lists *lists)
{
    KAS_TRY(kas_require("session", session));
    KAS_TRY(kas_require_struct("lists", lists, sizeof(*lists)));
    if (phase != KAS_PHASE_PREFILL && phase != KAS_PHASE_DECODE)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "phase is %d, needed is 0 or 1", (int)phase);
    bool decode = phase == KAS_PHASE_DECODE;
    lists->indices = session->lists.slice;
    lists->indices.offset += decode ? session->list_bytes_prefill : 0;
    lists->rows = session->block.list_rows;
    lists->row_capacity = decode ? session->block.list_capacity_decode : session->block.list_capacity;
    lists->tile_offset = decode ? NULL : session->tile_offsets;
    lists->live = session->steps[phase].live;
    return KAS_OK;
}

uint32_t kas_session_topk(const kas_session *session, uint32_t candidates, uint32_t final_len)
{
    return session ? KAS_TOPK(session->block, candidates, final_len) : 0;
}

const char *kas_session_variant(const kas_session *session, const char *operation)
{
    for (int op = 0; session && operation && op < KAS_OP_COUNT; op++)
        if (strcmp(kas_op_name((kas_op)op), operation) == 0)
            return session->kernels[op].variant ? session->kernels[op].variant->name : NULL;
    return NULL;
}

kas_status kas_session_check(kas_session *session, kas_stream *stream, uint32_t *bits)
{
    KAS_TRY(kas_require("session", session));
    KAS_TRY(kas_require("stream", stream));
    KAS_TRY(kas_require("bits", bits));
    if (stream->context != session->context)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "session and stream belong to different contexts");
    uint32_t found;
    kas_buffer *buffer = session->fixed.slice.buffer;
    KAS_TRY(kas_buffer_read(stream, buffer, session->status_offset, &found, sizeof(found)));
    KAS_TRY(kas_buffer_fill(stream, buffer, session->status_offset, sizeof(found), 0));
    *bits = found;
    return KAS_OK;
}
