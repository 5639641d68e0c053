/*
 * engine.h - conformance of a device: every case with every variant row forced, and once with the rows the library
 * chooses by itself. `kascade conformance` and the tests print what comes of it.
 */
#ifndef CONFORMANCE_ENGINE_H
#define CONFORMANCE_ENGINE_H

#include "../cases/cases.h"
#include "result.h"

#include <kascade/kascade.h>

typedef struct conformance_options {
    const char *device;
    const char *filter; /* extended regular expression on "case@variant"; NULL: all */
    case_tier tier;
    uint64_t seed;
    uint32_t threads; /* of a CPU context; 0: all */
    uint32_t jobs;    /* cases at the same time, each from a thread of its own; 0: 1 */
    /* Called after each case, never by two threads at once, with the number done and about how many there are; may be
     * NULL. */
    void (*progress)(void *user, const conformance_result *result, uint32_t done, uint32_t total);
    void *user;
} conformance_options;

/* A usable row of the device's table and the cases that ran with it. */
typedef struct conformance_row {
    char operation[16];
    char variant[32];
    uint32_t dtypes, min_head_dim, max_head_dim;
    uint32_t passed, failed;
    double share;      /* the largest error of those cases as a share of its bound */
    char nearest[128]; /* the case it comes from; "" when none measured anything */
} conformance_row;

typedef struct conformance_report {
    char device[32], driver[128], description[128];
    uint64_t features;  /* KAS_FEATURE_* */
    const char *commit; /* of the build; "unknown" outside a repository */
    case_tier tier;
    uint64_t seed;
    uint32_t passed, failed, skipped, untested; /* untested: usable rows that no case forced */
    double duration_s;
    uint32_t result_count, row_count;
    conformance_result *results;
    conformance_row *rows;
} conformance_report;

/* KAS_OK when the cases ran, whatever their verdicts. Errors: INVALID_ARGUMENT for the filter; as kas_context_create. */
kas_status conformance_run(const conformance_options *options, conformance_report *report);
void conformance_report_free(conformance_report *report);

/* Something ran, nothing failed. */
bool conformance_succeeded(const conformance_report *report);

/* The engine's own sentence when conformance_run failed, otherwise kas_last_error()'s. */
const char *conformance_error(void);

#endif
