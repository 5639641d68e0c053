/*
 * cmd_bench.c - `kascade bench`: times the kinds of layers of a plan on a device, turn by turn, and compares them with
 * dense attention and with what the machine itself can do. Only the public interface is used.
 */
#define _POSIX_C_SOURCE 200809L

#include "args.h"
#include "bench/ceiling.h"
#include "bench/inputs.h"
#include "bench/layers.h"
#include "bench/samples.h"
#include "bench/tune.h"
#include "bench/work.h"
#include "command.h"
#include "json_out.h"
#include "names.h"
#include "out_file.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

#define LEAST_ROUNDS 5u
#define LEAST_MS 1000.0 /* rounds are repeated until this much has been measured */
#define WARM_MS 500.0   /* an idle H200 runs at a quarter of its clock for the first 300 ms of work */

static const char *const kind_keys[] = {"dense", "layer0", "anchor", "reuse"};

typedef struct bench_options {
    const char *device, *variant, *write;
    bench_plan_options plan;
    int phase, dtype; /* -1: both; by the device */
    uint32_t keys, batch, head_dim, threads, rounds;
    double matrix_peak; /* teraflop/s; 0: unknown */
    bool tune, json;
} bench_options;

/* One phase being measured. */
typedef struct bench_state {
    const bench_options *options;
    kas_device_info info;
    kas_context *context;
    kas_plan *plan;
    kas_plan_desc desc;
    bench_layers layers;
    bench_shape shape;
    kas_session *session;
    kas_stream *stream;
    kas_timer *timer;
    bench_inputs inputs;
    bench_ceiling *ceiling;
    samples times[BENCH_KINDS], ceiling_times;
    double create_ms; /* of the session */
} bench_state;

/* What is printed of a phase. */
typedef struct bench_figures {
    bool present[BENCH_KINDS];
    sample_summary times[BENCH_KINDS], ceiling_time;
    double rates[BENCH_KINDS], ceiling_rate; /* operations or bytes a second */
    double bound;                            /* what rates are compared with; 0: nothing */
    double whole, whole_dense;               /* milliseconds of all layers of the plan */
} bench_figures;

/* ---- Command line ---------------------------------------------------------------------------------------------- */

static kas_status parse(int argc, char **argv, bench_options *options, bool *help)
{
    bench_plan_options *plan = &options->plan;
    const args_option table[] = {
        {"--device", "D", "device (default cpu; see kascade devices)", ARGS_TEXT, &options->device},
        {"--phase", "P", "prefill or decode (default: one after the other)", ARGS_CHOICE, &options->phase, 0, 0,
         phase_names},
        {"--keys", "N", "prefill: tokens of the text; decode: keys of a sequence (default 16384)", ARGS_U32,
         &options->keys, 1, 1u << 24},
        {"--batch", "N", "sequences (default 1)", ARGS_U32, &options->batch, 1, 65535},
        {"--dtype", "T", "f32, f16 or bf16 (default: f32 on the cpu, f16 elsewhere)", ARGS_CHOICE, &options->dtype, 0, 0,
         dtype_names},
        {"--plan", "FILE", "anchor plan (default: the shape of the published one for Llama-3.1-8B,\n"
         "32 layers, anchors 0, 2, 8, 13, 14, one list of layer 0 read)", ARGS_TEXT, &plan->path},
        {"--heads", "N", "query heads (default the plan's, 32)", ARGS_U32, &plan->heads, 1, 65535},
        {"--kv-heads", "N", "key/value heads (default the plan's, 8)", ARGS_U32, &plan->kv_heads, 1, 65535},
        {"--head-dim", "N", "head dimension (default 128)", ARGS_U32, &options->head_dim, 1, KAS_MAX_HEAD_DIM},
        {"--topk", "FRACTION", "share of the candidates that is kept (default the plan's, 0.1)", ARGS_REAL, &plan->topk,
         1e-6, 1},
        {"--tile", "N", "16, 32, 64 or 128 query tokens share a list (default the plan's, 32)", ARGS_POWER, &plan->tile,
         16, 128},
        {"--normalizer", "N", "exact or estimated (default the plan's, exact)", ARGS_CHOICE, &plan->normalizer, 0, 0,
         normalizer_names},
        {"--variant", "ROWS", "prefer these variant rows: NAME or OPERATION=NAME, several separated by commas\n"
         "or white space (see kascade devices --rows)", ARGS_TEXT, &options->variant},
        {"--tune", NULL, "measure the rows of every operation at this shape and choose the fastest", ARGS_FLAG,
         &options->tune},
        {"--write", "FILE", "with --tune: write the choice, text for --variant or kas_context_desc.variant", ARGS_TEXT,
         &options->write},
        {"--threads", "N", "processors of the cpu device (default all)", ARGS_U32, &options->threads, 1, 1024},
        {"--rounds", "N", "times that each layer is timed (default: 5 or more, until a second has\nbeen measured)",
         ARGS_U32, &options->rounds, 1, SAMPLES_MAX},
        {"--matrix-peak", "TFLOPS", "devices other than the cpu: their peak for prefill, which the library\n"
         "cannot measure, as a bound to compare with", ARGS_REAL, &options->matrix_peak, 1e-3, 1e6},
        {"--json", NULL, "print one JSON object", ARGS_FLAG, &options->json},
    };
    const args_spec spec = {
        .command = "bench",
        .about = "Times the kinds of layers of a plan: dense, layer 0 (dense, publishes lists), anchor, reuse. They take\n"
                 "turns over random normal inputs; medians and the least and greatest time are shown. Rates count what\n"
                 "the layer has to do: products of causal or listed pairs in prefill, bytes of K and V in decode. They\n"
                 "are compared with the machine, measured in the same turns: OpenBLAS sgemm (prefill) and reading\n"
                 "memory (decode) with the same threads on the cpu; elsewhere copies within the device (decode).\n",
        .options = table,
        .option_count = sizeof(table) / sizeof(table[0]),
    };
    args_result result;
    TOOL_TRY(args_parse(&spec, argc, argv, &result));
    *help = result.help;
    if (options->tune && (options->json || options->variant))
        return tool_fail(KAS_ERROR_INVALID_ARGUMENT, "--tune goes with neither --json nor --variant");
    if (options->write && !options->tune)
        return tool_fail(KAS_ERROR_INVALID_ARGUMENT, "--write needs --tune");
    return KAS_OK;
}

/* ---- Measuring ------------------------------------------------------------------------------------------------- */

static bool prefill(const bench_state *state)
{
    return state->shape.phase == KAS_PHASE_PREFILL;
}

/* The first dense layer of the plan may not exist: dense attention is timed by the operation itself. */
static bool is_timed(const bench_state *state, bench_kind kind)
{
    return kind == BENCH_DENSE || state->layers.count[kind] != 0;
}

static kas_status call_layer(bench_state *state, bench_kind kind)
{
    const kas_attention args = bench_inputs_next(&state->inputs, &state->shape, state->layers.layer[kind]);
    if (kind == BENCH_DENSE)
        TOOL_TRY_LIBRARY(kas_attend(state->session, state->stream, state->shape.phase, &args));
    else
        TOOL_TRY_LIBRARY(prefill(state) ? kas_prefill(state->session, state->stream, &args)
                                        : kas_decode(state->session, state->stream, &args));
    return KAS_OK;
}

/* Dense attention first, then the others in the order of their layers: a reuse layer finds its lists. */
static uint32_t order_kinds(const bench_state *state, bench_kind *order)
{
    uint32_t count = 0;
    for (bench_kind kind = BENCH_DENSE; kind < BENCH_KINDS; kind++)
        if (is_timed(state, kind))
            order[count++] = kind;
    if (count == BENCH_KINDS && state->layers.layer[BENCH_REUSE] < state->layers.layer[BENCH_ANCHOR]) {
        order[BENCH_ANCHOR] = BENCH_REUSE;
        order[BENCH_REUSE] = BENCH_ANCHOR;
    }
    return count;
}

static kas_status mark(bench_state *state, uint32_t index)
{
    TOOL_TRY_LIBRARY(kas_timer_mark(state->timer, state->stream, index));
    return KAS_OK;
}

/* The time between two marks is added to `times`, if given, and to `measured`. */
static kas_status take_time(bench_state *state, uint32_t index, samples *times, double *measured)
{
    double milliseconds;
    TOOL_TRY_LIBRARY(kas_timer_elapsed(state->timer, index, index + 1, &milliseconds));
    samples_add(times, milliseconds);
    *measured += milliseconds;
    return KAS_OK;
}

static kas_status run_round(bench_state *state, double *measured)
{
    bench_kind order[BENCH_KINDS];
    uint32_t count = order_kinds(state, order);
    TOOL_TRY(mark(state, 0));
    for (uint32_t i = 0; i < count; i++) {
        TOOL_TRY(call_layer(state, order[i]));
        TOOL_TRY(mark(state, i + 1));
    }
    if (!state->info.host_memory) {
        TOOL_TRY(bench_ceiling_enqueue(state->ceiling, state->stream));
        TOOL_TRY(mark(state, count + 1));
    }
    TOOL_TRY_LIBRARY(kas_stream_wait(state->stream));
    for (uint32_t i = 0; i < count; i++)
        TOOL_TRY(take_time(state, i, &state->times[order[i]], measured));
    if (!state->info.host_memory)
        return take_time(state, count, &state->ceiling_times, measured);
    double milliseconds;
    TOOL_TRY(bench_ceiling_run_host(state->ceiling, &milliseconds));
    samples_add(&state->ceiling_times, milliseconds);
    return KAS_OK;
}

static double clock_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec * 1e-6;
}

/* Rounds that only warm up: one, and more until the device has left the clock at which it rests. */
static kas_status warm_up(bench_state *state)
{
    double began = clock_ms(), measured = 0;
    do {
        TOOL_TRY(run_round(state, &measured));
    } while (clock_ms() - began < WARM_MS);
    memset(state->times, 0, sizeof(state->times));
    state->ceiling_times.count = 0;
    return KAS_OK;
}

static kas_status run_rounds(bench_state *state)
{
    double measured = 0;
    TOOL_TRY(warm_up(state));
    uint32_t rounds = state->options->rounds;
    for (uint32_t i = 0; rounds ? i < rounds : i < LEAST_ROUNDS || (measured < LEAST_MS && i < SAMPLES_MAX); i++)
        TOOL_TRY(run_round(state, &measured));
    return KAS_OK;
}

static kas_status open_device(bench_state *state)
{
    const bench_options *options = state->options;
    const kas_context_desc desc = {.struct_size = sizeof(desc),
                                   .device = options->device,
                                   .threads = options->threads,
                                   .variant = options->variant};
    TOOL_TRY_LIBRARY(kas_context_create(&desc, &state->context));
    state->info.struct_size = sizeof(state->info);
    TOOL_TRY_LIBRARY(kas_context_get_info(state->context, &state->info));
    TOOL_TRY_LIBRARY(kas_stream_create(state->context, &state->stream));
    TOOL_TRY_LIBRARY(kas_timer_create(state->context, BENCH_KINDS + 2, &state->timer));
    return KAS_OK;
}

static kas_status prepare(bench_state *state, kas_phase phase)
{
    const bench_options *options = state->options;
    TOOL_TRY(open_device(state));
    TOOL_TRY(bench_plan_create(&options->plan, &state->plan));
    state->desc.struct_size = sizeof(state->desc);
    TOOL_TRY_LIBRARY(kas_plan_get_desc(state->plan, &state->desc));
    state->layers = bench_layers_of(state->plan);
    int dtype = options->dtype >= 0 ? options->dtype : !state->info.host_memory;
    state->shape = (bench_shape){
        .phase = phase,
        .batch = options->batch,
        .keys = options->keys,
        .heads = state->desc.heads,
        .kv_heads = state->desc.kv_heads,
        .head_dim = options->head_dim,
        .tile = state->desc.tile,
        .dtype = named_dtype(dtype),
        .estimated = state->desc.normalizer == KAS_NORMALIZER_ESTIMATED,
        .layer0_rows = state->layers.layer0_rows,
    };
    const kas_session_desc desc = {
        .struct_size = sizeof(desc),
        .plan = state->plan,
        .head_dim = options->head_dim,
        .dtype = state->shape.dtype,
        .max_batch = options->batch,
        .max_queries = prefill(state) ? options->keys : 0,
        .max_keys = options->keys,
    };
    double begin = clock_ms();
    TOOL_TRY_LIBRARY(kas_session_create(state->context, &desc, &state->session));
    state->create_ms = clock_ms() - begin;
    TOOL_TRY(bench_inputs_create(state->context, state->stream, &state->shape, &state->inputs));
    return bench_ceiling_create(state->context, state->info.host_memory, prefill(state), state->info.compute_units,
                                &state->ceiling);
}

static void release(bench_state *state)
{
    bench_ceiling_destroy(state->ceiling);
    bench_inputs_destroy(&state->inputs);
    kas_timer_destroy(state->timer);
    kas_stream_destroy(state->stream);
    kas_session_destroy(state->session);
    kas_plan_destroy(state->plan);
    kas_context_destroy(state->context);
}

/* ---- Figures --------------------------------------------------------------------------------------------------- */

static bench_figures figures_of(bench_state *state)
{
    bench_figures figures = {0};
    figures.ceiling_time = samples_summarize(&state->ceiling_times);
    figures.ceiling_rate = bench_ceiling_work(state->ceiling) / (figures.ceiling_time.median * 1e-3);
    figures.bound = figures.ceiling_rate;
    if (prefill(state) && !state->info.host_memory)
        figures.bound = state->options->matrix_peak * 1e12;
    for (bench_kind kind = BENCH_DENSE; kind < BENCH_KINDS; kind++) {
        if (!is_timed(state, kind))
            continue;
        figures.present[kind] = true;
        figures.times[kind] = samples_summarize(&state->times[kind]);
        figures.rates[kind] =
            bench_work(&state->shape, state->session, kind) / (figures.times[kind].median * 1e-3);
        figures.whole += state->layers.count[kind] * figures.times[kind].median;
        figures.whole_dense += state->layers.count[kind] * figures.times[BENCH_DENSE].median;
    }
    return figures;
}

static void print_line(const char *title, const char *times, const sample_summary *time, double rate, double of_dense,
                       double of_bound)
{
    printf("  %-8s %4s %12.4f %12.4f %12.4f %9.1f", title, times, time->median, time->min, time->max, rate * 1e-9);
    if (of_dense > 0)
        printf("  %8.3f", of_dense);
    else if (of_bound > 0)
        printf("  %8s", "");
    if (of_bound > 0)
        printf("  %6.1f %%", of_bound * 100);
    putchar('\n');
}

static void print_rows(const bench_state *state)
{
    const char *operation, *before = "  rows: ";
    for (uint32_t i = 0; (operation = kas_operation_name(i)); i++) {
        const char *row = kas_session_variant(state->session, operation);
        if (!row)
            continue;
        printf("%s%s %s", before, operation, row);
        before = ", ";
    }
    printf("\n\n");
}

static void print_figures(const bench_state *state, const bench_figures *figures)
{
    const bench_shape *shape = &state->shape;
    const char *unit = prefill(state) ? "GFLOP/s" : "GB/s";
    char bound[32] = "";
    if (figures->bound > 0)
        snprintf(bound, sizeof(bound), "of %s",
                 figures->bound == figures->ceiling_rate ? bench_ceiling_name(state->ceiling) : "peak");
    printf("%s, %s\n", state->info.name, state->info.description);
    printf("%s, batch %u, %u keys, %u heads on %u kv heads of %u, %s, tile %u, top-k %g, %s normaliser\n",
           phase_names[!prefill(state)], shape->batch, shape->keys, shape->heads, shape->kv_heads, shape->head_dim,
           dtype_names[shape->dtype - FIRST_DTYPE], shape->tile, state->desc.topk.fraction,
           normalizer_names[shape->estimated]);
    printf("  %-8s %4s %12s %12s %12s %9s  %8s  %8s\n", "", "", "median ms", "least", "greatest", unit, "of dense",
           bound);
    for (bench_kind kind = BENCH_DENSE; kind < BENCH_KINDS; kind++) {
        char count[16];
        snprintf(count, sizeof(count), "%ux", state->layers.count[kind]);
        if (figures->present[kind])
            print_line(bench_kind_titles[kind], count, &figures->times[kind], figures->rates[kind],
                       figures->times[kind].median / figures->times[BENCH_DENSE].median,
                       figures->bound > 0 ? figures->rates[kind] / figures->bound : 0);
    }
    bool copies = !state->info.host_memory;
    print_line(bench_ceiling_name(state->ceiling), "", &figures->ceiling_time, figures->ceiling_rate, 0, 0);
    printf("  the plan's %u layers: %.4f ms, all dense %.4f ms: %.2f times faster (%u of %u lists of layer 0 read)\n",
           state->desc.layers, figures->whole, figures->whole_dense, figures->whole_dense / figures->whole,
           shape->layer0_rows, shape->kv_heads);
    if (copies)
        printf("  %s: bytes read and written by copies within the device%s\n", bench_ceiling_name(state->ceiling),
               prefill(state) ? "; the matrix peak is not measured" : "");
    print_rows(state);
}

static cJSON *summary_json(const sample_summary *time, double rate, const char *rate_name)
{
    cJSON *object = cJSON_CreateObject();
    cJSON_AddNumberToObject(object, "median_ms", time->median);
    cJSON_AddNumberToObject(object, "min_ms", time->min);
    cJSON_AddNumberToObject(object, "max_ms", time->max);
    cJSON_AddNumberToObject(object, rate_name, rate);
    return object;
}

static void add_shape(cJSON *object, const bench_state *state)
{
    const bench_shape *shape = &state->shape;
    const struct {
        const char *name;
        uint32_t value;
    } numbers[] = {{"batch", shape->batch},       {"keys", shape->keys},         {"heads", shape->heads},
                   {"kv_heads", shape->kv_heads}, {"head_dim", shape->head_dim}, {"tile", shape->tile},
                   {"layers", state->desc.layers}, {"layer0_rows", shape->layer0_rows}};
    cJSON_AddStringToObject(object, "phase", phase_names[!prefill(state)]);
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
        cJSON_AddNumberToObject(object, numbers[i].name, numbers[i].value);
    cJSON_AddStringToObject(object, "dtype", dtype_names[shape->dtype - FIRST_DTYPE]);
    cJSON_AddNumberToObject(object, "topk", state->desc.topk.fraction);
    cJSON_AddStringToObject(object, "normalizer", normalizer_names[shape->estimated]);
}

static cJSON *figures_json(const bench_state *state, const bench_figures *figures)
{
    const char *rate = prefill(state) ? "flop_per_s" : "bytes_per_s";
    cJSON *object = cJSON_CreateObject();
    add_shape(object, state);
    cJSON *kinds = cJSON_AddObjectToObject(object, "kinds");
    for (bench_kind kind = BENCH_DENSE; kind < BENCH_KINDS; kind++) {
        if (!figures->present[kind])
            continue;
        cJSON *item = summary_json(&figures->times[kind], figures->rates[kind], rate);
        cJSON_AddNumberToObject(item, "count", state->layers.count[kind]);
        cJSON_AddNumberToObject(item, "of_dense", figures->times[kind].median / figures->times[BENCH_DENSE].median);
        if (figures->bound > 0)
            cJSON_AddNumberToObject(item, "of_bound", figures->rates[kind] / figures->bound);
        cJSON_AddItemToObject(kinds, kind_keys[kind], item);
    }
    bool products = prefill(state) && state->info.host_memory;
    cJSON *ceiling =
        summary_json(&figures->ceiling_time, figures->ceiling_rate, products ? "flop_per_s" : "bytes_per_s");
    cJSON_AddStringToObject(ceiling, "measured", bench_ceiling_name(state->ceiling));
    cJSON_AddItemToObject(object, "ceiling", ceiling);
    if (figures->bound > 0)
        cJSON_AddNumberToObject(object, "bound", figures->bound);
    cJSON_AddNumberToObject(object, "whole_ms", figures->whole);
    cJSON_AddNumberToObject(object, "whole_dense_ms", figures->whole_dense);
    cJSON_AddNumberToObject(object, "speedup", figures->whole_dense / figures->whole);
    cJSON *rows = cJSON_AddObjectToObject(object, "rows");
    const char *operation;
    for (uint32_t i = 0; (operation = kas_operation_name(i)); i++) {
        const char *row = kas_session_variant(state->session, operation);
        if (row)
            cJSON_AddStringToObject(rows, operation, row);
    }
    return object;
}

/* ---- Phases ---------------------------------------------------------------------------------------------------- */

static void report(bench_state *state, cJSON *root)
{
    bench_figures figures = figures_of(state);
    if (!root) {
        print_figures(state, &figures);
        return;
    }
    if (!cJSON_GetObjectItemCaseSensitive(root, "device")) {
        cJSON_AddStringToObject(root, "device", state->info.name);
        cJSON_AddStringToObject(root, "description", state->info.description);
        cJSON_AddStringToObject(root, "driver", state->info.driver);
        cJSON_AddNumberToObject(root, "compute_units", state->info.compute_units);
        cJSON_AddArrayToObject(root, "phases");
    }
    cJSON_AddItemToArray(cJSON_GetObjectItemCaseSensitive(root, "phases"), figures_json(state, &figures));
}

static kas_status measure_phase(const bench_options *options, kas_phase phase, cJSON *root)
{
    static bench_state state;
    state = (bench_state){.options = options};
    kas_status status = prepare(&state, phase);
    if (status == KAS_OK)
        status = run_rounds(&state);
    if (status == KAS_OK)
        report(&state, root);
    release(&state);
    return status;
}

/* ---- Tuning ---------------------------------------------------------------------------------------------------- */

static void fill_trial(bench_state *state, const char *operation, tune_trial *trial)
{
    const char *row = kas_session_variant(state->session, operation);
    *trial = (tune_trial){.create = state->create_ms};
    snprintf(trial->row, sizeof(trial->row), "%s", row ? row : "");
    for (bench_kind kind = BENCH_DENSE; kind < BENCH_KINDS; kind++)
        if (is_timed(state, kind))
            trial->median[kind] = samples_summarize(&state->times[kind]).median;
}

static kas_status measure_trial(void *user, kas_phase phase, const char *variant, const char *operation,
                                tune_trial *trial)
{
    static bench_state state;
    bench_options options = *(const bench_options *)user;
    options.variant = variant;
    state = (bench_state){.options = &options};
    kas_status status = prepare(&state, phase);
    if (status == KAS_OK)
        status = run_rounds(&state);
    if (status == KAS_OK)
        fill_trial(&state, operation, trial);
    release(&state);
    return status;
}

static kas_status tune_phases(bench_options *options, char *text)
{
    kas_context *context;
    const kas_context_desc desc = {
        .struct_size = sizeof(desc), .device = options->device, .threads = options->threads};
    TOOL_TRY_LIBRARY(kas_context_create(&desc, &context));
    kas_status status = KAS_OK;
    if (options->phase <= 0)
        status = tune_phase(context, KAS_PHASE_PREFILL, measure_trial, options, text);
    if (status == KAS_OK && options->phase != 0)
        status = tune_phase(context, KAS_PHASE_DECODE, measure_trial, options, text);
    kas_context_destroy(context);
    return status;
}

static kas_status tune(bench_options *options)
{
    char text[TUNE_TEXT_SIZE] = "";
    TOOL_TRY(tune_phases(options, text));
    printf("chosen:\n%s", text);
    return options->write ? out_file_save(options->write, text) : KAS_OK;
}

/* ---- The command ----------------------------------------------------------------------------------------------- */

static kas_status bench_command(int argc, char **argv)
{
    bench_options options = {.device = "cpu",
                             .plan = {.normalizer = -1},
                             .phase = -1,
                             .dtype = -1,
                             .keys = 16384,
                             .batch = 1,
                             .head_dim = 128};
    bool help = false;
    TOOL_TRY(parse(argc, argv, &options, &help));
    if (help)
        return KAS_OK;
    if (options.tune)
        return tune(&options);
    cJSON *root = options.json ? cJSON_CreateObject() : NULL;
    if (root)
        cJSON_AddStringToObject(root, "version", kas_version());
    kas_status status = KAS_OK;
    if (options.phase <= 0)
        status = measure_phase(&options, KAS_PHASE_PREFILL, root);
    if (status == KAS_OK && options.phase != 0)
        status = measure_phase(&options, KAS_PHASE_DECODE, root);
    if (status == KAS_OK && root)
        return json_print(root);
    cJSON_Delete(root);
    return status;
}

const tool_command command_bench = {"bench", "time the layers of a plan on a device", bench_command};
