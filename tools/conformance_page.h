/*
 * conformance_page.h - a conformance record (the JSON object of `kascade conformance`) for people: one HTML page of a
 * record, and one Markdown table of many.
 */
#ifndef TOOLS_CONFORMANCE_PAGE_H
#define TOOLS_CONFORMANCE_PAGE_H

#include "fail.h"

#include <cJSON.h>

#include <stdint.h>
#include <stdio.h>

/* Writes the page of a record. The caller checks the file for write errors. */
void conformance_page(FILE *file, const cJSON *record);

/* Prints a table with a line for each record file. Errors: IO, FORMAT, OUT_OF_MEMORY. */
kas_status conformance_table(const char *const *paths, uint32_t count);

#endif
