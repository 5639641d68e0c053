/*
 * result.h - the verdict on one case: what was measured against which bound, and the first thing that was wrong.
 */
#ifndef CONFORMANCE_RESULT_H
#define CONFORMANCE_RESULT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum conformance_verdict {
    CONFORMANCE_PASSED,
    CONFORMANCE_FAILED,
    CONFORMANCE_SKIPPED /* the message says why */
} conformance_verdict;

typedef struct conformance_result {
    char name[128];
    char variant[32]; /* the forced rows; "best" where the library chose */
    conformance_verdict verdict;
    double error, bound; /* the measurement that came nearest to its bound */
    char message[320];   /* "" when passed */
    uint64_t digest;     /* of every output byte, to compare reruns */
    double seconds;      /* from the case's first buffer to its last, the oracle's work included */
} conformance_result;

#if defined(__GNUC__)
#define RESULT_PRINTF __attribute__((format(printf, 2, 3)))
#else
#define RESULT_PRINTF
#endif

/* Marks the case failed; the first message stays. */
void result_fail(conformance_result *result, const char *format, ...) RESULT_PRINTF;
void result_skip(conformance_result *result, const char *format, ...) RESULT_PRINTF;

/* Fails unless error <= bound (a NaN fails); keeps the measurement when it is nearer to its bound than the others. */
void result_measure(conformance_result *result, const char *what, double error, double bound);

void result_digest(conformance_result *result, const void *bytes, size_t size);

#endif
