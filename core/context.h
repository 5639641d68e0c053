/* context.h - what stands behind the public handles of devices: contexts, buffers, streams, timers. */
#ifndef KAS_CONTEXT_H
#define KAS_CONTEXT_H

#include "backend.h"

struct kas_context {
    const kas_backend *backend;
    kas_backend_context *handle;
    kas_device_info info;
    char *variant; /* rows to prefer, as in kas_context_desc; NULL: the best */
};

struct kas_buffer {
    kas_context *context;
    kas_backend_buffer *handle;
    uint64_t size;
};

struct kas_stream {
    kas_context *context;
    kas_backend_stream *handle;
};

struct kas_timer {
    kas_context *context;
    kas_backend_timer *handle;
    uint32_t marks;
    bool *recorded;
};

/*
 * Chooses and loads the first row that fits: the context's preferred rows before the others. A row whose kernel does
 * not build on this driver is passed over with a warning. `estimated`: the session may ask for it.
 * Errors: UNSUPPORTED naming the operation and the shape when no row fits; what the last row said when none loads.
 */
kas_status kas_variant_load(kas_context *context, kas_op op, const kas_kernel_spec *spec, bool estimated,
                            const kas_variant **variant, kas_backend_kernel **kernel);

/* The first row that fits, before any is loaded; of the preferred ones alone, or of all. NULL: none does. */
const kas_variant *kas_variant_find(const kas_context *context, kas_op op, const kas_kernel_spec *spec, bool preferred);

#endif
