/*
 * backend.h - the waist: everything core asks of a device. A port fulfils this file and adds nothing elsewhere.
 *
 * Rules that hold for every function of kas_backend:
 *  - Core validates; a backend receives only valid work and re-checks nothing on the host. Data that lies in device
 *    memory (lengths, page tables, callers' lists) is checked by the kernels, as core/kernel/ says.
 *  - Nothing aborts, prints or exits. A driver's error becomes a status and a sentence through kas_fail; out-parameters
 *    are untouched on failure. A lost device answers KAS_ERROR_DEVICE_LOST from then on.
 *  - Host memory comes from kas_alloc. launch, copy, fill and mark allocate nothing and wait for nothing.
 *  - Work on a stream runs in order: a backend that needs barriers between launches puts them in.
 *  - Functions that take a context may be called by several threads at once, those that take a stream by one.
 */
#ifndef KAS_BACKEND_H
#define KAS_BACKEND_H

#include "base.h"
#include "kernel/blocks.h"

/*
 * The primitive operations, each with the meaning of its grid. Core plans every grid, kernels only read it.
 * z is the sequence within the launch, R = group, `rows` the y extent of the grid.
 *
 * attend        x query blocks of block_queries (0: the session's tile) from the first query of tile_begin, to the end
 *               of the launch's tiles; y kv heads (or heads: per_head). Dense causal attention, out and lse.
 * lse           grid as attend. Log-sum-exp over all causal keys; with KAS_CALL_ESTIMATED over list and own keys, and
 *               x then counts tiles.
 * scores        x tile + tile_count * key block (block_keys; 0: one block), y active rows. Pooled scores of a tile's
 *               candidates from q, k and lse, summed over pool_heads kv heads. With KAS_CALL_OWN_LSE (see own_lse_keys)
 *               lse is not bound: the row finds it on its way.
 * select        x tile, y active rows. The `keep` best of a tile's scores in ascending key order.
 * select_split  x split of the candidates, y active rows. Decode: what select makes, in `steps` launches (see
 *               KAS_CALL_SELECT_STEP) that leave each other what the splits found. Optional: without a row, and where
 *               lists keep the device busy, select does it.
 * sparse        x tile * query blocks + query block (block_queries; 0: the whole tile), y kv heads (or heads).
 *               Attention over list and own keys, out and lse.
 * attend_split  x split, y kv heads. Decode: a split's partial result for R heads and all query tokens.
 * sparse_split  x split of the list's entries followed by the own keys, y kv heads. As attend_split.
 * merge         x query token, y head. Partial results to out and lse.
 * logits        x split of the candidates and own keys, y active rows * pool_heads. Decode: scaled logits of every key
 *               and partial sums.
 * pool          x key block (block_keys), y active rows. Decode: logits and partial sums to pooled scores.
 * publish       x tile, y kv heads. All of a publishing layer's tile at once, for rows that can (core chains the others'
 *               operations where no row fits): packed lists of the layer's active rows; out and lse over all causal keys
 *               with KAS_CALL_DENSE, otherwise over the new lists and own keys. Never with all heads pooled or estimated.
 * mass          x tile, y active rows. Sums of a tile's scores over the tile's list of every row, and over all candidates.
 * anchor        x split of the keys, y active rows. Decode: what logits, pool and select make and, with KAS_CALL_OUT (all
 *               rows are active then), what sparse_split and merge make of it. The splits of a (sequence, row) run
 *               together as a team and wait for each other. Optional: without a row the operations above do it.
 *
 * Split work: split s covers keys (entries) [s * split_keys, (s + 1) * split_keys) of those that exist; an empty
 * split writes greatest -inf and sum 0. Query rows of a kv head are numbered r * queries + i: head r, query token i,
 * kas_call.queries of them even where a sequence has fewer.
 */
#define KAS_OP_LIST(X)                                                                                                 \
    X(KAS_OP_ATTEND, "attend")                                                                                         \
    X(KAS_OP_LSE, "lse")                                                                                               \
    X(KAS_OP_SCORES, "scores")                                                                                         \
    X(KAS_OP_SELECT, "select")                                                                                         \
    X(KAS_OP_SPARSE, "sparse")                                                                                         \
    X(KAS_OP_ATTEND_SPLIT, "attend_split")                                                                             \
    X(KAS_OP_SPARSE_SPLIT, "sparse_split")                                                                             \
    X(KAS_OP_MERGE, "merge")                                                                                           \
    X(KAS_OP_LOGITS, "logits")                                                                                         \
    X(KAS_OP_POOL, "pool")                                                                                             \
    X(KAS_OP_PUBLISH, "publish")                                                                                       \
    X(KAS_OP_MASS, "mass")                                                                                             \
    X(KAS_OP_ANCHOR, "anchor")                                                                                         \
    X(KAS_OP_SELECT_SPLIT, "select_split")

typedef enum kas_op {
#define KAS_OP_ENUM(name, text) name,
    KAS_OP_LIST(KAS_OP_ENUM)
#undef KAS_OP_ENUM
        KAS_OP_COUNT
} kas_op;

/* "attend" for KAS_OP_ATTEND, and so on; also the basename of the kernel's file in every backend. */
const char *kas_op_name(kas_op op);

#define KAS_DTYPE_BIT(dtype) (1u << (dtype))
#define KAS_DTYPES_ALL (KAS_DTYPE_BIT(KAS_DTYPE_F32) | KAS_DTYPE_BIT(KAS_DTYPE_F16) | KAS_DTYPE_BIT(KAS_DTYPE_BF16))

/*
 * One row of a backend's table: a kernel, what it needs and how its work is cut. Rows of an operation stand best
 * first, a generic row last. That a row fits is the only meaning of "supported".
 */
typedef struct kas_variant {
    const char *name;
    kas_op op;
    uint32_t dtypes; /* bits by KAS_DTYPE_BIT */
    uint32_t min_head_dim, max_head_dim, head_dim_step;
    uint32_t max_group;     /* most query heads a kv head; 0: any */
    uint32_t max_queries;   /* most query tokens a sequence in decode; 0: any */
    uint64_t needs;         /* KAS_FEATURE_* */
    uint32_t block_queries; /* see KAS_OP_LIST */
    uint32_t block_keys;
    bool per_head;       /* the y axis of attend, lse and sparse counts query heads */
    uint32_t tiles;      /* tile sizes it takes, as a mask of T themselves (16 | 32); 0: any */
    bool no_pages;       /* contiguous k and v only */
    bool no_estimate;    /* lse, scores: not with KAS_CALL_ESTIMATED */
    uint32_t own_lse_keys; /* scores: takes KAS_CALL_OWN_LSE in calls of up to so many keys; 0: never */
    uint32_t max_keys;     /* publish: most keys of a call; 0: any */
    uint32_t steps;      /* select_split: launches, at most four */
    uint32_t team;       /* anchor: most splits of a team, a power of two, */
    uint32_t team_keys;  /* and most keys of a split */
    const void *code;    /* the backend's own */
} kas_variant;

/* What a kernel may be specialised for; fixed by the session. */
typedef struct kas_kernel_spec {
    kas_dtype dtype;
    uint32_t head_dim;
    uint32_t group;
    uint32_t tile;
    uint32_t page_size; /* 0: contiguous */
    uint32_t queries;   /* most query tokens a sequence in decode: a choice of rows, not a promise to the kernel */
} kas_kernel_spec;

/* The backend's own handles. */
typedef struct kas_backend_context kas_backend_context;
typedef struct kas_backend_buffer kas_backend_buffer;
typedef struct kas_backend_stream kas_backend_stream;
typedef struct kas_backend_kernel kas_backend_kernel;
typedef struct kas_backend_timer kas_backend_timer;

typedef struct kas_binding {
    kas_backend_buffer *buffer; /* NULL: the slot is not used by this launch */
    uint64_t offset;            /* a multiple of slice_alignment */
    uint64_t size;              /* bytes from offset that the kernel may touch; at most max_binding */
} kas_binding;

typedef struct kas_launch {
    const kas_variant *variant;
    kas_backend_kernel *kernel;
    uint32_t grid[3]; /* within max_group_count; none is zero */
    kas_call call;
    kas_binding bindings[KAS_SLOT_COUNT];
} kas_launch;

typedef struct kas_backend {
    const char *name;
    const kas_variant *variants;
    uint32_t variant_count;
    /* Work groups of attend_split and sparse_split that a compute unit runs at once; 0: unknown, 4 keep it busy. */
    uint32_t groups_per_unit;
    uint32_t score_groups_per_unit; /* likewise of logits; 0: as many */

    /* Loads the driver; the number of devices, or 0 with a sentence in `reason`. Called once a process. */
    uint32_t (*probe)(char *reason, size_t reason_size);
    /* Fills every field but struct_size and name. */
    kas_status (*device_info)(uint32_t index, kas_device_info *info);

    /* desc->import is of this backend's type, or NULL. info: as filled by device_info, features already reduced by
       desc->disable_features; an importing backend may reduce or correct it further. */
    kas_status (*open)(uint32_t index, const kas_context_desc *desc, kas_device_info *info,
                       kas_backend_context **context);
    void (*close)(kas_backend_context *context);

    kas_status (*buffer_create)(kas_backend_context *context, uint64_t size, kas_backend_buffer **buffer);
    kas_status (*buffer_import)(kas_backend_context *context, uint64_t handle, uint64_t offset, uint64_t size,
                                kas_backend_buffer **buffer);
    void (*buffer_destroy)(kas_backend_context *context, kas_backend_buffer *buffer);
    /* The buffer's memory as the host sees it at all times, or NULL. */
    void *(*buffer_host)(kas_backend_buffer *buffer);

    /* imported: handle of the caller's; otherwise a stream of our own is made. */
    kas_status (*stream_create)(kas_backend_context *context, bool imported, uint64_t handle,
                                kas_backend_stream **stream);
    void (*stream_destroy)(kas_backend_stream *stream);
    kas_status (*stream_wait)(kas_backend_stream *stream);

    kas_status (*write)(kas_backend_stream *stream, kas_backend_buffer *buffer, uint64_t offset, const void *data,
                        uint64_t size);
    kas_status (*read)(kas_backend_stream *stream, kas_backend_buffer *buffer, uint64_t offset, void *data,
                       uint64_t size);
    kas_status (*copy)(kas_backend_stream *stream, kas_backend_buffer *target, uint64_t target_offset,
                       kas_backend_buffer *source, uint64_t source_offset, uint64_t size);
    kas_status (*fill)(kas_backend_stream *stream, kas_backend_buffer *buffer, uint64_t offset, uint64_t size,
                       uint8_t value);

    /* Compiles or finds a kernel. May be slow; called from kas_session_create alone. Kernels are kept by the context
       where that saves work; unload releases this use of it. */
    kas_status (*kernel_load)(kas_backend_context *context, const kas_variant *variant, const kas_kernel_spec *spec,
                              kas_backend_kernel **kernel);
    void (*kernel_unload)(kas_backend_context *context, kas_backend_kernel *kernel);
    kas_status (*launch)(kas_backend_stream *stream, const kas_launch *launch);

    kas_status (*timer_create)(kas_backend_context *context, uint32_t marks, kas_backend_timer **timer);
    void (*timer_destroy)(kas_backend_timer *timer);
    kas_status (*timer_mark)(kas_backend_timer *timer, kas_backend_stream *stream, uint32_t index);
    kas_status (*timer_elapsed)(kas_backend_timer *timer, uint32_t first, uint32_t second, double *milliseconds);
} kas_backend;

/* The backends of this build, NULL-terminated; the order in which `kascade devices` lists them. */
extern const kas_backend *const kas_backends[];

extern const kas_backend kas_backend_cpu;
extern const kas_backend kas_backend_cuda;
extern const kas_backend kas_backend_opencl;
extern const kas_backend kas_backend_vulkan;

#endif
