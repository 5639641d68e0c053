/* samples.h - times of one thing measured again and again, and what is said of them: the median and the spread. */
#ifndef BENCH_SAMPLES_H
#define BENCH_SAMPLES_H

#include <stdint.h>

#define SAMPLES_MAX 256

typedef struct samples {
    uint32_t count;
    double values[SAMPLES_MAX]; /* milliseconds */
} samples;

typedef struct sample_summary {
    double median, min, max;
} sample_summary;

/* Samples past SAMPLES_MAX are left out. */
void samples_add(samples *all, double value);

/* Sorts the samples. At least one is needed. */
sample_summary samples_summarize(samples *all);

#endif
