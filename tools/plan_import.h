/* plan_import.h - anchor plans from the head-map files that were published with the method. */
#ifndef TOOLS_PLAN_IMPORT_H
#define TOOLS_PLAN_IMPORT_H

#include "fail.h"

/* Query heads of the models whose head maps were published. */
#define PLAN_IMPORT_HEADS 32

/*
 * Makes a plan of an int32 .npy file [layers, kv heads] named MODEL_layers_A_B_....npy, A, B, ... being the anchors.
 * Such a file does not tell the number of query heads: `heads`, or PLAN_IMPORT_HEADS when it is 0. Everything else
 * is the default. Errors: IO; FORMAT for a name or an array that is no head map, with the entry and its bound;
 * UNSUPPORTED; OUT_OF_MEMORY.
 */
kas_status plan_import(const char *path, uint32_t heads, kas_plan **plan);

#endif
