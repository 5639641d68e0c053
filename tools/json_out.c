/* json_out.c - see json_out.h. */
#include "json_out.h"

#include <stdio.h>

kas_status json_print(cJSON *root)
{
    char *text = cJSON_Print(root);
    cJSON_Delete(root);
    if (!text)
        return tool_fail_memory();
    puts(text);
    cJSON_free(text);
    return KAS_OK;
}
