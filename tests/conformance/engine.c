/* engine.c - the loop over cases and variant rows, and the account of which rows were forced. */
#define _POSIX_C_SOURCE 200809L

#include "engine.h"

#include "commit.h"
#include "memory.h"
#include "runner.h"

#include <pthread.h>
#include <regex.h>
#include <stdarg.h>
#include <string.h>
#include <time.h>

#define BEST "best"

#define TRY(expression)                                                                                                \
    do {                                                                                                               \
        kas_status check_status = (expression);                                                                        \
        if (check_status != KAS_OK)                                                                                    \
            return check_status;                                                                                       \
    } while (0)

/* A context whose sessions prefer rows of one name. */
typedef struct forced {
    char name[32]; /* BEST: as the library chooses */
    kas_context *context;
} forced;

/* What a case gave with a forced name. */
typedef struct outcome {
    bool wanted, counted; /* counted: the session used a row of the name */
    conformance_result result;
} outcome;

typedef struct engine {
    const conformance_options *options;
    conformance_report *report;
    regex_t filter;
    kas_context *context; /* whose table of rows is read */
    forced *forced;
    uint32_t forced_count;
    conformance_case *cases;
    uint32_t case_count;
    outcome *outcomes; /* [case_count][forced_count], so that the report's order is that of the cases */
    uint32_t planned;
    pthread_mutex_t mutex; /* of all below, and of the report's counts */
    uint32_t next_case;
} engine;

/* One of the threads that take cases. */
typedef struct worker {
    engine *engine;
    uint32_t index;
    pthread_t thread;
} worker;

static char error_text[320];

const char *conformance_error(void)
{
    return error_text;
}

static kas_status fail(kas_status status, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error_text, sizeof(error_text), format, arguments);
    va_end(arguments);
    return status;
}

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* ---- Contexts -------------------------------------------------------------------------------------------------- */

static kas_status open_context(const engine *e, const char *variant, kas_context **context)
{
    kas_context_desc desc = {
        .struct_size = sizeof(desc),
        .device = e->options->device,
        .threads = e->options->threads,
        .variant = variant,
    };
    kas_status status = kas_context_create(&desc, context);
    return status == KAS_OK ? KAS_OK : fail(status, "%s", kas_last_error());
}

static forced *find_forced(const engine *e, const char *name)
{
    for (uint32_t i = 0; i < e->forced_count; i++)
        if (strcmp(e->forced[i].name, name) == 0)
            return &e->forced[i];
    return NULL;
}

static kas_status add_forced(engine *e, const char *name)
{
    forced *added = &e->forced[e->forced_count];
    TRY(open_context(e, strcmp(name, BEST) == 0 ? NULL : name, &added->context));
    snprintf(added->name, sizeof(added->name), "%s", name);
    e->forced_count++;
    return KAS_OK;
}

static void add_row(engine *e, const kas_variant_info *info)
{
    conformance_row *row = &e->report->rows[e->report->row_count++];
    snprintf(row->operation, sizeof(row->operation), "%s", info->operation);
    snprintf(row->variant, sizeof(row->variant), "%s", info->name);
    row->dtypes = info->dtypes;
    row->min_head_dim = info->min_head_dim;
    row->max_head_dim = info->max_head_dim;
}

/* One context a row name, the choice of the library last. */
static kas_status open_contexts(engine *e)
{
    uint32_t count = kas_context_variant_count(e->context);
    e->report->rows = memory_alloc(count, sizeof(conformance_row));
    e->forced = memory_alloc(count + 1, sizeof(forced));
    for (uint32_t i = 0; i < count; i++) {
        kas_variant_info info = {.struct_size = sizeof(info)};
        if (kas_context_get_variant(e->context, i, &info) != KAS_OK || !info.usable)
            continue;
        add_row(e, &info);
        if (!find_forced(e, info.name))
            TRY(add_forced(e, info.name));
    }
    return add_forced(e, BEST);
}

/* Whether a row of this name could take part in the case; a session decides it in the end. */
static bool may_take(const engine *e, const char *name, const conformance_case *c)
{
    if (strcmp(name, BEST) == 0)
        return c->operation == CASE_LAYERS;
    for (uint32_t i = 0; i < kas_context_variant_count(e->context); i++) {
        kas_variant_info info = {.struct_size = sizeof(info)};
        if (kas_context_get_variant(e->context, i, &info) != KAS_OK || !info.usable || strcmp(info.name, name) != 0)
            continue;
        bool fits = (info.dtypes & 1u << c->dtype) && c->head_dim >= info.min_head_dim &&
                    c->head_dim <= info.max_head_dim && (c->head_dim - info.min_head_dim) % info.head_dim_step == 0;
        for (const char *const *operation = cases_operations(c); fits && *operation; operation++)
            if (strcmp(*operation, info.operation) == 0)
                return true;
    }
    return false;
}

/* ---- Cases ----------------------------------------------------------------------------------------------------- */

/* The rows of the forced name that a session really used. */
typedef struct used_rows {
    const char *name;
    uint32_t count;
    const char *operations[16];
} used_rows;

static void note_row(void *user, const char *operation, const char *variant)
{
    used_rows *used = user;
    if (strcmp(used->name, variant) == 0 && used->count < 16)
        used->operations[used->count++] = operation;
}

static bool is_row_of(const conformance_row *row, const char *variant, const char *operation,
                      const conformance_case *c)
{
    return strcmp(row->variant, variant) == 0 && strcmp(row->operation, operation) == 0 &&
           (row->dtypes & 1u << c->dtype) && c->head_dim >= row->min_head_dim && c->head_dim <= row->max_head_dim;
}

static void count_result(conformance_row *row, const conformance_result *result)
{
    double share = result->bound > 0.0 ? result->error / result->bound : 0.0;
    row->passed += result->verdict == CONFORMANCE_PASSED;
    row->failed += result->verdict == CONFORMANCE_FAILED;
    if (share > row->share) {
        row->share = share;
        snprintf(row->nearest, sizeof(row->nearest), "%s", result->name);
    }
}

static void count_rows(engine *e, const used_rows *used, const conformance_case *c, const conformance_result *result)
{
    for (uint32_t n = 0; n < used->count; n++) {
        for (uint32_t i = 0; i < e->report->row_count; i++) {
            conformance_row *row = &e->report->rows[i];
            if (is_row_of(row, used->name, used->operations[n], c))
                count_result(row, result);
        }
    }
}

/* Counts the outcome and reports it; the results themselves are gathered at the end. */
static void keep_outcome(engine *e, const used_rows *used, const conformance_case *c, outcome *o)
{
    conformance_report *report = e->report;
    pthread_mutex_lock(&e->mutex);
    o->counted = true;
    count_rows(e, used, c, &o->result);
    report->result_count++;
    report->passed += o->result.verdict == CONFORMANCE_PASSED;
    report->failed += o->result.verdict == CONFORMANCE_FAILED;
    report->skipped += o->result.verdict == CONFORMANCE_SKIPPED;
    if (e->options->progress)
        e->options->progress(e->options->user, &o->result, report->result_count, e->planned);
    pthread_mutex_unlock(&e->mutex);
}

static void run_once(const forced *f, const case_data *data, expect_cache *expected, const conformance_case *c,
                     used_rows *used, conformance_result *result)
{
    if (c->operation == CASE_FAR)
        runner_run_far(f->context, c, note_row, used, result);
    else
        runner_run(f->context, data, expected, note_row, used, result);
}

static void run_forced(engine *e, const forced *f, const case_data *data, expect_cache *expected,
                       const conformance_case *c, outcome *o)
{
    conformance_result *result = &o->result, again = {0};
    used_rows used = {.name = f->name}, ignored = {.name = f->name};
    double begun = seconds();
    snprintf(result->name, sizeof(result->name), "%s", c->name);
    snprintf(result->variant, sizeof(result->variant), "%s", f->name);
    run_once(f, data, expected, c, &used, result);
    if ((c->traits & CASE_REPEAT) && result->verdict == CONFORMANCE_PASSED) {
        run_once(f, data, expected, c, &ignored, &again);
        if (again.verdict != CONFORMANCE_PASSED || again.digest != result->digest)
            result_fail(result, "a second run gave other bits");
    }
    result->seconds = seconds() - begun;
    /* A session that found none of the rows to fit ran the library's choice: not a case of this name. */
    if (result->verdict == CONFORMANCE_PASSED && used.count == 0 && strcmp(f->name, BEST) != 0)
        return;
    keep_outcome(e, &used, c, o);
}

static bool is_wanted(const engine *e, const conformance_case *c, const char *name)
{
    char text[192];
    snprintf(text, sizeof(text), "%s@%s", c->name, name);
    return may_take(e, name, c) && (!e->options->filter || regexec(&e->filter, text, 0, NULL, 0) == 0);
}

/* With every wanted name, beginning with another one in each thread: the first use of a row may compile it. */
static void run_case(engine *e, uint32_t n, uint32_t first)
{
    const conformance_case *c = &e->cases[n];
    case_data *data = NULL;
    expect_cache *expected = NULL;
    for (uint32_t k = 0; k < e->forced_count; k++) {
        uint32_t i = (first + k) % e->forced_count;
        outcome *o = &e->outcomes[(size_t)n * e->forced_count + i];
        if (!o->wanted)
            continue;
        if (!data && c->operation != CASE_FAR) {
            data = data_make(c);
            expected = expect_make(data);
        }
        run_forced(e, &e->forced[i], data, expected, c, o);
    }
    if (data) {
        expect_free(expected);
        data_free(data);
    }
}

static void *take_cases(void *argument)
{
    worker *w = argument;
    engine *e = w->engine;
    for (;;) {
        pthread_mutex_lock(&e->mutex);
        uint32_t n = e->next_case++;
        pthread_mutex_unlock(&e->mutex);
        if (n >= e->case_count)
            return NULL;
        run_case(e, n, w->index);
    }
}

static void plan_cases(engine *e)
{
    e->cases = cases_make(e->options->tier, e->options->seed, &e->case_count);
    e->outcomes = memory_alloc((size_t)e->case_count * e->forced_count, sizeof(outcome));
    for (uint32_t n = 0; n < e->case_count; n++) {
        for (uint32_t i = 0; i < e->forced_count; i++) {
            bool wanted = is_wanted(e, &e->cases[n], e->forced[i].name);
            e->outcomes[(size_t)n * e->forced_count + i].wanted = wanted;
            e->planned += wanted;
        }
    }
}

static void gather_results(engine *e)
{
    e->report->results = memory_alloc(e->report->result_count, sizeof(conformance_result));
    uint32_t count = 0;
    for (size_t i = 0; i < (size_t)e->case_count * e->forced_count; i++)
        if (e->outcomes[i].counted)
            e->report->results[count++] = e->outcomes[i].result;
}

/* The calling thread is the first worker; a thread that cannot be started leaves its share to the others. */
static void run_all(engine *e)
{
    uint32_t count = e->options->jobs ? e->options->jobs : 1, started = 1;
    worker *workers = memory_alloc(count, sizeof(worker));
    plan_cases(e);
    for (uint32_t i = 0; i < count; i++)
        workers[i] = (worker){.engine = e, .index = i};
    while (started < count && pthread_create(&workers[started].thread, NULL, take_cases, &workers[started]) == 0)
        started++;
    take_cases(&workers[0]);
    for (uint32_t i = 1; i < started; i++)
        pthread_join(workers[i].thread, NULL);
    gather_results(e);
    free(workers);
}

/* ---- The whole ------------------------------------------------------------------------------------------------- */

static kas_status describe_device(engine *e)
{
    kas_device_info info = {.struct_size = sizeof(info)};
    kas_status status = kas_context_get_info(e->context, &info);
    if (status != KAS_OK)
        return fail(status, "%s", kas_last_error());
    snprintf(e->report->device, sizeof(e->report->device), "%s", info.name);
    snprintf(e->report->driver, sizeof(e->report->driver), "%s", info.driver);
    snprintf(e->report->description, sizeof(e->report->description), "%s", info.description);
    e->report->features = info.features;
    return KAS_OK;
}

static kas_status run_device(engine *e)
{
    TRY(open_context(e, NULL, &e->context));
    TRY(describe_device(e));
    TRY(open_contexts(e));
    run_all(e);
    for (uint32_t i = 0; i < e->report->row_count; i++)
        e->report->untested += e->report->rows[i].passed + e->report->rows[i].failed == 0;
    return KAS_OK;
}

kas_status conformance_run(const conformance_options *options, conformance_report *report)
{
    engine e = {.options = options, .report = report, .mutex = PTHREAD_MUTEX_INITIALIZER};
    double begun = seconds();
    *report = (conformance_report){.tier = options->tier, .seed = options->seed, .commit = CONFORMANCE_COMMIT};
    if (options->filter && regcomp(&e.filter, options->filter, REG_EXTENDED | REG_NOSUB) != 0)
        return fail(KAS_ERROR_INVALID_ARGUMENT, "the filter \"%s\" is no extended regular expression", options->filter);
    kas_status status = run_device(&e);
    for (uint32_t i = 0; i < e.forced_count; i++)
        kas_context_destroy(e.forced[i].context);
    kas_context_destroy(e.context);
    free(e.forced);
    free(e.cases);
    free(e.outcomes);
    if (options->filter)
        regfree(&e.filter);
    report->duration_s = seconds() - begun;
    return status;
}

void conformance_report_free(conformance_report *report)
{
    free(report->results);
    free(report->rows);
    report->results = NULL;
    report->rows = NULL;
}

bool conformance_succeeded(const conformance_report *report)
{
    return report->failed == 0 && report->passed > 0;
}
