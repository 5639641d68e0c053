/*
 * report.h - what a calibration found, as numbers in JSON and as one HTML page with drawings that needs nothing from
 * elsewhere.
 */
#ifndef CALIBRATE_REPORT_H
#define CALIBRATE_REPORT_H

#include "quality.h"

#include <cJSON.h>

#define REPORT_MAX_SHARES 8

/* A plan of the table. What was not measured is NaN. */
typedef struct report_row {
    uint32_t count;
    uint32_t *anchors;  /* [count] */
    double objective;   /* sum of layer similarities over that of own lists */
    double search_loss; /* on the search's texts */
    double bits_per_byte, change, recall; /* on the held-out texts */
    double prefill_cost, decode_cost;     /* of attention, predicted, against dense */
} report_row;

typedef struct report {
    const char *model, *text, *device, *objective, *reduce;
    uint32_t prompts, length, list_keys, held_out, held_out_length;
    const kas_calibration *calibration; /* of the objective */
    const kas_calibration *at_k;        /* whose coverage is that of the lists that will be used; may be NULL */
    const double *layer_similarity;     /* [layers, layers] */
    const quality *dense;               /* on the held-out texts; NULL: not measured */
    const report_row *rows;
    uint32_t row_count, chosen; /* index of the plan that was kept */
    const kas_plan *plan;
    uint32_t share_count; /* of the chosen plan, other top-k fractions */
    double shares[REPORT_MAX_SHARES];
    quality at_share[REPORT_MAX_SHARES];
} report;

/* For cJSON_Delete; NULL when memory is exhausted. */
cJSON *report_json(const report *of);

/* Makes the folder where it is not there, and sees that files can be written into it. Errors: IO. */
kas_status report_make_folder(const char *folder);

/* Writes calibration.json and calibration.html into such a folder. Errors: IO. */
kas_status report_write(const report *of, const char *folder);

#endif
