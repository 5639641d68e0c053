/* report.c - see report.h: the numbers as JSON, and the page. */
#define _POSIX_C_SOURCE 200809L
#include "report.h"

#include "out_file.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- JSON ------------------------------------------------------------------------------------------------------- */

static cJSON *numbers(const uint32_t *values, uint32_t count)
{
    cJSON *array = cJSON_CreateArray();
    for (uint32_t i = 0; i < count; i++)
        cJSON_AddItemToArray(array, cJSON_CreateNumber(values[i]));
    return array;
}

/* Rounded to six digits: that is what a reader can use, and it keeps the file small. */
static cJSON *real(double value)
{
    char text[32];
    snprintf(text, sizeof(text), "%.6g", value);
    return isfinite(value) ? cJSON_CreateNumber(strtod(text, NULL)) : cJSON_CreateNull();
}

static void add_quality(cJSON *object, const quality *of)
{
    cJSON_AddItemToObject(object, "bits_per_byte", real(of->bits_per_byte));
    cJSON_AddItemToObject(object, "digit_bits", real(of->digit_bits));
    cJSON_AddItemToObject(object, "recall", real(of->recall));
    cJSON_AddItemToObject(object, "keys_share", real(of->keys_share));
}

static cJSON *float_matrix(const float *values, uint32_t rows, uint32_t columns)
{
    cJSON *matrix = cJSON_CreateArray();
    for (uint32_t i = 0; i < rows; i++) {
        cJSON *row = cJSON_CreateArray();
        for (uint32_t j = 0; j < columns; j++)
            cJSON_AddItemToArray(row, real(values[(size_t)i * columns + j]));
        cJSON_AddItemToArray(matrix, row);
    }
    return matrix;
}

static void add_measurements(const report *of, cJSON *root)
{
    const uint32_t layers = of->calibration->layers, kv_heads = of->calibration->kv_heads;
    cJSON *importance = cJSON_AddArrayToObject(root, "importance");
    for (uint32_t i = 0; i < layers; i++)
        cJSON_AddItemToArray(importance, real(of->calibration->importance[i]));
    cJSON *similarity = cJSON_AddArrayToObject(root, "layer_similarity");
    for (uint32_t a = 0; a < layers; a++) {
        cJSON *row = cJSON_CreateArray();
        for (uint32_t b = 0; b < layers; b++)
            cJSON_AddItemToArray(row, real(of->layer_similarity[(size_t)a * layers + b]));
        cJSON_AddItemToArray(similarity, row);
    }
    /* [anchor layer][layer][head of the layer][head of the anchor] */
    cJSON *heads = cJSON_AddArrayToObject(root, "head_similarity");
    for (uint32_t a = 0; a < layers; a++) {
        cJSON *row = cJSON_CreateArray();
        for (uint32_t b = 0; b < layers; b++)
            cJSON_AddItemToArray(row, float_matrix(of->calibration->similarity +
                                                       ((size_t)a * layers + b) * kv_heads * kv_heads,
                                                   kv_heads, kv_heads));
        cJSON_AddItemToArray(heads, row);
    }
    cJSON_AddItemToObject(root, "coverage",
                          float_matrix(of->at_k ? of->at_k->coverage : of->calibration->coverage, layers, kv_heads));
}

static cJSON *row_json(const report_row *row)
{
    cJSON *object = cJSON_CreateObject();
    cJSON_AddItemToObject(object, "anchors", numbers(row->anchors, row->count));
    cJSON_AddItemToObject(object, "objective", real(row->objective));
    cJSON_AddItemToObject(object, "search_loss", real(row->search_loss));
    cJSON_AddItemToObject(object, "bits_per_byte", real(row->bits_per_byte));
    cJSON_AddItemToObject(object, "change", real(row->change));
    cJSON_AddItemToObject(object, "recall", real(row->recall));
    cJSON_AddItemToObject(object, "prefill_cost", real(row->prefill_cost));
    cJSON_AddItemToObject(object, "decode_cost", real(row->decode_cost));
    return object;
}

static void add_plans(const report *of, cJSON *root)
{
    cJSON *plans = cJSON_AddArrayToObject(root, "plans");
    for (uint32_t i = 0; i < of->row_count; i++)
        cJSON_AddItemToArray(plans, row_json(&of->rows[i]));
    cJSON_AddNumberToObject(root, "chosen", of->chosen);
    cJSON *fractions = cJSON_AddArrayToObject(root, "fractions");
    for (uint32_t i = 0; i < of->share_count; i++) {
        cJSON *object = cJSON_CreateObject();
        cJSON_AddItemToObject(object, "fraction", real(of->shares[i]));
        add_quality(object, &of->at_share[i]);
        cJSON_AddItemToArray(fractions, object);
    }
}

cJSON *report_json(const report *of)
{
    kas_plan_desc plan = {.struct_size = sizeof(plan)};
    kas_plan_get_desc(of->plan, &plan);
    cJSON *root = cJSON_CreateObject();
    cJSON_AddStringToObject(root, "model", of->model);
    cJSON_AddStringToObject(root, "text", of->text);
    cJSON_AddStringToObject(root, "device", of->device);
    cJSON_AddStringToObject(root, "objective", of->objective);
    cJSON_AddNumberToObject(root, "prompts", of->prompts);
    cJSON_AddNumberToObject(root, "length", of->length);
    cJSON_AddNumberToObject(root, "tile", plan.tile);
    cJSON_AddNumberToObject(root, "held_out", of->held_out);
    cJSON_AddNumberToObject(root, "held_out_length", of->held_out_length);
    if (of->dense)
        add_quality(cJSON_AddObjectToObject(root, "dense"), of->dense);
    add_plans(of, root);
    add_measurements(of, root);
    return root;
}

/* ---- The page --------------------------------------------------------------------------------------------------- */

static void escape(FILE *file, const char *text)
{
    for (; *text; text++) {
        switch (*text) {
        case '<': fputs("&lt;", file); break;
        case '>': fputs("&gt;", file); break;
        case '&': fputs("&amp;", file); break;
        default: fputc(*text, file);
        }
    }
}

/* A section of its own: what is drawn, how it is to be read, the drawing. */
static void open_drawing(FILE *file, const char *title, const char *note, double width, double height)
{
    fprintf(file, "<section><h2>%s</h2>\n<p class=note>%s</p>\n<svg xmlns='http://www.w3.org/2000/svg' width='%.0f' "
                  "height='%.0f' role='img'>\n<title>%s</title>\n", title, note, width, height, title);
}

static void close_drawing(FILE *file)
{
    fputs("</svg></section>\n", file);
}

/* A line across the drawing, with its value on the scale. */
static void draw_grid_line(FILE *file, double left, double width, double y, double value, int decimals,
                           const char *unit)
{
    fprintf(file, "<line x1='%.0f' y1='%.1f' x2='%.0f' y2='%.1f' stroke='#e4e4e4'/><text x='%.0f' y='%.1f' "
                  "text-anchor='end'>%.*f%s</text>\n",
            left, y, left + width, y, left - 6, y + 4, decimals, value, unit);
}

static uint32_t anchor_of(const kas_plan_desc *plan, uint32_t layer)
{
    uint32_t segment = 0;
    while (segment + 1 < plan->anchor_count && plan->anchors[segment + 1] <= layer)
        segment++;
    return plan->anchors[segment];
}

/* Similarity without the weight of the layer, so that every column can be compared. */
static double unweighted(const report *of, uint32_t a, uint32_t b)
{
    const uint32_t layers = of->calibration->layers;
    const double own = of->layer_similarity[(size_t)b * layers + b];
    return own > 0 ? of->layer_similarity[(size_t)a * layers + b] / own : 1;
}

static double shade(double similarity)
{
    return 96 - 58 * (similarity < 0 ? 0 : similarity > 1 ? 1 : similarity);
}

static void draw_heat_scale(FILE *file, double left, double top)
{
    for (int i = 0; i <= 4; i++)
        fprintf(file, "<rect x='%.0f' y='%.0f' width='28' height='12' fill='hsl(210,60%%,%.0f%%)'/><text x='%.0f' "
                      "y='%.0f' text-anchor='middle'>%.2f</text>\n",
                left + 28 * i, top, shade(i / 4.0), left + 28 * i + 14, top + 24, i / 4.0);
}

static void draw_heat(FILE *file, const report *of, const kas_plan_desc *plan)
{
    const uint32_t layers = of->calibration->layers;
    const double cell = layers > 48 ? 12 : 28, left = 30, top = 24, side = layers * cell;
    open_drawing(file, "How well the lists of one layer serve another",
                 "Row: the layer that selects. Column: the layer that reads; 1 is as good as its own list. Red: the "
                 "plan's segments.", left + (side > 160 ? side : 160) + 10, top + side + 44);
    for (uint32_t a = 0; a < layers; a++) {
        fprintf(file, "<text x='%.0f' y='%.1f' text-anchor='end'>%u</text>\n", left - 6, top + (a + .65) * cell, a);
        fprintf(file, "<text x='%.1f' y='%.0f' text-anchor='middle'>%u</text>\n", left + (a + .5) * cell, top - 6, a);
        for (uint32_t b = a; b < layers; b++) {
            const double value = unweighted(of, a, b);
            fprintf(file, "<rect x='%.1f' y='%.1f' width='%.1f' height='%.1f' fill='hsl(210,60%%,%.0f%%)'><title>list "
                          "of layer %u, used by %u: %.3f</title></rect>\n",
                    left + b * cell, top + a * cell, cell, cell, shade(value), a, b, value);
        }
    }
    for (uint32_t b = 0; b < layers; b++)
        fprintf(file, "<rect x='%.1f' y='%.1f' width='%.1f' height='%.1f' fill='none' stroke='#d33' "
                      "stroke-width='2'/>\n",
                left + b * cell + 1, top + anchor_of(plan, b) * cell + 1, cell - 2, cell - 2);
    draw_heat_scale(file, left, top + side + 14);
    close_drawing(file);
}

static void draw_bars(FILE *file, const char *title, const char *note, const double *values, uint32_t count,
                      double most, int decimals, const kas_plan_desc *plan)
{
    const double step = count > 48 ? 14 : 32, height = 140, left = 44, top = 20, width = count * step;
    open_drawing(file, title, note, left + width + 10, top + height + 26);
    for (int i = 0; i <= 4; i++)
        draw_grid_line(file, left, width, top + height * (1 - i / 4.0), most * i / 4, 2, "");
    for (uint32_t i = 0; i < count; i++) {
        const double part = most > 0 && values[i] > 0 ? values[i] / most : 0, x = left + i * step;
        const bool anchor = anchor_of(plan, i) == i;
        fprintf(file, "<rect x='%.1f' y='%.1f' width='%.1f' height='%.1f' fill='%s'><title>layer %u: %.4f</title>"
                      "</rect>\n",
                x + 2, top + height * (1 - part), step - 4, height * part, anchor ? "#d33" : "#48b", i, values[i]);
        fprintf(file, "<text x='%.1f' y='%.0f' text-anchor='middle'>%u</text>\n", x + step / 2, top + height + 16, i);
        if (count <= 48)
            fprintf(file, "<text class=value x='%.1f' y='%.1f' text-anchor='middle'>%.*f</text>\n", x + step / 2,
                    top + height * (1 - part) - 4, decimals, values[i]);
    }
    close_drawing(file);
}

static void draw_importance(FILE *file, const report *of, const kas_plan_desc *plan)
{
    const uint32_t layers = of->calibration->layers;
    double *values = malloc(layers * sizeof(*values)), most = 0;
    if (!values)
        return;
    for (uint32_t i = 0; i < layers; i++) {
        values[i] = of->calibration->importance[i];
        most = values[i] > most ? values[i] : most;
    }
    draw_bars(file, "Importance of the layers", "How far attention turns a layer's input: 1 - cosine, averaged over "
              "tokens. Red: anchors.", values, layers, most, 3, plan);
    free(values);
}

static void draw_coverage(FILE *file, const report *of, const kas_plan_desc *plan)
{
    const kas_calibration *from = of->at_k ? of->at_k : of->calibration;
    char note[160] = "The share of its attention that a layer keeps with its own list. Red: anchors.";
    double *values = calloc(from->layers, sizeof(*values));
    if (!values)
        return;
    for (uint32_t i = 0; i < from->layers; i++)
        for (uint32_t y = 0; y < from->kv_heads; y++)
            values[i] += from->coverage[(size_t)i * from->kv_heads + y] / from->kv_heads;
    if (of->list_keys)
        snprintf(note, sizeof(note), "The share of its attention that a layer keeps with its own %u best keys. Red: "
                 "anchors.", of->list_keys);
    draw_bars(file, "Sparsity of the layers", note, values, from->layers, 1, 2, plan);
    free(values);
}

/* Points of a quality curve: bits per byte against dense, and whether what dense attention recalls is recalled. */
typedef struct curve {
    const char *title, *note, *unit; /* unit: of the horizontal axis, whose values are multiplied by x_factor */
    double x_factor;
    const double *x, *y;
    const bool *whole;
    uint32_t count;
} curve;

static void draw_curve(FILE *file, const curve *of)
{
    const double width = 400, height = 180, left = 60, top = 20;
    double low = 0, high = 0.01;
    for (uint32_t i = 0; i < of->count; i++) {
        low = of->y[i] < low ? of->y[i] : low;
        high = of->y[i] > high ? of->y[i] : high;
    }
    open_drawing(file, of->title, of->note, left + width + 40, top + height + 30);
    for (int i = 0; i <= 4; i++)
        draw_grid_line(file, left, width, top + height * (1 - i / 4.0), (low + (high - low) * i / 4) * 100, 1, "%");
    fprintf(file, "<line x1='%.0f' y1='%.1f' x2='%.0f' y2='%.1f' stroke='#999'/>\n", left,
            top + height * high / (high - low), left + width, top + height * high / (high - low));
    fputs("<polyline fill='none' stroke='#48b' points='", file);
    for (uint32_t i = 0; i < of->count; i++)
        fprintf(file, "%.1f,%.1f ", left + width * (i + .5) / of->count,
                top + height * (high - of->y[i]) / (high - low));
    fputs("'/>\n", file);
    for (uint32_t i = 0; i < of->count; i++) {
        const double x = left + width * (i + .5) / of->count, y = top + height * (high - of->y[i]) / (high - low);
        fprintf(file, "<circle cx='%.1f' cy='%.1f' r='4' fill='%s'/><text class=value x='%.1f' y='%.1f' "
                      "text-anchor='middle'>%+.1f%%</text>\n",
                x, y, of->whole[i] ? "#48b" : "#d33", x, y - 8, of->y[i] * 100);
        fprintf(file, "<text x='%.1f' y='%.0f' text-anchor='middle'>%g%s</text>\n", x, top + height + 18,
                of->x[i] * of->x_factor, of->unit);
    }
    close_drawing(file);
}

#define CURVE_NOTE                                                                                                     \
    "Bits per byte against dense attention, on the held-out texts. Red: values are forgotten that dense attention "    \
    "recalls."

static void draw_quality(FILE *file, const report *of)
{
    double x[64], y[64];
    bool whole[64];
    curve drawn = {.note = CURVE_NOTE, .x = x, .y = y, .whole = whole};
    for (uint32_t i = 0; i < of->row_count && drawn.count < 64; i++) {
        if (!isfinite(of->rows[i].change))
            continue;
        x[drawn.count] = of->rows[i].count;
        y[drawn.count] = of->rows[i].change;
        whole[drawn.count++] = of->rows[i].recall >= of->dense->recall;
    }
    drawn.title = "Quality against the number of anchors";
    drawn.unit = "";
    drawn.x_factor = 1;
    if (drawn.count > 0)
        draw_curve(file, &drawn);
    for (drawn.count = 0; drawn.count < of->share_count; drawn.count++) {
        const quality *found = &of->at_share[drawn.count];
        x[drawn.count] = of->shares[drawn.count];
        y[drawn.count] = found->bits_per_byte / of->dense->bits_per_byte - 1;
        whole[drawn.count] = found->recall >= of->dense->recall;
    }
    drawn.title = "Quality against the top-k fraction";
    drawn.unit = "%";
    drawn.x_factor = 100;
    if (drawn.count > 0)
        draw_curve(file, &drawn);
}

static void cell(FILE *file, double value, double factor, int decimals, const char *unit)
{
    if (isfinite(value))
        fprintf(file, "<td>%.*f%s</td>", decimals, value * factor, unit);
    else
        fputs("<td></td>", file);
}

static void write_plans(FILE *file, const report *of)
{
    fputs("<h2>Plans</h2>\n<p class=note>Objective: the similarity that is kept of that of own lists. Costs: predicted "
          "time of attention, dense is 1. Red: the plan that was kept.</p>\n"
          "<table><tr><th>K</th><th>anchors</th><th>objective</th><th>search loss</th><th>bits per byte</th>"
          "<th>change</th><th>recall</th><th>prefill cost</th><th>decode cost</th></tr>\n", file);
    for (uint32_t i = 0; i < of->row_count; i++) {
        const report_row *row = &of->rows[i];
        fprintf(file, "<tr%s><td>%u</td><td>", i == of->chosen ? " class=chosen" : "", row->count);
        for (uint32_t a = 0; a < row->count; a++)
            fprintf(file, "%s%u", a ? " " : "", row->anchors[a]);
        fputs("</td>", file);
        cell(file, row->objective, 1, 4, "");
        cell(file, row->search_loss, 100, 2, "%");
        cell(file, row->bits_per_byte, 1, 4, "");
        cell(file, row->change, 100, 2, "%");
        cell(file, row->recall, 1, 2, "");
        cell(file, row->prefill_cost, 1, 2, "");
        cell(file, row->decode_cost, 1, 2, "");
        fputs("</tr>\n", file);
    }
    fputs("</table>\n", file);
}

static void write_map(FILE *file, const kas_plan_desc *plan)
{
    fputs("<section><h2>Head map</h2>\n<p class=note>The row of its anchor's lists that each head reads. Red: "
          "anchors.</p>\n<table><tr><th>layer</th><th>anchor</th>", file);
    for (uint32_t g = 0; g < plan->kv_heads; g++)
        fprintf(file, "<th>head %u</th>", g);
    fputs("</tr>\n", file);
    for (uint32_t layer = 0; layer < plan->layers; layer++) {
        const bool anchor = anchor_of(plan, layer) == layer;
        fprintf(file, "<tr%s><td>%u</td><td>%u</td>", anchor ? " class=chosen" : "", layer, anchor_of(plan, layer));
        for (uint32_t g = 0; g < plan->kv_heads; g++)
            fprintf(file, "<td>%u</td>", plan->head_map[(size_t)layer * plan->kv_heads + g]);
        fputs("</tr>\n", file);
    }
    fputs("</table></section>\n", file);
}

static void write_page(FILE *file, const report *of)
{
    kas_plan_desc plan = {.struct_size = sizeof(plan)};
    kas_plan_get_desc(of->plan, &plan);
    fputs("<!DOCTYPE html>\n<html lang=en><meta charset=utf-8><title>Calibration of ", file);
    escape(file, of->model);
    fputs("</title>\n<style>body{font:15px sans-serif;margin:2em;color:#222}h2{font-size:1.15em;margin-bottom:.2em}"
          ".note{color:#666;max-width:32em;margin-top:.2em}.drawings{display:flex;flex-wrap:wrap;gap:1em 3em}"
          "svg text{font:11px sans-serif;fill:#444}svg .value{font-size:10px;fill:#777}table{"
          "border-collapse:collapse}td,th{border:1px solid #ccc;padding:.2em .6em;text-align:right;font-weight:normal}"
          "th{background:#f2f2f2}.chosen td{background:#fdd}</style>\n<h1>Calibration of ", file);
    escape(file, of->model);
    fprintf(file, "</h1>\n<p>Objective %s, %u prompts of %u bytes of ", of->objective, of->prompts, of->length);
    escape(file, of->text);
    fprintf(file, "; tiles of %u; %g%% of the keys, at least %u; on ", plan.tile, plan.topk.fraction * 100,
            plan.topk.min);
    escape(file, of->device);
    fputs(".</p>\n", file);
    if (of->dense)
        fprintf(file, "<p>Dense attention: %.4f bits per byte, recall %.2f, on %u held-out text%s of %u tokens.</p>\n",
                of->dense->bits_per_byte, of->dense->recall, of->held_out, of->held_out == 1 ? "" : "s",
                of->held_out_length);
    write_plans(file, of);
    fputs("<div class=drawings>\n", file);
    draw_heat(file, of, &plan);
    draw_importance(file, of, &plan);
    draw_coverage(file, of, &plan);
    draw_quality(file, of);
    write_map(file, &plan);
    fputs("</div></html>\n", file);
}

/* ---- Files ------------------------------------------------------------------------------------------------------ */

static kas_status open_in(out_file *made, const char *folder, const char *name)
{
    char path[4096];
    if (snprintf(path, sizeof(path), "%s/%s", folder, name) >= (int)sizeof(path))
        return tool_fail(KAS_ERROR_INVALID_ARGUMENT, "the path '%.60s...' is too long", folder);
    return out_file_open(made, path);
}

kas_status report_make_folder(const char *folder)
{
    if (mkdir(folder, 0777) != 0 && errno != EEXIST)
        return tool_fail(KAS_ERROR_IO, "%s: the folder cannot be made: %s", folder, strerror(errno));
    if (access(folder, W_OK | X_OK) != 0)
        return tool_fail(KAS_ERROR_IO, "%s: cannot be written: %s", folder, strerror(errno));
    return KAS_OK;
}

kas_status report_write(const report *of, const char *folder)
{
    out_file made;
    cJSON *root = report_json(of);
    char *text = root ? cJSON_Print(root) : NULL;
    cJSON_Delete(root);
    if (!text)
        return tool_fail_memory();
    kas_status status = open_in(&made, folder, "calibration.json");
    if (status == KAS_OK) {
        fprintf(made.stream, "%s\n", text);
        status = out_file_finish(&made);
    }
    cJSON_free(text);
    TOOL_TRY(status);
    TOOL_TRY(open_in(&made, folder, "calibration.html"));
    write_page(made.stream, of);
    return out_file_finish(&made);
}
