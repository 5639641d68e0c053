/* json_out.c - see json_out.h. */
#include "json_out.h"

#include <stdbool.h>
#include <stdio.h>

static bool printed;

kas_status json_print(cJSON *root)
{
    char *text = cJSON_Print(root);
    cJSON_Delete(root);
    if (!text)
        return tool_fail_memory();
    puts(text);
    printed = true;
    cJSON_free(text);
    return KAS_OK;
}

void json_print_failure(const char *sentence, int exit_code)
{
    if (printed)
        return;
    cJSON *root = cJSON_CreateObject();
    cJSON_AddStringToObject(root, "error", sentence);
    cJSON_AddNumberToObject(root, "exit_code", exit_code);
    json_print(root);
}
