/* inputs.c - see inputs.h. */
#include "inputs.h"

#include "../half.h"

#include <math.h>
#include <stdlib.h>

/* The values repeat after a number that shares no factor with a head dimension, so that no two rows are equal. */
#define PERIOD (2u * 2097143u)
/* Bytes that the copies of K and V of decode take together at least; up to how many a second copy is made anyway. */
#define DECODE_BYTES (1ull << 30)
#define DECODE_BYTES_TWICE (8ull << 30)

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static double uniform(uint64_t *state)
{
    return ((double)(next_random(state) >> 11) + 0.5) * 0x1p-53;
}

static void store(void *values, size_t index, kas_dtype dtype, double value)
{
    if (dtype == KAS_DTYPE_F32)
        ((float *)values)[index] = (float)value;
    else if (dtype == KAS_DTYPE_F16)
        ((uint16_t *)values)[index] = half_from_float((float)value);
    else
        ((uint16_t *)values)[index] = bfloat_from_float((float)value);
}

/* Two periods of normal values, so that a window of one period may begin anywhere in the first. */
static void *make_values(kas_dtype dtype)
{
    const double turn = 6.283185307179586;
    void *values = malloc((size_t)2 * PERIOD * bench_element_size(dtype));
    uint64_t state = 0x9e3779b97f4a7c15u;
    for (size_t i = 0; values && i < PERIOD; i += 2) {
        double radius = sqrt(-2 * log(uniform(&state))), angle = turn * uniform(&state);
        for (int half = 0; half < 2; half++) {
            double value = radius * (half ? sin(angle) : cos(angle));
            store(values, i + (size_t)half, dtype, value);
            store(values, i + (size_t)half + PERIOD, dtype, value);
        }
    }
    return values;
}

/* A buffer of `bytes` full of values from `start` on: one period is written, the rest copied on the device. */
static kas_status create_filled(kas_context *context, kas_stream *stream, const void *values, uint32_t element,
                                uint64_t bytes, uint32_t start, kas_buffer **buffer)
{
    TOOL_TRY_LIBRARY(kas_buffer_create(context, bytes, buffer));
    uint64_t filled = (uint64_t)PERIOD * element < bytes ? (uint64_t)PERIOD * element : bytes;
    TOOL_TRY_LIBRARY(kas_buffer_write(stream, *buffer, 0, (const char *)values + (size_t)start * element, filled));
    while (filled < bytes) {
        uint64_t step = filled < bytes - filled ? filled : bytes - filled;
        TOOL_TRY_LIBRARY(kas_buffer_copy(stream, *buffer, filled, *buffer, 0, step));
        filled += step;
    }
    TOOL_TRY_LIBRARY(kas_stream_wait(stream));
    return KAS_OK;
}

static uint32_t count_sets(const bench_shape *shape, uint64_t set_bytes, uint32_t most)
{
    if (shape->phase == KAS_PHASE_PREFILL)
        return 1;
    uint64_t sets = (DECODE_BYTES + set_bytes - 1) / set_bytes;
    if (sets == 1 && 2 * set_bytes <= DECODE_BYTES_TWICE)
        sets = 2;
    return sets < most ? (uint32_t)sets : most;
}

/* As few buffers as the device allows, alike in size. */
static kas_status plan_segments(kas_context *context, const bench_shape *shape, uint64_t sequence_bytes,
                                bench_inputs *inputs)
{
    kas_device_info info = {.struct_size = sizeof(info)};
    TOOL_TRY_LIBRARY(kas_context_get_info(context, &info));
    uint64_t largest = info.max_allocation < info.max_binding ? info.max_allocation : info.max_binding;
    uint64_t most = largest / sequence_bytes ? largest / sequence_bytes : 1;
    uint64_t segments = (shape->batch + most - 1) / most;
    if (segments > BENCH_BUFFERS_MAX)
        return tool_fail(KAS_ERROR_LIMIT, "keys of %u sequences need %llu buffers, at most %d are made", shape->batch,
                         (unsigned long long)segments, BENCH_BUFFERS_MAX);
    inputs->segment_sequences = (uint32_t)((shape->batch + segments - 1) / segments);
    inputs->segments = (shape->batch + inputs->segment_sequences - 1) / inputs->segment_sequences;
    return KAS_OK;
}

static uint32_t sequences_of(const bench_inputs *inputs, const bench_shape *shape, uint32_t segment)
{
    uint32_t left = shape->batch - segment * inputs->segment_sequences;
    return left < inputs->segment_sequences ? left : inputs->segment_sequences;
}

/* One copy of K and V. */
static kas_status fill_set(kas_context *context, kas_stream *stream, const bench_shape *shape, const void *values,
                           uint64_t sequence_bytes, uint32_t set, bench_inputs *inputs)
{
    uint32_t element = bench_element_size(shape->dtype);
    for (uint32_t segment = 0; segment < inputs->segments; segment++) {
        uint32_t n = set * inputs->segments + segment, start = (2 * n + 1) * 31337;
        /* Copies at multiples of four bytes. */
        uint64_t bytes = (sequence_bytes * sequences_of(inputs, shape, segment) + 3) / 4 * 4;
        TOOL_TRY(create_filled(context, stream, values, element, bytes, start % PERIOD, &inputs->k[n]));
        TOOL_TRY(create_filled(context, stream, values, element, bytes, (start + 15671) % PERIOD, &inputs->v[n]));
    }
    return KAS_OK;
}

static kas_status fill_all(kas_context *context, kas_stream *stream, const bench_shape *shape, const void *values,
                           bench_inputs *inputs)
{
    uint32_t element = bench_element_size(shape->dtype);
    uint64_t queries = shape->phase == KAS_PHASE_PREFILL ? shape->keys : 1;
    uint64_t q_bytes = ((uint64_t)shape->batch * queries * shape->heads * shape->head_dim * element + 3) / 4 * 4;
    uint64_t sequence_bytes = (uint64_t)shape->keys * shape->kv_heads * shape->head_dim * element;
    TOOL_TRY(plan_segments(context, shape, sequence_bytes, inputs));
    inputs->sets = count_sets(shape, 2 * sequence_bytes * shape->batch, BENCH_BUFFERS_MAX / inputs->segments);
    TOOL_TRY(create_filled(context, stream, values, element, q_bytes, 0, &inputs->q));
    TOOL_TRY(create_filled(context, stream, values, element, q_bytes, 0, &inputs->out));
    for (uint32_t set = 0; set < inputs->sets; set++)
        TOOL_TRY(fill_set(context, stream, shape, values, sequence_bytes, set, inputs));
    return KAS_OK;
}

kas_status bench_inputs_create(kas_context *context, kas_stream *stream, const bench_shape *shape,
                               bench_inputs *inputs)
{
    void *values = make_values(shape->dtype);
    if (!values)
        return tool_fail_memory();
    kas_status status = fill_all(context, stream, shape, values, inputs);
    free(values);
    return status;
}

void bench_inputs_destroy(bench_inputs *inputs)
{
    kas_buffer_destroy(inputs->q);
    kas_buffer_destroy(inputs->out);
    for (uint32_t i = 0; i < BENCH_BUFFERS_MAX; i++) {
        kas_buffer_destroy(inputs->k[i]);
        kas_buffer_destroy(inputs->v[i]);
    }
    *inputs = (bench_inputs){0};
}

kas_attention bench_inputs_next(bench_inputs *inputs, const bench_shape *shape, uint32_t layer)
{
    uint32_t first = inputs->next++ % inputs->sets * inputs->segments;
    kas_attention args = {
        .struct_size = sizeof(args),
        .layer = layer,
        .batch = shape->batch,
        .queries = shape->phase == KAS_PHASE_PREFILL ? shape->keys : 1,
        .keys = shape->keys,
        .q = {.buffer = inputs->q},
        .out = {.buffer = inputs->out},
    };
    for (uint32_t i = 0; i < inputs->segments; i++)
        inputs->segment[i] = (kas_kv_segment){.count = sequences_of(inputs, shape, i),
                                              .k = {.buffer = inputs->k[first + i]},
                                              .v = {.buffer = inputs->v[first + i]}};
    args.k = inputs->segment[0].k;
    args.v = inputs->segment[0].v;
    if (inputs->segments > 1) {
        args.segments = inputs->segment;
        args.segment_count = inputs->segments;
    }
    return args;
}
