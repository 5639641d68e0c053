/*
 * select.c - pooled scores (prefill from q and k, decode from stored logits), the selection of a tile's best, and the
 * sums of scores over lists.
 */
#include "work.h"

/* Blocks of block_keys keys that a row of `op` cuts its candidates into. */
static uint32_t key_blocks(const kas_work *work, kas_op op, uint32_t keys)
{
    const kas_variant *row = work->session->kernels[op].variant;
    return row && row->block_keys ? (uint32_t)kas_div_up(keys, row->block_keys) : 1;
}

/* Most candidates of a tile of the piece. */
static uint32_t most_candidates(const kas_work *work, const kas_piece *piece)
{
    uint32_t tile = work->session->block.tile;
    if (work->ragged)
        return work->keys;
    uint64_t start = ((uint64_t)(work->keys - work->queries) / tile + piece->tile_begin + piece->tile_count - 1) * tile;
    return start < work->keys ? (uint32_t)start : work->keys;
}

kas_status kas_launch_scores(const kas_work *work, const kas_piece *piece, uint32_t layer, uint32_t rows,
                             uint32_t flags, const kas_slice *lse, const kas_slice *scores, uint32_t stride)
{
    uint32_t candidates = most_candidates(work, piece);
    if (candidates == 0)
        return KAS_OK;
    kas_launch launch = work->base;
    launch.call.flags |= flags;
    launch.call.layer = layer;
    launch.call.score_stride = stride;
    if (!(flags & KAS_CALL_OWN_LSE))
        kas_bind(&launch, KAS_SLOT_LSE, lse, (uint64_t)work->batch * work->session->block.heads * work->queries * 4);
    kas_bind(&launch, KAS_SLOT_SCORES, scores, kas_score_bytes(piece->count, rows, piece->tile_count, stride));
    return kas_work_launch(work, KAS_OP_SCORES, &launch,
                           piece->tile_count * key_blocks(work, KAS_OP_SCORES, candidates), rows, piece->count);
}

kas_splits kas_work_score_splits(const kas_work *work, uint32_t rows)
{
    return kas_plan_score_splits(&work->session->shape, work->keys, rows);
}

kas_status kas_launch_logits(const kas_work *work, const kas_piece *piece, const kas_scratch_plan *scratch,
                             uint32_t layer, uint32_t rows, bool store, uint32_t stride)
{
    kas_splits splits = kas_work_score_splits(work, rows);
    kas_launch launch = work->base;
    launch.call.flags |= store ? KAS_CALL_STORE_LOGITS : 0;
    launch.call.layer = layer;
    launch.call.splits = splits.splits;
    launch.call.split_keys = splits.split_keys;
    launch.call.score_stride = stride;
    if (store)
        kas_bind_scratch(work, &launch, KAS_SLOT_LOGITS, scratch->logits, scratch->logits_size);
    kas_bind_scratch(work, &launch, KAS_SLOT_PART_ML, scratch->part_ml, scratch->part_ml_size);
    return kas_work_launch(work, KAS_OP_LOGITS, &launch, splits.splits, rows * work->session->block.pool_heads,
                           piece->count);
}

kas_status kas_launch_pool(const kas_work *work, const kas_piece *piece, const kas_scratch_plan *scratch,
                           uint32_t layer, uint32_t rows, const kas_slice *scores, uint32_t stride)
{
    kas_launch launch = work->base;
    launch.call.layer = layer;
    launch.call.splits = kas_work_score_splits(work, rows).splits;
    launch.call.score_stride = stride;
    launch.call.tile_count = 1;
    kas_bind_scratch(work, &launch, KAS_SLOT_LOGITS, scratch->logits, scratch->logits_size);
    kas_bind_scratch(work, &launch, KAS_SLOT_PART_ML, scratch->part_ml, scratch->part_ml_size);
    kas_bind(&launch, KAS_SLOT_SCORES, scores, kas_score_bytes(piece->count, rows, 1, stride));
    return kas_work_launch(work, KAS_OP_POOL, &launch, key_blocks(work, KAS_OP_POOL, work->keys), rows, piece->count);
}

kas_splits kas_work_select_splits(const kas_work *work)
{
    if (work->phase != KAS_PHASE_DECODE || !work->session->kernels[KAS_OP_SELECT_SPLIT].variant)
        return (kas_splits){1, work->keys};
    return kas_plan_select_splits(&work->session->shape, work->keys);
}

/* The steps of select_split, of which each reads what all splits left before it. */
static kas_status select_in_steps(const kas_work *work, const kas_piece *piece, const kas_scratch_plan *scratch,
                                  uint32_t rows, kas_launch *launch, kas_splits splits)
{
    launch->call.splits = splits.splits;
    launch->call.split_keys = splits.split_keys;
    kas_bind_scratch(work, launch, KAS_SLOT_PART_ML, scratch->part_ml, scratch->part_ml_size);
    uint32_t flags = launch->call.flags;
    for (uint32_t step = 0; step < work->session->kernels[KAS_OP_SELECT_SPLIT].variant->steps; step++) {
        launch->call.flags = flags | step << KAS_CALL_STEP_AT;
        KAS_TRY(kas_work_launch(work, KAS_OP_SELECT_SPLIT, launch, splits.splits, rows, piece->count));
    }
    return KAS_OK;
}

kas_status kas_launch_select(const kas_work *work, const kas_piece *piece, const kas_scratch_plan *scratch,
                             uint32_t layer, uint32_t rows, const kas_slice *scores, uint32_t stride,
                             const kas_list_view *lists)
{
    kas_launch launch = work->base;
    launch.call.flags |= lists->flags;
    launch.call.layer = layer;
    launch.call.score_stride = stride;
    launch.call.list_tiles = lists->tiles;
    launch.call.list_width = lists->width;
    kas_bind(&launch, KAS_SLOT_SCORES, scores, kas_score_bytes(piece->count, rows, piece->tile_count, stride));
    kas_bind(&launch, KAS_SLOT_LISTS, &lists->slice, lists->size);
    kas_splits splits = kas_work_select_splits(work);
    if (splits.splits > 1)
        return select_in_steps(work, piece, scratch, rows, &launch, splits);
    return kas_work_launch(work, KAS_OP_SELECT, &launch, piece->tile_count, rows, piece->count);
}

kas_status kas_launch_mass(const kas_work *work, const kas_piece *piece, const kas_slice *scores, uint32_t stride,
                           const kas_list_view *lists, const kas_slice *mass)
{
    uint32_t rows = work->session->block.list_rows;
    kas_launch launch = work->base;
    launch.call.flags |= lists->flags;
    launch.call.layer = kas_identity_layer(work->session);
    launch.call.score_stride = stride;
    launch.call.list_tiles = lists->tiles;
    launch.call.list_width = lists->width;
    kas_bind(&launch, KAS_SLOT_SCORES, scores, kas_score_bytes(piece->count, rows, piece->tile_count, stride));
    kas_bind(&launch, KAS_SLOT_LISTS, &lists->slice, lists->size);
    kas_bind(&launch, KAS_SLOT_PART_ML, mass, kas_mass_bytes(piece->count, rows, piece->tile_count));
    return kas_work_launch(work, KAS_OP_MASS, &launch, piece->tile_count, rows, piece->count);
}
