/*
 * plan_json.c - the file format of anchor plans (docs/plan-format.md): reading it from text that nobody vouches for,
 * and writing it so that people can read it.
 *
 * cJSON takes its memory from the C library, not from the caller's allocator: its hooks are global to the process and
 * not safe to change while other threads use cJSON, ours or the application's. What it takes is bounded by the limit
 * on the size of a file.
 */
#include "plan.h"
#include "platform.h"

#include <cJSON.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FORMAT_VERSION 1u
#define NESTING_LIMIT 32u /* the format needs 3; cJSON recurses once a level */

/* Names of enumerators in files, by value. */
static const char *const topk_mode_names[] = {"rolling", "fixed"};
static const char *const pooling_names[] = {"group", "all_heads"};
static const char *const normalizer_names[] = {"exact", "estimated"};

/* ---- Before cJSON sees the text -------------------------------------------------------------------------------- */

static size_t line_of(const char *text, size_t at)
{
    size_t line = 1;
    for (size_t i = 0; i < at; i++)
        line += text[i] == '\n';
    return line;
}

static kas_status check_encoding(const kas_plan_origin *origin, const char *text, size_t size)
{
    size_t valid = kas_utf8_prefix(text, size);
    if (valid < size)
        return kas_plan_reject(origin, "line %zu is not UTF-8: byte %zu of the text is 0x%02x", line_of(text, valid),
                               valid, (unsigned char)text[valid]);
    for (size_t i = 0; i < size; i++)
        if ((unsigned char)text[i] < 0x20 && text[i] != '\n' && text[i] != '\r' && text[i] != '\t')
            return kas_plan_reject(origin, "line %zu holds the control character 0x%02x", line_of(text, i),
                                   (unsigned char)text[i]);
    return KAS_OK;
}

/*
 * Depth of nesting; an end within an object, where releases of cJSON before 1.7.18 read on; and escaped zero
 * characters, which cJSON would take for the end of a name.
 */
static kas_status check_structure(const kas_plan_origin *origin, const char *text, size_t size)
{
    uint32_t depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < size; i++) {
        if (in_string && text[i] == '\\') {
            if (size - i >= 6 && memcmp(text + i, "\\u0000", 6) == 0)
                return kas_plan_reject(origin, "line %zu holds the character \\u0000", line_of(text, i));
            i++;
        } else if (text[i] == '"') {
            in_string = !in_string;
        } else if (!in_string && (text[i] == '[' || text[i] == '{')) {
            if (++depth > NESTING_LIMIT)
                return kas_plan_reject(origin, "line %zu nests deeper than %u levels", line_of(text, i),
                                       NESTING_LIMIT);
        } else if (!in_string && (text[i] == ']' || text[i] == '}')) {
            depth -= depth > 0;
        }
    }
    if (in_string || depth > 0)
        return kas_plan_reject(origin, "line %zu is not valid JSON: the text ends within %s",
                               line_of(text, size), in_string ? "a string" : "an array or object");
    return KAS_OK;
}

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static kas_status parse_text(const kas_plan_origin *origin, const char *text, size_t size, cJSON **root)
{
    KAS_TRY(check_encoding(origin, text, size));
    KAS_TRY(check_structure(origin, text, size));
    const char *end = text;
    kas_mutex_lock(kas_process_mutex()); /* cJSON notes where it failed in a variable of the process */
    cJSON *parsed = cJSON_ParseWithLengthOpts(text, size, &end, 0);
    kas_mutex_unlock(kas_process_mutex());
    size_t used = (size_t)(end - text);
    if (!parsed)
        return kas_plan_reject(origin, "line %zu is not valid JSON, or memory is exhausted", line_of(text, used));
    while (used < size && is_space(text[used]))
        used++;
    if (used < size) {
        cJSON_Delete(parsed);
        return kas_plan_reject(origin, "line %zu goes on behind the end of the plan", line_of(text, used));
    }
    *root = parsed;
    return KAS_OK;
}

/* ---- Reading fields -------------------------------------------------------------------------------------------- */

#define SHOWN_BYTES 40u

typedef struct value_text {
    char text[SHOWN_BYTES + 8];
} value_text;

/* A text of the file as a sentence shows it: quoted, cut short, without control characters. */
static value_text show_text(const char *text)
{
    value_text shown;
    size_t size = strlen(text);
    size_t kept = size > SHOWN_BYTES ? kas_utf8_prefix(text, SHOWN_BYTES) : size;
    snprintf(shown.text, sizeof(shown.text), "\"%.*s%s\"", (int)kept, text, kept < size ? "..." : "");
    for (char *c = shown.text; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = '?';
    return shown;
}

/* A JSON value as a sentence shows it. */
static value_text show(const cJSON *item)
{
    if (cJSON_IsString(item))
        return show_text(item->valuestring);
    value_text shown;
    if (cJSON_IsNumber(item))
        snprintf(shown.text, sizeof(shown.text), "%.17g", item->valuedouble);
    else
        snprintf(shown.text, sizeof(shown.text), "%s",
                 cJSON_IsArray(item)    ? "an array"
                 : cJSON_IsObject(item) ? "an object"
                 : cJSON_IsTrue(item)   ? "true"
                 : cJSON_IsFalse(item)  ? "false"
                                        : "null");
    return shown;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* An object, or FORMAT; a name that stands in it twice has no one meaning. */
static kas_status check_object(const kas_plan_origin *origin, const char *field, const cJSON *item)
{
    if (!cJSON_IsObject(item))
        return kas_plan_reject(origin, "%s is %s: it must be an object", field, show(item).text);
    size_t count = 0;
    for (const cJSON *child = item->child; child; child = child->next)
        count++;
    const char **names = kas_alloc(count, sizeof(*names));
    if (!names)
        return kas_fail_memory();
    size_t filled = 0;
    for (const cJSON *child = item->child; child; child = child->next)
        names[filled++] = child->string;
    qsort(names, count, sizeof(*names), compare_names);
    const char *repeated = NULL;
    for (size_t i = 1; i < count && !repeated; i++)
        repeated = strcmp(names[i - 1], names[i]) == 0 ? names[i] : NULL;
    kas_status status = repeated ? kas_plan_reject(origin, "%s names %s twice", field, show_text(repeated).text) : KAS_OK;
    kas_release(names);
    return status;
}

static void warn_of_unknown(const kas_plan_origin *origin, const char *field, const cJSON *object,
                            const char *const *known, size_t count)
{
    for (const cJSON *child = object->child; child; child = child->next) {
        size_t i = 0;
        while (i < count && strcmp(known[i], child->string) != 0)
            i++;
        if (i == count)
            kas_log(KAS_LOG_WARNING, "%s: %s holds %s, which is unknown and ignored", origin->name, field,
                    show_text(child->string).text);
    }
}

static kas_status whole_number(const kas_plan_origin *origin, const char *field, const cJSON *item, uint32_t least,
                               uint32_t *value)
{
    const double number = cJSON_IsNumber(item) ? item->valuedouble : -1.0;
    if (!(number >= least && number <= UINT32_MAX) || floor(number) != number)
        return kas_plan_reject(origin, "%s is %s: it must be a whole number from %u to %u", field, show(item).text,
                               least, UINT32_MAX);
    *value = (uint32_t)number;
    return KAS_OK;
}

/* A field that is absent leaves `value` alone, which is then the default of the descriptor. */
static kas_status read_u32(const kas_plan_origin *origin, const char *field, const cJSON *item, uint32_t *value)
{
    return item ? whole_number(origin, field, item, 1, value) : KAS_OK;
}

static kas_status read_fraction(const kas_plan_origin *origin, const cJSON *item, double *value)
{
    if (!item)
        return KAS_OK;
    if (!cJSON_IsNumber(item) || !isfinite(item->valuedouble) || !(item->valuedouble > 0))
        return kas_plan_reject(origin, "topk.fraction is %s: it must be a finite number above 0", show(item).text);
    *value = item->valuedouble;
    return KAS_OK;
}

static kas_status read_text(const kas_plan_origin *origin, const char *field, const cJSON *item, const char **value)
{
    if (item && !cJSON_IsString(item))
        return kas_plan_reject(origin, "%s is %s: it must be a string", field, show(item).text);
    *value = item ? item->valuestring : NULL;
    return KAS_OK;
}

/* One of two names, by value; all choices of the format are pairs. */
static kas_status read_choice(const kas_plan_origin *origin, const char *field, const cJSON *item,
                              const char *const names[2], uint32_t *value)
{
    if (!item)
        return KAS_OK;
    for (uint32_t i = 0; i < 2; i++) {
        if (cJSON_IsString(item) && strcmp(item->valuestring, names[i]) == 0) {
            *value = i;
            return KAS_OK;
        }
    }
    return kas_plan_reject(origin, "%s is %s: it must be \"%s\" or \"%s\"", field, show(item).text, names[0],
                           names[1]);
}

static kas_status check_length(const kas_plan_origin *origin, const char *field, const cJSON *item, size_t length)
{
    if (!cJSON_IsArray(item))
        return kas_plan_reject(origin, "%s is %s: it must be an array", field, show(item).text);
    size_t count = 0;
    for (const cJSON *child = item->child; child; child = child->next)
        count++;
    if (count != length)
        return kas_plan_reject(origin, "%s has %zu entries: it must have %zu", field, count, length);
    return KAS_OK;
}

static kas_status read_numbers(const kas_plan_origin *origin, const char *field, const cJSON *array, uint32_t *values)
{
    size_t i = 0;
    for (const cJSON *child = array->child; child; child = child->next, i++) {
        char entry[96];
        snprintf(entry, sizeof(entry), "%s[%zu]", field, i);
        KAS_TRY(whole_number(origin, entry, child, 0, &values[i]));
    }
    return KAS_OK;
}

/* ---- Reading a plan -------------------------------------------------------------------------------------------- */

/* What a descriptor of a parsed plan points at, besides the JSON tree. */
typedef struct plan_arrays {
    uint32_t *anchors;
    uint32_t *dense_layers;
    uint32_t *head_map;
    uint32_t *normalizer_map;
} plan_arrays;

static void release_arrays(plan_arrays *arrays)
{
    kas_release(arrays->anchors);
    kas_release(arrays->dense_layers);
    kas_release(arrays->head_map);
    kas_release(arrays->normalizer_map);
}

static const cJSON *find(const cJSON *object, const char *name)
{
    return cJSON_GetObjectItemCaseSensitive(object, name);
}

static kas_status read_version(const kas_plan_origin *origin, const cJSON *root)
{
    const cJSON *item = find(root, "version");
    if (!item)
        return kas_plan_reject(origin, "version is missing: it must be %u", FORMAT_VERSION);
    if (!cJSON_IsNumber(item) || item->valuedouble != FORMAT_VERSION)
        return kas_plan_reject(origin, "version is %s: this library reads version %u", show(item).text,
                               FORMAT_VERSION);
    return KAS_OK;
}

static kas_status read_shape(const kas_plan_origin *origin, const cJSON *root, kas_plan_desc *desc)
{
    static const char *const names[] = {"layers", "heads", "kv_heads"};
    uint32_t *const values[] = {&desc->layers, &desc->heads, &desc->kv_heads};
    for (size_t i = 0; i < KAS_COUNT(names); i++) {
        const cJSON *item = find(root, names[i]);
        if (!item)
            return kas_plan_reject(origin, "%s is missing", names[i]);
        KAS_TRY(whole_number(origin, names[i], item, 0, values[i]));
    }
    return kas_plan_check_shape(origin, desc);
}

static kas_status read_topk(const kas_plan_origin *origin, const cJSON *item, kas_topk *topk)
{
    static const char *const known[] = {"fraction", "min", "round", "mode"};
    if (!item)
        return KAS_OK;
    KAS_TRY(check_object(origin, "topk", item));
    warn_of_unknown(origin, "topk", item, known, KAS_COUNT(known));
    uint32_t mode = topk->mode;
    KAS_TRY(read_fraction(origin, find(item, "fraction"), &topk->fraction));
    KAS_TRY(read_u32(origin, "topk.min", find(item, "min"), &topk->min));
    KAS_TRY(read_u32(origin, "topk.round", find(item, "round"), &topk->round));
    KAS_TRY(read_choice(origin, "topk.mode", find(item, "mode"), topk_mode_names, &mode));
    topk->mode = (kas_topk_mode)mode;
    return KAS_OK;
}

static kas_status read_settings(const kas_plan_origin *origin, const cJSON *root, kas_plan_desc *desc)
{
    uint32_t pooling = desc->pooling, normalizer = desc->normalizer;
    KAS_TRY(read_text(origin, "model", find(root, "model"), &desc->model));
    KAS_TRY(read_text(origin, "source", find(root, "source"), &desc->source));
    KAS_TRY(read_u32(origin, "tile", find(root, "tile"), &desc->tile));
    KAS_TRY(read_choice(origin, "pooling", find(root, "pooling"), pooling_names, &pooling));
    KAS_TRY(read_choice(origin, "normalizer", find(root, "normalizer"), normalizer_names, &normalizer));
    KAS_TRY(read_topk(origin, find(root, "topk"), &desc->topk));
    desc->pooling = (kas_pooling)pooling;
    desc->normalizer = (kas_normalizer)normalizer;
    return KAS_OK;
}

/* A list of layers; NULL and 0 when absent. */
static kas_status read_layers(const kas_plan_origin *origin, const char *field, const cJSON *item, uint32_t **values,
                              uint32_t *count)
{
    if (!item)
        return KAS_OK;
    if (!cJSON_IsArray(item))
        return kas_plan_reject(origin, "%s is %s: it must be an array", field, show(item).text);
    *count = (uint32_t)cJSON_GetArraySize(item);
    *values = kas_alloc(*count, sizeof(**values));
    if (!*values)
        return kas_fail_memory();
    return read_numbers(origin, field, item, *values);
}

static kas_status read_head_map(const kas_plan_origin *origin, const cJSON *item, const kas_plan_desc *desc,
                                uint32_t **map)
{
    if (!item)
        return KAS_OK;
    KAS_TRY(check_length(origin, "head_map", item, desc->layers));
    *map = kas_alloc((size_t)desc->layers * desc->kv_heads, sizeof(**map));
    if (!*map)
        return kas_fail_memory();
    uint32_t layer = 0;
    for (const cJSON *row = item->child; row; row = row->next, layer++) {
        char field[32];
        snprintf(field, sizeof(field), "head_map[%u]", layer);
        KAS_TRY(check_length(origin, field, row, desc->kv_heads));
        KAS_TRY(read_numbers(origin, field, row, *map + (size_t)layer * desc->kv_heads));
    }
    return KAS_OK;
}

/*
 * The entries of normalizer_map are named after the anchors from the second on. Every one must be there, and check_object
 * has seen that none is there twice.
 */
static kas_status read_normalizer_map(const kas_plan_origin *origin, const cJSON *item, const kas_plan_desc *desc,
                                      uint32_t **map)
{
    if (!item)
        return KAS_OK;
    KAS_TRY(check_object(origin, "normalizer_map", item));
    const uint32_t followers = desc->anchor_count - 1;
    const uint32_t entries = (uint32_t)cJSON_GetArraySize(item);
    if (entries != followers)
        return kas_plan_reject(origin, "normalizer_map has %u entries: it must have %u, one an anchor but the first",
                               entries, followers);
    *map = kas_alloc((size_t)followers * desc->kv_heads, sizeof(**map));
    if (!*map)
        return kas_fail_memory();
    for (uint32_t i = 0; i < followers; i++) {
        char name[16], field[48];
        snprintf(name, sizeof(name), "%u", desc->anchors[i + 1]);
        snprintf(field, sizeof(field), "normalizer_map[\"%s\"]", name);
        const cJSON *row = find(item, name);
        if (!row)
            return kas_plan_reject(origin, "%s is missing: layer %s is an anchor", field, name);
        KAS_TRY(check_length(origin, field, row, desc->kv_heads));
        KAS_TRY(read_numbers(origin, field, row, *map + (size_t)i * desc->kv_heads));
    }
    return KAS_OK;
}

static kas_status read_arrays(const kas_plan_origin *origin, const cJSON *root, kas_plan_desc *desc,
                              plan_arrays *arrays)
{
    if (!find(root, "anchors"))
        return kas_plan_reject(origin, "anchors is missing: layer 0 must be an anchor");
    KAS_TRY(read_layers(origin, "anchors", find(root, "anchors"), &arrays->anchors, &desc->anchor_count));
    desc->anchors = arrays->anchors;
    KAS_TRY(kas_plan_check_anchors(origin, desc));
    KAS_TRY(read_layers(origin, "dense_layers", find(root, "dense_layers"), &arrays->dense_layers,
                        &desc->dense_layer_count));
    KAS_TRY(read_head_map(origin, find(root, "head_map"), desc, &arrays->head_map));
    desc->dense_layers = arrays->dense_layers;
    desc->head_map = arrays->head_map;
    KAS_TRY(read_normalizer_map(origin, find(root, "normalizer_map"), desc, &arrays->normalizer_map));
    desc->normalizer_map = arrays->normalizer_map;
    return KAS_OK;
}

static kas_status read_plan(const kas_plan_origin *origin, const cJSON *root, plan_arrays *arrays, kas_plan **plan)
{
    static const char *const known[] = {"version",  "model",      "source", "layers",  "heads",
                                        "kv_heads", "pooling",    "tile",   "topk",    "anchors",
                                        "head_map", "normalizer", "normalizer_map",    "dense_layers"};
    kas_plan_desc desc = {.struct_size = sizeof(desc)};
    KAS_TRY(check_object(origin, "the plan", root));
    KAS_TRY(read_version(origin, root));
    warn_of_unknown(origin, "the plan", root, known, KAS_COUNT(known));
    KAS_TRY(read_shape(origin, root, &desc));
    KAS_TRY(read_settings(origin, root, &desc));
    KAS_TRY(read_arrays(origin, root, &desc, arrays));
    return kas_plan_make(origin, &desc, plan);
}

static kas_status parse_plan(const kas_plan_origin *origin, const char *text, size_t size, kas_plan **plan)
{
    cJSON *root = NULL;
    plan_arrays arrays = {NULL};
    KAS_TRY(parse_text(origin, text, size, &root));
    kas_status status = read_plan(origin, root, &arrays, plan);
    release_arrays(&arrays);
    cJSON_Delete(root);
    return status;
}

kas_status kas_plan_parse(const char *text, size_t size, kas_plan **plan)
{
    static const kas_plan_origin origin = {KAS_ERROR_FORMAT, "plan text"};
    KAS_TRY(kas_require("text", text));
    KAS_TRY(kas_require("plan", plan));
    if (size > KAS_PLAN_MAX_FILE)
        return kas_fail(KAS_ERROR_FORMAT, "plan text: %zu bytes, at most %u are read", size, KAS_PLAN_MAX_FILE);
    return parse_plan(&origin, text, size, plan);
}

kas_status kas_plan_load(const char *path, kas_plan **plan)
{
    KAS_TRY(kas_require("path", path));
    KAS_TRY(kas_require("plan", plan));
    const kas_plan_origin origin = {KAS_ERROR_FORMAT, path};
    char *text = NULL;
    size_t size = 0;
    KAS_TRY(kas_file_read(path, KAS_PLAN_MAX_FILE, &text, &size));
    kas_status status = parse_plan(&origin, text, size, plan);
    kas_release(text);
    return status;
}

/* ---- Writing --------------------------------------------------------------------------------------------------- */

/* Text that grows; once memory is exhausted it stays as it is and `failed` is set. */
typedef struct writer {
    char *text;
    size_t size;
    size_t capacity;
    bool failed;
} writer;

static void grow(writer *out, size_t needed)
{
    size_t capacity = out->capacity ? out->capacity : 4096;
    while (capacity < needed)
        capacity *= 2;
    char *text = kas_alloc(capacity, 1);
    if (!text) {
        out->failed = true;
        return;
    }
    if (out->size > 0)
        memcpy(text, out->text, out->size);
    kas_release(out->text);
    out->text = text;
    out->capacity = capacity;
}

static void put_bytes(writer *out, const char *bytes, size_t count)
{
    if (!out->failed && out->size + count + 1 > out->capacity)
        grow(out, out->size + count + 1);
    if (out->failed)
        return;
    memcpy(out->text + out->size, bytes, count);
    out->size += count;
    out->text[out->size] = '\0';
}

/* For short pieces: texts of the plan go through put_string. */
static void put(writer *out, const char *format, ...) KAS_PRINTF(2, 3);
static void put(writer *out, const char *format, ...)
{
    char piece[128];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(piece, sizeof(piece), format, arguments);
    va_end(arguments);
    put_bytes(out, piece, (size_t)length);
}

static void put_string(writer *out, const char *text)
{
    put(out, "\"");
    for (const char *c = text; *c; c++) {
        if (*c == '"' || *c == '\\')
            put(out, "\\%c", *c);
        else if ((unsigned char)*c < 0x20)
            put(out, "\\u%04x", (unsigned char)*c);
        else
            put_bytes(out, c, 1);
    }
    put(out, "\"");
}

/* The fewest digits that read back as the same number, with a point whatever the locale says. */
static void put_double(writer *out, double value)
{
    char digits[40];
    for (int precision = 1; precision <= 17; precision++) {
        snprintf(digits, sizeof(digits), "%.*g", precision, value);
        if (strtod(digits, NULL) == value)
            break;
    }
    for (char *c = digits; *c; c++)
        if (!strchr("+-0123456789e", *c))
            *c = '.';
    put(out, "%s", digits);
}

static void put_row(writer *out, const uint32_t *values, uint32_t count)
{
    put(out, "[");
    for (uint32_t i = 0; i < count; i++)
        put(out, i == 0 ? "%u" : ", %u", values[i]);
    put(out, "]");
}

static void put_head(writer *out, const kas_plan *plan)
{
    put(out, "{\n  \"version\": %u,\n  \"model\": ", FORMAT_VERSION);
    put_string(out, plan->model);
    put(out, ",\n  \"source\": ");
    put_string(out, plan->source);
    put(out, ",\n  \"layers\": %u,\n  \"heads\": %u,\n  \"kv_heads\": %u,\n", plan->layers, plan->heads,
        plan->kv_heads);
    put(out, "  \"pooling\": \"%s\",\n", pooling_names[plan->pooling]);
    if (plan->normalizer != KAS_NORMALIZER_EXACT)
        put(out, "  \"normalizer\": \"%s\",\n", normalizer_names[plan->normalizer]);
    put(out, "  \"tile\": %u,\n  \"topk\": {\n    \"fraction\": ", plan->tile);
    put_double(out, plan->topk.fraction);
    put(out, ",\n    \"min\": %u,\n    \"round\": %u,\n    \"mode\": \"%s\"\n  },\n", plan->topk.min,
        plan->topk.round, topk_mode_names[plan->topk.mode]);
}

static void put_head_map(writer *out, const kas_plan *plan)
{
    put(out, "  \"head_map\": [\n");
    for (uint32_t layer = 0; layer < plan->layers; layer++) {
        put(out, "    ");
        put_row(out, plan->head_map + (size_t)layer * plan->kv_heads, plan->kv_heads);
        put(out, layer + 1 < plan->layers ? ",\n" : "\n");
    }
    put(out, "  ]");
}

static void put_normalizer_map(writer *out, const kas_plan *plan)
{
    put(out, ",\n  \"normalizer_map\": {\n");
    for (uint32_t i = 0; i + 1 < plan->anchor_count; i++) {
        put(out, "    \"%u\": ", plan->anchors[i + 1]);
        put_row(out, plan->normalizer_map + (size_t)i * plan->kv_heads, plan->kv_heads);
        put(out, i + 2 < plan->anchor_count ? ",\n" : "\n");
    }
    put(out, "  }");
}

kas_status kas_plan_format(const kas_plan *plan, char **text, size_t *size)
{
    writer out = {NULL};
    put_head(&out, plan);
    put(&out, "  \"anchors\": ");
    put_row(&out, plan->anchors, plan->anchor_count);
    if (plan->dense_layer_count > 0) {
        put(&out, ",\n  \"dense_layers\": ");
        put_row(&out, plan->dense_layers, plan->dense_layer_count);
    }
    put(&out, ",\n");
    put_head_map(&out, plan);
    if (plan->normalizer_map)
        put_normalizer_map(&out, plan);
    put(&out, "\n}\n");
    if (out.failed) {
        kas_release(out.text);
        return kas_fail_memory();
    }
    *text = out.text;
    *size = out.size;
    return KAS_OK;
}

kas_status kas_plan_save(const kas_plan *plan, const char *path)
{
    KAS_TRY(kas_require("plan", plan));
    KAS_TRY(kas_require("path", path));
    char *text = NULL;
    size_t size = 0;
    KAS_TRY(kas_plan_format(plan, &text, &size));
    kas_status status = kas_file_replace(path, text, size);
    kas_release(text);
    return status;
}
