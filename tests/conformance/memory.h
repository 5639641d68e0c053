/* memory.h - host memory of the tests. A test that cannot allocate has no verdict, so exhaustion ends the process. */
#ifndef CONFORMANCE_MEMORY_H
#define CONFORMANCE_MEMORY_H

#include <stdio.h>
#include <stdlib.h>

/* Zeroed memory for free(); a count of 0 is allowed. */
static inline void *memory_alloc(size_t count, size_t size)
{
    void *memory = calloc(count ? count : 1, size);
    if (!memory) {
        fprintf(stderr, "conformance: %zu x %zu bytes of host memory cannot be had\n", count, size);
        exit(3);
    }
    return memory;
}

#endif
