/* cmd_run.c - `kascade run`: a model reads a long text with dense and with Kascade attention, side by side. */
#include "args.h"
#include "byte_model.h"
#include "command.h"
#include "json_out.h"
#include "lm/evaluate.h"
#include "lm/plan_variant.h"
#include "names.h"
#include "progress.h"
#include "source_text.h"

#include <cJSON.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_MODEL "models/pico-qwen3"
#define DEFAULT_PLAN "plans/pico-qwen3.json"
#define DEFAULT_CONTEXT 8192u
#define MAX_CONTEXT (1u << 24)
#define MAX_TEXTS 1000u
#define MAX_PLANS 32u /* to compare with, beside --plan */

/* One way of reading; the rows are the columns of the table and the objects of the JSON. */
typedef struct reading {
    const char *key;   /* in JSON */
    const char *title; /* in the table */
    lm_attention attention;
    lm_plan_variant variant;
} reading;

enum { READING_DENSE, READING_KASCADE, FIRST_BASELINE, READING_COUNT = 5 };

static const reading readings[READING_COUNT] = {
    {"dense", "dense", LM_ATTENTION_DENSE, LM_PLAN_AS_IS},
    {"kascade", "kascade", LM_ATTENTION_PLAN, LM_PLAN_AS_IS},
    {"own_topk", "own top-k", LM_ATTENTION_PLAN, LM_PLAN_OWN_TOPK},
    {"identity_map", "identity map", LM_ATTENTION_PLAN, LM_PLAN_IDENTITY_MAP},
    {"window", "window", LM_ATTENTION_WINDOW, LM_PLAN_AS_IS},
};

/* Names of the baselines, in the order of `readings`. */
static const char *const baseline_names[] = {"own-topk", "identity-map", "window", NULL};

typedef struct run_options {
    const char *model, *plan, *text, *device, *variant;
    uint32_t context; /* 0: DEFAULT_CONTEXT, or what the text fills */
    uint32_t texts, values, seed, chunk, threads;
    lm_plan_overrides overrides;
    int dtype;
    uint32_t baselines; /* bit i: readings[FIRST_BASELINE + i] */
    const char **plans; /* more plans */
    uint32_t plan_count;
    bool json;
} run_options;

typedef struct run_state {
    run_options options;
    char model_path[SOURCE_PATH_MAX], plan_path[SOURCE_PATH_MAX], text_path[SOURCE_PATH_MAX];
    lm_model *model;
    kas_plan *plan;
    kas_plan *more[MAX_PLANS];
    char more_names[MAX_PLANS][32]; /* of the files, without folder and ending */
    kas_context *device;
    source_text text;
    uint32_t context;
    lm_tally tallies[READING_COUNT + MAX_PLANS]; /* the readings, then those with more plans */
    progress bar;
    uint32_t tokens_before; /* of the texts already read in this reading */
} run_state;

/* ---- Command line ---------------------------------------------------------------------------------------------- */

static kas_status parse(int argc, char **argv, run_options *options, bool *help)
{
    const args_option table[] = {
        {"--model", "DIR", "folder of the model (default: the bundled " DEFAULT_MODEL ")", ARGS_TEXT, &options->model},
        {"--plan", "FILE", "anchor plan (default for the bundled model: " DEFAULT_PLAN ")", ARGS_TEXT, &options->plan},
        {"--text", "PATH", "a file, or a folder of text files\n(default: the project's own sources and docs)",
         ARGS_TEXT, &options->text},
        {"--context", "N", "tokens of a text (default 8192, or what the text fills)", ARGS_U32, &options->context, 1,
         MAX_CONTEXT},
        {"--device", "D", "where attention runs (default cpu; see kascade devices)", ARGS_TEXT, &options->device},
        {"--variant", "ROWS", "variant rows to prefer, as kascade bench takes and writes them", ARGS_TEXT,
         &options->variant},
        {"--topk", "FRACTION", "share of the keys that is kept (default: the plan's)", ARGS_REAL,
         &options->overrides.fraction, 1e-6, 1},
        {"--topk-min", "N", "keys kept at least (default: the plan's)", ARGS_U32, &options->overrides.min, 1, 1u << 30},
        {"--topk-round", "N", "kept keys are rounded up to a multiple of N (default: the plan's)", ARGS_U32,
         &options->overrides.round, 1, 1u << 30},
        {"--tile", "N", "16, 32, 64 or 128 query tokens share a list (default: the plan's)", ARGS_POWER,
         &options->overrides.tile, 16, 128},
        {"--baselines", "LIST", "also read with own-topk (every layer selects), identity-map (no head\n"
         "maps), window (first and newest keys); comma-separated", ARGS_CHOICES, &options->baselines, 0, 0,
         baseline_names},
        {"--texts", "N", "read N consecutive slices of the text and average (default 1)", ARGS_U32, &options->texts, 1,
         MAX_TEXTS},
        {"--values", "N", "values planted in each (default 8)", ARGS_U32, &options->values, 1, LM_MAX_VALUES},
        {"--seed", "N", "of names, digits and places (default 1)", ARGS_U32, &options->seed, 0, UINT32_MAX},
        {"--dtype", "TYPE", "f32, f16 or bf16: type of queries, keys and values (default f32)", ARGS_CHOICE,
         &options->dtype, 0, 0, dtype_names},
        {"--chunk", "N", "tokens of one prefill call, a multiple of 128 (default 2048)", ARGS_U32, &options->chunk, 128,
         MAX_CONTEXT},
        {"--threads", "N", "processors to use (default all)", ARGS_U32, &options->threads, 1, 1024},
        {"--json", NULL, "print one JSON object", ARGS_FLAG, &options->json},
    };
    const args_spec spec = {
        .command = "run",
        .operands = "[PLAN...]",
        .max_operands = MAX_PLANS,
        .about =
            "A model reads a text twice, with dense and with Kascade attention, and once more with each other plan that\n"
            "is named behind the options. Values are planted in the text\n"
            "(lines \"# let abcd = 123456\" early, questions \"# get abcd = 123456\" near the end) to see what is lost.\n"
            "\n"
            "  bits_per_byte       over the text's own bytes; planted lines do not count\n"
            "  recall              share of values whose six digits are each the likeliest token, the digits before\n"
            "                      given\n"
            "  recall_decoded      share written right by greedy decoding: each question is asked for itself behind\n"
            "                      the text, token by token through the decode path\n"
            "  prefill_attention_ms, decode_attention_ms_per_token\n"
            "                      device time of the attention calls of all layers; decode is at the full length\n"
            "  keys_attended       keys that a query token of prefill attends to, averaged over positions and layers\n"
            "                      (an anchor scores every key but attends to its list); keys_attended_share relates\n"
            "                      it to the causal keys\n"
            "  seconds             whole time of one text, model loading apart\n"
            "\n"
            "Tokens are bytes; the model's bos_token_id, where it is 256 or more, starts the text.\n",
        .options = table,
        .option_count = sizeof(table) / sizeof(table[0]),
    };
    args_result result;
    TOOL_TRY(args_parse(&spec, argc, argv, &result));
    *help = result.help;
    options->plans = result.operands;
    options->plan_count = result.operand_count;
    if (options->chunk % 128 != 0)
        return tool_fail(KAS_ERROR_INVALID_ARGUMENT, "--chunk is %u: it must be a multiple of 128", options->chunk);
    if (options->model && !options->plan)
        return tool_fail(KAS_ERROR_INVALID_ARGUMENT, "--model needs --plan: a plan is made for one model");
    return KAS_OK;
}

static kas_status resolve_path(const char *given, const char *root, const char *standard, char path[SOURCE_PATH_MAX])
{
    int length = given ? snprintf(path, SOURCE_PATH_MAX, "%s", given)
                       : snprintf(path, SOURCE_PATH_MAX, "%s%s%s", root, standard[0] ? "/" : "", standard);
    if (length >= SOURCE_PATH_MAX)
        return tool_fail(KAS_ERROR_INVALID_ARGUMENT, "the path '%.60s...' is longer than %d bytes", path,
                         SOURCE_PATH_MAX - 1);
    return KAS_OK;
}

static kas_status resolve_paths(run_state *run)
{
    const run_options *options = &run->options;
    char root[SOURCE_PATH_MAX] = "";
    if (!options->model || !options->plan || !options->text)
        TOOL_TRY(source_root(root));
    TOOL_TRY(resolve_path(options->model, root, DEFAULT_MODEL, run->model_path));
    TOOL_TRY(resolve_path(options->plan, root, DEFAULT_PLAN, run->plan_path));
    return resolve_path(options->text, root, "", run->text_path);
}

/* ---- Loading --------------------------------------------------------------------------------------------------- */

static kas_status check_plan(const run_state *run, const kas_plan *plan, const char *path)
{
    const lm_config *config = &run->model->config;
    kas_plan_desc desc = {.struct_size = sizeof(desc)};
    TOOL_TRY_LIBRARY(kas_plan_get_desc(plan, &desc));
    const struct {
        const char *name;
        uint32_t of_plan, of_model;
    } sizes[] = {{"layers", desc.layers, config->layers},
                 {"heads", desc.heads, config->heads},
                 {"kv_heads", desc.kv_heads, config->kv_heads}};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
        if (sizes[i].of_plan != sizes[i].of_model)
            return tool_fail(KAS_ERROR_FORMAT, "%s: %s is %u, but the model in %s has %u", path,
                             sizes[i].name, sizes[i].of_plan, run->model_path, sizes[i].of_model);
    return KAS_OK;
}

static kas_status load_plan(run_state *run, const char *path, kas_plan **plan)
{
    kas_plan *file;
    TOOL_TRY_LIBRARY(kas_plan_load(path, &file));
    kas_status status = lm_plan_make_variant(file, LM_PLAN_AS_IS, &run->options.overrides, plan);
    kas_plan_destroy(file);
    return status == KAS_OK ? check_plan(run, *plan, path) : status;
}

static kas_status load_plans(run_state *run)
{
    TOOL_TRY(load_plan(run, run->plan_path, &run->plan));
    for (uint32_t i = 0; i < run->options.plan_count; i++) {
        const char *path = run->options.plans[i], *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
        snprintf(run->more_names[i], sizeof(run->more_names[i]), "%.*s", (int)strcspn(name, "."), name);
        TOOL_TRY(load_plan(run, path, &run->more[i]));
    }
    return KAS_OK;
}

static kas_status load_text(run_state *run)
{
    const run_options *options = &run->options;
    uint32_t context = options->context ? options->context : DEFAULT_CONTEXT, least = lm_recall_text_min(options->values);
    if (options->context && context < least)
        return tool_fail(KAS_ERROR_INVALID_ARGUMENT, "--context is %u: for %u values it must be at least %u", context,
                         options->values, least);
    if (context < least)
        context = least;
    uint64_t needed = lm_recall_text_bytes(byte_model_start(run->model), context, options->values);
    TOOL_TRY(source_text_read(run->text_path, needed * options->texts, &run->text));
    uint64_t missing = needed - (run->text.size / options->texts < needed ? run->text.size / options->texts : needed);
    if (missing > 0 && (options->context || context - least < missing))
        return tool_fail(KAS_ERROR_INVALID_ARGUMENT,
                         "%s: holds %" PRIu64 " bytes: %u texts of %u tokens need %" PRIu64, run->text_path,
                         run->text.size, options->texts, context, needed * options->texts);
    run->context = context - (uint32_t)missing;
    return KAS_OK;
}

static kas_status load(run_state *run)
{
    const run_options *options = &run->options;
    TOOL_TRY(resolve_paths(run));
    if (options->threads)
        lm_set_threads(options->threads);
    const kas_context_desc device = {
        .struct_size = sizeof(device), .device = options->device, .threads = options->threads,
        .variant = options->variant};
    TOOL_TRY_LIBRARY(kas_context_create(&device, &run->device));
    TOOL_TRY(lm_model_load(run->model_path, &run->model));
    TOOL_TRY(byte_model_check(run->model, run->model_path));
    TOOL_TRY(load_plans(run));
    TOOL_TRY(load_text(run));
    uint32_t made_for = run->model->config.max_positions;
    if (made_for && run->context > made_for)
        fprintf(stderr, "kascade run: the model was made for %u tokens, the context has %u\n", made_for, run->context);
    return KAS_OK;
}

/* ---- Reading --------------------------------------------------------------------------------------------------- */

static void show_progress(void *user, uint32_t tokens)
{
    run_state *run = user;
    double whole = (double)run->context * run->options.texts;
    progress_update(&run->bar, (run->tokens_before + (double)tokens) / whole);
}

static kas_status read_slice(run_state *run, const lm_sequence_desc *desc, uint32_t slice, lm_tally *tally)
{
    uint64_t bytes = lm_recall_text_bytes(byte_model_start(run->model), run->context, run->options.values);
    lm_recall_text text;
    TOOL_TRY(lm_recall_text_make(run->text.bytes + slice * bytes, bytes, byte_model_start(run->model), run->context,
                                 run->options.values, (uint64_t)run->options.seed << 32 | slice, &text));
    kas_status status = lm_evaluate(desc, &text, tally);
    lm_recall_text_release(&text);
    run->tokens_before += run->context;
    return status;
}

static kas_status read_with(run_state *run, const kas_plan *base, const reading *how, lm_tally *tally)
{
    kas_plan *plan;
    TOOL_TRY(lm_plan_make_variant(base, how->variant, &(lm_plan_overrides){0}, &plan));
    const lm_sequence_desc desc = {
        .model = run->model,
        .context = run->device,
        .plan = plan,
        .attention = how->attention,
        .dtype = named_dtype(run->options.dtype),
        .chunk = run->options.chunk,
        .progress = show_progress,
        .progress_user = run,
    };
    run->tokens_before = 0;
    progress_begin(&run->bar, how->title);
    kas_status status = KAS_OK;
    for (uint32_t slice = 0; status == KAS_OK && slice < run->options.texts; slice++)
        status = read_slice(run, &desc, slice, tally);
    progress_end(&run->bar);
    kas_plan_destroy(plan);
    return status;
}

static int reading_count(const run_state *run)
{
    return READING_COUNT + (int)run->options.plan_count;
}

static const char *reading_title(const run_state *run, int index)
{
    return index < READING_COUNT ? readings[index].title : run->more_names[index - READING_COUNT];
}

static bool is_wanted(const run_state *run, int index)
{
    return index >= READING_COUNT || index < FIRST_BASELINE || (run->options.baselines >> (index - FIRST_BASELINE) & 1);
}

static lm_score score_of(const run_state *run, int index)
{
    return lm_tally_score(&run->tallies[index], run->options.texts, run->model->config.layers);
}

/* ---- Output ---------------------------------------------------------------------------------------------------- */

typedef struct figure {
    const char *key, *title, *unit;
    int decimals;
    size_t offset; /* in lm_score */
} figure;

static const figure figures[] = {
    {"bits_per_byte", "bits per byte", "", 4, offsetof(lm_score, bits_per_byte)},
    {"recall", "recall, digits given", "", 2, offsetof(lm_score, recall)},
    {"recall_decoded", "recall, decoded", "", 2, offsetof(lm_score, recall_decoded)},
    {"prefill_attention_ms", "attention, prefill", "ms", 1, offsetof(lm_score, prefill_attention_ms)},
    {"decode_attention_ms_per_token", "attention, a decoded token", "ms", 3,
     offsetof(lm_score, decode_attention_ms_per_token)},
    {"keys_attended", "keys attended by a query", "", 0, offsetof(lm_score, keys_attended)},
    {"keys_attended_share", "share of the causal keys", "", 3, offsetof(lm_score, keys_attended_share)},
    {"seconds", "whole time", "s", 2, offsetof(lm_score, seconds)},
};

#define FIGURE_COUNT (sizeof(figures) / sizeof(figures[0]))

static double figure_value(const lm_score *score, const figure *of)
{
    double value;
    memcpy(&value, (const char *)score + of->offset, sizeof(value));
    return value;
}

typedef struct comparison {
    double prefill, decode;
} comparison;

static comparison compare(const run_state *run)
{
    lm_score dense = score_of(run, READING_DENSE), kascade = score_of(run, READING_KASCADE);
    return (comparison){dense.prefill_attention_ms / kascade.prefill_attention_ms,
                        dense.decode_attention_ms_per_token / kascade.decode_attention_ms_per_token};
}

static void print_table(const run_state *run)
{
    printf("%-30s", "");
    for (int i = 0; i < reading_count(run); i++)
        if (is_wanted(run, i))
            printf(" %13s", reading_title(run, i));
    putchar('\n');
    for (size_t f = 0; f < FIGURE_COUNT; f++) {
        printf("%-27s %-2s", figures[f].title, figures[f].unit);
        for (int i = 0; i < reading_count(run); i++)
            if (is_wanted(run, i)) {
                lm_score score = score_of(run, i);
                printf("%14.*f", figures[f].decimals, figure_value(&score, &figures[f]));
            }
        putchar('\n');
    }
}

static kas_status print_human(const run_state *run)
{
    const lm_config *config = &run->model->config;
    kas_device_info device = {.struct_size = sizeof(device)};
    kas_plan_desc plan = {.struct_size = sizeof(plan)};
    TOOL_TRY_LIBRARY(kas_context_get_info(run->device, &device));
    TOOL_TRY_LIBRARY(kas_plan_get_desc(run->plan, &plan));
    printf("model   %s: %s, %u layers, %u heads, %u kv heads of %u\n", run->model_path, config->model_type,
           config->layers, config->heads, config->kv_heads, config->head_dim);
    printf("plan    %s: anchors", run->plan_path);
    for (uint32_t i = 0; i < plan.anchor_count; i++)
        printf(" %u", plan.anchors[i]);
    printf("; %g%% of the keys, at least %u; tiles of %u\n", plan.topk.fraction * 100, plan.topk.min, plan.tile);
    printf("text    %s: %u x %u tokens, %u values in each\n", run->text_path, run->options.texts, run->context,
           run->options.values);
    printf("device  %s: %s, %s\n\n", device.name, device.description, dtype_names[run->options.dtype]);
    print_table(run);

    comparison speed = compare(run);
    lm_score dense = score_of(run, READING_DENSE), kascade = score_of(run, READING_KASCADE);
    printf("\nKascade against dense: prefill attention %.2fx as fast, decode attention %.2fx, bits per byte %+.1f%%\n",
           speed.prefill, speed.decode, (kascade.bits_per_byte / dense.bits_per_byte - 1) * 100);
    return KAS_OK;
}

static void add_settings(const run_state *run, const kas_device_info *device, const kas_plan_desc *plan, cJSON *root)
{
    cJSON_AddStringToObject(root, "model", run->model_path);
    cJSON_AddStringToObject(root, "plan", run->plan_path);
    cJSON_AddStringToObject(root, "text", run->text_path);
    cJSON_AddStringToObject(root, "device", device->name);
    cJSON_AddStringToObject(root, "device_description", device->description);
    cJSON_AddStringToObject(root, "driver", device->driver);
    cJSON_AddStringToObject(root, "dtype", dtype_names[run->options.dtype]);
    cJSON_AddNumberToObject(root, "context", run->context);
    cJSON_AddNumberToObject(root, "texts", run->options.texts);
    cJSON_AddNumberToObject(root, "values", run->options.values);
    cJSON_AddNumberToObject(root, "seed", run->options.seed);
    cJSON_AddNumberToObject(root, "topk", plan->topk.fraction);
    cJSON_AddNumberToObject(root, "topk_min", plan->topk.min);
    cJSON_AddNumberToObject(root, "topk_round", plan->topk.round);
    cJSON_AddNumberToObject(root, "tile", plan->tile);
    cJSON *anchors = cJSON_AddArrayToObject(root, "anchors");
    for (uint32_t i = 0; i < plan->anchor_count; i++)
        cJSON_AddItemToArray(anchors, cJSON_CreateNumber(plan->anchors[i]));
}

static void add_reading(const run_state *run, int index, cJSON *object)
{
    lm_score score = score_of(run, index);
    for (size_t f = 0; f < FIGURE_COUNT; f++)
        cJSON_AddNumberToObject(object, figures[f].key, figure_value(&score, &figures[f]));
}

static kas_status print_json(const run_state *run)
{
    kas_device_info device = {.struct_size = sizeof(device)};
    kas_plan_desc plan = {.struct_size = sizeof(plan)};
    TOOL_TRY_LIBRARY(kas_context_get_info(run->device, &device));
    TOOL_TRY_LIBRARY(kas_plan_get_desc(run->plan, &plan));
    cJSON *root = cJSON_CreateObject();
    add_settings(run, &device, &plan, root);
    for (int i = 0; i < READING_COUNT; i++)
        if (is_wanted(run, i))
            add_reading(run, i, cJSON_AddObjectToObject(root, readings[i].key));
    cJSON *more = run->options.plan_count ? cJSON_AddArrayToObject(root, "more_plans") : NULL;
    for (uint32_t i = 0; i < run->options.plan_count; i++) {
        cJSON *object = cJSON_CreateObject();
        cJSON_AddStringToObject(object, "plan", run->options.plans[i]);
        add_reading(run, READING_COUNT + (int)i, object);
        cJSON_AddItemToArray(more, object);
    }
    comparison speed = compare(run);
    cJSON_AddNumberToObject(root, "speedup_prefill", speed.prefill);
    cJSON_AddNumberToObject(root, "speedup_decode", speed.decode);
    return json_print(root);
}

static kas_status run_all(run_state *run)
{
    TOOL_TRY(load(run));
    for (int i = 0; i < READING_COUNT; i++)
        if (is_wanted(run, i))
            TOOL_TRY(read_with(run, run->plan, &readings[i], &run->tallies[i]));
    for (uint32_t i = 0; i < run->options.plan_count; i++) {
        const reading with_plan = {NULL, run->more_names[i], LM_ATTENTION_PLAN, LM_PLAN_AS_IS};
        TOOL_TRY(read_with(run, run->more[i], &with_plan, &run->tallies[READING_COUNT + i]));
    }
    return run->options.json ? print_json(run) : print_human(run);
}

static void release(run_state *run)
{
    source_text_release(&run->text);
    kas_plan_destroy(run->plan);
    for (uint32_t i = 0; i < run->options.plan_count; i++)
        kas_plan_destroy(run->more[i]);
    lm_model_destroy(run->model);
    kas_context_destroy(run->device);
}

static kas_status run_command(int argc, char **argv)
{
    static run_state run = {.options = {.device = "cpu", .texts = 1, .values = 8, .seed = 1, .chunk = 2048}};
    bool help = false;
    TOOL_TRY(parse(argc, argv, &run.options, &help));
    if (help)
        return KAS_OK;
    kas_status status = run_all(&run);
    release(&run);
    return status;
}

const tool_command command_run = {"run", "read a text with dense and with Kascade attention, side by side", run_command};
