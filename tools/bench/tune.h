/*
 * tune.h - chooses variant rows by measurement: for one operation after the other the rows that a device has, each
 * judged by the time of the layer that it does most for. The choice is text for kas_context_desc.variant.
 */
#ifndef BENCH_TUNE_H
#define BENCH_TUNE_H

#include "../fail.h"
#include "work.h"

#include <stdbool.h>

#define TUNE_NAME_SIZE 32
#define TUNE_TEXT_SIZE 1024

/* What one measurement with preferred rows gave. */
typedef struct tune_trial {
    char row[TUNE_NAME_SIZE];   /* that the session chose for the operation asked about; "": none */
    double median[BENCH_KINDS]; /* milliseconds of a layer; 0: the plan has none of the kind */
    double create;              /* milliseconds that making the session took, compiling included */
} tune_trial;

/* Measures the layers of a phase in a context with `variant`. */
typedef kas_status tune_measure(void *user, kas_phase phase, const char *variant, const char *operation,
                                tune_trial *trial);

/*
 * Tries the rows of every operation that layers of `phase` launch and prints a line a row. The chosen ones are appended
 * to `text` (TUNE_TEXT_SIZE bytes, terminated), an entry "OPERATION=NAME" a line.
 */
kas_status tune_phase(const kas_context *context, kas_phase phase, tune_measure *measure, void *user, char *text);

#endif
