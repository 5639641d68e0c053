/*
 * search.h - anchors and head maps by measured loss. The plans by similarity are where it starts; anchors are added one
 * at a time where that costs least end to end, then moved, and the rows of the head map are tried against alternatives.
 * What a plan forgets shows only in texts long enough to forget in, which are dear to read. So every candidate reads
 * short texts with a smaller fraction of the keys, the plan's times the ratio of the lengths, which finds most of what
 * long texts find (docs/calibration.md), and those that do best there read the long texts, which decide.
 */
#ifndef CALIBRATE_SEARCH_H
#define CALIBRATE_SEARCH_H

#include "quality.h"

typedef struct search_desc {
    const quality_texts *texts;     /* short: every candidate reads them */
    const quality_texts *finals;    /* longer ones, which the best candidates of each count read; NULL: none */
    uint32_t finalists;             /* how many do; at least 1 where there are finals */
    const kas_calibration *anchors; /* whose objective proposes anchors */
    const kas_calibration *maps;    /* whose similarities make head and normaliser maps */
    kas_plan_desc wish;             /* shape, rule, normaliser: everything but anchors and maps */
    /* Called after each reading with what it cost, as quality_texts_cost() has it; may be NULL. */
    void (*progress)(void *user, double cost);
    void *progress_user;
} search_desc;

typedef struct search search;

kas_status search_begin(const search_desc *desc, search **made);
void search_end(search *made);

/*
 * The best plan found with one more anchor than the last call's, or one at first. For kas_plan_destroy. Blocks for as
 * many readings as the model has layers, and some. `loss` is that on the texts that decided: the finals where there are
 * any.
 */
kas_status search_next(search *made, kas_plan **plan, double *loss);

/* What search_next costs at most for `count` anchors, about, in the unit of quality_texts_cost(). */
double search_cost(const search_desc *desc, uint32_t count);

#endif
