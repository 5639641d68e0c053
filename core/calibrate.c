/*
 * calibrate.c - measuring a model's layers: pooled scores and lists as an anchor makes them, the mass that each layer's
 * scores put on the lists of the layers before it, and how far attention turns the hidden states. Lists of all layers
 * stay on the device until the prompt ends; scores are held for a chunk of one layer's tiles; pairs of layers are
 * accumulated as the later one arrives.
 */
#include "half.h"
#include "ops/work.h"
#include "plan.h"
#include "plan_search.h"

#include <math.h>
#include <string.h>

#define DEFAULT_TILE 32u
/* What 64 - tile comes to with the default tile, and the least for larger ones. */
#define LEAST_DEFAULT_KEYS 32u
/* Bytes of hidden states that are read at a time. */
#define HIDDEN_BLOCK_BYTES (4u << 20)
/* A fraction that adds nothing to topk.min. */
#define NO_FRACTION (1.0 / 4294967296.0)

struct kas_calibrator {
    kas_context *context;
    kas_session *session;
    uint32_t layers, kv_heads, hidden, tile;
    kas_dtype hidden_dtype;
    kas_reduce reduce;
    kas_buffer **lists; /* [layers] */
    uint64_t list_bytes;
    kas_buffer *mass;   /* of a chunk's tiles; grown when a longer chunk comes */
    float *own_mass;    /* [kv_heads, tiles, kv_heads + 1]: the chunk's sums over the layer's own lists */
    float *other_mass;  /* likewise over the lists of an earlier layer */
    uint32_t mass_tiles;
    unsigned char *hidden_rows; /* before, then after */
    float *hidden_values;       /* [2, hidden] */

    bool failed;
    uint32_t prompts, next_layer, tokens;
    double *pair;       /* [layers a, kv_heads y, kv_heads x]: of the layer being fed, over its tiles so far */
    double *similarity; /* [layers, layers, kv_heads, kv_heads]: sums over prompts */
    double *importance; /* [layers]: likewise */
    double *coverage;   /* [layers, kv_heads]: sums over tiles */
    uint64_t covered_tiles;
    float *results;     /* similarity, importance, coverage */
};

/* ---- Creating -------------------------------------------------------------------------------------------------- */

static kas_status check_desc(const kas_calibrator_desc *desc)
{
    if (desc->layers == 0 || desc->layers > KAS_PLAN_MAX_LAYERS)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "layers is %u: it must be from 1 to %u", desc->layers,
                        KAS_PLAN_MAX_LAYERS);
    if (desc->hidden == 0 || desc->hidden > (1u << 20))
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "hidden is %u: it must be from 1 to %u", desc->hidden, 1u << 20);
    if (desc->max_tokens == 0)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "max_tokens is 0: it must be at least 1");
    if (desc->hidden_dtype != KAS_DTYPE_DEFAULT && desc->hidden_dtype != KAS_DTYPE_F32 &&
        desc->hidden_dtype != KAS_DTYPE_F16 && desc->hidden_dtype != KAS_DTYPE_BF16)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "hidden_dtype is %d: it must be F32, F16 or BF16",
                        (int)desc->hidden_dtype);
    if (desc->reduce != KAS_REDUCE_MIN && desc->reduce != KAS_REDUCE_MEAN)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "reduce is %d: it must be 0 or 1", (int)desc->reduce);
    return KAS_OK;
}

static uint32_t default_keys(uint32_t tile)
{
    return tile < 64 - LEAST_DEFAULT_KEYS ? 64 - tile : LEAST_DEFAULT_KEYS;
}

static kas_session_desc describe_session(const kas_calibrator_desc *desc)
{
    uint32_t tile = desc->tile ? desc->tile : DEFAULT_TILE;
    return (kas_session_desc){
        .struct_size = sizeof(kas_session_desc),
        .heads = desc->heads,
        .kv_heads = desc->kv_heads,
        .head_dim = desc->head_dim,
        .dtype = desc->dtype,
        .scale = desc->scale,
        .tile = tile,
        .topk = {.fraction = NO_FRACTION, .min = desc->list_keys ? desc->list_keys : default_keys(tile), .round = 1},
        .max_queries = desc->max_tokens,
        .max_keys = desc->max_tokens,
        .scratch_limit = desc->scratch_limit,
    };
}

/* Lists lie in buffers of the layers' own; the session, which wants some, gets those of layer 0. */
static kas_status create_lists(kas_calibrator *calibrator, const kas_calibrator_desc *desc)
{
    kas_session_desc session = describe_session(desc);
    kas_workspace_size size;
    KAS_TRY(kas_session_workspace_size(calibrator->context, &session, &size));
    calibrator->lists = kas_alloc(desc->layers, sizeof(*calibrator->lists));
    if (!calibrator->lists)
        return kas_fail_memory();
    calibrator->list_bytes = size.lists;
    for (uint32_t layer = 0; layer < desc->layers; layer++)
        KAS_TRY(kas_buffer_create(calibrator->context, size.lists, &calibrator->lists[layer]));
    session.lists.buffer = calibrator->lists[0];
    return kas_session_create(calibrator->context, &session, &calibrator->session);
}

static kas_status create_sums(kas_calibrator *calibrator)
{
    const size_t layers = calibrator->layers, kv_heads = calibrator->kv_heads, pair = kv_heads * kv_heads;
    const uint64_t row = (uint64_t)calibrator->hidden * sizeof(float);
    calibrator->pair = kas_alloc(layers * pair, sizeof(double));
    calibrator->similarity = kas_alloc(layers * layers * pair, sizeof(double));
    calibrator->importance = kas_alloc(layers, sizeof(double));
    calibrator->coverage = kas_alloc(layers * kv_heads, sizeof(double));
    calibrator->results = kas_alloc(layers * layers * pair + layers + layers * kv_heads, sizeof(float));
    calibrator->hidden_rows = kas_alloc(2, HIDDEN_BLOCK_BYTES > row ? HIDDEN_BLOCK_BYTES : row);
    calibrator->hidden_values = kas_alloc(2 * (size_t)calibrator->hidden, sizeof(float));
    bool whole = calibrator->pair && calibrator->similarity && calibrator->importance && calibrator->coverage &&
                 calibrator->results && calibrator->hidden_rows && calibrator->hidden_values;
    return whole ? KAS_OK : kas_fail_memory();
}

static kas_status build_calibrator(kas_calibrator *calibrator, const kas_calibrator_desc *desc)
{
    KAS_TRY(create_lists(calibrator, desc));
    const kas_loaded_kernel *kernels = calibrator->session->kernels;
    static const kas_op needed[] = {KAS_OP_LSE, KAS_OP_SCORES, KAS_OP_SELECT, KAS_OP_MASS};
    for (size_t i = 0; i < KAS_COUNT(needed); i++)
        if (!kernels[needed[i]].variant)
            return kas_fail(KAS_ERROR_UNSUPPORTED, "%s has no row of %s for head_dim %u", calibrator->context->info.name,
                            kas_op_name(needed[i]), desc->head_dim);
    calibrator->layers = desc->layers;
    calibrator->kv_heads = desc->kv_heads;
    calibrator->hidden = desc->hidden;
    calibrator->hidden_dtype = desc->hidden_dtype ? desc->hidden_dtype : desc->dtype;
    calibrator->tile = calibrator->session->block.tile;
    calibrator->reduce = desc->reduce;
    return create_sums(calibrator);
}

kas_status kas_calibrator_create(kas_context *context, const kas_calibrator_desc *desc, kas_calibrator **calibrator)
{
    KAS_TRY(kas_require("context", context));
    KAS_TRY(kas_require_struct("desc", desc, sizeof(*desc)));
    KAS_TRY(kas_require("calibrator", calibrator));
    KAS_TRY(check_desc(desc));
    kas_calibrator *made = kas_alloc(1, sizeof(*made));
    if (!made)
        return kas_fail_memory();
    made->context = context;
    made->layers = desc->layers;
    kas_status status = build_calibrator(made, desc);
    if (status != KAS_OK) {
        kas_calibrator_destroy(made);
        return status;
    }
    *calibrator = made;
    return KAS_OK;
}

void kas_calibrator_destroy(kas_calibrator *calibrator)
{
    if (!calibrator)
        return;
    kas_session_destroy(calibrator->session);
    for (uint32_t layer = 0; calibrator->lists && layer < calibrator->layers; layer++)
        kas_buffer_destroy(calibrator->lists[layer]);
    kas_buffer_destroy(calibrator->mass);
    kas_release(calibrator->lists);
    kas_release(calibrator->own_mass);
    kas_release(calibrator->other_mass);
    kas_release(calibrator->hidden_rows);
    kas_release(calibrator->hidden_values);
    kas_release(calibrator->pair);
    kas_release(calibrator->similarity);
    kas_release(calibrator->importance);
    kas_release(calibrator->coverage);
    kas_release(calibrator->results);
    kas_release(calibrator);
}

/* ---- Similarity of a layer's tiles ------------------------------------------------------------------------------ */

/* A layer on its way through the device. */
typedef struct layer_work {
    kas_calibrator *calibrator;
    const kas_calibration_layer *layer;
    kas_scratch_plan scratch;
    kas_slice lse, scores;
    uint32_t score_stride;
} layer_work;

static kas_status reserve_mass(kas_calibrator *calibrator, uint32_t tiles)
{
    if (tiles <= calibrator->mass_tiles)
        return KAS_OK;
    const uint64_t size = kas_mass_bytes(1, calibrator->kv_heads, tiles);
    kas_buffer_destroy(calibrator->mass);
    kas_release(calibrator->own_mass);
    kas_release(calibrator->other_mass);
    calibrator->mass = NULL;
    calibrator->mass_tiles = 0;
    calibrator->own_mass = kas_alloc(size, 1);
    calibrator->other_mass = kas_alloc(size, 1);
    if (!calibrator->own_mass || !calibrator->other_mass)
        return kas_fail_memory();
    KAS_TRY(kas_buffer_create(calibrator->context, size, &calibrator->mass));
    calibrator->mass_tiles = tiles;
    return KAS_OK;
}

static kas_list_view lists_of(const kas_calibrator *calibrator, const kas_work *work, uint32_t layer)
{
    kas_list_view view = kas_view_published(work);
    view.slice = (kas_slice){calibrator->lists[layer], 0};
    return view;
}

/* The sums of the chunk's scores over the lists of `layer`, brought to the host. */
static kas_status read_mass(const layer_work *job, const kas_work *work, const kas_piece *piece, uint32_t layer,
                            float *mass)
{
    const kas_calibrator *calibrator = job->calibrator;
    const kas_list_view lists = lists_of(calibrator, work, layer);
    const kas_slice slice = {calibrator->mass, 0};
    KAS_TRY(kas_launch_mass(work, piece, &job->scores, job->score_stride, &lists, &slice));
    return kas_buffer_read(work->stream, calibrator->mass, 0, mass,
                           kas_mass_bytes(1, calibrator->kv_heads, piece->tile_count));
}

/* The whole attention of a tile: each query row's weights sum to 1. */
static double tile_total(const layer_work *job, uint32_t tile)
{
    const kas_calibrator *calibrator = job->calibrator;
    uint32_t left = job->layer->tokens - tile * calibrator->tile;
    return (double)kas_min_u32(left, calibrator->tile) * calibrator->session->block.group;
}

/* What the tile's own keys get is what its candidates do not. */
static double own_keys(double total, float candidates)
{
    double own = total - candidates;
    return own > 0 ? own : own < 0 ? 0 : own; /* a NaN stays */
}

static void fold_ratio(double *pair, kas_reduce reduce, double ratio)
{
    if (reduce == KAS_REDUCE_MEAN)
        *pair += ratio;
    else if (!(ratio >= *pair)) /* a NaN stays */
        *pair = ratio;
}

/* Folds a chunk's ratios for anchor `a` into calibrator->pair. */
static void fold_chunk(const layer_work *job, const kas_piece *piece, uint32_t a, const float *mass)
{
    kas_calibrator *calibrator = job->calibrator;
    const uint32_t heads = calibrator->kv_heads, width = heads + 1;
    for (uint32_t y = 0; y < heads; y++) {
        double *pair = calibrator->pair + ((size_t)a * heads + y) * heads;
        for (uint32_t u = 0; u < piece->tile_count; u++) {
            const size_t at = ((size_t)y * piece->tile_count + u) * width;
            const double own = own_keys(tile_total(job, piece->tile_begin + u), calibrator->own_mass[at + heads]);
            const double kept = calibrator->own_mass[at + y] + own;
            for (uint32_t x = 0; x < heads; x++)
                fold_ratio(&pair[x], calibrator->reduce, (mass[at + x] + own) / kept);
        }
    }
}

static void fold_coverage(const layer_work *job, const kas_piece *piece)
{
    kas_calibrator *calibrator = job->calibrator;
    const uint32_t heads = calibrator->kv_heads;
    for (uint32_t u = 0; u < piece->tile_count; u++) {
        const uint32_t candidates = (piece->tile_begin + u) * calibrator->tile;
        if (kas_session_topk(calibrator->session, candidates, 0) >= candidates)
            continue;
        const double total = tile_total(job, piece->tile_begin + u);
        for (uint32_t y = 0; y < heads; y++) {
            const float *mass = calibrator->own_mass + ((size_t)y * piece->tile_count + u) * (heads + 1);
            calibrator->coverage[(size_t)job->layer->layer * heads + y] +=
                (mass[y] + own_keys(total, mass[heads])) / total;
        }
        calibrator->covered_tiles += job->layer->layer == 0;
    }
}

static kas_status measure_chunk(kas_work *work, const kas_piece *piece, void *user)
{
    layer_work *job = user;
    kas_calibrator *calibrator = job->calibrator;
    const uint32_t layer = job->layer->layer, rows = calibrator->kv_heads, none = kas_identity_layer(work->session);
    const kas_list_view own = lists_of(calibrator, work, layer);
    KAS_TRY(reserve_mass(calibrator, piece->tile_count));
    KAS_TRY(kas_launch_lse(work, piece, none, &job->lse, NULL));
    KAS_TRY(kas_launch_scores(work, piece, none, rows, 0, &job->lse, &job->scores, job->score_stride));
    KAS_TRY(kas_launch_select(work, piece, NULL, none, rows, &job->scores, job->score_stride, &own));
    KAS_TRY(read_mass(job, work, piece, layer, calibrator->own_mass));
    fold_chunk(job, piece, layer, calibrator->own_mass);
    fold_coverage(job, piece);
    for (uint32_t a = 0; a < layer; a++) {
        KAS_TRY(read_mass(job, work, piece, a, calibrator->other_mass));
        fold_chunk(job, piece, a, calibrator->other_mass);
    }
    return KAS_OK;
}

static void begin_pairs(kas_calibrator *calibrator, uint32_t layer)
{
    const size_t heads = calibrator->kv_heads;
    for (size_t i = 0; i < (layer + 1) * heads * heads; i++)
        calibrator->pair[i] = calibrator->reduce == KAS_REDUCE_MEAN ? 0 : INFINITY;
}

static void end_pairs(kas_calibrator *calibrator, uint32_t layer, uint32_t tiles)
{
    const size_t heads = calibrator->kv_heads, square = heads * heads;
    const double divisor = calibrator->reduce == KAS_REDUCE_MEAN ? tiles : 1;
    for (size_t a = 0; a <= layer; a++)
        for (size_t i = 0; i < square; i++)
            calibrator->similarity[(a * calibrator->layers + layer) * square + i] +=
                calibrator->pair[a * square + i] / divisor;
}

static kas_status measure_similarity(kas_calibrator *calibrator, kas_work *work, const kas_calibration_layer *layer)
{
    layer_work job = {.calibrator = calibrator, .layer = layer, .score_stride = kas_score_stride(work->keys)};
    if (!kas_plan_prefill(&calibrator->session->shape, 1, work->queries, work->keys, work->tiles, calibrator->kv_heads,
                          true, calibrator->session->scratch_size, &job.scratch))
        return kas_fail(KAS_ERROR_LIMIT, "a prompt of %u tokens needs %llu bytes of scratch, the calibrator has %llu",
                        work->keys, (unsigned long long)job.scratch.total,
                        (unsigned long long)calibrator->session->scratch_size);
    job.lse = job.scores = calibrator->session->scratch.slice;
    job.lse.offset += job.scratch.lse;
    job.scores.offset += job.scratch.scores;
    begin_pairs(calibrator, layer->layer);
    KAS_TRY(kas_work_pieces(work, 1, kas_work_chunk_tiles(work, job.scratch.tiles), measure_chunk, &job));
    end_pairs(calibrator, layer->layer, work->tiles);
    return KAS_OK;
}

/* ---- Importance ------------------------------------------------------------------------------------------------ */

static uint32_t hidden_size(const kas_calibrator *calibrator)
{
    return calibrator->hidden_dtype == KAS_DTYPE_F32 ? 4 : 2;
}

static uint64_t hidden_stride(const kas_calibrator *calibrator, const kas_tensor *tensor)
{
    return (uint64_t)(tensor->stride[1] ? tensor->stride[1] : calibrator->hidden) * hidden_size(calibrator);
}

static double one_less_cosine(const float *a, const float *b, uint32_t width)
{
    double ab = 0, aa = 0, bb = 0;
    for (uint32_t i = 0; i < width; i++) {
        ab += (double)a[i] * b[i];
        aa += (double)a[i] * a[i];
        bb += (double)b[i] * b[i];
    }
    return aa > 0 && bb > 0 ? 1 - ab / sqrt(aa * bb) : isnan(aa) || isnan(bb) ? NAN : 0;
}

/* Rows `first`.. of the tensor, packed. */
static kas_status read_hidden(const kas_calibrator *calibrator, kas_stream *stream, const kas_tensor *tensor,
                              uint32_t first, uint32_t rows, unsigned char *target)
{
    const uint64_t row = (uint64_t)calibrator->hidden * hidden_size(calibrator);
    const uint64_t stride = hidden_stride(calibrator, tensor);
    if (stride == row)
        return kas_buffer_read(stream, tensor->buffer, tensor->offset + first * row, target, rows * row);
    for (uint32_t i = 0; i < rows; i++)
        KAS_TRY(kas_buffer_read(stream, tensor->buffer, tensor->offset + (first + i) * stride, target + i * row, row));
    return KAS_OK;
}

static kas_status measure_importance(kas_calibrator *calibrator, kas_stream *stream, const kas_calibration_layer *layer,
                                     double *importance)
{
    const uint32_t width = calibrator->hidden;
    const uint32_t most = kas_max_u32(1, HIDDEN_BLOCK_BYTES / (width * hidden_size(calibrator)));
    unsigned char *before = calibrator->hidden_rows;
    unsigned char *after = before + (uint64_t)most * width * hidden_size(calibrator);
    float *a = calibrator->hidden_values, *b = a + width;
    double sum = 0;
    for (uint32_t first = 0; first < layer->tokens; first += most) {
        const uint32_t rows = kas_min_u32(most, layer->tokens - first);
        KAS_TRY(read_hidden(calibrator, stream, &layer->before, first, rows, before));
        KAS_TRY(read_hidden(calibrator, stream, &layer->after, first, rows, after));
        for (uint32_t i = 0; i < rows; i++) {
            kas_load_row(a, before, (uint64_t)i * width, width, calibrator->hidden_dtype);
            kas_load_row(b, after, (uint64_t)i * width, width, calibrator->hidden_dtype);
            sum += one_less_cosine(a, b, width);
        }
    }
    *importance = sum / layer->tokens;
    return KAS_OK;
}

/* ---- Feeding --------------------------------------------------------------------------------------------------- */

static kas_status check_hidden(const kas_calibrator *calibrator, const char *name, const kas_tensor *tensor,
                               uint32_t tokens)
{
    const uint64_t element = hidden_size(calibrator), row = calibrator->hidden * element;
    if (!tensor->buffer)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "%s has no buffer", name);
    if (tensor->buffer->context != calibrator->context)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "%s belongs to another context", name);
    if (tensor->offset % element != 0)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "%s.offset is %llu: it must be a multiple of %llu", name,
                        (unsigned long long)tensor->offset, (unsigned long long)element);
    if (tensor->stride[1] != 0 && tensor->stride[1] < calibrator->hidden)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "%s.stride[1] is %u: it must be at least hidden, %u", name,
                        tensor->stride[1], calibrator->hidden);
    const uint64_t size = (tokens - 1) * hidden_stride(calibrator, tensor) + row;
    if (tensor->offset > tensor->buffer->size || tensor->buffer->size - tensor->offset < size)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "%s: %llu bytes from %llu pass the end of its buffer at %llu", name,
                        (unsigned long long)size, (unsigned long long)tensor->offset,
                        (unsigned long long)tensor->buffer->size);
    return KAS_OK;
}

static kas_status check_turn(const kas_calibrator *calibrator, const kas_calibration_layer *layer)
{
    if (calibrator->failed)
        return kas_fail(KAS_ERROR_STATE, "an earlier layer failed on the device: the calibrator cannot go on");
    if (layer->layer >= calibrator->layers)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "layer is %u: the model has %u", layer->layer, calibrator->layers);
    if (layer->layer != calibrator->next_layer)
        return kas_fail(KAS_ERROR_STATE, "layer %u was fed, but layer %u of prompt %u is next", layer->layer,
                        calibrator->next_layer, calibrator->prompts);
    if (layer->layer > 0 && layer->tokens != calibrator->tokens)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "tokens is %u in layer %u, but %u in the layers before it",
                        layer->tokens, layer->layer, calibrator->tokens);
    return KAS_OK;
}

static kas_status check_feed(const kas_calibrator *calibrator, const kas_stream *stream,
                             const kas_calibration_layer *layer)
{
    KAS_TRY(kas_require("calibrator", calibrator));
    KAS_TRY(kas_require("stream", stream));
    KAS_TRY(kas_require_struct("layer", layer, sizeof(*layer)));
    if (stream->context != calibrator->context)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "calibrator and stream belong to different contexts");
    KAS_TRY(check_turn(calibrator, layer));
    if (layer->tokens == 0 || layer->tokens > calibrator->session->shape.max_keys)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "tokens is %u: it must be from 1 to max_tokens, %u", layer->tokens,
                        calibrator->session->shape.max_keys);
    KAS_TRY(check_hidden(calibrator, "before", &layer->before, layer->tokens));
    return check_hidden(calibrator, "after", &layer->after, layer->tokens);
}

kas_status kas_calibrator_feed(kas_calibrator *calibrator, kas_stream *stream, const kas_calibration_layer *layer)
{
    KAS_TRY(check_feed(calibrator, stream, layer));
    const kas_attention args = {
        .struct_size = sizeof(args),
        .layer = layer->layer,
        .queries = layer->tokens,
        .keys = layer->tokens,
        .q = layer->q,
        .k = layer->k,
    };
    kas_work work;
    KAS_TRY(kas_work_begin(&work, calibrator->session, stream, KAS_PHASE_PREFILL, &args, KAS_NEEDS_Q | KAS_NEEDS_K));
    double importance;
    kas_status status = measure_importance(calibrator, stream, layer, &importance);
    if (status == KAS_OK)
        status = measure_similarity(calibrator, &work, layer);
    if (status != KAS_OK) {
        calibrator->failed = true;
        return status;
    }
    calibrator->importance[layer->layer] += importance;
    calibrator->tokens = layer->tokens;
    calibrator->next_layer = (layer->layer + 1) % calibrator->layers;
    calibrator->prompts += calibrator->next_layer == 0;
    return KAS_OK;
}

/* ---- Results --------------------------------------------------------------------------------------------------- */

kas_status kas_calibrator_finish(kas_calibrator *calibrator, kas_calibration *calibration)
{
    KAS_TRY(kas_require("calibrator", calibrator));
    KAS_TRY(kas_require_struct("calibration", calibration, sizeof(*calibration)));
    if (calibrator->failed)
        return kas_fail(KAS_ERROR_STATE, "an earlier layer failed on the device: there is no result");
    if (calibrator->next_layer != 0)
        return kas_fail(KAS_ERROR_STATE, "prompt %u ends before layer %u", calibrator->prompts, calibrator->next_layer);
    if (calibrator->prompts == 0)
        return kas_fail(KAS_ERROR_STATE, "no prompt was fed");
    const size_t layers = calibrator->layers, heads = calibrator->kv_heads;
    const size_t pairs = layers * layers * heads * heads;
    float *similarity = calibrator->results, *importance = similarity + pairs, *coverage = importance + layers;
    for (size_t i = 0; i < pairs; i++)
        similarity[i] = (float)(calibrator->similarity[i] / calibrator->prompts);
    for (size_t i = 0; i < layers; i++) /* a rounding error may leave the cosine above 1 */
        importance[i] = (float)(calibrator->importance[i] < 0 ? 0 : calibrator->importance[i] / calibrator->prompts);
    for (size_t i = 0; i < layers * heads; i++)
        coverage[i] = calibrator->covered_tiles
                          ? (float)(calibrator->coverage[i] / (double)calibrator->covered_tiles)
                          : 1.0f;
    *calibration = (kas_calibration){
        .struct_size = sizeof(*calibration),
        .layers = calibrator->layers,
        .kv_heads = calibrator->kv_heads,
        .prompts = calibrator->prompts,
        .similarity = similarity,
        .importance = importance,
        .coverage = coverage,
    };
    return KAS_OK;
}

static kas_status check_calibration(const kas_calibration *calibration)
{
    KAS_TRY(kas_require_struct("calibration", calibration, sizeof(*calibration)));
    if (calibration->layers == 0 || calibration->layers > KAS_PLAN_MAX_LAYERS || calibration->kv_heads == 0 ||
        calibration->kv_heads > KAS_PLAN_MAX_HEADS)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "calibration has %u layers and %u kv_heads: 1 to %u and 1 to %u",
                        calibration->layers, calibration->kv_heads, KAS_PLAN_MAX_LAYERS, KAS_PLAN_MAX_HEADS);
    KAS_TRY(kas_require("calibration.similarity", calibration->similarity));
    return kas_require("calibration.importance", calibration->importance);
}

kas_status kas_calibration_layers(const kas_calibration *calibration, double *layer_similarity)
{
    KAS_TRY(check_calibration(calibration));
    KAS_TRY(kas_require("layer_similarity", layer_similarity));
    kas_layer_similarity(calibration, layer_similarity);
    return KAS_OK;
}

/* ---- Plans ----------------------------------------------------------------------------------------------------- */

/* Worse than any sum of similarities, so that a dense layer is chosen as an anchor only where nothing else is left. */
#define FORBIDDEN (-1e18)

static kas_status check_wish(const kas_calibration *calibration, const kas_plan_desc *wish)
{
    KAS_TRY(kas_require_struct("wish", wish, sizeof(*wish)));
    if (wish->layers != calibration->layers || wish->kv_heads != calibration->kv_heads)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT,
                        "the plan is to have %u layers and %u kv_heads, the calibration has %u and %u", wish->layers,
                        wish->kv_heads, calibration->layers, calibration->kv_heads);
    if (wish->anchor_count == 0 || wish->anchor_count > wish->layers)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "anchor_count is %u: it must be from 1 to layers, %u",
                        wish->anchor_count, wish->layers);
    for (uint32_t i = 0; wish->anchors && i < wish->anchor_count; i++)
        if (wish->anchors[i] >= wish->layers || (i == 0 ? wish->anchors[0] != 0 : wish->anchors[i] <= wish->anchors[i - 1]))
            return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "anchors[%u] is %u: anchors ascend from 0 and are below %u", i,
                            wish->anchors[i], wish->layers);
    if (wish->dense_layer_count && !wish->dense_layers)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "dense_layers is NULL, dense_layer_count is %u",
                        wish->dense_layer_count);
    for (uint32_t i = 0; i < wish->dense_layer_count; i++)
        if (wish->dense_layers[i] >= wish->layers)
            return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "dense_layers[%u] is %u: layers is %u", i, wish->dense_layers[i],
                            wish->layers);
    return KAS_OK;
}

static double objective_of(const double *similarity, uint32_t layers, const uint32_t *anchors, uint32_t count)
{
    double sum = 0;
    for (uint32_t b = 0, segment = 0; b < layers; b++) {
        segment += segment + 1 < count && anchors[segment + 1] == b;
        sum += similarity[(size_t)anchors[segment] * layers + b];
    }
    return sum;
}

static kas_status choose_anchors(const kas_calibration *calibration, const kas_plan_desc *wish, uint32_t *anchors,
                                 double *objective)
{
    const uint32_t layers = calibration->layers;
    double *similarity = kas_alloc((size_t)layers * layers, sizeof(double));
    if (!similarity)
        return kas_fail_memory();
    kas_layer_similarity(calibration, similarity);
    for (uint32_t i = 0; i < wish->dense_layer_count; i++) {
        const uint32_t dense = wish->dense_layers[i];
        for (uint32_t a = 0; a <= dense; a++)
            similarity[(size_t)a * layers + dense] = a == dense ? FORBIDDEN : 0;
    }
    kas_status status = KAS_OK;
    if (wish->anchors) {
        memcpy(anchors, wish->anchors, wish->anchor_count * sizeof(*anchors));
        *objective = objective_of(similarity, layers, anchors, wish->anchor_count);
    } else {
        status = kas_search_anchors(similarity, layers, wish->anchor_count, anchors, objective);
    }
    kas_release(similarity);
    if (status == KAS_OK && *objective < FORBIDDEN / 2)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "%u anchors do not fit beside %u dense layers of %u",
                        wish->anchor_count, wish->dense_layer_count, layers);
    return status;
}

kas_status kas_calibration_plan(const kas_calibration *calibration, const kas_plan_desc *wish, kas_plan **plan,
                                double *objective)
{
    KAS_TRY(check_calibration(calibration));
    KAS_TRY(check_wish(calibration, wish));
    const size_t heads = calibration->kv_heads, map_entries = calibration->layers * heads;
    const size_t normalizer_entries = wish->anchor_count * heads;
    uint32_t *anchors = kas_alloc(wish->anchor_count + map_entries + normalizer_entries, sizeof(*anchors));
    if (!anchors)
        return kas_fail_memory();
    uint32_t *head_map = anchors + wish->anchor_count, *normalizer_map = head_map + map_entries;
    double sum = 0;
    kas_plan_desc desc = *wish;
    kas_status status = choose_anchors(calibration, wish, anchors, &sum);
    if (status == KAS_OK) {
        kas_search_head_map(calibration, anchors, wish->anchor_count, head_map);
        kas_search_normalizer_map(calibration, anchors, wish->anchor_count, normalizer_map);
        desc.anchors = anchors;
        desc.head_map = wish->head_map ? wish->head_map : head_map;
        desc.normalizer_map = wish->normalizer_map ? wish->normalizer_map : normalizer_map;
        status = kas_plan_create(&desc, plan);
    }
    if (status == KAS_OK && objective)
        *objective = sum;
    kas_release(anchors);
    return status;
}
