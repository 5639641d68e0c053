/*
 * measure.h - what calibration measures: a model reads prompts with dense attention, and calibrators of the library see
 * every layer. Several calibrators may listen to one reading.
 */
#ifndef CALIBRATE_MEASURE_H
#define CALIBRATE_MEASURE_H

#include "lm/sequence.h"

#define MEASURE_MAX_LISTENERS 2

/* One calibrator's choices. */
typedef struct measure_listener {
    uint32_t list_keys; /* 0: the library's default */
    kas_reduce reduce;
} measure_listener;

typedef struct measure_desc {
    const lm_model *model;
    kas_context *context;
    kas_dtype dtype;
    uint32_t tile;
    const unsigned char *text; /* prompts * length bytes: consecutive slices, no start token */
    uint32_t prompts, length;
    const measure_listener *listeners;
    uint32_t listener_count;
    void (*progress)(void *user, double done); /* from 0 to 1; may be NULL */
    void *progress_user;
} measure_desc;

typedef struct measurement measurement;

/* Blocks. Errors: as kas_calibrator_create, kas_calibrator_feed and lm_sequence_create. */
kas_status measure(const measure_desc *desc, measurement **made);
void measurement_destroy(measurement *made);

/* What listener `index` found; lives as long as the measurement. */
const kas_calibration *measurement_of(const measurement *made, uint32_t index);

#endif
