/* tune.c - see tune.h. */
#include "tune.h"

#include "../names.h"
#include "layers.h"

#include <stdio.h>
#include <string.h>

/* Another row must be faster by this much, so that noise does not choose. */
#define LEAST_GAIN 0.03

/* The layer whose time judges an operation's rows. Both phases select; decode spends more of a layer's time on it. */
static const struct {
    const char *operation;
    kas_phase phase;
    bench_kind kind;
} tuned[] = {
    {"attend", KAS_PHASE_PREFILL, BENCH_DENSE},      {"lse", KAS_PHASE_PREFILL, BENCH_ANCHOR},
    {"scores", KAS_PHASE_PREFILL, BENCH_ANCHOR},     {"sparse", KAS_PHASE_PREFILL, BENCH_REUSE},
    {"publish", KAS_PHASE_PREFILL, BENCH_ANCHOR},
    {"attend_split", KAS_PHASE_DECODE, BENCH_DENSE}, {"merge", KAS_PHASE_DECODE, BENCH_DENSE},
    {"logits", KAS_PHASE_DECODE, BENCH_ANCHOR},      {"pool", KAS_PHASE_DECODE, BENCH_ANCHOR},
    {"select", KAS_PHASE_DECODE, BENCH_ANCHOR},      {"sparse_split", KAS_PHASE_DECODE, BENCH_REUSE},
};

/* One operation being tuned. */
typedef struct tuning {
    const char *operation;
    bench_kind kind;
    tune_trial best;
} tuning;

static kas_status row_at(const kas_context *context, uint32_t index, kas_variant_info *row)
{
    *row = (kas_variant_info){.struct_size = sizeof(*row)};
    TOOL_TRY_LIBRARY(kas_context_get_variant(context, index, row));
    return KAS_OK;
}

/* Tables may hold several rows of one name, for different shapes: a name is tried once. */
static kas_status is_repeated(const kas_context *context, uint32_t index, const kas_variant_info *row, bool *repeated)
{
    *repeated = false;
    for (uint32_t i = 0; i < index && !*repeated; i++) {
        kas_variant_info earlier;
        TOOL_TRY(row_at(context, i, &earlier));
        *repeated = strcmp(earlier.operation, row->operation) == 0 && strcmp(earlier.name, row->name) == 0;
    }
    return KAS_OK;
}

static void append(char *text, const char *operation, const char *row)
{
    size_t used = strlen(text);
    snprintf(text + used, TUNE_TEXT_SIZE - used, "%s=%s\n", operation, row);
}

static void print_trial(const tuning *t, const tune_trial *trial)
{
    printf("  %-13s %-20s %-8s %12.4f %12.1f\n", t->operation, trial->row, bench_kind_titles[t->kind],
           trial->median[t->kind], trial->create);
    fflush(stdout);
}

/* A session that does not fit the row takes another one: then there is nothing to compare. */
static kas_status try_row(tuning *t, kas_phase phase, const char *row, tune_measure *measure, void *user,
                          const char *text)
{
    char wish[TUNE_TEXT_SIZE];
    tune_trial trial;
    snprintf(wish, sizeof(wish), "%s", text);
    append(wish, t->operation, row);
    TOOL_TRY(measure(user, phase, wish, t->operation, &trial));
    if (strcmp(trial.row, row) != 0)
        return KAS_OK;
    print_trial(t, &trial);
    if (trial.median[t->kind] < t->best.median[t->kind] * (1 - LEAST_GAIN))
        t->best = trial;
    return KAS_OK;
}

static kas_status tune_operation(const kas_context *context, tuning *t, kas_phase phase, tune_measure *measure,
                                 void *user, char *text)
{
    char usual[TUNE_NAME_SIZE];
    TOOL_TRY(measure(user, phase, text, t->operation, &t->best));
    if (t->best.row[0] == '\0' || t->best.median[t->kind] == 0)
        return KAS_OK;
    snprintf(usual, sizeof(usual), "%s", t->best.row);
    print_trial(t, &t->best);
    for (uint32_t i = 0; i < kas_context_variant_count(context); i++) {
        kas_variant_info row;
        bool repeated;
        TOOL_TRY(row_at(context, i, &row));
        TOOL_TRY(is_repeated(context, i, &row, &repeated));
        if (row.usable && !repeated && strcmp(row.operation, t->operation) == 0 && strcmp(row.name, usual) != 0)
            TOOL_TRY(try_row(t, phase, row.name, measure, user, text));
    }
    append(text, t->operation, t->best.row);
    return KAS_OK;
}

/* Rows of an operation that the device can run, by name. */
static kas_status count_rows(const kas_context *context, const char *operation, uint32_t *count)
{
    *count = 0;
    for (uint32_t i = 0; i < kas_context_variant_count(context); i++) {
        kas_variant_info row;
        bool repeated;
        TOOL_TRY(row_at(context, i, &row));
        TOOL_TRY(is_repeated(context, i, &row, &repeated));
        *count += row.usable && !repeated && strcmp(row.operation, operation) == 0;
    }
    return KAS_OK;
}

kas_status tune_phase(const kas_context *context, kas_phase phase, tune_measure *measure, void *user, char *text)
{
    printf("  %-13s %-20s %-8s %12s %12s\n", phase_names[phase], "row", "layer",
           "median ms", "create ms");
    for (size_t i = 0; i < sizeof(tuned) / sizeof(tuned[0]); i++) {
        tuning t = {.operation = tuned[i].operation, .kind = tuned[i].kind};
        uint32_t rows;
        TOOL_TRY(count_rows(context, t.operation, &rows));
        if (tuned[i].phase == phase && rows > 1)
            TOOL_TRY(tune_operation(context, &t, phase, measure, user, text));
    }
    return KAS_OK;
}
