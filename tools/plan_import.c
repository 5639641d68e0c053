/* plan_import.c - from a published head-map file and its name to an anchor plan. */
#include "plan_import.h"

#include "npy.h"

#include <stdlib.h>
#include <string.h>

#define NAME_MARK "_layers_"
#define MAX_ANCHORS 256u
#define MAX_MODEL 256u

/* What the file's name says. */
typedef struct map_name {
    char model[MAX_MODEL];
    uint32_t anchors[MAX_ANCHORS];
    uint32_t anchor_count;
} map_name;

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* The last place where the mark stands: a model's own name may hold it too. */
static const char *find_mark(const char *base)
{
    const char *mark = NULL;
    for (const char *next = strstr(base, NAME_MARK); next; next = strstr(next + 1, NAME_MARK))
        mark = next;
    return mark;
}

static kas_status fail_name(const char *path)
{
    return tool_fail(KAS_ERROR_FORMAT,
                     "%s: the name does not tell the anchors: it must be like MODEL" NAME_MARK "0_2_8.npy", path);
}

static kas_status read_name(const char *path, map_name *name)
{
    const char *base = base_name(path);
    const char *mark = find_mark(base);
    if (!mark || (size_t)(mark - base) >= MAX_MODEL)
        return fail_name(path);
    memcpy(name->model, base, (size_t)(mark - base));
    name->model[mark - base] = '\0';
    name->anchor_count = 0;
    for (const char *at = mark + strlen(NAME_MARK);; at++) {
        char *end = NULL;
        if (*at < '0' || *at > '9' || strspn(at, "0123456789") > 6 || name->anchor_count == MAX_ANCHORS)
            return fail_name(path);
        name->anchors[name->anchor_count++] = (uint32_t)strtoul(at, &end, 10);
        at = end;
        if (strcmp(at, ".npy") == 0)
            return KAS_OK;
        if (*at != '_')
            return fail_name(path);
    }
}

static kas_status check_array(const char *path, const npy_array *array)
{
    if (array->dtype != NPY_I4 || array->dims != 2)
        return tool_fail(KAS_ERROR_FORMAT, "%s: holds %s: a head map is <i4 (layers, kv heads)", path,
                         npy_describe(array->dtype, array->shape, array->dims).text);
    /* Bounds of their own come from the plan's rules; here they only have to fit. */
    if (array->shape[0] > UINT32_MAX || array->shape[1] > UINT32_MAX)
        return tool_fail(KAS_ERROR_FORMAT, "%s: holds %s: there are no models of that size", path,
                         npy_describe(array->dtype, array->shape, array->dims).text);
    const int32_t *entries = array->data;
    for (uint64_t i = 0; i < array->count; i++)
        if (entries[i] < 0)
            return tool_fail(KAS_ERROR_FORMAT, "%s: entry [%llu][%llu] is %d: it must be from 0", path,
                             (unsigned long long)(i / array->shape[1]), (unsigned long long)(i % array->shape[1]),
                             entries[i]);
    return KAS_OK;
}

static kas_status make_plan(const char *path, const map_name *name, const npy_array *array, uint32_t heads,
                            kas_plan **plan)
{
    const kas_plan_desc desc = {
        .struct_size = sizeof(desc),
        .model = name->model,
        .source = base_name(path),
        .layers = (uint32_t)array->shape[0],
        .heads = heads ? heads : PLAN_IMPORT_HEADS,
        .kv_heads = (uint32_t)array->shape[1],
        .anchors = name->anchors,
        .anchor_count = name->anchor_count,
        .head_map = array->data, /* no entry is negative: int32 and uint32 agree */
    };
    kas_status status = kas_plan_create(&desc, plan);
    if (status == KAS_ERROR_INVALID_ARGUMENT)
        return tool_fail(KAS_ERROR_FORMAT, "%s: %s", path, kas_last_error());
    return status == KAS_OK ? KAS_OK : tool_fail_library(status);
}

kas_status plan_import(const char *path, uint32_t heads, kas_plan **plan)
{
    map_name name;
    npy_array array;
    TOOL_TRY(read_name(path, &name));
    TOOL_TRY(npy_open(path, &array));
    kas_status status = check_array(path, &array);
    if (status == KAS_OK)
        status = make_plan(path, &name, &array, heads, plan);
    npy_close(&array);
    return status;
}
