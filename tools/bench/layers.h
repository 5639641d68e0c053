/*
 * layers.h - which layers of a plan are timed, how often each kind occurs in it, and the plan itself: a file's, or the
 * shape of the published one for Llama-3.1-8B.
 */
#ifndef BENCH_LAYERS_H
#define BENCH_LAYERS_H

#include "work.h"

#include "../fail.h"

/* Zero: the plan's own value, or the default of the published plan. */
typedef struct bench_plan_options {
    const char *path; /* NULL: the published plan's shape */
    uint32_t heads, kv_heads, tile;
    double topk;
    int normalizer; /* a kas_normalizer; -1: the plan's */
} bench_plan_options;

typedef struct bench_layers {
    uint32_t count[BENCH_KINDS]; /* layers of each kind in the plan */
    uint32_t layer[BENCH_KINDS]; /* the one that is timed; its lists are those of the layer timed before it */
    uint32_t layer0_rows;        /* lists of layer 0 that are read */
} bench_layers;

/* What a kind is called, by bench_kind. */
extern const char *const bench_kind_titles[BENCH_KINDS];

kas_status bench_plan_create(const bench_plan_options *options, kas_plan **plan);

bench_layers bench_layers_of(const kas_plan *plan);

#endif
