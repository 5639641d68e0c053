/*
 * plan_search.h - the arithmetic of calibration: from measured similarities between layers to anchors, head maps and
 * normaliser maps. Pure functions of a kas_calibration; the
 * measuring is done elsewhere.
 */
#ifndef KAS_PLAN_SEARCH_H
#define KAS_PLAN_SEARCH_H

#include "base.h"

/* layer_similarity[a * layers + b] = importance[b] * mean over y of max over x of the similarity; 0 where a > b. */
void kas_layer_similarity(const kas_calibration *calibration, double *layer_similarity);

/*
 * The `count` anchors, ascending from layer 0, with the greatest sum over all layers b of layer_similarity[a * layers
 * + b], a the last anchor up to b; of equals the lexicographically smallest. `objective`, which may be NULL, gets the
 * sum. Only a <= b is read. Errors: INVALID_ARGUMENT for layers outside 1..4096, a count outside 1..layers, a value
 * that is not finite; OUT_OF_MEMORY.
 */
kas_status kas_search_anchors(const double *layer_similarity, uint32_t layers, uint32_t count, uint32_t *anchors,
                              double *objective);

/*
 * head_map[layers * kv_heads]: of layer b, head y, the head of the last anchor up to b that serves it best, the lower
 * one of equals; the identity on anchors. `anchors` is ascending and begins with 0.
 */
void kas_search_head_map(const kas_calibration *calibration, const uint32_t *anchors, uint32_t anchor_count,
                         uint32_t *head_map);

/* normalizer_map[(anchor_count - 1) * kv_heads]: likewise for each later anchor, from the anchor before it. */
void kas_search_normalizer_map(const kas_calibration *calibration, const uint32_t *anchors, uint32_t anchor_count,
                               uint32_t *normalizer_map);

#endif
