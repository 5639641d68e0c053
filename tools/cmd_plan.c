/* cmd_plan.c - `kascade plan show|check|import`: anchor plans as text, checked, and from published head maps. */
#include "args.h"
#include "command.h"
#include "json_out.h"
#include "lm/config.h"
#include "names.h"
#include "plan_import.h"

#include <string.h>

static const char *const role_names[] = {[KAS_ROLE_DENSE_SELECT] = "dense + select",
                                         [KAS_ROLE_ANCHOR] = "anchor",
                                         [KAS_ROLE_REUSE] = "reuse",
                                         [KAS_ROLE_DENSE] = "dense"};

static uint32_t map_entry(const kas_plan_desc *desc, uint32_t layer, uint32_t g)
{
    return desc->head_map ? desc->head_map[(size_t)layer * desc->kv_heads + g] : g;
}

/* ---- show ------------------------------------------------------------------------------------------------------ */

static void print_plan(const kas_plan *plan, const kas_plan_desc *desc)
{
    printf("model       %s\nsource      %s\n", desc->model, desc->source);
    printf("layers      %u, heads %u, kv heads %u\n", desc->layers, desc->heads, desc->kv_heads);
    printf("keys kept   %g%%, at least %u, rounded up to %u, of %s\n", desc->topk.fraction * 100, desc->topk.min,
           desc->topk.round, desc->topk.mode == KAS_TOPK_FIXED ? "the final length" : "each tile's candidates");
    printf("tile        %u query tokens\n", desc->tile);
    printf("pooling     %s\n", desc->pooling == KAS_POOLING_ALL_HEADS ? "all heads" : "per kv head");
    printf("normalizer  %s\n\nlayer  role            row read by each kv head\n",
           normalizer_names[desc->normalizer]);
    for (uint32_t layer = 0; layer < desc->layers; layer++) {
        kas_role role = kas_plan_role(plan, layer);
        printf("%5u  %s", layer, role_names[role]);
        if (role == KAS_ROLE_REUSE) {
            printf("%*s", (int)(15 - strlen(role_names[role])), "");
            for (uint32_t g = 0; g < desc->kv_heads; g++)
                printf(" %u", map_entry(desc, layer, g));
        }
        putchar('\n');
    }
}

static kas_status print_plan_json(const kas_plan *plan, const kas_plan_desc *desc)
{
    cJSON *root = cJSON_CreateObject();
    cJSON_AddStringToObject(root, "model", desc->model);
    cJSON_AddStringToObject(root, "source", desc->source);
    cJSON_AddNumberToObject(root, "layers", desc->layers);
    cJSON_AddNumberToObject(root, "heads", desc->heads);
    cJSON_AddNumberToObject(root, "kv_heads", desc->kv_heads);
    cJSON_AddNumberToObject(root, "tile", desc->tile);
    cJSON_AddStringToObject(root, "pooling", pooling_names[desc->pooling]);
    cJSON_AddStringToObject(root, "normalizer", normalizer_names[desc->normalizer]);
    cJSON *topk = cJSON_AddObjectToObject(root, "topk");
    cJSON_AddNumberToObject(topk, "fraction", desc->topk.fraction);
    cJSON_AddNumberToObject(topk, "min", desc->topk.min);
    cJSON_AddNumberToObject(topk, "round", desc->topk.round);
    cJSON_AddStringToObject(topk, "mode", desc->topk.mode == KAS_TOPK_FIXED ? "fixed" : "rolling");
    cJSON *anchors = cJSON_AddArrayToObject(root, "anchors");
    for (uint32_t i = 0; i < desc->anchor_count; i++)
        cJSON_AddItemToArray(anchors, cJSON_CreateNumber(desc->anchors[i]));
    cJSON *roles = cJSON_AddArrayToObject(root, "roles"), *maps = cJSON_AddArrayToObject(root, "head_map");
    for (uint32_t layer = 0; layer < desc->layers; layer++) {
        cJSON_AddItemToArray(roles, cJSON_CreateString(role_names[kas_plan_role(plan, layer)]));
        cJSON *row = cJSON_CreateArray();
        cJSON_AddItemToArray(maps, row);
        for (uint32_t g = 0; g < desc->kv_heads; g++)
            cJSON_AddItemToArray(row, cJSON_CreateNumber(map_entry(desc, layer, g)));
    }
    return json_print(root);
}

static kas_status show(const kas_plan *plan, bool json)
{
    kas_plan_desc desc = {.struct_size = sizeof(desc)};
    TOOL_TRY_LIBRARY(kas_plan_get_desc(plan, &desc));
    if (json)
        return print_plan_json(plan, &desc);
    print_plan(plan, &desc);
    return KAS_OK;
}

static kas_status show_command(int argc, char **argv)
{
    bool json = false;
    const args_option table[] = {{"--json", NULL, "print one JSON object", ARGS_FLAG, &json}};
    const args_spec spec = {
        .command = "plan show",
        .operands = "FILE",
        .min_operands = 1,
        .max_operands = 1,
        .about = "Prints an anchor plan with every default filled in and the role of each layer.\n",
        .options = table,
        .option_count = sizeof(table) / sizeof(table[0]),
    };
    args_result result;
    TOOL_TRY(args_parse(&spec, argc, argv, &result));
    if (result.help)
        return KAS_OK;
    kas_plan *plan;
    TOOL_TRY_LIBRARY(kas_plan_load(result.operands[0], &plan));
    kas_status status = show(plan, json);
    kas_plan_destroy(plan);
    return status;
}

/* ---- check ----------------------------------------------------------------------------------------------------- */

static kas_status check_against(const char *path, const kas_plan *plan, const char *model)
{
    kas_plan_desc desc = {.struct_size = sizeof(desc)};
    lm_config config;
    TOOL_TRY_LIBRARY(kas_plan_get_desc(plan, &desc));
    TOOL_TRY(lm_config_load(model, &config));
    if (desc.layers != config.layers || desc.heads != config.heads || desc.kv_heads != config.kv_heads)
        return tool_fail(KAS_ERROR_FORMAT,
                         "%s: is for %u layers, %u heads and %u kv heads, the model in %s has %u, %u and %u", path,
                         desc.layers, desc.heads, desc.kv_heads, model, config.layers, config.heads, config.kv_heads);
    return KAS_OK;
}

static kas_status print_verdict_json(const char *path)
{
    cJSON *root = cJSON_CreateObject();
    cJSON_AddStringToObject(root, "file", path);
    cJSON_AddBoolToObject(root, "valid", true);
    return json_print(root);
}

static kas_status check_command(int argc, char **argv)
{
    const char *model = NULL;
    bool json = false;
    const args_option table[] = {
        {"--model", "DIR", "the plan must also fit the model in this folder", ARGS_TEXT, &model},
        {"--json", NULL, "print one JSON object", ARGS_FLAG, &json},
    };
    const args_spec spec = {
        .command = "plan check",
        .operands = "FILE",
        .min_operands = 1,
        .max_operands = 1,
        .about = "Says whether a file is a valid anchor plan; if not, which field breaks which bound.\n",
        .options = table,
        .option_count = sizeof(table) / sizeof(table[0]),
    };
    args_result result;
    TOOL_TRY(args_parse(&spec, argc, argv, &result));
    if (result.help)
        return KAS_OK;
    kas_plan *plan;
    TOOL_TRY_LIBRARY(kas_plan_load(result.operands[0], &plan));
    kas_status status = model ? check_against(result.operands[0], plan, model) : KAS_OK;
    kas_plan_destroy(plan);
    TOOL_TRY(status);
    if (json)
        return print_verdict_json(result.operands[0]);
    printf("%s: a valid plan%s%s\n", result.operands[0], model ? " for " : "", model ? model : "");
    return KAS_OK;
}

/* ---- import ---------------------------------------------------------------------------------------------------- */

static kas_status save(const kas_plan *plan, const char *path)
{
    TOOL_TRY_LIBRARY(kas_plan_save(plan, path));
    return KAS_OK;
}

static kas_status import_command(int argc, char **argv)
{
    const char *output = NULL;
    uint32_t heads = 0;
    bool json = false;
    const args_option table[] = {
        {"--heads", "N", "query heads of the model, which the file does not tell (default 32)", ARGS_U32, &heads, 1,
         65536},
        {"-o", "PLAN", "the plan to write (default: the plan is shown, nothing is written)", ARGS_TEXT, &output},
        {"--json", NULL, "show the plan as one JSON object", ARGS_FLAG, &json},
    };
    const args_spec spec = {
        .command = "plan import",
        .operands = "MODEL_layers_A_B_....npy",
        .min_operands = 1,
        .max_operands = 1,
        .about = "Makes an anchor plan of a published head map: int32 [layers, kv heads], the anchors in the file's\n"
                 "name.\n",
        .options = table,
        .option_count = sizeof(table) / sizeof(table[0]),
    };
    args_result result;
    TOOL_TRY(args_parse(&spec, argc, argv, &result));
    if (result.help)
        return KAS_OK;
    kas_plan *plan;
    TOOL_TRY(plan_import(result.operands[0], heads, &plan));
    kas_status status = output ? save(plan, output) : KAS_OK;
    if (status == KAS_OK && (json || !output))
        status = show(plan, json);
    kas_plan_destroy(plan);
    return status;
}

static const tool_command plan_commands[] = {
    {"show", "print a plan and the role of each layer", show_command},
    {"check", "say whether a file is a valid plan", check_command},
    {"import", "make a plan of a published head-map file", import_command},
};

static kas_status plan_command(int argc, char **argv)
{
    const size_t count = sizeof(plan_commands) / sizeof(plan_commands[0]);
    if (argc >= 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0)) {
        printf("usage: kascade plan COMMAND ...\n\ncommands:\n");
        for (size_t i = 0; i < count; i++)
            printf("  %-12s %s\n", plan_commands[i].name, plan_commands[i].summary);
        printf("\nkascade plan COMMAND --help describes a command.\n\nexit codes:\n%s", tool_exit_code_help());
        return KAS_OK;
    }
    for (size_t i = 0; argc >= 2 && i < count; i++)
        if (strcmp(argv[1], plan_commands[i].name) == 0)
            return plan_commands[i].run(argc - 1, argv + 1);
    if (argc < 2)
        return tool_fail(KAS_ERROR_INVALID_ARGUMENT, "show, check or import must follow (see kascade plan --help)");
    return tool_fail(KAS_ERROR_INVALID_ARGUMENT, "'%.60s' is none of show, check and import (see kascade plan --help)",
                     argv[1]);
}

const tool_command command_plan = {"plan", "show, check or import anchor plans", plan_command};
