/* cmd_devices.c - `kascade devices`: each backend, its devices and their rows, each missing driver and why. */
#include "args.h"
#include "command.h"
#include "device_features.h"
#include "json_out.h"
#include "names.h"

#include <inttypes.h>
#include <stdio.h>

/* Where the facts go: a JSON tree, or standard output when it is NULL. */
typedef struct report {
    cJSON *backends;
    bool rows;
} report;

static void print_row(const kas_variant_info *row)
{
    printf("    %-13s %-20s", row->operation, row->name);
    for (int i = 0; dtype_names[i]; i++)
        printf(" %-4s", row->dtypes >> named_dtype(i) & 1 ? dtype_names[i] : "");
    printf("  head dim %u to %u", row->min_head_dim, row->max_head_dim);
    if (row->head_dim_step > 1)
        printf(" by %u", row->head_dim_step);
    if (row->needs) {
        printf(", needs");
        features_print(row->needs);
    }
    puts(row->usable ? "" : " (not on this device)");
}

static cJSON *row_json(const kas_variant_info *row)
{
    cJSON *object = cJSON_CreateObject();
    cJSON_AddStringToObject(object, "operation", row->operation);
    cJSON_AddStringToObject(object, "name", row->name);
    cJSON *dtypes = cJSON_AddArrayToObject(object, "dtypes");
    for (int i = 0; dtype_names[i]; i++)
        if (row->dtypes >> named_dtype(i) & 1)
            cJSON_AddItemToArray(dtypes, cJSON_CreateString(dtype_names[i]));
    cJSON_AddNumberToObject(object, "min_head_dim", row->min_head_dim);
    cJSON_AddNumberToObject(object, "max_head_dim", row->max_head_dim);
    cJSON_AddNumberToObject(object, "head_dim_step", row->head_dim_step);
    cJSON_AddItemToObject(object, "needs", features_json(row->needs));
    cJSON_AddBoolToObject(object, "usable", row->usable);
    return object;
}

/* A device whose context cannot be opened is still listed: `device` then carries the reason instead of rows. */
static kas_status report_rows(const report *to, const char *name, cJSON *device)
{
    const kas_context_desc desc = {.struct_size = sizeof(desc), .device = name};
    kas_context *context;
    if (kas_context_create(&desc, &context) != KAS_OK) {
        if (device)
            cJSON_AddStringToObject(device, "error", kas_last_error());
        else
            printf("    cannot be opened: %s\n", kas_last_error());
        return KAS_OK;
    }
    cJSON *rows = device ? cJSON_AddArrayToObject(device, "rows") : NULL;
    uint32_t count = kas_context_variant_count(context);
    kas_status status = KAS_OK;
    if (!to->rows && !device)
        printf("    %u rows (--rows lists them)\n", count);
    for (uint32_t i = 0; status == KAS_OK && i < count && (to->rows || device); i++) {
        kas_variant_info row = {.struct_size = sizeof(row)};
        status = kas_context_get_variant(context, i, &row);
        if (status != KAS_OK)
            status = tool_fail_library(status);
        else if (rows)
            cJSON_AddItemToArray(rows, row_json(&row));
        else
            print_row(&row);
    }
    kas_context_destroy(context);
    return status;
}

static void print_device(const kas_device_info *info)
{
    printf("  %s: %s\n    driver %s\n    features", info->name, info->description, info->driver);
    features_print(info->features);
    printf("\n    %u compute units", info->compute_units);
    if (info->memory)
        printf(", %.1f GiB of memory", (double)info->memory / (1u << 30));
    if (info->max_allocation < info->memory)
        printf(", buffers to %.1f GiB", (double)info->max_allocation / (1u << 30));
    putchar('\n');
}

static cJSON *device_json(const kas_device_info *info)
{
    cJSON *object = cJSON_CreateObject();
    cJSON_AddStringToObject(object, "name", info->name);
    cJSON_AddStringToObject(object, "description", info->description);
    cJSON_AddStringToObject(object, "driver", info->driver);
    cJSON_AddItemToObject(object, "features", features_json(info->features));
    cJSON_AddNumberToObject(object, "memory", (double)info->memory);
    cJSON_AddNumberToObject(object, "max_allocation", (double)info->max_allocation);
    cJSON_AddNumberToObject(object, "max_binding", (double)info->max_binding);
    cJSON_AddNumberToObject(object, "compute_units", info->compute_units);
    cJSON_AddNumberToObject(object, "shared_memory", info->shared_memory);
    cJSON_AddBoolToObject(object, "host_memory", info->host_memory);
    return object;
}

static kas_status report_device(const report *to, const char *backend, uint32_t index, cJSON *devices)
{
    char name[32];
    snprintf(name, sizeof(name), "%s:%u", backend, index);
    kas_device_info info = {.struct_size = sizeof(info)};
    TOOL_TRY_LIBRARY(kas_device_get_info(name, &info));
    cJSON *device = NULL;
    if (devices) {
        device = device_json(&info);
        cJSON_AddItemToArray(devices, device);
    } else {
        print_device(&info);
    }
    return report_rows(to, name, device);
}

static kas_status report_backend(const report *to, uint32_t index)
{
    kas_backend_info info = {.struct_size = sizeof(info)};
    TOOL_TRY_LIBRARY(kas_backend_get_info(index, &info));
    cJSON *devices = NULL;
    if (to->backends) {
        cJSON *backend = cJSON_CreateObject();
        cJSON_AddItemToArray(to->backends, backend);
        cJSON_AddStringToObject(backend, "name", info.name);
        cJSON_AddBoolToObject(backend, "available", info.available);
        cJSON_AddStringToObject(backend, "reason", info.reason);
        devices = cJSON_AddArrayToObject(backend, "devices");
    } else if (info.available) {
        printf("%s\n", info.name);
    } else {
        printf("%s: none: %s\n", info.name, info.reason);
    }
    for (uint32_t i = 0; i < info.device_count; i++)
        TOOL_TRY(report_device(to, info.name, i, devices));
    return KAS_OK;
}

static kas_status devices_command(int argc, char **argv)
{
    bool json = false;
    report to = {0};
    const args_option table[] = {
        {"--rows", NULL, "list the variant rows of every device, best first within an operation", ARGS_FLAG, &to.rows},
        {"--json", NULL, "print one JSON object, rows included", ARGS_FLAG, &json},
    };
    const args_spec spec = {
        .command = "devices",
        .about = "Lists the backends of this build, their devices and features, and why a driver is missing.\n",
        .options = table,
        .option_count = sizeof(table) / sizeof(table[0]),
    };
    args_result result;
    TOOL_TRY(args_parse(&spec, argc, argv, &result));
    if (result.help)
        return KAS_OK;
    cJSON *root = json ? cJSON_CreateObject() : NULL;
    if (json)
        cJSON_AddStringToObject(root, "version", kas_version());
    to.backends = json ? cJSON_AddArrayToObject(root, "backends") : NULL;
    for (uint32_t i = 0; i < kas_backend_count(); i++) {
        kas_status status = report_backend(&to, i);
        if (status != KAS_OK) {
            cJSON_Delete(root);
            return status;
        }
    }
    return json ? json_print(root) : KAS_OK;
}

const tool_command command_devices = {"devices", "list devices, their features, and missing drivers", devices_command};
