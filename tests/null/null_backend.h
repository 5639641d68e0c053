/*
 * null_backend.h - the device "null" for tests of core: the CPU's generic rows behind a table that counts what is
 * alive, keeps a record of launches, and fails the call it is told to. Its limits are small and the test's to choose,
 * its buffers are not host memory, and each operation has two rows, "first" and "second", for head dimensions to 128.
 */
#ifndef NULL_BACKEND_H
#define NULL_BACKEND_H

#include "core/backend.h"

/* The kinds of call that can be told to fail. */
typedef enum null_call {
    NULL_OPEN,
    NULL_BUFFER, /* device memory: created or imported */
    NULL_STREAM,
    NULL_COPY, /* write, read, copy and fill */
    NULL_WAIT,
    NULL_KERNEL,
    NULL_LAUNCH,
    NULL_TIMER, /* created, marked or read */
    NULL_CALL_COUNT
} null_call;

typedef struct null_limits {
    uint64_t max_allocation, max_binding;
    uint32_t slice_alignment;
    uint32_t max_group_count[3];
} null_limits;

#define NULL_HEAD_DIM 128u
#define NULL_MOST_LAUNCHES 4096u

/* A launch as the device saw it. */
typedef struct null_launch {
    kas_op op;
    const char *variant;
    uint32_t grid[3];
    kas_call call;
} null_launch;

/* Adds the device to the library; the first call does, later ones change nothing. */
void null_install(void);

/* Wide limits, no call fails, nothing counted or recorded. Limits hold for contexts created afterwards. */
void null_reset(void);
void null_set_limits(const null_limits *limits);

/* Of the calls of one kind from now on, the nth fails with `status`, and `count` calls in all from there. */
void null_fail(null_call call, uint32_t nth, uint32_t count, kas_status status);

/* Calls of a kind since the last null_fail or null_reset, failed ones included. */
uint32_t null_calls(null_call call);

/* Contexts, buffers, streams, kernels and timers that were made and not destroyed. */
uint32_t null_alive(void);

/* Launches since null_reset, and the first NULL_MOST_LAUNCHES of them. */
uint32_t null_launch_count(void);
const null_launch *null_launch_at(uint32_t index);

#endif
