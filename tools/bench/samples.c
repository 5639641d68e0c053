/* samples.c - see samples.h. */
#include "samples.h"

#include <stdlib.h>

void samples_add(samples *all, double value)
{
    if (all->count < SAMPLES_MAX)
        all->values[all->count++] = value;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

sample_summary samples_summarize(samples *all)
{
    uint32_t n = all->count;
    qsort(all->values, n, sizeof(all->values[0]), compare);
    double median = n % 2 ? all->values[n / 2] : 0.5 * (all->values[n / 2 - 1] + all->values[n / 2]);
    return (sample_summary){median, all->values[0], all->values[n - 1]};
}
