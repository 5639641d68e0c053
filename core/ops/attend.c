/* attend.c - dense causal attention: prefill in query blocks, decode in kv splits, and the merge of splits. */
#include "work.h"

/* Query blocks of attend and lse over the queries of a piece's tiles. */
static uint32_t query_blocks(const kas_work *work, const kas_piece *piece, kas_op op)
{
    const kas_variant *row = work->session->kernels[op].variant;
    uint32_t tile = work->session->block.tile;
    uint32_t block = row && row->block_queries ? row->block_queries : tile;
    uint64_t queries = (uint64_t)piece->tile_count * tile;
    return (uint32_t)kas_div_up(queries < work->queries ? queries : work->queries, block);
}

static uint32_t head_axis(const kas_work *work, kas_op op)
{
    const kas_variant *row = work->session->kernels[op].variant;
    return row && row->per_head ? work->session->block.heads : work->session->block.kv_heads;
}

static void bind_lse(const kas_work *work, kas_launch *launch, const kas_slice *lse)
{
    if (!lse || !lse->buffer)
        return;
    uint64_t size = (uint64_t)work->batch * work->session->block.heads * work->queries * sizeof(float);
    kas_bind(launch, KAS_SLOT_LSE, lse, size);
    launch->call.flags |= KAS_CALL_LSE;
}

kas_status kas_launch_attend(const kas_work *work, const kas_piece *piece, const kas_slice *lse)
{
    kas_launch launch = work->base;
    launch.call.flags |= KAS_CALL_OUT;
    bind_lse(work, &launch, lse);
    return kas_work_launch(work, KAS_OP_ATTEND, &launch, query_blocks(work, piece, KAS_OP_ATTEND),
                           head_axis(work, KAS_OP_ATTEND), piece->count);
}

kas_status kas_launch_lse(const kas_work *work, const kas_piece *piece, uint32_t layer, const kas_slice *lse,
                          const kas_list_view *previous)
{
    kas_launch launch = work->base;
    launch.call.layer = layer;
    bind_lse(work, &launch, lse);
    if (previous) {
        launch.call.flags |= KAS_CALL_ESTIMATED | previous->flags;
        kas_bind(&launch, KAS_SLOT_LISTS, &previous->slice, previous->size);
    }
    uint32_t blocks = previous ? piece->tile_count : query_blocks(work, piece, KAS_OP_LSE);
    return kas_work_launch(work, KAS_OP_LSE, &launch, blocks, head_axis(work, KAS_OP_LSE), piece->count);
}

kas_splits kas_work_splits(const kas_work *work)
{
    const kas_shape *shape = &work->session->shape;
    return kas_plan_splits(work->keys, shape->split_groups, shape->enough_groups, shape->waves);
}

static void bind_partials(const kas_work *work, kas_launch *launch, const kas_scratch_plan *scratch)
{
    kas_bind_scratch(work, launch, KAS_SLOT_PART_O, scratch->part_o, scratch->part_o_size);
    kas_bind_scratch(work, launch, KAS_SLOT_PART_ML, scratch->part_ml, scratch->part_ml_size);
}

kas_status kas_launch_merge(const kas_work *work, const kas_piece *piece, const kas_scratch_plan *scratch,
                            uint32_t splits, uint32_t flags)
{
    kas_launch launch = work->base;
    launch.call.flags |= flags;
    launch.call.splits = splits;
    bind_lse(work, &launch, &work->args->lse);
    bind_partials(work, &launch, scratch);
    return kas_work_launch(work, KAS_OP_MERGE, &launch, work->queries, work->session->block.heads, piece->count);
}

/* One launch over the splits, and the merge where there are several. */
static kas_status launch_split(const kas_work *work, const kas_piece *piece, const kas_scratch_plan *scratch,
                               kas_op op, kas_launch *launch, kas_splits splits)
{
    launch->call.flags |= KAS_CALL_OUT;
    launch->call.splits = splits.splits;
    launch->call.split_keys = splits.split_keys;
    if (splits.splits == 1) {
        launch->call.flags |= KAS_CALL_DIRECT;
        bind_lse(work, launch, &work->args->lse);
    } else {
        bind_partials(work, launch, scratch);
    }
    KAS_TRY(kas_work_launch(work, op, launch, splits.splits, work->session->block.kv_heads, piece->count));
    return splits.splits == 1 ? KAS_OK : kas_launch_merge(work, piece, scratch, splits.splits, KAS_CALL_OUT);
}

kas_status kas_launch_attend_split(const kas_work *work, const kas_piece *piece, const kas_scratch_plan *scratch)
{
    kas_launch launch = work->base;
    return launch_split(work, piece, scratch, KAS_OP_ATTEND_SPLIT, &launch, kas_work_splits(work));
}

/* ---- Over lists ------------------------------------------------------------------------------------------------ */

static void bind_lists(kas_launch *launch, const kas_list_view *lists)
{
    launch->call.flags |= lists->flags;
    launch->call.list_tiles = lists->tiles;
    launch->call.list_width = lists->width;
    kas_bind(launch, KAS_SLOT_LISTS, &lists->slice, lists->size);
}

kas_status kas_launch_sparse(const kas_work *work, const kas_piece *piece, uint32_t layer, const kas_list_view *lists)
{
    const kas_variant *row = work->session->kernels[KAS_OP_SPARSE].variant;
    uint32_t tile = work->session->block.tile;
    uint32_t blocks = row && row->block_queries ? (uint32_t)kas_div_up(tile, row->block_queries) : 1;
    kas_launch launch = work->base;
    launch.call.flags |= KAS_CALL_OUT;
    launch.call.layer = layer;
    bind_lists(&launch, lists);
    bind_lse(work, &launch, &work->args->lse);
    return kas_work_launch(work, KAS_OP_SPARSE, &launch, piece->tile_count * blocks, head_axis(work, KAS_OP_SPARSE),
                           piece->count);
}

kas_status kas_launch_anchor(const kas_work *work, const kas_piece *piece, const kas_scratch_plan *scratch,
                             uint32_t layer, uint32_t rows, bool out, uint32_t stride, const kas_list_view *lists)
{
    kas_splits team = kas_plan_team(&work->session->shape, work->keys, rows);
    kas_launch launch = work->base;
    launch.call.flags |= KAS_CALL_STORE_LOGITS | (out ? KAS_CALL_OUT : 0);
    launch.call.layer = layer;
    launch.call.splits = team.splits;
    launch.call.split_keys = team.split_keys;
    launch.call.score_stride = stride;
    bind_lists(&launch, lists);
    bind_lse(work, &launch, out ? &work->args->lse : NULL);
    bind_partials(work, &launch, scratch);
    kas_bind_scratch(work, &launch, KAS_SLOT_LOGITS, scratch->logits, scratch->logits_size);
    return kas_work_launch(work, KAS_OP_ANCHOR, &launch, team.splits, rows, piece->count);
}

kas_status kas_launch_publish(const kas_work *work, const kas_piece *piece, uint32_t layer, bool dense,
                              const kas_list_view *lists)
{
    kas_launch launch = work->base;
    launch.call.flags |= KAS_CALL_OUT | (dense ? KAS_CALL_DENSE : 0);
    launch.call.layer = layer;
    bind_lists(&launch, lists);
    bind_lse(work, &launch, &work->args->lse);
    return kas_work_launch(work, KAS_OP_PUBLISH, &launch, piece->tile_count, work->session->block.kv_heads,
                           piece->count);
}

kas_splits kas_work_list_splits(const kas_work *work, uint32_t entries)
{
    const kas_shape *shape = &work->session->shape;
    return kas_plan_splits(entries + (work->queries > 1 ? work->queries : 0), shape->split_groups,
                           shape->enough_groups, shape->waves);
}

kas_status kas_launch_sparse_split(const kas_work *work, const kas_piece *piece, const kas_scratch_plan *scratch,
                                   uint32_t layer, const kas_list_view *lists)
{
    kas_launch launch = work->base;
    launch.call.layer = layer;
    bind_lists(&launch, lists);
    uint32_t entries = lists->packed ? work->session->block.list_capacity_decode : lists->width;
    return launch_split(work, piece, scratch, KAS_OP_SPARSE_SPLIT, &launch, kas_work_list_splits(work, entries));
}
