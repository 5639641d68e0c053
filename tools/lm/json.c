/* json.c - strict reading of JSON; see json.h. */
#include "json.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/*
 * Parses a copy with a zero behind it: releases of cJSON before 1.7.18 read one byte past a text that ends within an
 * object, which is past the mapping when the text fills its last page. `used` is where cJSON stopped.
 */
static kas_status parse_copy(const char *file, const char *text, size_t size, size_t *used, cJSON **parsed)
{
    char *copy = malloc(size + 1);
    if (!copy)
        return tool_fail_memory();
    if (size > 0)
        memcpy(copy, text, size);
    copy[size] = '\0';
    const char *end = copy;
    *parsed = cJSON_ParseWithLengthOpts(copy, size, &end, 0);
    *used = (size_t)(end - copy);
    free(copy);
    if (!*parsed)
        return tool_fail(KAS_ERROR_FORMAT, "%s: the JSON is malformed at byte %zu of %zu, or memory is exhausted", file,
                         *used, size);
    return KAS_OK;
}

kas_status lm_json_parse(const char *file, const char *text, size_t size, cJSON **root)
{
    cJSON *parsed;
    size_t used = 0;
    TOOL_TRY(parse_copy(file, text, size, &used, &parsed));
    while (used < size && (text[used] == ' ' || text[used] == '\n' || text[used] == '\r' || text[used] == '\t'))
        used++;
    if (used < size) {
        cJSON_Delete(parsed);
        return tool_fail(KAS_ERROR_FORMAT, "%s: the JSON ends at byte %zu, but %zu bytes follow", file, used,
                         size - used);
    }
    if (!cJSON_IsObject(parsed)) {
        cJSON_Delete(parsed);
        return tool_fail(KAS_ERROR_FORMAT, "%s: the JSON is not an object", file);
    }
    *root = parsed;
    return KAS_OK;
}

static const cJSON *find(const cJSON *object, const char *name)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
    return cJSON_IsNull(item) ? NULL : item;
}

static kas_status fail_missing(const char *file, const char *name)
{
    return tool_fail(KAS_ERROR_FORMAT, "%s: %s is missing", file, name);
}

kas_status lm_json_whole(const char *file, const char *name, const cJSON *item, uint64_t min, uint64_t max,
                         uint64_t *value)
{
    if (!cJSON_IsNumber(item))
        return tool_fail(KAS_ERROR_FORMAT, "%s: %s is not a number", file, name);
    double number = item->valuedouble;
    /* 2^53: above it, doubles skip whole numbers. */
    if (!(number >= (double)min && number <= (double)max && number <= 9007199254740992.0) || floor(number) != number)
        return tool_fail(KAS_ERROR_FORMAT, "%s: %s is %.17g: it must be a whole number from %" PRIu64 " to %" PRIu64,
                         file, name, number, min, max);
    *value = (uint64_t)number;
    return KAS_OK;
}

kas_status lm_json_u32(const char *file, const cJSON *object, const char *name, bool needed, uint32_t min, uint32_t max,
                       uint32_t *value)
{
    const cJSON *item = find(object, name);
    if (!item)
        return needed ? fail_missing(file, name) : KAS_OK;
    uint64_t whole = 0;
    TOOL_TRY(lm_json_whole(file, name, item, min, max, &whole));
    *value = (uint32_t)whole;
    return KAS_OK;
}

kas_status lm_json_real(const char *file, const cJSON *object, const char *name, bool needed, double min, double max,
                        double *value)
{
    const cJSON *item = find(object, name);
    if (!item)
        return needed ? fail_missing(file, name) : KAS_OK;
    if (!cJSON_IsNumber(item))
        return tool_fail(KAS_ERROR_FORMAT, "%s: %s is not a number", file, name);
    if (!(item->valuedouble >= min && item->valuedouble <= max))
        return tool_fail(KAS_ERROR_FORMAT, "%s: %s is %.17g: it must be from %g to %g", file, name, item->valuedouble,
                         min, max);
    *value = item->valuedouble;
    return KAS_OK;
}

kas_status lm_json_bool(const char *file, const cJSON *object, const char *name, bool *value)
{
    const cJSON *item = find(object, name);
    if (!item)
        return KAS_OK;
    if (!cJSON_IsBool(item))
        return tool_fail(KAS_ERROR_FORMAT, "%s: %s is neither true nor false", file, name);
    *value = cJSON_IsTrue(item);
    return KAS_OK;
}

kas_status lm_json_text(const char *file, const cJSON *object, const char *name, const char **value)
{
    const cJSON *item = find(object, name);
    if (!item)
        return KAS_OK;
    if (!cJSON_IsString(item))
        return tool_fail(KAS_ERROR_FORMAT, "%s: %s is not a string", file, name);
    *value = item->valuestring;
    return KAS_OK;
}

kas_status lm_json_object(const char *file, const cJSON *object, const char *name, const cJSON **value)
{
    const cJSON *item = find(object, name);
    if (item && !cJSON_IsObject(item))
        return tool_fail(KAS_ERROR_FORMAT, "%s: %s is not an object", file, name);
    *value = item;
    return KAS_OK;
}
