/* progress.h - a progress bar on standard error, where that is a terminal; elsewhere nothing, or lines if asked for. */
#ifndef TOOLS_PROGRESS_H
#define TOOLS_PROGRESS_H

#include <stdbool.h>

typedef struct progress {
    bool shown, terminal;
    bool lines; /* a line every ten seconds where no bar can be drawn; set after progress_begin */
    char label[48];
    double began, printed; /* printed: when the last line was */
    int percent;           /* last drawn, -1: none */
} progress;

/* `label` is cut to fit. */
void progress_begin(progress *bar, const char *label);
/* done from 0 to 1; draws when the percentage changes. */
void progress_update(progress *bar, double done);
/* Makes room for a line of text; the bar returns with the next percentage. */
void progress_wipe(const progress *bar);
/* Wipes the bar off the line. */
void progress_end(progress *bar);

#endif
