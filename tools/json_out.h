/* json_out.h - printing what a command answers with --json. */
#ifndef TOOLS_JSON_OUT_H
#define TOOLS_JSON_OUT_H

#include "fail.h"

#include <cJSON.h>

/* Prints the tree and a newline to standard output and deletes it. Numbers that are not finite print as null. Errors:
   OUT_OF_MEMORY. */
kas_status json_print(cJSON *root);

#endif
