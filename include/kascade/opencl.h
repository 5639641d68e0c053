/*
 * opencl.h - handing an application's OpenCL objects to libkascade. No vendor header is needed to include it.
 *
 * A cl_command_queue becomes a stream with kas_stream_import, a cl_mem a buffer with kas_buffer_import, both as
 * integers: (uint64_t)(uintptr_t)queue. An imported queue is in order; timers need CL_QUEUE_PROFILING_ENABLE on it.
 * Events: what the application enqueues to the queue with a wait list before a call (clEnqueueBarrierWithWaitList) the
 * call waits for, and an event the application takes behind it (clEnqueueMarkerWithWaitList) completes with the call.
 */
#ifndef KASCADE_OPENCL_H
#define KASCADE_OPENCL_H

#include <kascade/kascade.h>

#ifdef __cplusplus
extern "C" {
#endif

/* kas_context_desc.import for an OpenCL device; kas_context_desc.device is then "opencl" or one of its devices. */
typedef struct kas_opencl_import {
    uint32_t struct_size;
    void *context; /* cl_context */
    void *device;  /* cl_device_id of that context, the one to run on; a sub-device is welcome */
} kas_opencl_import;

#ifdef __cplusplus
}
#endif

#endif
