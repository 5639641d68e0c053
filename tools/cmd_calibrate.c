/* cmd_calibrate.c - `kascade calibrate`: the anchors and head maps of a model, from prompts that it reads. */
#define _POSIX_C_SOURCE 200809L
#include "args.h"
#include "byte_model.h"
#include "calibrate/measure.h"
#include "calibrate/report.h"
#include "calibrate/search.h"
#include "command.h"
#include "json_out.h"
#include "names.h"
#include "progress.h"
#include "source_text.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_FILES 64u
#define MAX_TOKENS (1u << 20)
#define DEFAULT_SHARE 0.10
#define DEFAULT_LEAST 128u

enum { OBJECTIVE_SIMILARITY, OBJECTIVE_LOSS };

static const char *const objective_names[] = {"similarity", "loss", NULL};
static const char *const reduce_names[] = {"min", "mean", NULL};
/* Fractions of the report's last drawing. */
static const double shares[] = {0.025, 0.05, 0.10, 0.20, 0.40};

typedef struct calibrate_options {
    const char *model, *text, *anchors, *device, *output, *report, *max_loss;
    const char **files; /* more texts */
    uint32_t file_count;
    uint32_t prompts, length, list_keys, tile, topk_min, topk_round, threads;
    uint32_t search_texts, finalists, final_texts, held_out, held_out_length, values, seed;
    double share, min_recall;
    int objective, reduce, normalizer, dtype; /* reduce -1: the objective's own */
    bool each, json;
} calibrate_options;

typedef struct calibrate_state {
    calibrate_options options;
    uint32_t count;  /* anchors wanted; 0: auto */
    double max_loss;
    char model_name[64];
    lm_model *model;
    kas_context *device;
    source_text text;
    measurement *measured;
    quality_texts search, finals, held_out;
    double *layer_similarity; /* [layers, layers] */
    report_row *rows;         /* [layers] */
    kas_plan **plans;         /* [layers]: of the rows */
    uint32_t row_count, chosen;
    progress bar;
    double cost, most_cost; /* of the readings that choose plans: done, and to come at most */
} calibrate_state;

/* ---- Command line ---------------------------------------------------------------------------------------------- */

static const char about[] =
    "Chooses the anchor layers of a model and the head maps of the layers between them, and writes the plan. The model\n"
    "reads N consecutive slices of L bytes from the start of the text with dense attention; how well each layer's lists\n"
    "serve the layers behind it is measured on the device.\n"
    "\n"
    "  --objective similarity   anchors and maps with the greatest similarity of lists, weighted by importance: the\n"
    "                           method as published. Quick.\n"
    "  --objective loss         starts there; adds and moves anchors, and exchanges rows of the head map, by what the\n"
    "                           model then loses in language and in recall of planted values, on the next texts. Every\n"
    "                           candidate reads texts of L tokens, with so few keys that it shows what it will forget;\n"
    "                           the best of them read texts of M tokens, which decide.\n"
    "\n"
    "With --anchors auto, the fewest anchors that keep --max-loss and --min-recall on texts held out from both. More\n"
    "texts may follow the options. Tokens are bytes. docs/calibration.md says what is computed.\n";

static kas_status parse_loss(const char *text, double *loss)
{
    char *end;
    double value = strtod(text, &end);
    const bool percent = *end == '%';
    if (end == text || end[percent] != 0 || !isfinite(value) || value < 0)
        return tool_fail(KAS_ERROR_INVALID_ARGUMENT, "--max-loss is '%.40s': it must be a share such as 0.5%% or 0.005",
                         text);
    *loss = percent ? value / 100 : value;
    return KAS_OK;
}

static kas_status parse_count(const char *text, uint32_t *count)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);
    *count = 0;
    if (strcmp(text, "auto") == 0)
        return KAS_OK;
    if (*end != 0 || text[0] < '0' || text[0] > '9' || value == 0 || value > 4096)
        return tool_fail(KAS_ERROR_INVALID_ARGUMENT, "--anchors is '%.40s': it must be auto or from 1 to 4096", text);
    *count = (uint32_t)value;
    return KAS_OK;
}

static kas_status check_options(calibrate_state *state)
{
    calibrate_options *options = &state->options;
    if (!options->text || !options->output)
        return tool_fail(KAS_ERROR_INVALID_ARGUMENT, "%s is needed (see kascade calibrate --help)",
                         options->text ? "-o" : "--text");
    TOOL_TRY(parse_count(options->anchors, &state->count));
    TOOL_TRY(parse_loss(options->max_loss, &state->max_loss));
    return KAS_OK;
}

static kas_status parse(int argc, char **argv, calibrate_state *state, bool *help)
{
    calibrate_options *options = &state->options;
    const args_option table[] = {
        {"--model", "DIR", "folder of the model (default: the bundled models/pico-qwen3)", ARGS_TEXT, &options->model},
        {"--text", "FILE", "text of the prompts: a file, or a folder of text files; needed", ARGS_TEXT, &options->text},
        {"-o", "FILE", "the plan; needed", ARGS_TEXT, &options->output},
        {"--anchors", "K", "how many anchors, or auto (default auto)", ARGS_TEXT, &options->anchors},
        {"--objective", "WHICH", "similarity or loss (default loss)", ARGS_CHOICE, &options->objective, 0, 0,
         objective_names},
        {"--prompts", "N", "slices of text whose similarity is measured (default 12)", ARGS_U32, &options->prompts, 1,
         4096},
        {"--length", "L", "bytes of a slice (default 4096)", ARGS_U32, &options->length, 1, MAX_TOKENS},
        {"--reduce", "HOW", "min or mean over the tiles of a prompt (default min; loss: mean)", ARGS_CHOICE,
         &options->reduce, 0, 0, reduce_names},
        {"--list-keys", "C", "keys of a list that is compared (default 64 - tile, at least 32;\nloss: the plan's share of L)",
         ARGS_U32, &options->list_keys, 1, MAX_TOKENS},
        {"--tile", "N", "16, 32, 64 or 128 query tokens share a list (default 32)", ARGS_POWER, &options->tile, 16,
         128},
        {"--topk", "FRACTION", "share of the keys that the plan keeps (default 0.10)", ARGS_REAL, &options->share, 1e-6,
         1},
        {"--topk-min", "N", "keys kept at least (default 128)", ARGS_U32, &options->topk_min, 1, 1u << 30},
        {"--topk-round", "N", "kept keys are rounded up to a multiple of N (default 128)", ARGS_U32,
         &options->topk_round, 1, 1u << 30},
        {"--normalizer", "WHICH", "exact or estimated normaliser of anchors (default exact)", ARGS_CHOICE,
         &options->normalizer, 0, 0, normalizer_names},
        {"--search-texts", "N", "texts of L tokens that the search reads (default 2)", ARGS_U32, &options->search_texts,
         1, 1000},
        {"--finalists", "N", "plans of each number of anchors that also read texts of M tokens (default 6;\n0: none)",
         ARGS_U32, &options->finalists, 0, 1000},
        {"--final-texts", "N", "those texts (default 1)", ARGS_U32, &options->final_texts, 1, 1000},
        {"--held-out", "N", "texts of M tokens that plans are judged by in the end (default 4)", ARGS_U32,
         &options->held_out, 1, 1000},
        {"--held-out-length", "M", "tokens of a text that will be read (default 4 L, at most what the model was\nmade for)",
         ARGS_U32, &options->held_out_length, 1, MAX_TOKENS},
        {"--values", "N", "values planted in each of these texts (default 8)", ARGS_U32, &options->values, 1,
         LM_MAX_VALUES},
        {"--seed", "N", "of their names, digits and places (default 1)", ARGS_U32, &options->seed, 0, UINT32_MAX},
        {"--max-loss", "SHARE", "auto: bits per byte may grow by so much (default 0.5%)", ARGS_TEXT, &options->max_loss},
        {"--min-recall", "SHARE", "auto: of the recall with dense attention, so much must be kept\n(default 1.0)",
         ARGS_REAL, &options->min_recall, 0, 1},
        {"--device", "D", "where attention runs (default cpu; see kascade devices)", ARGS_TEXT, &options->device},
        {"--dtype", "TYPE", "f32, f16 or bf16: type of queries, keys and values (default f32)", ARGS_CHOICE,
         &options->dtype, 0, 0, dtype_names},
        {"--threads", "N", "processors to use (default all)", ARGS_U32, &options->threads, 1, 1024},
        {"--each", NULL, "also write the plan of every row of the table, as FILE-K.json", ARGS_FLAG, &options->each},
        {"--report", "DIR", "write calibration.html and calibration.json there", ARGS_TEXT, &options->report},
        {"--json", NULL, "print one JSON object", ARGS_FLAG, &options->json},
    };
    const args_spec spec = {
        .command = "calibrate",
        .operands = "[FILE...]",
        .max_operands = MAX_FILES,
        .about = about,
        .options = table,
        .option_count = sizeof(table) / sizeof(table[0]),
    };
    args_result result;
    TOOL_TRY(args_parse(&spec, argc, argv, &result));
    *help = result.help;
    options->files = result.operands;
    options->file_count = result.operand_count;
    return result.help ? KAS_OK : check_options(state);
}

/* ---- Loading --------------------------------------------------------------------------------------------------- */

static bool searches(const calibrate_state *state)
{
    return state->options.objective == OBJECTIVE_LOSS;
}

/* Whether plans are read on the held-out texts. */
static bool judges(const calibrate_state *state)
{
    return searches(state) || state->count == 0 || state->options.report;
}

/* The files one behind the other, up to `limit` bytes. */
static kas_status read_files(calibrate_state *state, uint64_t limit)
{
    const calibrate_options *options = &state->options;
    TOOL_TRY(source_text_read(options->text, limit, &state->text));
    for (uint32_t i = 0; i < options->file_count && state->text.size < limit; i++) {
        source_text more;
        TOOL_TRY(source_text_read(options->files[i], limit - state->text.size, &more));
        unsigned char *joined = realloc(state->text.bytes, state->text.size + more.size);
        if (joined) {
            memcpy(joined + state->text.size, more.bytes, more.size);
            state->text.bytes = joined;
            state->text.size += more.size;
        }
        source_text_release(&more);
        if (!joined)
            return tool_fail_memory();
    }
    return KAS_OK;
}

static uint64_t prompt_bytes(const calibrate_state *state)
{
    return (uint64_t)state->options.prompts * state->options.length;
}

static bool has_finals(const calibrate_state *state)
{
    const calibrate_options *options = &state->options;
    return searches(state) && options->finalists > 0 && options->held_out_length > options->length;
}

static uint64_t search_bytes(const calibrate_state *state)
{
    const calibrate_options *options = &state->options;
    return searches(state)
               ? quality_texts_bytes(state->model, options->search_texts, options->length, options->values)
               : 0;
}

static uint64_t final_bytes(const calibrate_state *state)
{
    const calibrate_options *options = &state->options;
    return has_finals(state)
               ? quality_texts_bytes(state->model, options->final_texts, options->held_out_length, options->values)
               : 0;
}

/* As long as the model reads, but not so much longer than the prompts that judging takes hours. */
static void choose_length(calibrate_state *state)
{
    calibrate_options *options = &state->options;
    const uint32_t made_for = state->model->config.max_positions, most = 4 * options->length;
    if (options->held_out_length > 0)
        return;
    options->held_out_length = made_for && made_for < most ? made_for : most;
    if (options->held_out_length < options->length)
        options->held_out_length = options->length;
}

static kas_status check_length(const char *option, uint32_t length, uint32_t values)
{
    if (length < lm_recall_text_min(values))
        return tool_fail(KAS_ERROR_INVALID_ARGUMENT, "%s is %u: for %u values it must be at least %u", option, length,
                         values, lm_recall_text_min(values));
    return KAS_OK;
}

static kas_status load_text(calibrate_state *state)
{
    const calibrate_options *options = &state->options;
    choose_length(state);
    if (searches(state))
        TOOL_TRY(check_length("--length", options->length, options->values));
    if (judges(state))
        TOOL_TRY(check_length("--held-out-length", options->held_out_length, options->values));
    uint64_t needed = prompt_bytes(state) + search_bytes(state) + final_bytes(state);
    if (judges(state))
        needed += quality_texts_bytes(state->model, options->held_out, options->held_out_length, options->values);
    TOOL_TRY(read_files(state, needed));
    if (state->text.size < needed)
        return tool_fail(KAS_ERROR_INVALID_ARGUMENT,
                         "%s: the text has %llu bytes, %u prompts of %u and the texts behind them need %llu",
                         options->text, (unsigned long long)state->text.size, options->prompts, options->length,
                         (unsigned long long)needed);
    return KAS_OK;
}

static kas_status load_model(calibrate_state *state)
{
    char path[SOURCE_PATH_MAX + 32];
    if (state->options.model) {
        snprintf(path, sizeof(path), "%s", state->options.model);
    } else {
        char root[SOURCE_PATH_MAX];
        TOOL_TRY(source_root(root));
        snprintf(path, sizeof(path), "%s/models/pico-qwen3", root);
    }
    TOOL_TRY(lm_model_load(path, &state->model));
    TOOL_TRY(byte_model_check(state->model, path));
    const size_t length = strlen(path);
    size_t end = length;
    while (end > 1 && path[end - 1] == '/')
        end--;
    size_t begin = end;
    while (begin > 0 && path[begin - 1] != '/')
        begin--;
    snprintf(state->model_name, sizeof(state->model_name), "%.*s", (int)(end - begin), path + begin);
    return KAS_OK;
}

/* What cannot be written at the end is better known before the work. */
static kas_status check_outputs(const calibrate_options *options)
{
    char folder[SOURCE_PATH_MAX] = ".";
    const char *slash = strrchr(options->output, '/');
    if (slash && snprintf(folder, sizeof(folder), "%.*s", (int)(slash - options->output) + 1, options->output) >=
                     SOURCE_PATH_MAX)
        return tool_fail(KAS_ERROR_INVALID_ARGUMENT, "-o: the path '%.60s...' is too long", options->output);
    if (access(folder, W_OK) != 0)
        return tool_fail(KAS_ERROR_IO, "%s: cannot be written: %s", options->output, strerror(errno));
    return options->report ? report_make_folder(options->report) : KAS_OK;
}

static kas_status load(calibrate_state *state)
{
    const calibrate_options *options = &state->options;
    TOOL_TRY(check_outputs(options));
    if (options->threads)
        lm_set_threads(options->threads);
    const kas_context_desc device = {
        .struct_size = sizeof(device), .device = options->device, .threads = options->threads};
    TOOL_TRY_LIBRARY(kas_context_create(&device, &state->device));
    TOOL_TRY(load_model(state));
    const lm_config *config = &state->model->config;
    if (state->count > config->layers)
        return tool_fail(KAS_ERROR_INVALID_ARGUMENT, "--anchors is %u: the model has %u layers", state->count,
                         config->layers);
    TOOL_TRY(load_text(state));
    state->rows = calloc(config->layers, sizeof(*state->rows));
    state->plans = calloc(config->layers, sizeof(*state->plans));
    state->layer_similarity = calloc((size_t)config->layers * config->layers, sizeof(double));
    return state->rows && state->plans && state->layer_similarity ? KAS_OK : tool_fail_memory();
}

/* ---- Measuring ------------------------------------------------------------------------------------------------- */

static void show_measuring(void *user, double done)
{
    calibrate_state *state = user;
    progress_update(&state->bar, done);
}

static uint32_t planned_keys(const calibrate_options *options)
{
    double keys = floor(options->share * options->length);
    keys = keys < options->topk_min ? options->topk_min : keys;
    return keys < options->length ? (uint32_t)keys : options->length;
}

/* The calibration that proposes anchors first; where a search or a report wants it, the one at the plan's k second. */
static kas_status measure_model(calibrate_state *state)
{
    const calibrate_options *options = &state->options;
    const bool at_k = searches(state) || options->report;
    measure_listener listeners[2] = {{0, KAS_REDUCE_MIN}, {planned_keys(options), KAS_REDUCE_MEAN}};
    measure_listener *given = &listeners[searches(state) ? 1 : 0];
    given->list_keys = options->list_keys ? options->list_keys : given->list_keys;
    given->reduce = options->reduce < 0 ? given->reduce : (kas_reduce)options->reduce;
    const measure_desc desc = {
        .model = state->model,
        .context = state->device,
        .dtype = named_dtype(options->dtype),
        .tile = options->tile,
        .text = state->text.bytes,
        .prompts = options->prompts,
        .length = options->length,
        .listeners = listeners,
        .listener_count = at_k ? 2 : 1,
        .progress = show_measuring,
        .progress_user = state,
    };
    progress_begin(&state->bar, "similarity");
    kas_status status = measure(&desc, &state->measured);
    progress_end(&state->bar);
    TOOL_TRY(status);
    TOOL_TRY_LIBRARY(kas_calibration_layers(measurement_of(state->measured, 0), state->layer_similarity));
    return KAS_OK;
}

/* ---- Plans ----------------------------------------------------------------------------------------------------- */

static kas_plan_desc describe_plan(const calibrate_state *state, char *source, size_t size)
{
    const calibrate_options *options = &state->options;
    const lm_config *config = &state->model->config;
    snprintf(source, size, "kascade calibrate: objective %s, %u prompts of %u bytes", objective_names[options->objective],
             options->prompts, options->length);
    return (kas_plan_desc){
        .struct_size = sizeof(kas_plan_desc),
        .model = state->model_name,
        .source = source,
        .layers = config->layers,
        .heads = config->heads,
        .kv_heads = config->kv_heads,
        .tile = options->tile,
        .topk = {.fraction = options->share, .min = options->topk_min, .round = options->topk_round},
        .normalizer = options->normalizer ? KAS_NORMALIZER_ESTIMATED : KAS_NORMALIZER_EXACT,
    };
}

static double objective_share(const calibrate_state *state, const uint32_t *anchors, uint32_t count)
{
    const uint32_t layers = state->model->config.layers;
    double kept = 0, whole = 0;
    for (uint32_t b = 0, segment = 0; b < layers; b++) {
        segment += segment + 1 < count && anchors[segment + 1] == b;
        kept += state->layer_similarity[(size_t)anchors[segment] * layers + b];
        whole += state->layer_similarity[(size_t)b * layers + b];
    }
    return whole > 0 ? kept / whole : 1;
}

/*
 * Attention against dense, in passes over the keys that are read: dense reads K and V. Layer 0 does that and scores
 * once more; an anchor scores for its normaliser (an estimate spares it) and for its lists in prefill, once in decode,
 * and attends to its list; a reuse layer attends to the list alone.
 */
static void predict_cost(const calibrate_state *state, report_row *row)
{
    const double layers = state->model->config.layers, share = state->options.share < 1 ? state->options.share : 1;
    const double others = row->count - 1, reuse = layers - row->count;
    const double scoring = state->options.normalizer ? 0.5 : 1;
    row->prefill_cost = (1.5 + others * (scoring + share) + reuse * share) / layers;
    row->decode_cost = (1.5 + others * (0.5 + share) + reuse * share) / layers;
}

static void spend(void *user, double cost)
{
    calibrate_state *state = user;
    state->cost += cost;
    progress_update(&state->bar, state->cost / state->most_cost);
}

/* Adds a plan to the table and reads the held-out texts with it. Takes the plan. */
static kas_status add_row(calibrate_state *state, kas_plan *plan, double search_loss)
{
    report_row *row = &state->rows[state->row_count];
    kas_plan_desc desc = {.struct_size = sizeof(desc)};
    state->plans[state->row_count++] = plan;
    kas_plan_get_desc(plan, &desc);
    *row = (report_row){.count = desc.anchor_count,
                        .anchors = calloc(desc.anchor_count, sizeof(uint32_t)),
                        .objective = objective_share(state, desc.anchors, desc.anchor_count),
                        .search_loss = search_loss,
                        .bits_per_byte = NAN,
                        .change = NAN,
                        .recall = NAN};
    if (!row->anchors)
        return tool_fail_memory();
    memcpy(row->anchors, desc.anchors, desc.anchor_count * sizeof(uint32_t));
    predict_cost(state, row);
    if (!judges(state))
        return KAS_OK;
    quality found;
    TOOL_TRY(quality_measure(&state->held_out, plan, &found));
    spend(state, quality_texts_cost(&state->held_out));
    row->bits_per_byte = found.bits_per_byte;
    row->change = quality_change(&state->held_out, &found);
    row->recall = found.recall;
    return KAS_OK;
}

static kas_status add_similar(calibrate_state *state, uint32_t count)
{
    char source[128];
    kas_plan_desc wish = describe_plan(state, source, sizeof(source));
    kas_plan *plan;
    wish.anchor_count = count;
    TOOL_TRY_LIBRARY(kas_calibration_plan(measurement_of(state->measured, 0), &wish, &plan, NULL));
    return add_row(state, plan, NAN);
}

static bool is_kept(const calibrate_state *state)
{
    const report_row *row = &state->rows[state->row_count - 1];
    return row->change <= state->max_loss && row->recall >= state->options.min_recall * state->held_out.dense.recall;
}

/* Whether the table ends here: at the count that was asked for, or where the plan keeps what it must. */
static bool is_last(const calibrate_state *state)
{
    if (state->count)
        return state->row_count == state->count;
    return is_kept(state) || state->row_count == state->model->config.layers;
}

/* ---- Choosing --------------------------------------------------------------------------------------------------- */

/* Anchors that the table is expected to end at: what was asked for, or where auto has found a plan so far. */
static uint32_t expected_count(const calibrate_state *state)
{
    const uint32_t layers = state->model->config.layers;
    return state->count ? state->count : (layers + 3) / 3;
}

static search_desc describe_search(calibrate_state *state, char *source, size_t size)
{
    return (search_desc){
        .texts = &state->search,
        .finals = has_finals(state) ? &state->finals : NULL,
        .finalists = state->options.finalists,
        .anchors = measurement_of(state->measured, 0),
        .maps = measurement_of(state->measured, 1),
        .wish = describe_plan(state, source, size),
        .progress = spend,
        .progress_user = state,
    };
}

/* Of a row of the table: the search for its plan, and judging it. */
static double row_cost(calibrate_state *state, uint32_t count)
{
    char source[128];
    const search_desc desc = describe_search(state, source, sizeof(source));
    return quality_texts_cost(&state->held_out) + (searches(state) ? search_cost(&desc, count) : 0);
}

/* Reading the texts with dense attention, and the rows that are expected. */
static double foretell_cost(calibrate_state *state)
{
    double cost = quality_texts_cost(&state->held_out);
    if (searches(state))
        cost += quality_texts_cost(&state->search);
    if (has_finals(state))
        cost += quality_texts_cost(&state->finals);
    for (uint32_t count = 1; count <= expected_count(state); count++)
        cost += row_cost(state, count);
    return cost;
}

/* A row begins: where auto goes on past what was expected, the bar gets longer. */
static void begin_row(calibrate_state *state)
{
    state->most_cost = fmax(state->most_cost, state->cost + row_cost(state, state->row_count + 1));
}

static kas_status choose_by_similarity(calibrate_state *state)
{
    if (!judges(state) && !state->options.each)
        return add_similar(state, state->count);
    kas_status status;
    do {
        begin_row(state);
        status = add_similar(state, state->row_count + 1);
    } while (status == KAS_OK && !is_last(state));
    return status;
}

static kas_status choose_by_loss(calibrate_state *state)
{
    char source[128];
    const search_desc desc = describe_search(state, source, sizeof(source));
    search *found;
    TOOL_TRY(search_begin(&desc, &found));
    kas_status status;
    do {
        kas_plan *plan;
        double loss;
        begin_row(state);
        status = search_next(found, &plan, &loss);
        if (status == KAS_OK)
            status = add_row(state, plan, loss);
    } while (status == KAS_OK && !is_last(state));
    search_end(found);
    return status;
}

static quality_texts describe_set(const calibrate_state *state, uint32_t count, uint32_t length)
{
    return (quality_texts){.model = state->model, .context = state->device, .dtype = named_dtype(state->options.dtype),
                           .count = count, .length = length};
}

/* A set's texts from the bytes at *behind, which it takes, with a seed of their own. */
static kas_status make_set(calibrate_state *state, uint64_t seed, const kas_plan *shape, const unsigned char **behind,
                           quality_texts *set)
{
    const calibrate_options *options = &state->options;
    TOOL_TRY(quality_texts_make(set, *behind, options->values, options->seed + seed, shape));
    *behind += quality_texts_bytes(state->model, set->count, set->length, options->values);
    spend(state, quality_texts_cost(set));
    return KAS_OK;
}

static kas_status make_sets(calibrate_state *state, const kas_plan *shape)
{
    const unsigned char *behind = state->text.bytes + prompt_bytes(state);
    if (searches(state))
        TOOL_TRY(make_set(state, 0, shape, &behind, &state->search));
    if (has_finals(state))
        TOOL_TRY(make_set(state, 0x20000, shape, &behind, &state->finals));
    return make_set(state, 0x10000, shape, &behind, &state->held_out);
}

static kas_status make_texts(calibrate_state *state)
{
    char source[128];
    kas_plan_desc wish = describe_plan(state, source, sizeof(source));
    kas_plan *shape;
    wish.anchor_count = 1;
    TOOL_TRY_LIBRARY(kas_calibration_plan(measurement_of(state->measured, 0), &wish, &shape, NULL));
    kas_status status = make_sets(state, shape);
    kas_plan_destroy(shape);
    return status;
}

static kas_status choose_plans(calibrate_state *state)
{
    if (judges(state))
        TOOL_TRY(make_texts(state));
    return searches(state) ? choose_by_loss(state) : choose_by_similarity(state);
}

static kas_status choose(calibrate_state *state)
{
    const calibrate_options *options = &state->options;
    state->search = describe_set(state, options->search_texts, options->length);
    state->finals = describe_set(state, options->final_texts, options->held_out_length);
    state->held_out = describe_set(state, options->held_out, options->held_out_length);
    state->most_cost = foretell_cost(state);
    progress_begin(&state->bar, "plans");
    kas_status status = choose_plans(state);
    progress_end(&state->bar);
    TOOL_TRY(status);
    state->chosen = state->row_count - 1;
    if (state->count == 0 && !is_kept(state))
        fprintf(stderr, "kascade calibrate: no number of anchors keeps the loss within %g%% and the recall; every layer "
                        "selects for itself\n", state->max_loss * 100);
    return KAS_OK;
}

/* ---- Output ---------------------------------------------------------------------------------------------------- */

/* The chosen plan with other fractions of the keys. */
static kas_status measure_shares(calibrate_state *state, report *of)
{
    kas_plan_desc desc = {.struct_size = sizeof(desc)};
    kas_plan_get_desc(state->plans[state->chosen], &desc);
    progress_begin(&state->bar, "fractions");
    for (uint32_t i = 0; i < sizeof(shares) / sizeof(shares[0]); i++) {
        kas_plan *plan;
        desc.topk.fraction = shares[i];
        TOOL_TRY_LIBRARY(kas_plan_create(&desc, &plan));
        kas_status status = quality_measure(&state->held_out, plan, &of->at_share[i]);
        kas_plan_destroy(plan);
        TOOL_TRY(status);
        of->shares[of->share_count++] = shares[i];
        progress_update(&state->bar, (i + 1.0) / (sizeof(shares) / sizeof(shares[0])));
    }
    progress_end(&state->bar);
    return KAS_OK;
}

static report make_report(const calibrate_state *state)
{
    const calibrate_options *options = &state->options;
    const bool at_k = searches(state) || options->report;
    return (report){
        .model = state->model_name,
        .text = options->text,
        .device = options->device,
        .objective = objective_names[options->objective],
        .reduce = reduce_names[options->reduce < 0 ? (searches(state) ? 1 : 0) : options->reduce],
        .prompts = options->prompts,
        .length = options->length,
        .list_keys = at_k ? planned_keys(options) : options->list_keys,
        .held_out = judges(state) ? options->held_out : 0,
        .held_out_length = options->held_out_length,
        .calibration = measurement_of(state->measured, 0),
        .at_k = at_k ? measurement_of(state->measured, 1) : NULL,
        .layer_similarity = state->layer_similarity,
        .dense = judges(state) ? &state->held_out.dense : NULL,
        .rows = state->rows,
        .row_count = state->row_count,
        .chosen = state->chosen,
        .plan = state->plans[state->chosen],
    };
}

static void print_number(double value, int width, int decimals, double factor, const char *unit)
{
    if (isfinite(value))
        printf("%*.*f%s", width - (int)strlen(unit), decimals, value * factor, unit);
    else
        printf("%*s", width, "-");
}

static void print_table(const calibrate_state *state)
{
    if (judges(state))
        printf("dense: %.4f bits per byte, recall %.2f, on %u held-out text%s of %u tokens\n\n",
               state->held_out.dense.bits_per_byte, state->held_out.dense.recall, state->options.held_out,
               state->options.held_out == 1 ? "" : "s", state->options.held_out_length);
    printf(" K  objective  search loss  bits/byte   change  recall  prefill  decode  anchors\n");
    for (uint32_t i = 0; i < state->row_count; i++) {
        const report_row *row = &state->rows[i];
        printf("%2u", row->count);
        print_number(row->objective, 11, 4, 1, "");
        print_number(row->search_loss, 13, 2, 100, "%");
        print_number(row->bits_per_byte, 11, 4, 1, "");
        print_number(row->change, 9, 2, 100, "%");
        print_number(row->recall, 8, 2, 1, "");
        print_number(row->prefill_cost, 9, 2, 1, "x");
        print_number(row->decode_cost, 8, 2, 1, "x");
        printf(" ");
        for (uint32_t a = 0; a < row->count; a++)
            printf(" %u", row->anchors[a]);
        puts(i == state->chosen ? "  <- kept" : "");
    }
    printf("\nobjective: similarity kept of that of own lists; prefill, decode: predicted time of attention against "
           "dense\n%s written\n", state->options.output);
}

/* The plan of a row: the output's name with -K before its ending. */
static kas_status write_each(const calibrate_state *state)
{
    const char *output = state->options.output, *end = strrchr(output, '.');
    const int length = end && !strchr(end, '/') ? (int)(end - output) : (int)strlen(output);
    for (uint32_t i = 0; i < state->row_count; i++) {
        char path[SOURCE_PATH_MAX];
        if (snprintf(path, sizeof(path), "%.*s-%u%s", length, output, state->rows[i].count, output + length) >=
            SOURCE_PATH_MAX)
            return tool_fail(KAS_ERROR_INVALID_ARGUMENT, "-o: the path '%.60s...' is too long", output);
        TOOL_TRY_LIBRARY(kas_plan_save(state->plans[i], path));
    }
    return KAS_OK;
}

static kas_status write_results(calibrate_state *state)
{
    report of = make_report(state);
    if (state->options.report) {
        TOOL_TRY(measure_shares(state, &of));
        TOOL_TRY(report_write(&of, state->options.report));
    }
    if (state->options.each)
        TOOL_TRY(write_each(state));
    TOOL_TRY_LIBRARY(kas_plan_save(state->plans[state->chosen], state->options.output));
    if (!state->options.json) {
        print_table(state);
        return KAS_OK;
    }
    cJSON *root = report_json(&of);
    return root ? json_print(root) : tool_fail_memory();
}

static kas_status run_all(calibrate_state *state)
{
    TOOL_TRY(load(state));
    TOOL_TRY(measure_model(state));
    TOOL_TRY(choose(state));
    return write_results(state);
}

static void release(calibrate_state *state)
{
    for (uint32_t i = 0; i < state->row_count; i++) {
        free(state->rows[i].anchors);
        kas_plan_destroy(state->plans[i]);
    }
    free(state->rows);
    free(state->plans);
    free(state->layer_similarity);
    quality_texts_release(&state->search);
    quality_texts_release(&state->finals);
    quality_texts_release(&state->held_out);
    measurement_destroy(state->measured);
    source_text_release(&state->text);
    lm_model_destroy(state->model);
    kas_context_destroy(state->device);
}

static kas_status run_command(int argc, char **argv)
{
    static calibrate_state state = {.options = {
                                        .anchors = "auto",
                                        .device = "cpu",
                                        .max_loss = "0.5%",
                                        .prompts = 12,
                                        .length = 4096,
                                        .tile = 32,
                                        .topk_min = DEFAULT_LEAST,
                                        .topk_round = DEFAULT_LEAST,
                                        .share = DEFAULT_SHARE,
                                        .search_texts = 2,
                                        .finalists = 6,
                                        .final_texts = 1,
                                        .held_out = 4,
                                        .values = 8,
                                        .seed = 1,
                                        .min_recall = 1.0,
                                        .objective = OBJECTIVE_LOSS,
                                        .reduce = -1,
                                    }};
    bool help = false;
    TOOL_TRY(parse(argc, argv, &state, &help));
    if (help)
        return KAS_OK;
    kas_status status = run_all(&state);
    release(&state);
    return status;
}

const tool_command command_calibrate = {"calibrate", "choose a model's anchors and head maps, and write the plan",
                                        run_command};
