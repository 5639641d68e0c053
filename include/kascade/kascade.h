/*
 * kascade.h - the whole public interface of libkascade.
 *
 * Kascade sparse attention (arXiv 2512.16391): anchor layers compute exact top-k key lists, the layers between them
 * reuse those lists through head maps. An application opens a context on a device, wraps or allocates buffers, loads
 * an anchor plan, creates a session for its shapes, and calls kas_prefill or kas_decode once a layer.
 *
 * Conventions, for every function unless its comment says otherwise:
 *  - A function that can fail returns kas_status; on failure its out-parameters are untouched, nothing is half-made,
 *    and kas_last_error() holds a sentence for the calling thread. Each answers INVALID_ARGUMENT for a pointer that it
 *    needs and that is NULL; its comment names what can happen besides.
 *  - No function waits for a device, a file or another thread unless its comment says so. The CPU device computes
 *    within the call that puts work on a stream.
 *  - Handles are owned by the caller and released by the matching _destroy, which accepts NULL. A context must
 *    outlive its buffers, streams, timers and sessions; a plan may be destroyed once the session exists.
 *  - Descriptors begin with struct_size = sizeof(the struct), a guard against a header of another version; every other
 *    field may be zero, which means the default its comment documents.
 *  - Contexts, plans and buffers may be used by several threads at once; a stream, timer or session by one at a time.
 *  - Sizes and offsets are in bytes, strides in elements, lengths in tokens.
 *  - Symbols in comments: B sequences, H query heads, G key/value heads, R = H/G, D head dimension, T tile size.
 */
#ifndef KASCADE_H
#define KASCADE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(KAS_BUILD) && defined(__GNUC__)
#define KAS_API __attribute__((visibility("default")))
#else
#define KAS_API
#endif

#define KAS_VERSION_MAJOR 0
#define KAS_VERSION_MINOR 1
#define KAS_VERSION_PATCH 0
#define KAS_VERSION_STRING "0.1.0"

/* The version of the library that was loaded, as "major.minor.patch"; static storage. */
KAS_API const char *kas_version(void);

/* ---- Status ---------------------------------------------------------------------------------------------------- */

#define KAS_STATUS_LIST(X)                                                                                             \
    X(KAS_OK, 0, "ok")                                                                                                 \
    X(KAS_ERROR_INVALID_ARGUMENT, 1, "an argument is out of its documented range")                                     \
    X(KAS_ERROR_UNSUPPORTED, 2, "no variant of this device supports the request")                                      \
    X(KAS_ERROR_OUT_OF_MEMORY, 3, "host memory is exhausted")                                                          \
    X(KAS_ERROR_OUT_OF_DEVICE_MEMORY, 4, "device memory is exhausted")                                                 \
    X(KAS_ERROR_LIMIT, 5, "a limit of the session or the device is exceeded")                                          \
    X(KAS_ERROR_STATE, 6, "the call is not valid in the present state")                                                \
    X(KAS_ERROR_NO_DEVICE, 7, "the device does not exist or its driver is missing")                                    \
    X(KAS_ERROR_DRIVER, 8, "the driver reported an error")                                                             \
    X(KAS_ERROR_DEVICE_LOST, 9, "the device is lost; its context cannot be used any more")                             \
    X(KAS_ERROR_IO, 10, "a file cannot be read or written")                                                            \
    X(KAS_ERROR_FORMAT, 11, "a file or text is malformed")

typedef enum kas_status {
#define KAS_STATUS_ENUM(name, value, text) name = value,
    KAS_STATUS_LIST(KAS_STATUS_ENUM)
#undef KAS_STATUS_ENUM
} kas_status;

/* A short English text for a status; static storage, never NULL, also for values that are no status. */
KAS_API const char *kas_status_text(kas_status status);

/*
 * The sentence that explains the calling thread's most recent failure (which argument, its value, the bound), "" when
 * nothing has failed. Valid until the thread's next failing call.
 */
KAS_API const char *kas_last_error(void);

/* ---- Process-wide hooks ---------------------------------------------------------------------------------------- */

/*
 * Host memory hooks. allocate returns memory aligned to `alignment` (a power of two) or NULL; release gets back the
 * pointer and the size it was asked for. Both may be called from any thread.
 */
typedef struct kas_allocator {
    void *user;
    void *(*allocate)(void *user, size_t size, size_t alignment);
    void (*release)(void *user, void *pointer, size_t size);
} kas_allocator;

typedef enum kas_log_level {
    KAS_LOG_ERROR = 0,
    KAS_LOG_WARNING = 1,
    KAS_LOG_INFO = 2,
    KAS_LOG_DEBUG = 3
} kas_log_level;

/* A log line, without a newline; called on the thread that has something to say, which may be a driver's. */
typedef void (*kas_log_fn)(void *user, kas_log_level level, const char *message);

/*
 * Replaces the host allocator (NULL, or a struct without both functions: the C library's). Call it while no handle of
 * this library exists; not thread-safe. The struct is copied.
 */
KAS_API void kas_set_allocator(const kas_allocator *allocator);

/* Replaces the log sink (NULL: silent, the default) and its level. Not thread-safe; the library never prints. */
KAS_API void kas_set_log(kas_log_fn log, void *user, kas_log_level level);

/* ---- Devices --------------------------------------------------------------------------------------------------- */

/* One backend of this build: whether its driver was found, and if not, why. Strings are static. */
typedef struct kas_backend_info {
    uint32_t struct_size;
    const char *name;      /* "cpu", "cuda", "vulkan", "opencl" */
    int available;         /* 1 when the driver was found and shows at least one device */
    const char *reason;    /* why not available, a sentence; "" when available */
    uint32_t device_count; /* its devices are "name:0" .. "name:device_count-1" */
} kas_backend_info;

/* Feature bits of a device, any backend; a variant row names the ones it needs. */
#define KAS_FEATURE_AVX2 (1ull << 0)          /* AVX2, FMA and F16C */
#define KAS_FEATURE_AVX512 (1ull << 1)        /* AVX-512 F, BW, DQ, VL */
#define KAS_FEATURE_AVX512_BF16 (1ull << 2)   /* bfloat16 dot products */
#define KAS_FEATURE_AVX512_FP16 (1ull << 3)   /* half-precision arithmetic */
#define KAS_FEATURE_NEON (1ull << 4)          /* Advanced SIMD of aarch64 */
#define KAS_FEATURE_F16 (1ull << 8)           /* half arithmetic in kernels */
#define KAS_FEATURE_SUBGROUP (1ull << 9)      /* subgroup arithmetic and shuffles */
#define KAS_FEATURE_COOPMAT (1ull << 10)      /* cooperative matrices f16 x f16 + f32 (VK_KHR_cooperative_matrix) */
#define KAS_FEATURE_COOPMAT2 (1ull << 11)     /* VK_NV_cooperative_matrix2 */
#define KAS_FEATURE_ADDRESS (1ull << 12)      /* buffer device addresses */
#define KAS_FEATURE_INT64 (1ull << 13)        /* 64-bit integers in kernels */
#define KAS_FEATURE_STORAGE16 (1ull << 14)    /* 16-bit values in storage buffers */
#define KAS_FEATURE_SERIAL (1ull << 15)       /* items of a work group run in turns on one core (OpenCL on a CPU) */
#define KAS_FEATURE_MMA (1ull << 16)          /* warp matrix instructions (CUDA, sm_80 and newer) */
#define KAS_FEATURE_WGMMA (1ull << 17)        /* warpgroup matrix instructions and bulk copies (CUDA, sm_90a) */

/* The name of one feature bit ("avx2"); NULL where no feature has it. Static storage. */
KAS_API const char *kas_feature_name(uint64_t feature);

typedef struct kas_device_info {
    uint32_t struct_size;
    char name[16];               /* "cuda:0" */
    char description[128];       /* the driver's name of the device */
    char driver[128];            /* driver and API version */
    uint64_t features;           /* KAS_FEATURE_* */
    uint64_t memory;             /* bytes of device memory; 0 unknown */
    uint64_t max_allocation;     /* largest single buffer, bytes */
    uint64_t max_binding;        /* largest part of a buffer one kernel argument can address, bytes */
    uint32_t slice_alignment;    /* alignment of the offset of a kas_slice, bytes, a power of two */
    uint32_t compute_units;      /* multiprocessors, compute units, or threads */
    uint32_t max_group_count[3]; /* grid limits */
    uint32_t shared_memory;      /* per work group, bytes */
    int host_memory;             /* 1: buffers are host memory, kas_buffer_host works */
} kas_device_info;

/* Number of backends compiled into this library, missing drivers included. Probes drivers on the first call. */
KAS_API uint32_t kas_backend_count(void);

/* Describes backend `index`. Errors: INVALID_ARGUMENT for an index past the count or a wrong struct_size. */
KAS_API kas_status kas_backend_get_info(uint32_t index, kas_backend_info *info);

/*
 * Describes a device by name ("cpu", "cuda:0"; without a number, the backend's first). Errors: NO_DEVICE with the
 * reason its driver gave; INVALID_ARGUMENT. May take as long as the driver's start-up.
 */
KAS_API kas_status kas_device_get_info(const char *name, kas_device_info *info);

/* ---- Contexts -------------------------------------------------------------------------------------------------- */

typedef struct kas_context kas_context;

/*
 * Callbacks that keep compiled pipelines between runs. load copies at most `capacity` bytes of the entry `key` to
 * `data` and returns the entry's whole size (0: no such entry; data may be NULL to ask). store keeps an entry. A context
 * calls them from whatever thread makes a session, one call at a time.
 */
typedef struct kas_cache {
    void *user;
    size_t (*load)(void *user, const char *key, void *data, size_t capacity);
    void (*store)(void *user, const char *key, const void *data, size_t size);
} kas_cache;

typedef struct kas_context_desc {
    uint32_t struct_size;
    const char *device;        /* as for kas_device_get_info; NULL: "cpu" */
    uint32_t threads;          /* CPU: threads of this context, the calling one included; 0: one a processor */
    uint64_t disable_features; /* KAS_FEATURE_* to do without; rows that need them are not used */
    const char *variant;       /* variant rows to prefer (tests, tuning; see kas_session_variant): entries "NAME", for
                                  all operations, or "OPERATION=NAME", separated by commas or white space: the text
                                  of a file that `kascade bench --tune` writes. NULL: the library's choice */
    kas_cache cache;           /* zero: nothing is kept */
    const void *import;        /* a kas_cuda_import, kas_opencl_import or kas_vulkan_import of the device's backend;
                                  its handles stay the caller's and outlive the context. NULL: open the device */
} kas_context_desc;

/*
 * Opens (or adopts) a device. Blocks for the driver's start-up. Errors: INVALID_ARGUMENT, NO_DEVICE, OUT_OF_MEMORY,
 * DRIVER.
 */
KAS_API kas_status kas_context_create(const kas_context_desc *desc, kas_context **context);
/* Waits for the context's own threads to end, and stores in the cache what was compiled. */
KAS_API void kas_context_destroy(kas_context *context);

/* The device behind a context; features are those left after disable_features. Errors: INVALID_ARGUMENT. */
KAS_API kas_status kas_context_get_info(const kas_context *context, kas_device_info *info);

/* One row of the variant table, as `kascade devices` lists it. Strings are static. */
typedef struct kas_variant_info {
    uint32_t struct_size;
    const char *name;
    const char *operation;
    uint32_t dtypes;        /* bit 1 << kas_dtype for each storage type it takes */
    uint32_t min_head_dim;  /* head dimensions min..max in steps of `head_dim_step` */
    uint32_t max_head_dim;
    uint32_t head_dim_step;
    uint64_t needs;         /* KAS_FEATURE_* */
    int usable;             /* 1 when the context's features cover `needs` */
} kas_variant_info;

/* Number of rows in the table of the context's backend. */
KAS_API uint32_t kas_context_variant_count(const kas_context *context);

/* Row `index` of it, best first within an operation. Errors: INVALID_ARGUMENT. */
KAS_API kas_status kas_context_get_variant(const kas_context *context, uint32_t index, kas_variant_info *info);

/*
 * The name of operation `index` as kas_variant_info and kas_session_variant use it ("attend", "select", ...); NULL past
 * the last one. Static storage.
 */
KAS_API const char *kas_operation_name(uint32_t index);

/* ---- Buffers --------------------------------------------------------------------------------------------------- */

typedef struct kas_buffer kas_buffer;
typedef struct kas_stream kas_stream;

/*
 * Allocates `size` bytes (1 or more) of device memory, contents undefined. Errors: INVALID_ARGUMENT,
 * OUT_OF_DEVICE_MEMORY, OUT_OF_MEMORY, LIMIT when size exceeds the device's max_allocation.
 */
KAS_API kas_status kas_buffer_create(kas_context *context, uint64_t size, kas_buffer **buffer);

/*
 * Wraps memory of the caller's: a host pointer (CPU), a CUdeviceptr, a cl_mem or a VkBuffer, as an integer. `size`
 * bytes from `offset` of it, a multiple of slice_alignment, become the buffer; the memory stays the caller's and
 * outlives the buffer. A VkBuffer needs STORAGE_BUFFER, TRANSFER_SRC and TRANSFER_DST usage. Errors: INVALID_ARGUMENT,
 * OUT_OF_MEMORY, DRIVER.
 */
KAS_API kas_status kas_buffer_import(kas_context *context, uint64_t handle, uint64_t offset, uint64_t size,
                                     kas_buffer **buffer);
/* The work that uses the buffer must be done. */
KAS_API void kas_buffer_destroy(kas_buffer *buffer);
/* Bytes; 0 for NULL. */
KAS_API uint64_t kas_buffer_size(const kas_buffer *buffer);

/* The buffer's memory where buffers are host memory (kas_device_info.host_memory), NULL elsewhere. */
KAS_API void *kas_buffer_host(kas_buffer *buffer);

/* ---- Streams --------------------------------------------------------------------------------------------------- */

/* Work put on a stream runs in order. Creates one. Errors: OUT_OF_MEMORY, DRIVER. */
KAS_API kas_status kas_stream_create(kas_context *context, kas_stream **stream);

/*
 * Adopts a CUstream, a cl_command_queue (in order), or a VkCommandBuffer in the recording state, as an integer. On a
 * VkCommandBuffer calls only record; kas_buffer_write, kas_buffer_read and kas_stream_wait answer
 * KAS_ERROR_UNSUPPORTED. Errors: INVALID_ARGUMENT, UNSUPPORTED (the CPU has none).
 */
KAS_API kas_status kas_stream_import(kas_context *context, uint64_t handle, kas_stream **stream);

/* Waits for the work on the stream, then releases it (an imported handle is left as it is). */
KAS_API void kas_stream_destroy(kas_stream *stream);

/* Blocks until all work on the stream is done; reports errors of that work. Errors: DRIVER, DEVICE_LOST. */
KAS_API kas_status kas_stream_wait(kas_stream *stream);

/*
 * Copies host memory to a buffer or back, in stream order. kas_buffer_write may return once the host memory has been
 * read; kas_buffer_read blocks until the data has arrived. Errors: INVALID_ARGUMENT for a range outside the buffer,
 * DRIVER, DEVICE_LOST.
 */
KAS_API kas_status kas_buffer_write(kas_stream *stream, kas_buffer *buffer, uint64_t offset, const void *data,
                                    uint64_t size);
KAS_API kas_status kas_buffer_read(kas_stream *stream, const kas_buffer *buffer, uint64_t offset, void *data,
                                   uint64_t size);

/* Device-side copy and byte fill in stream order, not blocking. Offsets and size: multiples of 4. Ranges of one
   buffer must not overlap. Errors as above. */
KAS_API kas_status kas_buffer_copy(kas_stream *stream, kas_buffer *target, uint64_t target_offset,
                                   const kas_buffer *source, uint64_t source_offset, uint64_t size);
KAS_API kas_status kas_buffer_fill(kas_stream *stream, kas_buffer *buffer, uint64_t offset, uint64_t size,
                                   uint8_t value);

/* ---- Timers ---------------------------------------------------------------------------------------------------- */

typedef struct kas_timer kas_timer;

/* `marks` device timestamps (1 to 4,096). Errors: INVALID_ARGUMENT, OUT_OF_MEMORY, UNSUPPORTED, DRIVER. */
KAS_API kas_status kas_timer_create(kas_context *context, uint32_t marks, kas_timer **timer);
KAS_API void kas_timer_destroy(kas_timer *timer);

/*
 * Records mark `index` when the stream reaches this point; not blocking. Mark 0 begins a round: the marks after it are
 * recorded on the same stream, and those of the round before can no longer be read. Errors: INVALID_ARGUMENT, DRIVER.
 */
KAS_API kas_status kas_timer_mark(kas_timer *timer, kas_stream *stream, uint32_t index);

/* Milliseconds between two recorded marks. Call it after kas_stream_wait. Errors: INVALID_ARGUMENT, STATE (a mark was
   not recorded), DRIVER. */
KAS_API kas_status kas_timer_elapsed(kas_timer *timer, uint32_t first, uint32_t second, double *milliseconds);

/* ---- Anchor plans ---------------------------------------------------------------------------------------------- */

typedef struct kas_plan kas_plan;

typedef enum kas_topk_mode {
    KAS_TOPK_ROLLING = 0, /* k of a tile follows its own number of candidates */
    KAS_TOPK_FIXED = 1    /* k follows the final length of the sequence */
} kas_topk_mode;

/* k(n) = min(n, roundup(max(min, floor(fraction * n)), round)); fraction >= 1 keeps everything. */
typedef struct kas_topk {
    double fraction; /* 0: 0.10 */
    uint32_t min;    /* 0: 128 */
    uint32_t round;  /* 0: 128 */
    kas_topk_mode mode;
} kas_topk;

typedef enum kas_pooling {
    KAS_POOLING_GROUP = 0,    /* one list a kv head, pooled over its R query heads */
    KAS_POOLING_ALL_HEADS = 1 /* one list for all heads */
} kas_pooling;

typedef enum kas_normalizer {
    KAS_NORMALIZER_EXACT = 0,    /* anchors normalise over all causal keys */
    KAS_NORMALIZER_ESTIMATED = 1 /* anchors after layer 0 normalise over the previous published list */
} kas_normalizer;

typedef enum kas_role {
    KAS_ROLE_DENSE_SELECT = 0, /* layer 0: dense output, publishes lists */
    KAS_ROLE_ANCHOR = 1,       /* publishes lists and attends to them */
    KAS_ROLE_REUSE = 2,        /* attends to the newest published lists through its head map */
    KAS_ROLE_DENSE = 3         /* dense output, published lists stay */
} kas_role;

typedef struct kas_plan_desc {
    uint32_t struct_size;
    const char *model;  /* free text; NULL: "" */
    const char *source; /* free text; NULL: "" */
    uint32_t layers, heads, kv_heads;
    uint32_t tile; /* T: 16, 32, 64 or 128; 0: 32 */
    kas_topk topk;
    kas_pooling pooling;
    kas_normalizer normalizer;
    const uint32_t *anchors; /* [anchor_count], ascending, the first is 0 */
    uint32_t anchor_count;
    const uint32_t *head_map;       /* [layers, kv_heads]: the list row a kv head reads; NULL: identity */
    const uint32_t *normalizer_map; /* [anchor_count - 1, kv_heads], from the second anchor on: the row of the previous
                                       anchor's lists; NULL: none (KAS_NORMALIZER_ESTIMATED needs it) */
    const uint32_t *dense_layers;   /* [dense_layer_count], ascending, no anchors among them */
    uint32_t dense_layer_count;
} kas_plan_desc;

/*
 * Makes a plan from a descriptor, whose arrays are copied. Errors: INVALID_ARGUMENT with the field and bound (no layer
 * 0, anchors unsorted, repeated or past the last layer, map entries >= kv_heads, heads no multiple of kv_heads,
 * a tile that is not 16, 32, 64 or 128, a fraction that is not finite or is negative), OUT_OF_MEMORY.
 */
KAS_API kas_status kas_plan_create(const kas_plan_desc *desc, kas_plan **plan);
KAS_API void kas_plan_destroy(kas_plan *plan);

/*
 * Reads a plan from JSON (docs/plan-format.md): `size` bytes of text, or a file, for which kas_plan_load waits. Errors:
 * FORMAT with the field; IO; OUT_OF_MEMORY.
 */
KAS_API kas_status kas_plan_parse(const char *text, size_t size, kas_plan **plan);
KAS_API kas_status kas_plan_load(const char *path, kas_plan **plan);

/*
 * Writes JSON beside `path`, waits until it is on the disk and renames it over, so that a failure leaves no half file.
 * Errors: IO, also for a path that is there and no regular file; OUT_OF_MEMORY.
 */
KAS_API kas_status kas_plan_save(const kas_plan *plan, const char *path);

/* A view of the plan, every default filled in; its pointers live as long as the plan. Errors: INVALID_ARGUMENT. */
KAS_API kas_status kas_plan_get_desc(const kas_plan *plan, kas_plan_desc *desc);

/* The role of a layer; layers past the plan, and all of NULL, are KAS_ROLE_DENSE. */
KAS_API kas_role kas_plan_role(const kas_plan *plan, uint32_t layer);

/* ---- Sessions -------------------------------------------------------------------------------------------------- */

typedef struct kas_session kas_session;

typedef enum kas_dtype {
    KAS_DTYPE_DEFAULT = 0,
    KAS_DTYPE_F32 = 1,
    KAS_DTYPE_F16 = 2,
    KAS_DTYPE_BF16 = 3,
    KAS_DTYPE_F8_E4M3 = 4, /* not built yet */
    KAS_DTYPE_I8 = 5       /* not built yet */
} kas_dtype;

typedef enum kas_phase { KAS_PHASE_PREFILL = 0, KAS_PHASE_DECODE = 1 } kas_phase;

#define KAS_MAX_HEAD_DIM 256
#define KAS_MAX_DECODE_QUERIES 8

/* A part of a buffer that holds int32, uint32 or float values; buffer NULL: absent. */
typedef struct kas_slice {
    kas_buffer *buffer;
    uint64_t offset; /* bytes, a multiple of kas_device_info.slice_alignment */
} kas_slice;

typedef struct kas_session_desc {
    uint32_t struct_size;
    const kas_plan *plan;    /* NULL: only the lower-level operations; heads and kv_heads are then needed, and tile,
                                topk and pooling are taken from here */
    uint32_t heads;          /* H; 0: the plan's (otherwise it must equal the plan's) */
    uint32_t kv_heads;       /* G; likewise */
    uint32_t head_dim;       /* D, 1 to 256; needed */
    kas_dtype dtype;         /* of q and out; needed: F32, F16 or BF16 */
    kas_dtype kv_dtype;      /* of k and v; 0: dtype. Others: not built yet */
    float scale;             /* of q . k; 0: 1/sqrt(D) */
    uint32_t tile;           /* T; 0: the plan's (otherwise it must equal the plan's), without a plan 32 */
    kas_topk topk;           /* without a plan, or with topk_override */
    int topk_override;       /* 1: `topk` replaces the plan's */
    kas_pooling pooling;     /* without a plan; a plan's takes its place */
    uint32_t max_batch;      /* sequences in one call; 0: 1 */
    uint32_t max_queries;    /* query tokens of one sequence in one kas_prefill; 0: no prefill */
    uint32_t max_decode_queries; /* in one kas_decode, to 8; 0: 1 */
    uint32_t max_keys;       /* keys of one sequence, the call's own included; needed */
    uint32_t page_size;      /* tokens in a page of K/V; 0: contiguous */
    uint64_t scratch_limit;  /* bytes of scratch at most; 0: 1 GiB. Longer work runs in chunks that fit */
    kas_slice lists;         /* caller's memory for the lists; absent: allocated here */
    kas_slice scratch;       /* caller's memory for scratch; absent: allocated here */
    float soft_cap;          /* logit soft-cap; not built yet: must be 0 */
    uint32_t window;         /* sliding window; not built yet: must be 0 */
    kas_slice sinks;         /* attention sinks f32 [H]; not built yet: must be absent */
    uint32_t selection_key_bits; /* quantised selection keys; not built yet: must be 0 */
} kas_session_desc;

/* Bytes a session takes in device memory besides the caller's tensors. */
typedef struct kas_workspace_size {
    uint64_t lists;   /* published lists, prefill and decode */
    uint64_t scratch; /* scores, partial results; at most scratch_limit */
    uint64_t fixed;   /* argument blocks, always allocated by the session */
} kas_workspace_size;

/*
 * What kas_session_create would need, exactly, without creating it. Errors: as kas_session_create, memory apart.
 */
KAS_API kas_status kas_session_workspace_size(kas_context *context, const kas_session_desc *desc,
                                              kas_workspace_size *size);

/*
 * Makes a session: validates shapes, chooses a variant row for every operation, loads kernels, allocates. This is the
 * only place where a session compiles or allocates, and it waits for both: seconds where a driver compiles. Errors:
 * INVALID_ARGUMENT with the field; UNSUPPORTED when no row fits or a field is not built yet; LIMIT when one tile or one
 * sequence does not fit scratch_limit, or lists pass 2^32 entries a kv head; OUT_OF_MEMORY; OUT_OF_DEVICE_MEMORY;
 * DRIVER.
 */
KAS_API kas_status kas_session_create(kas_context *context, const kas_session_desc *desc, kas_session **session);
KAS_API void kas_session_destroy(kas_session *session);

/*
 * q and out: element (sequence b, token i, head h, d) lies at b*stride[0] + i*stride[1] + h*stride[2] + d from
 * `offset`. k and v: likewise with kv heads; in a paged cache stride[0] is the distance of pages and i counts within
 * the page. stride all zero: packed in the order [b][i][h][d]. The offset is a multiple of the element size.
 */
typedef struct kas_tensor {
    kas_buffer *buffer;
    uint64_t offset;    /* bytes */
    uint32_t stride[3]; /* elements */
} kas_tensor;

/* Keys and values of `count` sequences that lie in buffers of their own. */
typedef struct kas_kv_segment {
    uint32_t count;
    kas_tensor k, v;
} kas_kv_segment;

/*
 * One layer's attention. Sequence b has q_len[b] query tokens, the last of its kv_len[b] keys, so its first query sits
 * at position kv_len[b] - q_len[b]; k and v already hold the call's own tokens. A sequence with kv_len 0, an empty
 * place of a batch, gets rows of zeros and a log-sum-exp of -inf. All device arrays are read when the work runs: a
 * captured or recorded call follows them as sequences grow.
 */
typedef struct kas_attention {
    uint32_t struct_size;
    uint32_t layer;
    uint32_t batch;   /* B, to max_batch; 0: 1 */
    uint32_t queries; /* query tokens of each sequence (with q_lens: the most); prefill: to max_queries, needed;
                         decode: to max_decode_queries, 0: 1 */
    uint32_t keys;    /* keys of each sequence, own tokens included (with kv_lens: the most); 0: max_keys with
                         kv_lens, otherwise needed */
    kas_tensor q;     /* [B, queries, H, D] */
    kas_tensor k, v;  /* [B, keys, G, D], or [pages, page_size, G, D] */
    kas_tensor out;   /* as q, overlapping no input; rows past q_lens are not written */
    const kas_kv_segment *segments; /* instead of k and v: consecutive runs of sequences, counts adding up to B; not for
                                       paged caches */
    uint32_t segment_count;
    kas_slice lse;        /* optional output: f32 [B, H, queries], natural logarithm; -inf for a row with no key */
    kas_slice q_lens;     /* optional int32 [B]; absent: `queries` */
    kas_slice kv_lens;    /* optional int32 [B]; absent: `keys` */
    kas_slice q_starts;   /* optional int32 [B]: sequence b's tokens begin at row q_starts[b] of q, out (packed ragged
                             batch); stride[0] is then not used */
    kas_slice final_lens; /* KAS_TOPK_FIXED: optional int32 [B], final lengths; absent: final_len */
    uint32_t final_len;   /* KAS_TOPK_FIXED: final length of each sequence; 0: `keys` (decode, and prefill that is
                             neither chunked nor ragged; others need it or final_lens) */
    kas_slice page_table; /* paged: int32 [B, page_table_stride], page numbers in logical order */
    uint32_t page_table_stride; /* entries of a row; 0: ceil(max_keys / page_size) */
    uint32_t page_count;        /* pages in k and v; needed when paged: entries outside count as absent */
} kas_attention;

/*
 * One layer of prefill or decode, by the role the plan gives `layer`. Puts work on the stream; allocates nothing,
 * waits for nothing, can be captured (CUDA) or recorded (Vulkan). Layers of a step are called in ascending order; a
 * layer not above the last one begins a new step. Prefill and decode keep separate lists and steps.
 * The layers between an anchor and the next one get the anchor's batch, queries, keys and lengths.
 * Errors: INVALID_ARGUMENT with the field and bound; STATE for a reuse layer whose anchor has not published lists for
 * this batch in this step; LIMIT; DRIVER; DEVICE_LOST.
 */
KAS_API kas_status kas_prefill(kas_session *session, kas_stream *stream, const kas_attention *args);
KAS_API kas_status kas_decode(kas_session *session, kas_stream *stream, const kas_attention *args);

/* ---- Lower-level operations ------------------------------------------------------------------------------------ */

/*
 * Lists of key positions in the caller's memory: int32 [B, G, tiles, width] (G is 1 with KAS_POOLING_ALL_HEADS),
 * ascending, padded with -1. Row 0 is the tile of a sequence's first query. In prefill, tiles is
 * (keys - 1) / T - (keys - queries) / T + 1 of the call, or with q_lens or kv_lens the most that any offset can need,
 * (queries + T - 2) / T + 1; in decode, 1. More rows than that may be given and are left alone.
 */
typedef struct kas_lists {
    kas_slice indices;
    uint32_t tiles;
    uint32_t width;
} kas_lists;

/*
 * Pooled scores in the caller's memory: f32 [B, G, tiles, stride], G as in kas_lists, tiles exactly the call's; only
 * candidates are written.
 */
typedef struct kas_scores {
    kas_slice values;
    uint32_t tiles;
    uint32_t stride; /* floats between tiles, at least the most candidates. kas_pooled_scores of decode keeps logits of
                        this stride: one above max_keys rounded up to 64 may pass the session's scratch, LIMIT */
} kas_scores;

/*
 * Dense causal attention of any layer. Errors: INVALID_ARGUMENT with the field and bound; UNSUPPORTED where the device
 * has no row of the operation; LIMIT; DRIVER; DEVICE_LOST.
 */
KAS_API kas_status kas_attend(kas_session *session, kas_stream *stream, kas_phase phase, const kas_attention *args);

/* Log-sum-exp over all causal keys into args->lse (needed); out and v are not used. Errors as kas_attend. */
KAS_API kas_status kas_log_sum_exp(kas_session *session, kas_stream *stream, kas_phase phase,
                                   const kas_attention *args);

/*
 * Pooled scores of every candidate of every tile, normalised over all causal keys; out and v are not used. Errors as
 * kas_attend.
 */
KAS_API kas_status kas_pooled_scores(kas_session *session, kas_stream *stream, kas_phase phase,
                                     const kas_attention *args, const kas_scores *scores);

/*
 * Selects each tile's k largest scores (dense tiles: every candidate). Order: -0.0 equals +0.0, NaN below -inf, equal
 * scores: the lower key. width must be at least k of the largest tile. q, k, v and out are not used. Errors as
 * kas_attend.
 */
KAS_API kas_status kas_select(kas_session *session, kas_stream *stream, kas_phase phase, const kas_attention *args,
                              const kas_scores *scores, const kas_lists *lists);

/*
 * Sums of pooled scores over lists, into f32 [B, G, tiles, G + 1] at `mass` (G is 1 with KAS_POOLING_ALL_HEADS): entry
 * (b, y, tile, x) is the sum of row y's scores over the keys that row x of the tile's lists names, entry G the sum over
 * all candidates; a tile that a sequence does not have is left alone. How much of its attention kv head y would keep
 * with the lists of head x: the measure that calibration is made of. Lists as kas_attend_lists, with scores->tiles
 * tiles written. q, k, v and out are not used. Errors as kas_attend, and STATE where the session has a plan:
 * calibration comes before one.
 */
KAS_API kas_status kas_pooled_mass(kas_session *session, kas_stream *stream, kas_phase phase, const kas_attention *args,
                                   const kas_scores *scores, const kas_lists *lists, const kas_slice *mass);

/*
 * Attention over the caller's lists and the tile's own causal keys. Every non-negative entry below the tile's start is
 * used; others count as absent, -1 silently. kv head g reads row head_map[layer][g] of the plan, row g without one.
 * Errors as kas_attend.
 */
KAS_API kas_status kas_attend_lists(kas_session *session, kas_stream *stream, kas_phase phase,
                                    const kas_attention *args, const kas_lists *lists);

/*
 * The newest lists the session published in `phase`: row `row` (a kv head; 0 with KAS_POOLING_ALL_HEADS) of sequence b
 * begins at entry (b * rows + row) * row_capacity of `indices`; the tile at position tile * T at entry
 * tile_offset[tile] - tile_offset[first tile of the call] of the row. Its length is k of its candidates. Rows that no
 * layer of the plan reads are not made, and undefined. Errors: INVALID_ARGUMENT.
 */
typedef struct kas_published_lists {
    uint32_t struct_size;
    kas_slice indices;            /* int32 */
    uint32_t rows;                /* rows a sequence */
    uint64_t row_capacity;        /* entries */
    const uint32_t *tile_offset;  /* [tiles of max_keys + 1]; NULL in decode; lives as long as the session */
    int live;                     /* 1 when a reuse layer could read them */
} kas_published_lists;
KAS_API kas_status kas_session_get_lists(const kas_session *session, kas_phase phase, kas_published_lists *lists);

/* The variant row that the session chose for an operation (kas_operation_name); NULL where it has none. */
KAS_API const char *kas_session_variant(const kas_session *session, const char *operation);

/* k(n) of the session's rule for n candidates of a sequence whose final length is final_len (KAS_TOPK_FIXED); 0 for
   NULL. */
KAS_API uint32_t kas_session_topk(const kas_session *session, uint32_t candidates, uint32_t final_len);

/* ---- Calibration ------------------------------------------------------------------------------------------------ */

/*
 * Which layers of a model should be anchors, and which lists serve which heads, is measured once on a few prompts: run
 * the model with dense attention, feed every layer's queries, keys and hidden states to a calibrator, and make a plan
 * from what it found. docs/calibration.md has the scheme and its cost.
 */
typedef struct kas_calibrator kas_calibrator;

/* How the similarities of a prompt's tiles become one. */
typedef enum kas_reduce { KAS_REDUCE_MIN = 0, KAS_REDUCE_MEAN = 1 } kas_reduce;

typedef struct kas_calibrator_desc {
    uint32_t struct_size;
    uint32_t layers;        /* of the model; needed */
    uint32_t heads;         /* H; needed */
    uint32_t kv_heads;      /* G; needed */
    uint32_t head_dim;      /* D; needed */
    uint32_t hidden;        /* elements of a hidden state; needed */
    uint32_t max_tokens;    /* of the longest prompt; needed */
    kas_dtype dtype;        /* of q and k; needed: F32, F16 or BF16 */
    kas_dtype hidden_dtype; /* of the hidden states; 0: dtype */
    float scale;            /* of q . k; 0: 1/sqrt(D) */
    uint32_t tile;          /* 0: 32 */
    uint32_t list_keys;     /* keys of a tile's list; 0: 64 - tile, at least 32 */
    kas_reduce reduce;
    uint64_t scratch_limit; /* bytes of scratch at most; 0: 1 GiB. Longer work runs in chunks that fit */
} kas_calibrator_desc;

/*
 * Makes a calibrator. It takes device memory for the lists of every layer (layers * G * min(list_keys, candidates)
 * int32 a tile of max_tokens) and for scratch. Errors: as kas_session_create, and INVALID_ARGUMENT for a field of its
 * own, with the bound.
 */
KAS_API kas_status kas_calibrator_create(kas_context *context, const kas_calibrator_desc *desc,
                                         kas_calibrator **calibrator);
KAS_API void kas_calibrator_destroy(kas_calibrator *calibrator);

/* One layer of one prompt, as dense attention made it. q and k are rotated and normed as attention reads them. */
typedef struct kas_calibration_layer {
    uint32_t struct_size;
    uint32_t layer;
    uint32_t tokens;   /* of the prompt, 1 to max_tokens, the same in all of its layers */
    kas_tensor q;      /* [tokens, H, D]; stride[0] is not used */
    kas_tensor k;      /* [tokens, G, D]; likewise */
    kas_tensor before; /* [tokens, hidden]: the layer's input; stride[1] between tokens, 0: hidden */
    kas_tensor after;  /* likewise: the input plus the output of attention, after the output projection */
} kas_calibration_layer;

/*
 * Takes one layer of a prompt: layer 0 first, then each in turn; the last one ends the prompt, and layer 0 begins the
 * next. Puts work on the stream and waits for it: the tensors are free again on return. A call that is refused changes
 * nothing. Errors: INVALID_ARGUMENT with the field and bound; STATE for a layer out of turn, or after a call that
 * failed on the device; LIMIT; OUT_OF_MEMORY; DRIVER; DEVICE_LOST.
 */
KAS_API kas_status kas_calibrator_feed(kas_calibrator *calibrator, kas_stream *stream,
                                       const kas_calibration_layer *layer);

/* What a model showed on its prompts; averages over them. Arrays may also be the caller's own. */
typedef struct kas_calibration {
    uint32_t struct_size;
    uint32_t layers, kv_heads;
    uint32_t prompts;
    const float *similarity; /* [layers a, layers b, G y, G x], only a <= b counts: how well head y of layer b is served
                                by the list of head x of layer a; 1: as well as by its own */
    const float *importance; /* [layers], 0 or more: 1 - cos(before, after), how much attention changes its input */
    const float *coverage;   /* [layers, G]: the part of its attention that a head keeps with its own list, over the
                                tiles that have more candidates than the list keys; may be NULL in plans and layers */
} kas_calibration;

/*
 * The averages over all prompts fed so far; the arrays live until the next feed, finish or destroy. Errors: STATE when
 * no prompt was fed, or the last one lacks layers; OUT_OF_MEMORY.
 */
KAS_API kas_status kas_calibrator_finish(kas_calibrator *calibrator, kas_calibration *calibration);

/*
 * layer_similarity[a * layers + b] = importance[b] * mean over y of max over x of similarity(a, b, y, x); 0 where
 * a > b. Errors: INVALID_ARGUMENT.
 */
KAS_API kas_status kas_calibration_layers(const kas_calibration *calibration, double *layer_similarity);

/*
 * Makes a plan from measurements. `wish` describes it as for kas_plan_create, except that anchors may be NULL: then the
 * anchor_count anchors are those with the greatest sum of layer similarities, of equals the lexicographically smallest;
 * that head_map NULL means each head's most similar one of its anchor, the lower of equals; and normalizer_map NULL
 * likewise from anchor to anchor. Dense layers are no anchors and do not count. `objective`, which may be NULL, gets
 * the sum. Errors: INVALID_ARGUMENT (also for a measurement that is not finite), OUT_OF_MEMORY.
 */
KAS_API kas_status kas_calibration_plan(const kas_calibration *calibration, const kas_plan_desc *wish, kas_plan **plan,
                                        double *objective);

/* ---- Checks ------------------------------------------------------------------------------------------------------ */

/* Device data found invalid since the last check. */
#define KAS_CHECK_LENGTH (1u << 0) /* a q_len or kv_len was negative, too large, or q_len > kv_len > 0, or q_starts led
                                      past q or out: sequence skipped */
#define KAS_CHECK_PAGE (1u << 1)   /* a page number was outside the pool: its keys counted as absent */
#define KAS_CHECK_LIST (1u << 2)   /* a list entry other than -1 was no candidate: counted as absent */

/*
 * Waits for the stream, reads and clears the bits. Errors: DRIVER, DEVICE_LOST; UNSUPPORTED on a VkCommandBuffer: use
 * another stream of the context when the command buffer has run.
 */
KAS_API kas_status kas_session_check(kas_session *session, kas_stream *stream, uint32_t *bits);

#ifdef __cplusplus
}
#endif

#endif
