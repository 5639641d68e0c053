/* conformance_page.c - conformance records as HTML and as a table. */
#include "conformance_page.h"

#include "lm/mapped_file.h"

#include <stdbool.h>
#include <string.h>

static const char *text_of(const cJSON *object, const char *name)
{
    const char *text = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(object, name));
    return text ? text : "";
}

static double number_of(const cJSON *object, const char *name)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
    return cJSON_IsNumber(item) ? item->valuedouble : 0.0;
}

/* ---- The page -------------------------------------------------------------------------------------------------- */

static void escape(FILE *file, const char *text)
{
    for (; *text; text++)
        switch (*text) {
        case '<': fputs("&lt;", file); break;
        case '>': fputs("&gt;", file); break;
        case '&': fputs("&amp;", file); break;
        case '"': fputs("&quot;", file); break;
        default: fputc(*text, file);
        }
}

/* One sentence, in colour. */
static void verdict(FILE *file, const cJSON *record)
{
    double passed = number_of(record, "passed"), failed = number_of(record, "failed");
    bool good = failed == 0.0 && passed > 0.0;
    fprintf(file, "<p class=\"verdict %s\">%.0f cases passed, %.0f failed, %.0f skipped; %.0f rows untested.</p>\n",
            good ? "passed" : "failed", passed, failed, number_of(record, "skipped"), number_of(record, "untested"));
}

static void fact(FILE *file, const char *name, const char *value)
{
    fprintf(file, "<tr><th>%s</th><td>", name);
    escape(file, value);
    fputs("</td></tr>\n", file);
}

static void facts(FILE *file, const cJSON *record)
{
    static const char *const names[] = {"device", "description", "driver", "version", "commit", "tier", "filter"};
    fputs("<table>\n", file);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (*text_of(record, names[i]))
            fact(file, names[i], text_of(record, names[i]));
    fputs("<tr><th>features</th><td>", file);
    const cJSON *feature;
    cJSON_ArrayForEach(feature, cJSON_GetObjectItemCaseSensitive(record, "features"))
    {
        escape(file, cJSON_IsString(feature) ? feature->valuestring : "");
        fputc(' ', file);
    }
    fprintf(file, "</td></tr>\n<tr><th>seed</th><td>%.0f</td></tr>\n<tr><th>time</th><td>%.0f s</td></tr>\n</table>\n",
            number_of(record, "seed"), number_of(record, "duration_s"));
}

static void row_line(FILE *file, const cJSON *row)
{
    const char *status = text_of(row, "status");
    bool measured = *text_of(row, "nearest") != '\0';
    fprintf(file, "<tr class=%s><td>%s</td><td>", status, text_of(row, "operation"));
    escape(file, text_of(row, "variant"));
    fprintf(file, "</td><td>%s</td><td class=n>%.0f</td><td class=n>%.0f</td><td class=n>", status,
            number_of(row, "passed"), number_of(row, "failed"));
    if (measured)
        fprintf(file, "%.3f", number_of(row, "share"));
    fputs("</td><td>", file);
    escape(file, text_of(row, "nearest"));
    fputs("</td></tr>\n", file);
}

/* Operation by operation, each one's rows in the order of the device's table: best first. */
static void rows(FILE *file, const cJSON *record)
{
    const cJSON *all = cJSON_GetObjectItemCaseSensitive(record, "rows"), *first, *row;
    fputs("<h2>Rows</h2>\n<p>Errors are those of the case that came nearest to its bound, as a share of it; a whole layer "
          "runs several rows.</p>\n<table>\n<tr><th>operation</th><th>row</th><th>verdict</th><th>passed</th><th>failed"
          "</th><th>error / bound</th><th>nearest case</th></tr>\n",
          file);
    cJSON_ArrayForEach(first, all)
    {
        const char *operation = text_of(first, "operation");
        bool met = false;
        for (row = all->child; row != first && !met; row = row->next)
            met = strcmp(text_of(row, "operation"), operation) == 0;
        for (row = first; row && !met; row = row->next)
            if (strcmp(text_of(row, "operation"), operation) == 0)
                row_line(file, row);
    }
    fputs("</table>\n", file);
}

static void complaints(FILE *file, const cJSON *record)
{
    const cJSON *result;
    if (number_of(record, "failed") + number_of(record, "skipped") == 0.0)
        return;
    fputs("<h2>Failed and skipped cases</h2>\n<table>\n<tr><th>verdict</th><th>case</th><th>row</th><th>why</th></tr>\n",
          file);
    cJSON_ArrayForEach(result, cJSON_GetObjectItemCaseSensitive(record, "cases"))
    {
        const char *status = text_of(result, "status");
        if (strcmp(status, "passed") == 0)
            continue;
        fprintf(file, "<tr class=%s><td>%s</td><td>", status, status);
        escape(file, text_of(result, "name"));
        fputs("</td><td>", file);
        escape(file, text_of(result, "variant"));
        fputs("</td><td>", file);
        escape(file, text_of(result, "message"));
        fputs("</td></tr>\n", file);
    }
    fputs("</table>\n", file);
}

void conformance_page(FILE *file, const cJSON *record)
{
    fputs("<!DOCTYPE html>\n<html lang=en><meta charset=utf-8><title>libkascade conformance: ", file);
    escape(file, text_of(record, "description"));
    fputs("</title>\n<style>body{font:15px sans-serif;margin:2em;color:#222}table{border-collapse:collapse;margin:1em 0}"
          "td,th{border:1px solid #ccc;padding:.2em .6em;text-align:left;font-weight:normal}th{background:#f2f2f2}"
          ".n{text-align:right}.verdict{padding:.5em .8em;font-weight:bold;display:inline-block}"
          ".verdict.passed{background:#dfd}.failed td,.verdict.failed{background:#fdd}"
          ".skipped td,.untested td{background:#ffd}</style>\n<h1>libkascade conformance: ",
          file);
    escape(file, text_of(record, "description"));
    fputs("</h1>\n", file);
    verdict(file, record);
    facts(file, record);
    rows(file, record);
    complaints(file, record);
    fputs("</html>\n", file);
}

/* ---- The table ------------------------------------------------------------------------------------------------- */

static kas_status print_line(const char *path)
{
    lm_mapped_file file;
    TOOL_TRY(lm_map_file(path, &file));
    cJSON *record = cJSON_ParseWithLength((const char *)file.data, file.size);
    lm_unmap_file(&file);
    if (!record || !*text_of(record, "device")) {
        cJSON_Delete(record);
        return tool_fail(KAS_ERROR_FORMAT, "%s is no conformance record", path);
    }
    printf("| %s | %s | %s | %s | %s | %.0f | %.0f | %.0f | %.0f | %.0f |\n", text_of(record, "device"),
           text_of(record, "description"), text_of(record, "driver"), text_of(record, "commit"),
           text_of(record, "tier"), number_of(record, "passed"), number_of(record, "failed"),
           number_of(record, "skipped"), number_of(record, "untested"), number_of(record, "duration_s"));
    cJSON_Delete(record);
    return KAS_OK;
}

kas_status conformance_table(const char *const *paths, uint32_t count)
{
    puts("| device | description | driver | commit | tier | passed | failed | skipped | rows untested | seconds |\n"
         "|---|---|---|---|---|---|---|---|---|---|");
    for (uint32_t i = 0; i < count; i++)
        TOOL_TRY(print_line(paths[i]));
    return KAS_OK;
}
