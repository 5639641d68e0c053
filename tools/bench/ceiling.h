/*
 * ceiling.h - what the machine itself can do, measured between the layers: on the CPU the bandwidth of reading memory
 * and OpenBLAS sgemm, each with the context's threads; on other devices the bandwidth of a copy within the device. A
 * matrix peak of other devices cannot be measured through the library: it may be given by the caller.
 */
#ifndef BENCH_CEILING_H
#define BENCH_CEILING_H

#include "../fail.h"

#include <stdbool.h>

typedef struct bench_ceiling bench_ceiling;

/* `host`: the CPU with `threads` threads, by sgemm (`products`) or by reading; otherwise copies of the device. */
kas_status bench_ceiling_create(kas_context *context, bool host, bool products, uint32_t threads,
                                bench_ceiling **ceiling);
void bench_ceiling_destroy(bench_ceiling *ceiling);

/* "sgemm", "read" or "copy"; what one run does, in operations or bytes. */
const char *bench_ceiling_name(const bench_ceiling *ceiling);
double bench_ceiling_work(const bench_ceiling *ceiling);

/* One run of the host's ceilings; waits for it. */
kas_status bench_ceiling_run_host(bench_ceiling *ceiling, double *milliseconds);
/* Puts one run on the stream of a device that is not the host. */
kas_status bench_ceiling_enqueue(bench_ceiling *ceiling, kas_stream *stream);

#endif
