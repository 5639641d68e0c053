/*
 * cmd_conformance.c - `kascade conformance`: the engine's cases on one device, failures as they happen, a summary or a
 * JSON report at the end.
 */
#include "args.h"
#include "command.h"
#include "conformance_page.h"
#include "device_features.h"
#include "engine.h"
#include "json_out.h"
#include "out_file.h"
#include "progress.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char *verdict_name(conformance_verdict verdict)
{
    return verdict == CONFORMANCE_PASSED ? "passed" : verdict == CONFORMANCE_FAILED ? "failed" : "skipped";
}

/* ---- While it runs --------------------------------------------------------------------------------------------- */

typedef struct watcher {
    progress bar;
    bool quiet; /* standard output is for JSON */
} watcher;

static void watch(void *user, const conformance_result *result, uint32_t done, uint32_t total)
{
    watcher *w = user;
    if (result->verdict != CONFORMANCE_PASSED && !w->quiet) {
        progress_wipe(&w->bar);
        printf("%-7s %s@%s: %s\n", verdict_name(result->verdict), result->name, result->variant, result->message);
        fflush(stdout);
    }
    progress_update(&w->bar, total ? (double)done / total : 1.0);
}

/* ---- What came of it ------------------------------------------------------------------------------------------- */

static cJSON *result_json(const conformance_result *result)
{
    cJSON *object = cJSON_CreateObject();
    cJSON_AddStringToObject(object, "name", result->name);
    cJSON_AddStringToObject(object, "variant", result->variant);
    cJSON_AddStringToObject(object, "status", verdict_name(result->verdict));
    cJSON_AddNumberToObject(object, "error", result->error);
    cJSON_AddNumberToObject(object, "bound", result->bound);
    cJSON_AddNumberToObject(object, "seconds", (double)(uint64_t)(result->seconds * 1e6) * 1e-6);
    if (result->message[0])
        cJSON_AddStringToObject(object, "message", result->message);
    return object;
}

static cJSON *row_json(const conformance_row *row)
{
    bool ran = row->passed + row->failed > 0;
    cJSON *object = cJSON_CreateObject();
    cJSON_AddStringToObject(object, "operation", row->operation);
    cJSON_AddStringToObject(object, "variant", row->variant);
    cJSON_AddStringToObject(object, "status", row->failed ? "failed" : ran ? "passed" : "untested");
    cJSON_AddNumberToObject(object, "passed", row->passed);
    cJSON_AddNumberToObject(object, "failed", row->failed);
    cJSON_AddNumberToObject(object, "share", row->share);
    cJSON_AddStringToObject(object, "nearest", row->nearest);
    return object;
}

static cJSON *report_json(const conformance_report *report, const char *filter)
{
    cJSON *root = cJSON_CreateObject();
    cJSON_AddStringToObject(root, "device", report->device);
    cJSON_AddStringToObject(root, "description", report->description);
    cJSON_AddStringToObject(root, "driver", report->driver);
    cJSON_AddItemToObject(root, "features", features_json(report->features));
    cJSON_AddStringToObject(root, "version", kas_version());
    cJSON_AddStringToObject(root, "commit", report->commit);
    cJSON_AddStringToObject(root, "tier", case_tier_name(report->tier));
    cJSON_AddStringToObject(root, "filter", filter ? filter : "");
    cJSON_AddNumberToObject(root, "seed", (double)report->seed);
    cJSON_AddNumberToObject(root, "passed", report->passed);
    cJSON_AddNumberToObject(root, "failed", report->failed);
    cJSON_AddNumberToObject(root, "skipped", report->skipped);
    cJSON_AddNumberToObject(root, "untested", report->untested);
    /* A whole number, as every top-level count; the fraction stands beside it. */
    cJSON_AddNumberToObject(root, "duration_s", (double)(uint64_t)(report->duration_s + 0.5));
    cJSON_AddNumberToObject(root, "duration_exact_s", report->duration_s);
    cJSON *rows = cJSON_AddArrayToObject(root, "rows");
    for (uint32_t i = 0; i < report->row_count; i++)
        cJSON_AddItemToArray(rows, row_json(&report->rows[i]));
    cJSON *cases = cJSON_AddArrayToObject(root, "cases");
    for (uint32_t i = 0; i < report->result_count; i++)
        cJSON_AddItemToArray(cases, result_json(&report->results[i]));
    return root;
}

static kas_status write_record(const char *path, const char *text)
{
    out_file record;
    TOOL_TRY(out_file_open(&record, path));
    fprintf(record.stream, "%s\n", text);
    return out_file_finish(&record);
}

/* The page lies beside the record: FILE.json becomes FILE.html, any other name gets .html appended. */
static kas_status write_page(const char *record_path, const cJSON *record)
{
    size_t length = strlen(record_path);
    if (length > 5 && strcmp(record_path + length - 5, ".json") == 0)
        length -= 5;
    char *path = malloc(length + sizeof(".html"));
    if (!path)
        return tool_fail_memory();
    memcpy(path, record_path, length);
    memcpy(path + length, ".html", sizeof(".html"));
    out_file page;
    kas_status status = out_file_open(&page, path);
    free(path);
    TOOL_TRY(status);
    conformance_page(page.stream, record);
    return out_file_finish(&page);
}

static void print_summary(const conformance_report *report)
{
    for (uint32_t i = 0; i < report->row_count; i++)
        if (report->rows[i].passed + report->rows[i].failed == 0)
            printf("untested row %s of %s\n", report->rows[i].variant, report->rows[i].operation);
    printf("%s (%s), driver %s, commit %s, %s tier, seed %" PRIu64 "\n", report->device, report->description,
           report->driver, report->commit, case_tier_name(report->tier), report->seed);
    printf("%u passed, %u failed, %u skipped, %u rows untested, %.1f s\n", report->passed, report->failed,
           report->skipped, report->untested, report->duration_s);
}

static kas_status write_files(const char *path, const cJSON *record)
{
    char *text = cJSON_Print(record);
    if (!text)
        return tool_fail_memory();
    kas_status status = write_record(path, text);
    cJSON_free(text);
    TOOL_TRY(status);
    return write_page(path, record);
}

static kas_status publish(const conformance_report *report, const char *filter, bool json, const char *path)
{
    if (!json)
        print_summary(report);
    if (!json && !path)
        return KAS_OK;
    cJSON *record = report_json(report, filter);
    kas_status status = path ? write_files(path, record) : KAS_OK;
    if (!json) {
        cJSON_Delete(record);
        return status;
    }
    kas_status printed = json_print(record);
    return status == KAS_OK ? printed : status;
}

static kas_status judge(const conformance_report *report)
{
    if (report->failed > 0)
        return tool_fail(KAS_ERROR_STATE, "%u of %u cases failed on %s", report->failed, report->result_count,
                         report->device);
    if (report->passed == 0)
        return tool_fail(KAS_ERROR_STATE, "no case ran on %s", report->device);
    return KAS_OK;
}

/* ---- The command ----------------------------------------------------------------------------------------------- */

static kas_status run_cases(conformance_options *options, bool json, const char *path)
{
    watcher w = {.quiet = json};
    conformance_report report;
    options->progress = watch;
    options->user = &w;
    progress_begin(&w.bar, "conformance");
    w.bar.lines = !json;
    kas_status status = conformance_run(options, &report);
    progress_end(&w.bar);
    if (status != KAS_OK) {
        conformance_report_free(&report);
        return tool_fail(status, "%s", conformance_error());
    }
    status = publish(&report, options->filter, json, path);
    if (status == KAS_OK)
        status = judge(&report);
    conformance_report_free(&report);
    return status;
}

static kas_status conformance_command(int argc, char **argv)
{
    conformance_options options = {.device = "cpu"};
    uint32_t seed = 1;
    bool quick = false, short_texts = false, small = false, json = false, table_of_records = false;
    const char *path = NULL;
    const args_option table[] = {
        {"--device", "D", "device to test, as `kascade devices` lists it (cpu)", ARGS_TEXT, &options.device},
        {"--filter", "RE", "only cases whose name@row matches an extended regular expression", ARGS_TEXT,
         &options.filter},
        {"--quick", NULL, "fewer shapes, each case with one storage type", ARGS_FLAG, &quick},
        {"--short", NULL, "the same over shorter sequences, for emulated processors", ARGS_FLAG, &short_texts},
        {"--small", NULL, "short sequences and few variations, for devices that compute slowly", ARGS_FLAG, &small},
        {"--seed", "N", "seed of every case's numbers (1)", ARGS_U32, &seed, 0, UINT32_MAX},
        {"--threads", "N", "threads of a CPU device (0: one a processor)", ARGS_U32, &options.threads, 0, 1024},
        {"--jobs", "N", "cases at the same time (1)", ARGS_U32, &options.jobs, 1, 256},
        {"--json", NULL, "print one JSON object: counts, rows and every case", ARGS_FLAG, &json},
        {"--report", "FILE", "write that object to a file, and a page to read beside it (.html)", ARGS_TEXT, &path},
        {"--table", NULL, "run nothing: print one table of the records given", ARGS_FLAG, &table_of_records},
    };
    const args_spec spec = {
        .command = "conformance",
        .operands = "[RECORD...]",
        .max_operands = 1024,
        .about = "Compares every variant row of a device with a double-precision oracle (docs/conformance/README.md).\n"
                 "Succeeds when at least one case ran and none failed.\n",
        .options = table,
        .option_count = sizeof(table) / sizeof(table[0]),
    };
    args_result result;
    TOOL_TRY(args_parse(&spec, argc, argv, &result));
    if (result.help)
        return KAS_OK;
    if (table_of_records)
        return conformance_table(result.operands, result.operand_count);
    if (result.operand_count > 0)
        return tool_fail(KAS_ERROR_INVALID_ARGUMENT, "\"%s\": records are taken with --table alone",
                         result.operands[0]);
    options.tier = small ? CASE_TIER_SMALL : short_texts ? CASE_TIER_SHORT : quick ? CASE_TIER_QUICK : CASE_TIER_FULL;
    options.seed = seed;
    return run_cases(&options, json, path);
}

const tool_command command_conformance = {"conformance", "compare every row of a device with the oracle",
                                          conformance_command};
