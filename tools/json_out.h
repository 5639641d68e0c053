/* json_out.h - printing what a command answers with --json. */
#ifndef TOOLS_JSON_OUT_H
#define TOOLS_JSON_OUT_H

#include "fail.h"

#include <cJSON.h>

/* Prints the tree and a newline to standard output and deletes it. Numbers that are not finite print as null. Errors:
   OUT_OF_MEMORY. */
kas_status json_print(cJSON *root);

/*
 * Prints {"error": sentence, "exit_code": code} where a command with --json has failed before it printed anything: what
 * reads the output gets one JSON object in every case.
 */
void json_print_failure(const char *sentence, int exit_code);

#endif
