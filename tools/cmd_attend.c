/*
 * cmd_attend.c - `kascade attend`: one layer's attention over arrays in .npy files, by role. What it reads and writes
 * is fixed, because programs outside this project compare it with their own.
 */
#include "args.h"
#include "command.h"
#include "names.h"
#include "npy.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { ROLE_DENSE, ROLE_ANCHOR, ROLE_REUSE };

static const char *const role_names[] = {"dense", "anchor", "reuse", NULL};

typedef struct attend_options {
    int phase, role;
    const char *q, *k, *v, *indices, *out, *out_indices, *out_scores, *device, *variant;
    args_list head_map;
    double fraction;
    uint32_t min, round, tile, threads;
} attend_options;

/* Sizes by the names of kascade.h. */
typedef struct attend_shape {
    uint32_t batch, queries, keys, heads, kv_heads, head_dim;
    uint32_t first_tile, tiles; /* of the call; in decode 0 and 1 */
    kas_dtype dtype;
} attend_shape;

enum { OUT_VALUES, OUT_INDICES, OUT_SCORES, OUT_COUNT };

typedef struct attend_state {
    attend_options options;
    attend_shape shape;
    npy_array q, k, v, indices;
    kas_context *context;
    kas_plan *plan;
    kas_session *session;
    kas_stream *stream;
    kas_buffer *q_buffer, *k_buffer, *v_buffer, *out_buffer, *lists_buffer, *scores_buffer;
    npy_writer writers[OUT_COUNT];
} attend_state;

static kas_phase phase_of(const attend_state *state)
{
    return (kas_phase)state->options.phase;
}

/* ---- Command line ---------------------------------------------------------------------------------------------- */

/* No output takes the place of another one or of an input. */
static kas_status check_outputs(const attend_options *options)
{
    const char *const outputs[] = {options->out, options->out_indices, options->out_scores};
    const char *const inputs[] = {options->q, options->k, options->v, options->indices};
    for (int i = 0; i < OUT_COUNT; i++) {
        for (int j = 0; outputs[i] && j < i; j++)
            if (outputs[j] && (strcmp(outputs[i], outputs[j]) == 0 || out_file_is_same(outputs[i], outputs[j])))
                return tool_fail(KAS_ERROR_INVALID_ARGUMENT, "'%s' is named as two outputs", outputs[i]);
        for (size_t j = 0; outputs[i] && j < sizeof(inputs) / sizeof(inputs[0]); j++)
            if (inputs[j] && out_file_is_same(outputs[i], inputs[j]))
                return tool_fail(KAS_ERROR_INVALID_ARGUMENT, "'%s' is named as an output and is the input '%s'",
                                 outputs[i], inputs[j]);
    }
    return KAS_OK;
}

static kas_status check_options(const attend_options *options)
{
    const struct {
        const char *name, *value;
    } needed[] = {{"--q", options->q}, {"--k", options->k}, {"--v", options->v}, {"--out", options->out}};
    for (size_t i = 0; i < sizeof(needed) / sizeof(needed[0]); i++)
        if (!needed[i].value)
            return tool_fail(KAS_ERROR_INVALID_ARGUMENT, "%s is needed", needed[i].name);
    if (options->phase < 0 || options->role < 0)
        return tool_fail(KAS_ERROR_INVALID_ARGUMENT, "%s is needed", options->phase < 0 ? "--phase" : "--role");
    if (options->role == ROLE_REUSE && !options->indices)
        return tool_fail(KAS_ERROR_INVALID_ARGUMENT, "--role reuse needs --indices");
    if (options->role == ROLE_REUSE && (options->out_indices || options->out_scores))
        return tool_fail(KAS_ERROR_INVALID_ARGUMENT, "%s: a reuse layer makes none",
                         options->out_indices ? "--out-indices" : "--out-scores");
    if (options->role != ROLE_REUSE && (options->indices || options->head_map.count))
        return tool_fail(KAS_ERROR_INVALID_ARGUMENT, "%s is for --role reuse, not for %s",
                         options->indices ? "--indices" : "--head-map", role_names[options->role]);
    return check_outputs(options);
}

static kas_status parse(int argc, char **argv, attend_options *options, bool *help)
{
    const args_option table[] = {
        {"--phase", "PHASE", "prefill or decode", ARGS_CHOICE, &options->phase, 0, 0, phase_names},
        {"--role", "ROLE", "dense, anchor or reuse", ARGS_CHOICE, &options->role, 0, 0, role_names},
        {"--q", "FILE", "queries: prefill [B, Lq, H, D], decode [B, H, D]; f16 or f32", ARGS_TEXT, &options->q},
        {"--k", "FILE", "keys [B, L, G, D], type as q", ARGS_TEXT, &options->k},
        {"--v", "FILE", "values [B, L, G, D], type as q", ARGS_TEXT, &options->v},
        {"--indices", "FILE", "reuse: int32 lists [B, G, tiles, n], decode [B, G, n]; ascending, padded\nwith -1",
         ARGS_TEXT, &options->indices},
        {"--head-map", "G0,G1,...", "reuse: the list row that each kv head reads (default: its own)", ARGS_LIST,
         &options->head_map, 0, 65535},
        {"--topk", "FRACTION", "share of the candidates that is kept; from 1 on, all (default 0.1)", ARGS_REAL,
         &options->fraction, 1e-6, 1e6},
        {"--topk-min", "N", "kept at least (default 128)", ARGS_U32, &options->min, 1, 1u << 30},
        {"--topk-round", "N", "kept ones are rounded up to a multiple of N (default 128)", ARGS_U32, &options->round, 1,
         1u << 30},
        {"--tile", "N", "16, 32, 64 or 128 query tokens share a list (default 32)", ARGS_POWER, &options->tile, 16,
         128},
        {"--device", "D", "device (default cpu; see kascade devices)", ARGS_TEXT, &options->device},
        {"--variant", "ROWS", "variant rows to prefer, as kascade bench takes and writes them", ARGS_TEXT,
         &options->variant},
        {"--threads", "N", "processors of the cpu device (default all)", ARGS_U32, &options->threads, 1, 1024},
        {"--out", "FILE", "output, shape and type of q", ARGS_TEXT, &options->out},
        {"--out-indices", "FILE", "dense, anchor: the lists, int32 [B, G, tiles, n], decode [B, G, n];\n"
         "ascending, padded with -1", ARGS_TEXT, &options->out_indices},
        {"--out-scores", "FILE", "dense, anchor: pooled scores, f32 [B, G, tiles, L], decode [B, G, L];\n"
         "NaN where a key is no candidate", ARGS_TEXT, &options->out_scores},
    };
    const args_spec spec = {
        .command = "attend",
        .about =
            "Computes the attention of one layer over arrays in .npy files. Queries are at positions L-Lq .. L-1; the\n"
            "tile axis has floor((L-1)/T) - floor((L-Lq)/T) + 1 rows, the first being the first query's tile. With\n"
            "--indices every entry from 0 below the tile's start (decode: below L) is used and --topk* do not apply.\n",
        .options = table,
        .option_count = sizeof(table) / sizeof(table[0]),
    };
    args_result result;
    TOOL_TRY(args_parse(&spec, argc, argv, &result));
    *help = result.help;
    return result.help ? KAS_OK : check_options(options);
}

/* ---- Input ----------------------------------------------------------------------------------------------------- */

static kas_status fail_shape(const char *path, const npy_array *array, const char *must)
{
    return tool_fail(KAS_ERROR_FORMAT, "%s: holds %s: it must be %s", path,
                     npy_describe(array->dtype, array->shape, array->dims).text, must);
}

static kas_status check_extents(const char *path, const npy_array *array)
{
    for (uint32_t i = 0; i < array->dims; i++)
        if (array->shape[i] == 0 || array->shape[i] > INT32_MAX)
            return tool_fail(KAS_ERROR_FORMAT, "%s: extent %u is %" PRIu64 ": it must be from 1 to %d", path, i,
                             array->shape[i], INT32_MAX);
    return KAS_OK;
}

static kas_status check_kv(const attend_state *state, const char *path, const npy_array *array)
{
    const npy_array *q = &state->q;
    if (array->dtype != q->dtype || array->dims != 4)
        return fail_shape(path, array, q->dtype == NPY_F2 ? "<f2 (B, L, G, D), the type of q"
                                                          : "<f4 (B, L, G, D), the type of q");
    TOOL_TRY(check_extents(path, array));
    uint64_t batch = q->shape[0], head_dim = q->shape[q->dims - 1];
    if (array->shape[0] != batch || array->shape[3] != head_dim)
        return tool_fail(KAS_ERROR_FORMAT, "%s: holds %s: by %s the first extent is %" PRIu64 " and the last %" PRIu64,
                         path, npy_describe(array->dtype, array->shape, array->dims).text, state->options.q, batch,
                         head_dim);
    return KAS_OK;
}

static kas_status check_shapes(attend_state *state)
{
    const attend_options *options = &state->options;
    const npy_array *q = &state->q, *k = &state->k, *v = &state->v;
    bool prefill = options->phase == KAS_PHASE_PREFILL;
    if ((q->dtype != NPY_F2 && q->dtype != NPY_F4) || q->dims != (prefill ? 4u : 3u))
        return fail_shape(options->q, q, prefill ? "<f2 or <f4 (B, Lq, H, D)" : "<f2 or <f4 (B, H, D)");
    TOOL_TRY(check_extents(options->q, q));
    TOOL_TRY(check_kv(state, options->k, k));
    TOOL_TRY(check_kv(state, options->v, v));
    if (memcmp(k->shape, v->shape, 4 * sizeof(k->shape[0])) != 0)
        return tool_fail(KAS_ERROR_FORMAT, "%s: holds %s, but %s holds %s: the shapes must be the same", options->v,
                         npy_describe(v->dtype, v->shape, v->dims).text, options->k,
                         npy_describe(k->dtype, k->shape, k->dims).text);
    uint64_t queries = prefill ? q->shape[1] : 1, heads = q->shape[q->dims - 2];
    if (queries > k->shape[1])
        return tool_fail(KAS_ERROR_FORMAT, "%s: holds %" PRIu64 " query tokens, but %s only %" PRIu64 " keys",
                         options->q, queries, options->k, k->shape[1]);
    if (heads % k->shape[2] != 0)
        return tool_fail(KAS_ERROR_FORMAT, "%s: holds %" PRIu64 " heads, no multiple of the %" PRIu64
                         " kv heads of %s", options->q, heads, k->shape[2], options->k);
    if (q->shape[q->dims - 1] > KAS_MAX_HEAD_DIM)
        return tool_fail(KAS_ERROR_FORMAT, "%s: the head dimension is %" PRIu64 ": the most is %d", options->q,
                         q->shape[q->dims - 1], KAS_MAX_HEAD_DIM);
    state->shape = (attend_shape){
        .batch = (uint32_t)q->shape[0],
        .queries = (uint32_t)queries,
        .keys = (uint32_t)k->shape[1],
        .heads = (uint32_t)heads,
        .kv_heads = (uint32_t)k->shape[2],
        .head_dim = (uint32_t)k->shape[3],
        .tiles = 1,
        .dtype = q->dtype == NPY_F2 ? KAS_DTYPE_F16 : KAS_DTYPE_F32,
    };
    if (prefill) {
        state->shape.first_tile = (state->shape.keys - state->shape.queries) / options->tile;
        state->shape.tiles = (state->shape.keys - 1) / options->tile - state->shape.first_tile + 1;
    }
    return KAS_OK;
}

/* The library takes lists in ascending order; a key named twice would weigh twice. */
static kas_status check_ascending(const attend_state *state)
{
    const npy_array *indices = &state->indices;
    uint64_t width = indices->shape[indices->dims - 1];
    const int32_t *entries = indices->data;
    for (uint64_t row = 0; row < indices->count / width; row++) {
        int32_t last = -1;
        for (uint64_t i = 0; i < width; i++) {
            int32_t entry = entries[row * width + i];
            if (entry >= 0 && entry <= last)
                return tool_fail(KAS_ERROR_FORMAT, "%s: entry %" PRIu64 " of list %" PRIu64
                                 " is %d behind %d: lists must ascend", state->options.indices, i, row, entry, last);
            if (entry >= 0)
                last = entry;
        }
    }
    return KAS_OK;
}

static kas_status check_indices(const attend_state *state)
{
    const npy_array *indices = &state->indices;
    const attend_shape *shape = &state->shape;
    bool prefill = phase_of(state) == KAS_PHASE_PREFILL;
    if (indices->dtype != NPY_I4 || indices->dims != (prefill ? 4u : 3u))
        return fail_shape(state->options.indices, indices, prefill ? "<i4 (B, G, tiles, n)" : "<i4 (B, G, n)");
    TOOL_TRY(check_extents(state->options.indices, indices));
    if (indices->shape[0] != shape->batch || indices->shape[1] != shape->kv_heads ||
        (prefill && indices->shape[2] != shape->tiles))
        return tool_fail(KAS_ERROR_FORMAT, "%s: holds %s: it must have %u sequences, %u kv heads and %u tiles",
                         state->options.indices, npy_describe(indices->dtype, indices->shape, indices->dims).text,
                         shape->batch, shape->kv_heads, shape->tiles);
    return check_ascending(state);
}

static kas_status check_head_map(const attend_state *state)
{
    const args_list *map = &state->options.head_map;
    if (map->count == 0)
        return KAS_OK;
    if (map->count != state->shape.kv_heads)
        return tool_fail(KAS_ERROR_INVALID_ARGUMENT, "--head-map has %u entries: there are %u kv heads", map->count,
                         state->shape.kv_heads);
    for (uint32_t g = 0; g < map->count; g++)
        if (map->values[g] >= state->shape.kv_heads)
            return tool_fail(KAS_ERROR_INVALID_ARGUMENT, "--head-map: entry %u is %u: it must be below the %u kv heads",
                             g, map->values[g], state->shape.kv_heads);
    return KAS_OK;
}

static kas_status open_input(attend_state *state)
{
    const attend_options *options = &state->options;
    TOOL_TRY(npy_open(options->q, &state->q));
    TOOL_TRY(npy_open(options->k, &state->k));
    TOOL_TRY(npy_open(options->v, &state->v));
    TOOL_TRY(check_shapes(state));
    if (!options->indices)
        return KAS_OK;
    TOOL_TRY(npy_open(options->indices, &state->indices));
    TOOL_TRY(check_indices(state));
    return check_head_map(state);
}

/* ---- Attention ------------------------------------------------------------------------------------------------- */

/* Layer 0 is dense and its lists are all read by layer 1, which is the anchor or reuses with the head map. */
static kas_status create_plan(attend_state *state)
{
    const attend_options *options = &state->options;
    const attend_shape *shape = &state->shape;
    static const uint32_t anchors[] = {0, 1};
    uint32_t *map = malloc(2 * sizeof(*map) * shape->kv_heads);
    if (!map)
        return tool_fail_memory();
    for (uint32_t g = 0; g < shape->kv_heads; g++) {
        map[g] = g;
        map[shape->kv_heads + g] = options->head_map.count ? options->head_map.values[g] : g;
    }
    const kas_plan_desc desc = {
        .struct_size = sizeof(desc),
        .layers = 2,
        .heads = shape->heads,
        .kv_heads = shape->kv_heads,
        .tile = options->tile,
        .topk = {.fraction = options->fraction, .min = options->min, .round = options->round},
        .anchors = anchors,
        .anchor_count = options->role == ROLE_ANCHOR ? 2 : 1,
        .head_map = map,
    };
    kas_status status = kas_plan_create(&desc, &state->plan);
    free(map);
    return status == KAS_OK ? KAS_OK : tool_fail_library(status);
}

static kas_status create_session(attend_state *state)
{
    const attend_shape *shape = &state->shape;
    const kas_context_desc context = {.struct_size = sizeof(context),
                                      .device = state->options.device,
                                      .threads = state->options.threads,
                                      .variant = state->options.variant};
    TOOL_TRY_LIBRARY(kas_context_create(&context, &state->context));
    TOOL_TRY(create_plan(state));
    const kas_session_desc session = {
        .struct_size = sizeof(session),
        .plan = state->plan,
        .head_dim = shape->head_dim,
        .dtype = shape->dtype,
        .max_batch = shape->batch,
        .max_queries = phase_of(state) == KAS_PHASE_PREFILL ? shape->queries : 0,
        .max_keys = shape->keys,
    };
    TOOL_TRY_LIBRARY(kas_session_create(state->context, &session, &state->session));
    TOOL_TRY_LIBRARY(kas_stream_create(state->context, &state->stream));
    return KAS_OK;
}

static uint64_t array_bytes(const npy_array *array)
{
    return array->count * npy_dtype_size(array->dtype);
}

static kas_status upload(attend_state *state, const npy_array *array, kas_buffer **buffer)
{
    TOOL_TRY_LIBRARY(kas_buffer_create(state->context, array_bytes(array), buffer));
    TOOL_TRY_LIBRARY(kas_buffer_write(state->stream, *buffer, 0, array->data, array_bytes(array)));
    return KAS_OK;
}

static kas_status upload_all(attend_state *state)
{
    TOOL_TRY(upload(state, &state->q, &state->q_buffer));
    TOOL_TRY(upload(state, &state->k, &state->k_buffer));
    TOOL_TRY(upload(state, &state->v, &state->v_buffer));
    if (state->options.indices)
        TOOL_TRY(upload(state, &state->indices, &state->lists_buffer));
    TOOL_TRY_LIBRARY(kas_buffer_create(state->context, array_bytes(&state->q), &state->out_buffer));
    return KAS_OK;
}

static kas_attention attention_args(const attend_state *state, uint32_t layer)
{
    return (kas_attention){
        .struct_size = sizeof(kas_attention),
        .layer = layer,
        .batch = state->shape.batch,
        .queries = state->shape.queries,
        .keys = state->shape.keys,
        .q = {.buffer = state->q_buffer},
        .k = {.buffer = state->k_buffer},
        .v = {.buffer = state->v_buffer},
        .out = {.buffer = state->out_buffer},
    };
}

static kas_status attend_by_role(attend_state *state, uint32_t layer)
{
    const kas_attention args = attention_args(state, layer);
    TOOL_TRY_LIBRARY(phase_of(state) == KAS_PHASE_PREFILL ? kas_prefill(state->session, state->stream, &args)
                                                          : kas_decode(state->session, state->stream, &args));
    return KAS_OK;
}

static kas_status attend_reuse(attend_state *state)
{
    const kas_attention args = attention_args(state, 1);
    const kas_lists lists = {
        .indices = {state->lists_buffer, 0},
        .tiles = state->shape.tiles,
        .width = (uint32_t)state->indices.shape[state->indices.dims - 1],
    };
    TOOL_TRY_LIBRARY(kas_attend_lists(state->session, state->stream, phase_of(state), &args, &lists));
    return KAS_OK;
}

static kas_status attend(attend_state *state)
{
    switch (state->options.role) {
    case ROLE_ANCHOR:
        return attend_by_role(state, 1);
    case ROLE_REUSE:
        return attend_reuse(state);
    default:
        break;
    }
    if (state->options.out_indices)
        return attend_by_role(state, 0);
    const kas_attention args = attention_args(state, 0);
    TOOL_TRY_LIBRARY(kas_attend(state->session, state->stream, phase_of(state), &args));
    return KAS_OK;
}

/* Scores into a buffer full of NaN: the library writes candidates only. */
static kas_status score(attend_state *state)
{
    const attend_shape *shape = &state->shape;
    /* tiles * keys stays below 2^58: only the rows can carry the product past 64 bits. */
    uint64_t rows = (uint64_t)shape->batch * shape->kv_heads;
    uint64_t row_bytes = (uint64_t)shape->tiles * shape->keys * sizeof(float);
    if (rows > UINT64_MAX / row_bytes)
        return tool_fail(KAS_ERROR_LIMIT, "--out-scores: %" PRIu64 " rows of %" PRIu64 " bytes are past 2^64", rows,
                         row_bytes);
    TOOL_TRY_LIBRARY(kas_buffer_create(state->context, rows * row_bytes, &state->scores_buffer));
    TOOL_TRY_LIBRARY(kas_buffer_fill(state->stream, state->scores_buffer, 0, rows * row_bytes, 0xff));
    const kas_attention args = attention_args(state, 0);
    const kas_scores scores = {.values = {state->scores_buffer, 0}, .tiles = shape->tiles, .stride = shape->keys};
    TOOL_TRY_LIBRARY(kas_pooled_scores(state->session, state->stream, phase_of(state), &args, &scores));
    return KAS_OK;
}

static kas_status run_work(attend_state *state)
{
    TOOL_TRY(attend(state));
    if (state->options.out_scores)
        TOOL_TRY(score(state));
    uint32_t bits;
    TOOL_TRY_LIBRARY(kas_session_check(state->session, state->stream, &bits));
    if (bits & KAS_CHECK_LIST)
        fprintf(stderr, "kascade attend: %s: entries that are no candidate of their tile were left out\n",
                state->options.indices ? state->options.indices : "the lists");
    return KAS_OK;
}

/* ---- Output ---------------------------------------------------------------------------------------------------- */

#define COPY_BYTES (1u << 22)

/* Appends a buffer's bytes to an output in pieces. */
static kas_status write_buffer(attend_state *state, kas_buffer *buffer, npy_writer *writer)
{
    uint64_t size = kas_buffer_size(buffer);
    unsigned char *piece = malloc(COPY_BYTES);
    kas_status status = piece ? KAS_OK : tool_fail_memory();
    for (uint64_t at = 0; status == KAS_OK && at < size; at += COPY_BYTES) {
        uint64_t step = size - at < COPY_BYTES ? size - at : COPY_BYTES;
        status = kas_buffer_read(state->stream, buffer, at, piece, step);
        status = status == KAS_OK ? npy_writer_append(writer, piece, step) : tool_fail_library(status);
    }
    free(piece);
    return status;
}

/* The candidates of tile `i` of the call: the keys before its start, in decode all. */
static uint32_t candidates_of(const attend_state *state, uint32_t i)
{
    return phase_of(state) == KAS_PHASE_PREFILL ? (state->shape.first_tile + i) * state->options.tile
                                                : state->shape.keys;
}

static uint32_t list_length(const attend_state *state, uint32_t tile)
{
    return kas_session_topk(state->session, candidates_of(state, tile), state->shape.keys);
}

/* One row of the published lists, tile by tile, padded to `width`. `entries` holds width int32. */
static kas_status write_list_row(attend_state *state, const kas_published_lists *lists, uint64_t row, uint32_t width,
                                 int32_t *entries)
{
    uint64_t at = lists->indices.offset + row * lists->row_capacity * sizeof(int32_t);
    for (uint32_t tile = 0; tile < state->shape.tiles; tile++) {
        uint32_t length = list_length(state, tile);
        if (length > 0)
            TOOL_TRY_LIBRARY(kas_buffer_read(state->stream, lists->indices.buffer, at, entries,
                                             (uint64_t)length * sizeof(int32_t)));
        at += (uint64_t)length * sizeof(int32_t);
        for (uint32_t i = length; i < width; i++)
            entries[i] = -1;
        TOOL_TRY(npy_writer_append(&state->writers[OUT_INDICES], entries, (uint64_t)width * sizeof(int32_t)));
    }
    return KAS_OK;
}

/* The longest list of the call; at least 1, so that the array is not empty where no tile has a candidate. */
static uint32_t list_width(const attend_state *state)
{
    uint32_t width = 1;
    for (uint32_t tile = 0; tile < state->shape.tiles; tile++)
        width = list_length(state, tile) > width ? list_length(state, tile) : width;
    return width;
}

static kas_status write_lists(attend_state *state, uint32_t width)
{
    kas_published_lists lists = {.struct_size = sizeof(lists)};
    TOOL_TRY_LIBRARY(kas_session_get_lists(state->session, phase_of(state), &lists));
    if (!lists.live || lists.rows != state->shape.kv_heads)
        return tool_fail(KAS_ERROR_STATE, "the library published %u rows of lists, not %u", lists.live ? lists.rows : 0,
                         state->shape.kv_heads);
    int32_t *entries = malloc((size_t)width * sizeof(*entries));
    kas_status status = entries ? KAS_OK : tool_fail_memory();
    for (uint64_t row = 0; status == KAS_OK && row < (uint64_t)state->shape.batch * lists.rows; row++)
        status = write_list_row(state, &lists, row, width, entries);
    free(entries);
    return status;
}

/* [B, G, tiles, last], without the tile axis in decode. */
static kas_status open_tiled(attend_state *state, int which, const char *path, npy_dtype dtype, uint32_t last)
{
    const attend_shape *shape = &state->shape;
    bool prefill = phase_of(state) == KAS_PHASE_PREFILL;
    const uint64_t extents[] = {shape->batch, shape->kv_heads, prefill ? shape->tiles : last, last};
    return npy_writer_open(&state->writers[which], path, dtype, extents, prefill ? 4 : 3);
}

/* All outputs are written beside their names first and put in place together. */
static kas_status write_output(attend_state *state)
{
    const attend_options *options = &state->options;
    TOOL_TRY(npy_writer_open(&state->writers[OUT_VALUES], options->out, state->q.dtype, state->q.shape, state->q.dims));
    TOOL_TRY(write_buffer(state, state->out_buffer, &state->writers[OUT_VALUES]));
    if (options->out_indices) {
        uint32_t width = list_width(state);
        TOOL_TRY(open_tiled(state, OUT_INDICES, options->out_indices, NPY_I4, width));
        TOOL_TRY(write_lists(state, width));
    }
    if (options->out_scores) {
        TOOL_TRY(open_tiled(state, OUT_SCORES, options->out_scores, NPY_F4, state->shape.keys));
        TOOL_TRY(write_buffer(state, state->scores_buffer, &state->writers[OUT_SCORES]));
    }
    return KAS_OK;
}

static kas_status place_output(attend_state *state)
{
    const char *const paths[] = {state->options.out, state->options.out_indices, state->options.out_scores};
    for (int i = 0; i < OUT_COUNT; i++) {
        kas_status status = paths[i] ? npy_writer_finish(&state->writers[i]) : KAS_OK;
        if (status != KAS_OK) {
            while (i-- > 0)
                if (paths[i])
                    remove(paths[i]);
            return status;
        }
    }
    return KAS_OK;
}

static kas_status attend_files(attend_state *state)
{
    TOOL_TRY(open_input(state));
    TOOL_TRY(create_session(state));
    TOOL_TRY(upload_all(state));
    TOOL_TRY(run_work(state));
    TOOL_TRY(write_output(state));
    return place_output(state);
}

static void release(attend_state *state)
{
    for (int i = 0; i < OUT_COUNT; i++)
        npy_writer_abandon(&state->writers[i]);
    kas_stream_destroy(state->stream);
    kas_session_destroy(state->session);
    kas_plan_destroy(state->plan);
    kas_buffer *const buffers[] = {state->q_buffer,   state->k_buffer,     state->v_buffer,
                                   state->out_buffer, state->lists_buffer, state->scores_buffer};
    for (size_t i = 0; i < sizeof(buffers) / sizeof(buffers[0]); i++)
        kas_buffer_destroy(buffers[i]);
    kas_context_destroy(state->context);
    npy_close(&state->q);
    npy_close(&state->k);
    npy_close(&state->v);
    npy_close(&state->indices);
}

static kas_status attend_command(int argc, char **argv)
{
    static attend_state state = {
        .options = {.phase = -1, .role = -1, .fraction = 0.1, .min = 128, .round = 128, .tile = 32, .device = "cpu"}};
    bool help = false;
    TOOL_TRY(parse(argc, argv, &state.options, &help));
    if (help)
        return KAS_OK;
    kas_status status = attend_files(&state);
    release(&state);
    return status;
}

const tool_command command_attend = {"attend", "one layer's attention over .npy files", attend_command};
