/* conformance_page.c - conformance records as HTML and as a table. */
#include "conformance_page.h"

#include "lm/mapped_file.h"

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
    fprintf(file, "</td></tr>\n<tr><th>cases</th><td>%.0f passed, %.0f failed, %.0f skipped; %.0f rows untested; %.0f s"
                  "</td></tr>\n</table>\n",
            number_of(record, "passed"), number_of(record, "failed"), number_of(record, "skipped"),
            number_of(record, "untested"), number_of(record, "duration_s"));
}

/* The largest error of a row's cases as a share of its bound, and the case it comes from. */
static double worst_case(const cJSON *record, const char *variant, const char **name)
{
    double worst = 0.0;
    *name = "";
    const cJSON *result;
    cJSON_ArrayForEach(result, cJSON_GetObjectItemCaseSensitive(record, "cases"))
    {
        double bound = number_of(result, "bound");
        if (strcmp(text_of(result, "variant"), variant) != 0 || bound <= 0.0)
            continue;
        double share = number_of(result, "error") / bound;
        if (share >= worst) {
            worst = share;
            *name = text_of(result, "name");
        }
    }
    return worst;
}

static void rows(FILE *file, const cJSON *record)
{
    fputs("<h2>Rows</h2>\n<table>\n<tr><th>operation</th><th>row</th><th>passed</th><th>failed</th>"
          "<th>largest error, share of its bound</th><th>in</th></tr>\n",
          file);
    const cJSON *row;
    cJSON_ArrayForEach(row, cJSON_GetObjectItemCaseSensitive(record, "rows"))
    {
        const char *name, *variant = text_of(row, "variant"), *status = text_of(row, "status");
        double worst = worst_case(record, variant, &name);
        fprintf(file, "<tr class=%s><td>%s</td><td>", status, text_of(row, "operation"));
        escape(file, variant);
        fprintf(file, "</td><td>%.0f</td><td>%.0f</td><td>%.3f</td><td>", number_of(row, "passed"),
                number_of(row, "failed"), worst);
        escape(file, name);
        fputs("</td></tr>\n", file);
    }
    fputs("</table>\n", file);
}

static void complaints(FILE *file, const cJSON *record)
{
    fputs("<h2>Failed and skipped cases</h2>\n<table>\n", file);
    const cJSON *result;
    uint32_t count = 0;
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
        count++;
    }
    fputs(count ? "</table>\n" : "<tr><td>none</td></tr>\n</table>\n", file);
}

void conformance_page(FILE *file, const cJSON *record)
{
    fputs("<!DOCTYPE html>\n<html lang=en><meta charset=utf-8><title>libkascade conformance: ", file);
    escape(file, text_of(record, "description"));
    fputs("</title>\n<style>body{font:15px sans-serif;margin:2em;color:#222}table{border-collapse:collapse;margin:1em 0}"
          "td,th{border:1px solid #ccc;padding:.2em .6em;text-align:left;font-weight:normal}th{background:#f2f2f2}"
          ".failed td{background:#fdd}.skipped td,.untested td{background:#ffd}</style>\n<h1>libkascade conformance: ",
          file);
    escape(file, text_of(record, "description"));
    fputs("</h1>\n", file);
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
