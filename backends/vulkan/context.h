/*
 * context.h - the objects of the Vulkan backend and what its files ask of each other. One file a noun: device.c
 * (physical devices), context.c (opened ones), memory.c (buffers), stream.c and transfer.c (recorded work),
 * pipeline.c (kernels), timer.c.
 */
#ifndef KAS_VULKAN_CONTEXT_H
#define KAS_VULKAN_CONTEXT_H

#include "core/backend.h"
#include "core/platform.h"
#include "loader.h"

#include <kascade/vulkan.h>

#include <stdatomic.h>

/* ---- Physical devices ------------------------------------------------------------------------------------------- */

typedef struct kas_vulkan_limits {
    uint32_t api_version;
    uint32_t vendor, device;
    uint8_t cache_uuid[VK_UUID_SIZE];
    uint32_t subgroup_size;
    uint32_t matrix[3];                    /* M, N and K of the matrices that kernels use; zeros: none */
    uint32_t storage_buffers;              /* a kernel may bind */
    uint64_t storage_range;                /* bytes of one of them */
    uint32_t group_invocations;
    uint32_t shared_memory;                /* bytes of a work group */
    uint32_t queue_family;                 /* the first that computes */
    uint32_t timestamp_bits;               /* of that family */
    double timestamp_period;               /* nanoseconds a tick */
    uint64_t non_coherent_atom;
    uint32_t loop_turns;                   /* of all loops of an invocation, which the driver then ends; 0: no limit */
} kas_vulkan_limits;

/*
 * Describes a physical device: features are those it has, not those that are enabled. NO_DEVICE when this backend
 * cannot use it, OUT_OF_MEMORY when it cannot be told, with a sentence in `reason`.
 */
kas_status kas_vulkan_describe(const kas_vulkan_instance_api *api, VkPhysicalDevice physical, kas_device_info *info,
                               kas_vulkan_limits *limits, char *reason, size_t reason_size);

/* The instance and the devices that probe found; they live as long as the process. */
typedef struct kas_vulkan_process {
    kas_vulkan_instance_api api;
    VkInstance instance;
    uint32_t device_count;
    VkPhysicalDevice devices[16];
    atomic_flag lock; /* of contexts and their uses, held for no longer than a walk over the list */
    kas_backend_context *contexts; /* open, with devices of our own */
} kas_vulkan_process;

kas_vulkan_process *kas_vulkan_get_process(void);
uint32_t kas_vulkan_probe(char *reason, size_t reason_size);
kas_status kas_vulkan_device_info(uint32_t index, kas_device_info *info);

/* ---- Contexts --------------------------------------------------------------------------------------------------- */

typedef struct kas_vulkan_block kas_vulkan_block; /* memory that small buffers share */

struct kas_backend_buffer {
    VkBuffer handle;
    VkDeviceMemory memory;   /* the buffer's own; VK_NULL_HANDLE: imported, or in a block */
    kas_vulkan_block *block; /* in which it has `units` */
    uint64_t units;
    bool imported;
    uint64_t offset;       /* of an imported buffer, within `handle` */
    uint64_t size;         /* bytes of `handle` from `offset` that a kernel may be given */
    kas_backend_buffer *next_buried;
    uint64_t buried_at; /* on the context's count of events */
};

struct kas_backend_context {
    uint32_t uses; /* core's contexts that are this one; under the lock of the process */
    kas_backend_context *next;
    kas_vulkan_instance_api instance_api;
    kas_vulkan_device_api api;
    VkInstance instance;
    VkPhysicalDevice physical;
    VkDevice device;
    VkQueue queue;
    bool owns_device;
    uint64_t features; /* enabled, and not disabled by the caller */
    kas_vulkan_limits limits;
    VkPhysicalDeviceMemoryProperties memory;
    kas_vulkan_import import; /* its lock; zero when the device is our own */
    int lost;                 /* sticky; read and written without a lock, it only ever becomes 1 */

    kas_mutex *queue_lock; /* submissions */
    kas_mutex *lock;       /* everything below */
    uint64_t events;                  /* count of streams that became busy and of buffers that were buried */
    kas_backend_stream *busy_streams; /* of our own, which have unfinished work */
    kas_backend_stream *spare_streams; /* of our own, destroyed: what they are made of serves the next ones */
    uint32_t spare_count;
    kas_vulkan_block *blocks;
    kas_backend_buffer *buried;       /* destroyed while streams were busy; released once those have been idle */
    kas_backend_kernel *kernels;
    VkPipelineCache cache;
    kas_cache cache_hooks;
    bool cache_changed;
    kas_backend_buffer *empty; /* bound where a launch leaves a slot out */
};

kas_status kas_vulkan_open(uint32_t index, const kas_context_desc *desc, kas_device_info *info,
                           kas_backend_context **context);
void kas_vulkan_close(kas_backend_context *context);

/* KAS_OK, or a status and a sentence that names `call`; a lost device is remembered. */
kas_status kas_vulkan_check(kas_backend_context *context, VkResult result, const char *call);
/* KAS_ERROR_DEVICE_LOST once the device was lost. */
kas_status kas_vulkan_usable(kas_backend_context *context);

#define KAS_VULKAN_TRY(context, call, ...)                                                                             \
    KAS_TRY(kas_vulkan_check(context, (context)->api.call(__VA_ARGS__), "vk" #call))

/* ---- Memory ----------------------------------------------------------------------------------------------------- */

kas_status kas_vulkan_buffer_create(kas_backend_context *context, uint64_t size, kas_backend_buffer **buffer);
kas_status kas_vulkan_buffer_import(kas_backend_context *context, uint64_t handle, uint64_t offset, uint64_t size,
                                    kas_backend_buffer **buffer);
void kas_vulkan_buffer_destroy(kas_backend_context *context, kas_backend_buffer *buffer);
void *kas_vulkan_buffer_host(kas_backend_buffer *buffer);
/* Releases the memory that small buffers shared; none of them is left. */
void kas_vulkan_blocks_destroy(kas_backend_context *context);
/* Releases what was destroyed before all busy streams became so; the caller holds context->lock. */
void kas_vulkan_release_buried(kas_backend_context *context);

/* Memory that host and device both reach, mapped for as long as it lives. */
typedef struct kas_vulkan_staging {
    VkBuffer handle;
    VkDeviceMemory memory;
    unsigned char *mapped;
    uint64_t size;
    bool coherent;
} kas_vulkan_staging;

kas_status kas_vulkan_staging_create(kas_backend_context *context, uint64_t size, kas_vulkan_staging *staging);
void kas_vulkan_staging_destroy(kas_backend_context *context, kas_vulkan_staging *staging);
/* Makes what the host wrote visible to the device, and the reverse; nothing where the memory is coherent. */
kas_status kas_vulkan_staging_flush(kas_backend_context *context, const kas_vulkan_staging *staging, uint64_t offset,
                                    uint64_t size);
kas_status kas_vulkan_staging_invalidate(kas_backend_context *context, const kas_vulkan_staging *staging,
                                         uint64_t offset, uint64_t size);

/* ---- Streams ---------------------------------------------------------------------------------------------------- */

/*
 * A stream of our own records into a ring of batches and submits a batch when somebody waits, or more work comes than
 * the BATCH_WORK pieces that it holds. The ring bounds the work in flight: recording into a batch that the device still
 * executes waits for it.
 */
#define KAS_VULKAN_BATCHES 16
#define KAS_VULKAN_BATCH_WORK 16
/* Descriptor sets in a pool of an imported command buffer. */
#define KAS_VULKAN_POOL_SETS 256
/* Destroyed streams of a context that are kept for the next to be made. */
#define KAS_VULKAN_SPARE_STREAMS 8

typedef struct kas_vulkan_batch {
    VkCommandBuffer commands;
    VkFence fence;
    VkDescriptorPool descriptors;
    bool submitted; /* and not known to have finished */
} kas_vulkan_batch;

/* The pools of an imported command buffer, newest first. */
typedef struct kas_vulkan_pool {
    VkDescriptorPool descriptors;
    uint32_t used;
    struct kas_vulkan_pool *next;
} kas_vulkan_pool;

struct kas_backend_stream {
    kas_backend_context *context;
    VkCommandBuffer commands; /* the one that records; VK_NULL_HANDLE between batches */
    bool imported;

    /* Streams of our own. */
    VkCommandPool pool;
    kas_vulkan_batch batches[KAS_VULKAN_BATCHES];
    uint64_t serial; /* of the batch that records or will record; batch s lives in batches[s % KAS_VULKAN_BATCHES] */
    uint32_t work;   /* pieces recorded in it */
    bool busy;       /* stands in context->busy_streams */
    uint64_t busy_since;
    kas_backend_stream *next; /* in busy_streams or spare_streams */
    kas_vulkan_staging staging;
    uint32_t half;           /* of the staging memory, that is being filled */
    uint64_t half_used;      /* bytes of it */
    uint64_t half_serial[2]; /* the batches before this one may still use the half */

    /* Imported command buffers. */
    kas_vulkan_pool *pools;
};

kas_status kas_vulkan_stream_create(kas_backend_context *context, bool imported, uint64_t handle,
                                    kas_backend_stream **stream);
void kas_vulkan_stream_destroy(kas_backend_stream *stream);
void kas_vulkan_spare_streams_destroy(kas_backend_context *context);
kas_status kas_vulkan_stream_wait(kas_backend_stream *stream);
/* Makes sure that stream->commands records. */
kas_status kas_vulkan_stream_record(kas_backend_stream *stream);
/* The same for a piece of work. A full batch is submitted here and not when it became full, so that a timer's mark
   after its last piece is in it: in the next batch it would stand behind a pause of the device. */
kas_status kas_vulkan_stream_next(kas_backend_stream *stream);
/* Orders what follows after all compute and transfer work before it, also of earlier batches and other streams. */
void kas_vulkan_stream_order(kas_backend_stream *stream);
/* Submits what is recorded. */
kas_status kas_vulkan_stream_submit(kas_backend_stream *stream);
/* Waits for the batches before `serial`. */
kas_status kas_vulkan_stream_wait_serial(kas_backend_stream *stream, uint64_t serial);
kas_status kas_vulkan_launch(kas_backend_stream *stream, const kas_launch *launch);

kas_status kas_vulkan_write(kas_backend_stream *stream, kas_backend_buffer *buffer, uint64_t offset, const void *data,
                            uint64_t size);
kas_status kas_vulkan_read(kas_backend_stream *stream, kas_backend_buffer *buffer, uint64_t offset, void *data,
                           uint64_t size);
kas_status kas_vulkan_copy(kas_backend_stream *stream, kas_backend_buffer *target, uint64_t target_offset,
                           kas_backend_buffer *source, uint64_t source_offset, uint64_t size);
kas_status kas_vulkan_fill(kas_backend_stream *stream, kas_backend_buffer *buffer, uint64_t offset, uint64_t size,
                           uint8_t value);

/* ---- Kernels ---------------------------------------------------------------------------------------------------- */

/* SPIR-V of one kernel, a build for each storage type; NULL where the row does not take the type. */
typedef struct kas_vulkan_code {
    const unsigned char *spirv[KAS_DTYPE_BF16 + 1];
    const size_t *size[KAS_DTYPE_BF16 + 1];
    uint32_t invocations; /* work group size; in decode on matrices by their shape */
    uint32_t shared;      /* bytes of shared memory where not every device has them; on matrices by their shape */
    bool by_blocks;       /* of 16 query rows and 32 keys, as block.glsl has them: loops of many turns */
    enum {
        KAS_VULKAN_NO_MATRIX,
        KAS_VULKAN_MATRIX_BLOCK,   /* prefill */
        KAS_VULKAN_MATRIX_LOGITS,  /* prefill without values */
        KAS_VULKAN_MATRIX_REDUCED, /* prefill without strips, matrices of 16 x 16 x 16 */
        KAS_VULKAN_MATRIX_STREAM   /* decode */
    } matrix;
} kas_vulkan_code;

struct kas_backend_kernel {
    const kas_vulkan_code *code;
    kas_kernel_spec spec;
    uint32_t slots; /* bit 1 << KAS_SLOT_* for each buffer that the kernel declares */
    VkDescriptorSetLayout set_layout;
    VkPipelineLayout layout;
    VkPipeline pipeline;
    kas_backend_kernel *next;
};

kas_status kas_vulkan_kernel_load(kas_backend_context *context, const kas_variant *variant, const kas_kernel_spec *spec,
                                  kas_backend_kernel **kernel);
/* Kernels stay with their context, so that the next session of the same shape finds them. */
void kas_vulkan_kernel_unload(kas_backend_context *context, kas_backend_kernel *kernel);
void kas_vulkan_kernels_destroy(kas_backend_context *context);
void kas_vulkan_cache_open(kas_backend_context *context, const kas_cache *hooks);
void kas_vulkan_cache_close(kas_backend_context *context);

/* KAS_VULKAN_HAVE_MATRIX, KAS_VULKAN_HAVE_MATRIX2: a shader compiler of this build knows the extension. */
#if defined(KAS_VULKAN_HAVE_MATRIX2)
#define KAS_VULKAN_VARIANT_COUNT 46
#elif defined(KAS_VULKAN_HAVE_MATRIX)
#define KAS_VULKAN_VARIANT_COUNT 44
#else
#define KAS_VULKAN_VARIANT_COUNT 37
#endif
extern const kas_variant kas_vulkan_variants[KAS_VULKAN_VARIANT_COUNT];

/* ---- Timers ----------------------------------------------------------------------------------------------------- */

kas_status kas_vulkan_timer_create(kas_backend_context *context, uint32_t marks, kas_backend_timer **timer);
void kas_vulkan_timer_destroy(kas_backend_timer *timer);
kas_status kas_vulkan_timer_mark(kas_backend_timer *timer, kas_backend_stream *stream, uint32_t index);
kas_status kas_vulkan_timer_elapsed(kas_backend_timer *timer, uint32_t first, uint32_t second, double *milliseconds);

#endif
