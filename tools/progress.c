/* progress.c - the bar of progress.h. */
#define _POSIX_C_SOURCE 200809L
#include "progress.h"

#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define WIDTH 30
#define LINE_SECONDS 10.0 /* between two lines where no bar can be drawn */

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void print_left(const progress *bar, double done)
{
    const double left = (now() - bar->began) * (1 - done) / done;
    if (done > 0.02)
        fprintf(stderr, left < 120 ? " %.0f s left" : " %.0f min left", left < 120 ? left : left / 60);
}

static void draw(const progress *bar, double done)
{
    static const char full[] = "##############################";
    int filled = (int)(done * WIDTH);
    fprintf(stderr, "\r%s [%.*s%*s] %3d%%", bar->label, filled, full, WIDTH - filled, "", bar->percent);
    print_left(bar, done);
    fputs(" \x1b[K", stderr);
    fflush(stderr);
}

static void print_line(progress *bar, double done)
{
    if (now() - bar->printed < LINE_SECONDS)
        return;
    bar->printed = now();
    fprintf(stderr, "%s %d%%", bar->label, bar->percent);
    print_left(bar, done);
    fputc('\n', stderr);
}

void progress_begin(progress *bar, const char *label)
{
    *bar = (progress){.shown = true, .terminal = isatty(STDERR_FILENO) != 0, .began = now(), .percent = -1};
    bar->printed = bar->began;
    snprintf(bar->label, sizeof(bar->label), "%s", label);
    progress_update(bar, 0);
}

void progress_update(progress *bar, double done)
{
    int percent = (int)(done * 100);
    if (!bar->shown || percent == bar->percent)
        return;
    bar->percent = percent;
    if (bar->terminal)
        draw(bar, done < 1 ? done : 1);
    else if (bar->lines)
        print_line(bar, done < 1 ? done : 1);
}

void progress_wipe(const progress *bar)
{
    if (bar->shown && bar->terminal)
        fputs("\r\x1b[K", stderr);
}

void progress_end(progress *bar)
{
    progress_wipe(bar);
    bar->shown = false;
}
