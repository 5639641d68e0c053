/* session.h - what a session holds: shapes, chosen kernels, device memory, and which lists are live. */
#ifndef KAS_SESSION_H
#define KAS_SESSION_H

#include "context.h"
#include "plan.h"
#include "tiling.h"

/* Whether a layer of this role makes lists. */
static inline bool kas_role_publishes(kas_role role)
{
    return role == KAS_ROLE_ANCHOR || role == KAS_ROLE_DENSE_SELECT;
}

/* The step a phase is in: which layer came last, and the lists that the newest publishing layer left. */
typedef struct kas_step {
    bool begun;
    uint32_t last_layer;
    bool live; /* lists of this step exist */
    uint32_t publisher;            /* the layer that made them */
    uint32_t batch, queries, keys; /* its call */
    uint32_t final_len;            /* likewise, with KAS_TOPK_FIXED */
    uint32_t length_flags;         /* likewise: KAS_CALL_*_LENS */
} kas_step;

typedef struct kas_loaded_kernel {
    const kas_variant *variant;
    kas_backend_kernel *kernel;
    bool refused; /* rows fit, and the driver failed to make a kernel of any */
} kas_loaded_kernel;

/* Device memory that a session made or was given. */
typedef struct kas_memory {
    kas_slice slice;
    kas_buffer *owned; /* NULL: the caller's */
} kas_memory;

struct kas_session {
    kas_context *context;
    kas_session_block block;
    kas_shape shape;
    kas_dtype dtype;
    uint32_t element_size;
    bool estimated;
    uint32_t layers;         /* of the plan; 0 without one. Row `layers` of the maps is the identity */
    kas_role *roles;         /* [layers] */
    uint32_t *active_counts; /* [layers + 1]: rows that a layer makes */
    uint32_t *tile_offsets;  /* [tiles of max_keys + 1]: the host's copy of the table on the device */
    uint64_t scratch_size;
    uint64_t list_bytes_prefill; /* decode lists follow, aligned */
    uint64_t list_bytes_decode;
    kas_loaded_kernel kernels[KAS_OP_COUNT];
    kas_memory fixed; /* session block and tables; the status word lies at status_offset */
    uint64_t status_offset;
    kas_memory lists;
    kas_memory scratch;
    kas_step steps[2]; /* by kas_phase */
};

/* Offset of the decode lists behind the prefill lists, and of every section of scratch: a multiple of this. */
#define KAS_SECTION_ALIGNMENT 256u

#endif
