/* progress.h - a progress bar on standard error, where that is a terminal; nothing at all elsewhere. */
#ifndef TOOLS_PROGRESS_H
#define TOOLS_PROGRESS_H

#include <stdbool.h>

typedef struct progress {
    bool shown;
    char label[48];
    double began;
    int percent; /* last drawn, -1: none */
} progress;

/* `label` is cut to fit. */
void progress_begin(progress *bar, const char *label);
/* done from 0 to 1; draws when the percentage changes. */
void progress_update(progress *bar, double done);
/* Wipes the bar off the line. */
void progress_end(progress *bar);

#endif
