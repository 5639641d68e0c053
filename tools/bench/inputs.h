/*
 * inputs.h - random normal tensors for a measurement, and enough copies of K and V that none is found in a cache
 * because the call before had read it.
 */
#ifndef BENCH_INPUTS_H
#define BENCH_INPUTS_H

#include "work.h"

#include "../fail.h"

#define BENCH_BUFFERS_MAX 64

typedef struct bench_inputs {
    kas_buffer *q, *out;
    kas_buffer *k[BENCH_BUFFERS_MAX], *v[BENCH_BUFFERS_MAX]; /* of set s from s * segments on */
    kas_kv_segment segment[BENCH_BUFFERS_MAX];               /* of the set whose turn it is */
    uint32_t segments;                                       /* buffers of a set, where one cannot hold it */
    uint32_t segment_sequences;                              /* in each but the last */
    uint32_t sets, next;
} bench_inputs;

/* On failure what has been made stays for bench_inputs_destroy. */
kas_status bench_inputs_create(kas_context *context, kas_stream *stream, const bench_shape *shape,
                               bench_inputs *inputs);
void bench_inputs_destroy(bench_inputs *inputs);

/* The arguments of a layer's call, each time over the next copy of K and V. */
kas_attention bench_inputs_next(bench_inputs *inputs, const bench_shape *shape, uint32_t layer);

#endif
