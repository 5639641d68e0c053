/* progress.c - the bar of progress.h. */
#define _POSIX_C_SOURCE 200809L
#include "progress.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define WIDTH 30

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void draw(const progress *bar, double done)
{
    static const char full[] = "##############################";
    int filled = (int)(done * WIDTH);
    double spent = now() - bar->began;
    fprintf(stderr, "\r%s [%.*s%*s] %3d%%", bar->label, filled, full, WIDTH - filled, "", bar->percent);
    const double left = spent * (1 - done) / done;
    if (done > 0.02)
        fprintf(stderr, left < 120 ? " %.0f s left " : " %.0f min left ", left < 120 ? left : left / 60);
    fputs("\x1b[K", stderr);
    fflush(stderr);
}

void progress_begin(progress *bar, const char *label)
{
    *bar = (progress){.shown = isatty(STDERR_FILENO) != 0, .began = now(), .percent = -1};
    snprintf(bar->label, sizeof(bar->label), "%s", label);
    progress_update(bar, 0);
}

void progress_update(progress *bar, double done)
{
    int percent = (int)(done * 100);
    if (!bar->shown || percent == bar->percent)
        return;
    bar->percent = percent;
    draw(bar, done < 1 ? done : 1);
}

void progress_end(progress *bar)
{
    if (bar->shown)
        fputs("\r\x1b[K", stderr);
    bar->shown = false;
}
