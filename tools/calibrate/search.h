/*
 * search.h - anchors and head maps by measured loss. The plans by similarity are where it starts; anchors are added one
 * at a time where that costs least end to end, then moved, and the rows of the head map are tried against alternatives.
 */
#ifndef CALIBRATE_SEARCH_H
#define CALIBRATE_SEARCH_H

#include "quality.h"

typedef struct search_desc {
    const quality_texts *texts;
    const kas_calibration *anchors; /* whose objective proposes anchors */
    const kas_calibration *maps;    /* whose similarities make head and normaliser maps */
    kas_plan_desc wish;             /* shape, rule, normaliser: everything but anchors and maps */
    /* Called after each plan that was read, `trials` so far; may be NULL. */
    void (*progress)(void *user, uint32_t trials, double loss);
    void *progress_user;
} search_desc;

typedef struct search search;

kas_status search_begin(const search_desc *desc, search **made);
void search_end(search *made);

/*
 * The best plan found with one more anchor than the last call's, or one at first. For kas_plan_destroy. Blocks for as
 * many readings as the model has layers, and some. `loss` is that of the search's texts.
 */
kas_status search_next(search *made, kas_plan **plan, double *loss);

/* Plans that a search up to `count` anchors reads, about. */
uint32_t search_trials(uint32_t layers, uint32_t count);

#endif
