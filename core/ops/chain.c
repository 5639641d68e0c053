/*
 * chain.c - the public calls: a layer of prefill or decode by its role, and the lower-level operations. Each is a chain
 * of primitive launches, put together here once for every device.
 */
#include "../kernel/topk.h"
#include "work.h"

/* What the bodies of a chain share. */
typedef struct chain {
    kas_scratch_plan scratch;
    kas_role role;
    uint32_t layer; /* of the session's maps */
    uint32_t rows;  /* lists that the layer makes */
    bool team;      /* by teams (KAS_OP_ANCHOR), not by a chain */
    bool all_dense; /* no tile of the call can have more candidates than it keeps */
    kas_slice lse;  /* over all causal keys */
    kas_slice scores;
    uint32_t score_stride;
    kas_list_view lists;
    kas_slice mass;
} chain;

static kas_slice scratch_slice(const kas_work *work, uint64_t offset)
{
    kas_slice slice = work->session->scratch.slice;
    slice.offset += offset;
    return slice;
}

static kas_status check_plan(bool fits, const kas_scratch_plan *scratch, const kas_work *work)
{
    if (!fits || scratch->total > work->session->scratch_size)
        return kas_fail(KAS_ERROR_LIMIT, "the call needs %llu bytes of scratch, the session has %llu",
                        (unsigned long long)scratch->total, (unsigned long long)work->session->scratch_size);
    return KAS_OK;
}

static bool is_all_dense(const kas_work *work)
{
    const kas_session_block *block = &work->session->block;
    return block->topk_all || work->keys <= kas_round_up(block->topk_min, block->topk_round);
}

/* Tiles of a launch of scores, so that its x axis stays within the grid. */
static uint32_t scored_tiles(const kas_work *work, uint32_t tiles)
{
    const kas_variant *row = work->session->kernels[KAS_OP_SCORES].variant;
    uint32_t blocks = row && row->block_keys ? (uint32_t)kas_div_up(work->keys, row->block_keys) : 1;
    return kas_max_u32(1, kas_min_u32(tiles, work->session->context->info.max_group_count[0] / blocks));
}

/* Tiles of a launch whose x axis counts query blocks of at least 16 queries a tile of at most 128. */
static uint32_t plain_tiles(const kas_work *work)
{
    return kas_min_u32(work->tiles, kas_max_u32(1, work->session->context->info.max_group_count[0] / 8));
}

/* Pieces are of like size, because a small last one would leave the device idle, and of whole query blocks of lse. */
uint32_t kas_work_chunk_tiles(const kas_work *work, uint32_t tiles)
{
    const kas_variant *lse = work->session->kernels[KAS_OP_LSE].variant;
    uint32_t tile = work->session->block.tile;
    uint32_t unit = lse && lse->block_queries > tile ? lse->block_queries / tile : 1;
    uint32_t most = kas_min_u32(plain_tiles(work), scored_tiles(work, tiles));
    uint32_t pieces = kas_max_u32(1, (uint32_t)kas_div_up(work->tiles, most));
    return kas_min_u32(most, (uint32_t)kas_round_up(kas_div_up(work->tiles, pieces), unit));
}

/* ---- Prefill ----------------------------------------------------------------------------------------------------- */

static kas_status dense_piece(kas_work *work, const kas_piece *piece, void *user)
{
    (void)user;
    return kas_launch_attend(work, piece, &work->args->lse);
}

static kas_status reuse_piece(kas_work *work, const kas_piece *piece, void *user)
{
    const chain *c = user;
    return kas_launch_sparse(work, piece, c->layer, &c->lists);
}

/* Whether the row of scores needs no launch of lse before it. */
static bool scores_own_lse(const kas_work *work)
{
    const kas_variant *row = work->session->kernels[KAS_OP_SCORES].variant;
    return row && work->keys <= row->own_lse_keys;
}

static kas_status score_and_select(kas_work *work, const kas_piece *piece, const chain *c, uint32_t flags)
{
    if (c->rows == 0)
        return KAS_OK;
    if (!c->all_dense)
        KAS_TRY(kas_launch_scores(work, piece, c->layer, c->rows, KAS_CALL_SKIP_DENSE | flags, &c->lse, &c->scores,
                                  c->score_stride));
    return kas_launch_select(work, piece, &c->scratch, c->layer, c->rows, &c->scores, c->score_stride, &c->lists);
}

static kas_status dense_select_piece(kas_work *work, const kas_piece *piece, void *user)
{
    const chain *c = user;
    KAS_TRY(kas_launch_attend(work, piece, &c->lse));
    return score_and_select(work, piece, c, 0);
}

static kas_status anchor_piece(kas_work *work, const kas_piece *piece, void *user)
{
    const chain *c = user;
    bool estimated = work->session->estimated, own_lse = !estimated && scores_own_lse(work);
    if (!c->all_dense && !own_lse)
        KAS_TRY(kas_launch_lse(work, piece, c->layer, &c->lse, estimated ? &c->lists : NULL));
    KAS_TRY(score_and_select(work, piece, c, estimated ? KAS_CALL_ESTIMATED : own_lse ? KAS_CALL_OWN_LSE : 0));
    return kas_launch_sparse(work, piece, kas_identity_layer(work->session), &c->lists);
}

/* Whether a single row does all of a publishing layer. */
static bool publishes_at_once(const kas_work *work, const chain *c)
{
    const kas_session *session = work->session;
    const kas_variant *row = session->kernels[KAS_OP_PUBLISH].variant;
    bool estimated = session->estimated && c->role == KAS_ROLE_ANCHOR;
    bool fits = row && (row->max_keys == 0 || work->keys <= row->max_keys);
    return fits && c->rows != 0 && session->block.pool_heads == 1 && !estimated;
}

static kas_status publish_piece(kas_work *work, const kas_piece *piece, void *user)
{
    const chain *c = user;
    return kas_launch_publish(work, piece, c->layer, c->role == KAS_ROLE_DENSE_SELECT, &c->lists);
}

static kas_status run_publishing_prefill(kas_work *work, chain *c)
{
    if (publishes_at_once(work, c))
        return kas_work_pieces(work, work->session->context->info.max_group_count[2], plain_tiles(work), publish_piece,
                               c);
    bool own_lse = c->role == KAS_ROLE_ANCHOR || !work->args->lse.buffer;
    bool fits = kas_plan_prefill(&work->session->shape, work->batch, work->queries, work->keys, work->tiles, c->rows,
                                 own_lse, work->session->scratch_size, &c->scratch);
    KAS_TRY(check_plan(fits, &c->scratch, work));
    c->lse = own_lse ? scratch_slice(work, c->scratch.lse) : work->args->lse;
    c->scores = scratch_slice(work, c->scratch.scores);
    c->score_stride = kas_score_stride(work->keys);
    return kas_work_pieces(work, c->scratch.sequences, kas_work_chunk_tiles(work, c->scratch.tiles),
                           c->role == KAS_ROLE_ANCHOR ? anchor_piece : dense_select_piece, c);
}

static kas_status run_prefill(kas_work *work, chain *c)
{
    uint32_t sequences = work->session->context->info.max_group_count[2];
    switch (c->role) {
    case KAS_ROLE_DENSE:
        return kas_work_pieces(work, sequences, plain_tiles(work), dense_piece, c);
    case KAS_ROLE_REUSE:
        return kas_work_pieces(work, sequences, plain_tiles(work), reuse_piece, c);
    default:
        return run_publishing_prefill(work, c);
    }
}

/* ---- Decode ------------------------------------------------------------------------------------------------------ */

static kas_status decode_piece(kas_work *work, const kas_piece *piece, void *user)
{
    const chain *c = user;
    bool dense_output = c->role == KAS_ROLE_DENSE || c->role == KAS_ROLE_DENSE_SELECT;
    bool publishes = kas_role_publishes(c->role);
    if (dense_output)
        KAS_TRY(kas_launch_attend_split(work, piece, &c->scratch));
    if (c->team)
        return kas_launch_anchor(work, piece, &c->scratch, c->layer, c->rows, !dense_output, c->score_stride,
                                 &c->lists);
    if (publishes && c->rows != 0) {
        if (!c->all_dense) {
            KAS_TRY(kas_launch_logits(work, piece, &c->scratch, c->layer, c->rows, true, c->score_stride));
            KAS_TRY(kas_launch_pool(work, piece, &c->scratch, c->layer, c->rows, &c->scores, c->score_stride));
        }
        KAS_TRY(kas_launch_select(work, piece, &c->scratch, c->layer, c->rows, &c->scores, c->score_stride,
                                  &c->lists));
    }
    if (dense_output)
        return KAS_OK;
    uint32_t layer = c->role == KAS_ROLE_ANCHOR ? kas_identity_layer(work->session) : c->layer;
    return kas_launch_sparse_split(work, piece, &c->scratch, layer, &c->lists);
}

/* Splits whose partial outputs a decode of this role keeps; 0 when a single split or a team writes the output itself. */
static uint32_t partial_splits(const kas_work *work, const chain *c)
{
    bool dense_output = c->role == KAS_ROLE_DENSE || c->role == KAS_ROLE_DENSE_SELECT;
    if (c->team && !dense_output)
        return 0;
    kas_splits splits =
        dense_output
            ? kas_work_splits(work)
            : kas_work_list_splits(work, c->lists.packed ? work->session->block.list_capacity_decode : c->lists.width);
    return splits.splits > 1 ? splits.splits : 0;
}

static uint32_t score_splits(const kas_work *work, const chain *c)
{
    if (c->rows == 0)
        return 0;
    return c->team ? kas_plan_team(&work->session->shape, work->keys, c->rows).splits
                   : kas_work_score_splits(work, c->rows).splits;
}

/*
 * Whether the layer's lists are made by teams: they must hold the keys of the call, and too few of them would leave most
 * of the device idle, where the chain splits the keys further.
 */
static bool has_teams(const kas_work *work, const chain *c)
{
    const kas_variant *row = work->session->kernels[KAS_OP_ANCHOR].variant;
    const kas_shape *shape = &work->session->shape;
    if (!row || c->rows == 0 || (uint64_t)row->team * row->team_keys < work->keys)
        return false;
    uint64_t groups = (uint64_t)shape->split_groups / shape->list_rows * c->rows;
    return 4 * groups * row->team >= shape->enough_groups;
}

static kas_status run_decode(kas_work *work, chain *c)
{
    c->score_stride = kas_score_stride(work->keys);
    c->team = has_teams(work, c);
    bool fits = kas_plan_decode(&work->session->shape, work->batch, work->queries, c->score_stride, c->rows, !c->team,
                                partial_splits(work, c), score_splits(work, c), kas_work_select_splits(work).splits,
                                work->session->scratch_size, &c->scratch);
    KAS_TRY(check_plan(fits, &c->scratch, work));
    c->scores = scratch_slice(work, c->scratch.scores);
    return kas_work_pieces(work, c->scratch.sequences, 1, decode_piece, c);
}

/* ---- Layers by role ---------------------------------------------------------------------------------------------- */

#define LENGTH_FLAGS (KAS_CALL_Q_LENS | KAS_CALL_KV_LENS | KAS_CALL_FINAL_LENS)

/* The step after a layer has published; the rule of lengths that it used must be that of the layers that read them. */
static kas_step published_step(const kas_work *work)
{
    const kas_call *call = &work->base.call;
    uint32_t layer = work->args->layer;
    return (kas_step){.begun = true,
                      .last_layer = layer,
                      .live = true,
                      .publisher = layer,
                      .batch = work->batch,
                      .queries = work->queries,
                      .keys = work->keys,
                      .final_len = work->session->block.topk_fixed ? call->final_len : 0,
                      .length_flags = call->flags & LENGTH_FLAGS};
}

/* A layer reads lists only of the publishing layer before it in the plan: other rows of theirs may not be made. */
static kas_status check_lists(const kas_work *work, const kas_step *step, bool new_step, const char *what)
{
    uint32_t layer = work->args->layer, publisher = layer;
    do
        publisher--; /* layer 0 publishes, and reads nothing */
    while (!kas_role_publishes(work->session->roles[publisher]));
    if (new_step || !step->live || step->publisher != publisher)
        return kas_fail(KAS_ERROR_STATE, "layer %u %s of layer %u, which has not published any in this step", layer,
                        what, publisher);
    if (step->batch != work->batch || step->queries != work->queries || step->keys != work->keys)
        return kas_fail(KAS_ERROR_STATE, "layer %u %s made for batch %u, queries %u, keys %u; this call has %u, %u, %u",
                        layer, what, step->batch, step->queries, step->keys, work->batch, work->queries, work->keys);
    kas_step own = published_step(work);
    if (step->final_len != own.final_len)
        return kas_fail(KAS_ERROR_STATE, "layer %u %s made for final_len %u; this call has %u", layer, what,
                        step->final_len, own.final_len);
    if (step->length_flags != own.length_flags)
        return kas_fail(KAS_ERROR_STATE, "layer %u %s made with other of q_lens, kv_lens and final_lens given", layer,
                        what);
    return KAS_OK;
}

static kas_status check_step(const kas_work *work, const kas_step *step, bool new_step, kas_role role)
{
    if (role == KAS_ROLE_REUSE)
        return check_lists(work, step, new_step, "reuses lists");
    if (role == KAS_ROLE_ANCHOR && work->session->estimated && work->phase == KAS_PHASE_PREFILL)
        return check_lists(work, step, new_step, "estimates its normaliser from lists");
    return KAS_OK;
}

static kas_status run_layer(kas_session *session, kas_stream *stream, kas_phase phase, const kas_attention *args)
{
    kas_work work;
    KAS_TRY(kas_work_begin(&work, session, stream, phase, args, KAS_NEEDS_ATTENTION));
    if (session->layers == 0)
        return kas_fail(KAS_ERROR_STATE, "the session has no plan: use kas_attend or kas_attend_lists");
    bool planned = args->layer < session->layers;
    chain c = {.role = planned ? session->roles[args->layer] : KAS_ROLE_DENSE,
               .layer = planned ? args->layer : kas_identity_layer(session),
               .all_dense = is_all_dense(&work),
               .lists = kas_view_published(&work)};
    bool publishes = kas_role_publishes(c.role);
    c.rows = publishes ? session->active_counts[c.layer] : 0;
    kas_step *step = &session->steps[phase];
    bool new_step = !step->begun || args->layer <= step->last_layer;
    KAS_TRY(check_step(&work, step, new_step, c.role));
    if (publishes || new_step)
        step->live = false;
    KAS_TRY(phase == KAS_PHASE_DECODE ? run_decode(&work, &c) : run_prefill(&work, &c));
    step->begun = true;
    step->last_layer = args->layer;
    if (publishes)
        *step = published_step(&work);
    return KAS_OK;
}

kas_status kas_prefill(kas_session *session, kas_stream *stream, const kas_attention *args)
{
    return run_layer(session, stream, KAS_PHASE_PREFILL, args);
}

kas_status kas_decode(kas_session *session, kas_stream *stream, const kas_attention *args)
{
    return run_layer(session, stream, KAS_PHASE_DECODE, args);
}

/* ---- Lower-level operations -------------------------------------------------------------------------------------- */

kas_status kas_attend(kas_session *session, kas_stream *stream, kas_phase phase, const kas_attention *args)
{
    kas_work work;
    KAS_TRY(kas_work_begin(&work, session, stream, phase, args, KAS_NEEDS_ATTENTION));
    chain c = {.role = KAS_ROLE_DENSE, .layer = kas_identity_layer(session)};
    return phase == KAS_PHASE_DECODE ? run_decode(&work, &c) : run_prefill(&work, &c);
}

static kas_status lse_piece(kas_work *work, const kas_piece *piece, void *user)
{
    const chain *c = user;
    if (work->phase == KAS_PHASE_PREFILL)
        return kas_launch_lse(work, piece, c->layer, &c->lse, NULL);
    uint32_t splits = kas_work_score_splits(work, work->session->block.list_rows).splits;
    KAS_TRY(kas_launch_logits(work, piece, &c->scratch, c->layer, work->session->block.list_rows, false, 0));
    return kas_launch_merge(work, piece, &c->scratch, splits, 0);
}

kas_status kas_log_sum_exp(kas_session *session, kas_stream *stream, kas_phase phase, const kas_attention *args)
{
    kas_work work;
    KAS_TRY(kas_work_begin(&work, session, stream, phase, args, KAS_NEEDS_Q | KAS_NEEDS_K | KAS_NEEDS_LSE));
    chain c = {.layer = kas_identity_layer(session), .lse = args->lse};
    if (phase == KAS_PHASE_PREFILL)
        return kas_work_pieces(&work, session->context->info.max_group_count[2], plain_tiles(&work), lse_piece, &c);
    bool fits = kas_plan_decode(&session->shape, work.batch, work.queries, kas_score_stride(work.keys),
                                session->block.list_rows, false, 0,
                                kas_work_score_splits(&work, session->block.list_rows).splits, 0,
                                session->scratch_size, &c.scratch);
    KAS_TRY(check_plan(fits, &c.scratch, &work));
    return kas_work_pieces(&work, c.scratch.sequences, 1, lse_piece, &c);
}

/* Bytes of the caller's scores of one sequence: all rows and tiles. */
static uint64_t sequence_scores(const kas_work *work, const chain *c)
{
    return (uint64_t)work->session->block.list_rows * work->tiles * c->score_stride * sizeof(float);
}

/* Kernels index scores by the sequence within the launch. */
static kas_slice piece_scores(const kas_work *work, const kas_piece *piece, const chain *c)
{
    return (kas_slice){c->scores.buffer, c->scores.offset + piece->begin * sequence_scores(work, c)};
}

static kas_status scores_piece(kas_work *work, const kas_piece *piece, void *user)
{
    const chain *c = user;
    const kas_slice scores = piece_scores(work, piece, c);
    uint32_t rows = work->session->block.list_rows;
    if (work->phase == KAS_PHASE_DECODE) {
        KAS_TRY(kas_launch_logits(work, piece, &c->scratch, c->layer, rows, true, c->score_stride));
        return kas_launch_pool(work, piece, &c->scratch, c->layer, rows, &scores, c->score_stride);
    }
    bool own_lse = scores_own_lse(work);
    if (!own_lse)
        KAS_TRY(kas_launch_lse(work, piece, c->layer, &c->lse, NULL));
    return kas_launch_scores(work, piece, c->layer, rows, own_lse ? KAS_CALL_OWN_LSE : 0, &c->lse, &scores,
                             c->score_stride);
}

static kas_status check_scores(const kas_work *work, const kas_scores *scores)
{
    KAS_TRY(kas_require("scores", scores));
    if (scores->tiles != work->tiles)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "scores.tiles is %u, the call has %u", scores->tiles, work->tiles);
    if (scores->stride < work->keys || scores->stride > KAS_MOST_KEYS)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "scores.stride is %u, needed is keys, %u, to %u", scores->stride,
                        work->keys, KAS_MOST_KEYS);
    uint64_t size;
    if (!kas_multiply((uint64_t)work->batch * work->session->block.list_rows, (uint64_t)scores->tiles * scores->stride,
                      sizeof(float), &size))
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "scores: tiles %u times stride %u is too large", scores->tiles,
                        scores->stride);
    return kas_work_check_slice(work, "scores.values", &scores->values, size);
}

static kas_status check_piece(kas_work *work, const kas_piece *piece, void *user)
{
    uint32_t alignment = work->session->context->info.slice_alignment;
    if (piece_scores(work, piece, user).offset % alignment == 0)
        return KAS_OK;
    return kas_fail(KAS_ERROR_LIMIT, "the scores of sequence %u, with which a launch begins, are not at a multiple of %u bytes",
                    piece->begin, alignment);
}

/*
 * Runs a body that reads or writes the caller's scores over all tiles at once. Where a launch cannot take all sequences
 * it begins with one whose scores can be bound; nothing is launched when there is none.
 */
static kas_status run_scored(kas_work *work, uint32_t sequences, chain *c,
                             kas_status (*body)(kas_work *work, const kas_piece *piece, void *user))
{
    while (work->piece_multiple * sequence_scores(work, c) % work->session->context->info.slice_alignment != 0)
        work->piece_multiple *= 2;
    KAS_TRY(kas_work_pieces(work, sequences, work->tiles, check_piece, c));
    return kas_work_pieces(work, sequences, work->tiles, body, c);
}

kas_status kas_pooled_scores(kas_session *session, kas_stream *stream, kas_phase phase, const kas_attention *args,
                             const kas_scores *scores)
{
    kas_work work;
    KAS_TRY(kas_work_begin(&work, session, stream, phase, args, KAS_NEEDS_Q | KAS_NEEDS_K));
    KAS_TRY(check_scores(&work, scores));
    chain c = {.layer = kas_identity_layer(session), .scores = scores->values, .score_stride = scores->stride};
    bool fits;
    if (phase == KAS_PHASE_DECODE) /* pool takes one stride for scores and logits: the caller's */
        fits = kas_plan_decode(&session->shape, work.batch, work.queries, scores->stride, session->block.list_rows,
                               false, 0, kas_work_score_splits(&work, session->block.list_rows).splits, 0,
                               session->scratch_size, &c.scratch);
    else
        fits = kas_plan_prefill(&session->shape, work.batch, work.queries, work.keys, work.tiles, 0, true,
                                session->scratch_size, &c.scratch);
    KAS_TRY(check_plan(fits, &c.scratch, &work));
    c.lse = scratch_slice(&work, c.scratch.lse);
    return run_scored(&work, c.scratch.sequences, &c, scores_piece);
}

static kas_status select_piece(kas_work *work, const kas_piece *piece, void *user)
{
    const chain *c = user;
    const kas_slice scores = piece_scores(work, piece, c);
    return kas_launch_select(work, piece, &c->scratch, c->layer, work->session->block.list_rows, &scores,
                             c->score_stride, &c->lists);
}

/* The longest list that the call's tiles can have. */
static uint32_t most_kept(const kas_work *work)
{
    const kas_session_block *block = &work->session->block;
    uint32_t candidates = work->phase == KAS_PHASE_DECODE ? work->keys : (work->keys - 1) / block->tile * block->tile;
    return KAS_TOPK(*block, candidates, block->max_keys);
}

kas_status kas_select(kas_session *session, kas_stream *stream, kas_phase phase, const kas_attention *args,
                      const kas_scores *scores, const kas_lists *lists)
{
    kas_work work;
    KAS_TRY(kas_work_begin(&work, session, stream, phase, args, 0));
    KAS_TRY(check_scores(&work, scores));
    chain c = {.layer = kas_identity_layer(session), .scores = scores->values, .score_stride = scores->stride};
    KAS_TRY(kas_view_given(&work, lists, most_kept(&work), &c.lists));
    if (phase == KAS_PHASE_PREFILL)
        return run_scored(&work, session->context->info.max_group_count[2], &c, select_piece);
    bool fits = kas_plan_decode(&session->shape, work.batch, work.queries, 0, session->block.list_rows, false, 0, 0,
                                kas_work_select_splits(&work).splits, session->scratch_size, &c.scratch);
    KAS_TRY(check_plan(fits, &c.scratch, &work));
    return run_scored(&work, c.scratch.sequences, &c, select_piece);
}

static kas_status mass_piece(kas_work *work, const kas_piece *piece, void *user)
{
    const chain *c = user;
    return kas_launch_mass(work, piece, &c->scores, c->score_stride, &c->lists, &c->mass);
}

kas_status kas_pooled_mass(kas_session *session, kas_stream *stream, kas_phase phase, const kas_attention *args,
                           const kas_scores *scores, const kas_lists *lists, const kas_slice *mass)
{
    kas_work work;
    KAS_TRY(kas_work_begin(&work, session, stream, phase, args, 0));
    KAS_TRY(check_scores(&work, scores));
    KAS_TRY(kas_require("mass", mass));
    if (session->layers != 0)
        return kas_fail(KAS_ERROR_STATE, "the session has a plan: kas_pooled_mass needs a session without one");
    KAS_TRY(kas_work_check_slice(&work, "mass", mass, kas_mass_bytes(work.batch, session->block.list_rows, work.tiles)));
    chain c = {.scores = scores->values, .score_stride = scores->stride, .mass = *mass};
    KAS_TRY(kas_view_given(&work, lists, 0, &c.lists));
    c.lists.flags = KAS_CALL_LISTS_GIVEN;
    uint32_t most = session->context->info.max_group_count[2];
    if (work.batch > most) /* kernels index the sums by the sequence within the launch */
        return kas_fail(KAS_ERROR_LIMIT, "batch is %u, a launch on %s takes %u sequences at most", work.batch,
                        session->context->info.name, most);
    return run_scored(&work, most, &c, mass_piece);
}

kas_status kas_attend_lists(kas_session *session, kas_stream *stream, kas_phase phase, const kas_attention *args,
                            const kas_lists *lists)
{
    kas_work work;
    KAS_TRY(kas_work_begin(&work, session, stream, phase, args, KAS_NEEDS_ATTENTION));
    chain c = {.role = KAS_ROLE_REUSE,
               .layer = args->layer < session->layers ? args->layer : kas_identity_layer(session)};
    KAS_TRY(kas_view_given(&work, lists, 0, &c.lists));
    c.lists.flags = KAS_CALL_LISTS_GIVEN;
    return phase == KAS_PHASE_DECODE ? run_decode(&work, &c) : run_prefill(&work, &c);
}
