/*
 * vulkan.h - native Vulkan handles for libkascade: a device that exists already (kas_context_desc.import), buffers
 * (kas_buffer_import) and command buffers (kas_stream_import). Needs no Vulkan header: dispatchable handles are
 * pointers here, other handles 64-bit integers.
 */
#ifndef KASCADE_VULKAN_H
#define KASCADE_VULKAN_H

#include "kascade.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef void (*kas_vulkan_function)(void);

/*
 * A device of the caller's, of API version 1.2 or newer. It needs no feature or extension; the ones it was created with
 * are stated in `features`, and rows that need others are not used:
 *   KAS_FEATURE_F16        shaderFloat16
 *   KAS_FEATURE_STORAGE16  storageBuffer16BitAccess
 *   KAS_FEATURE_INT64      shaderInt64
 *   KAS_FEATURE_ADDRESS    bufferDeviceAddress
 *   KAS_FEATURE_SUBGROUP   nothing to enable; state it to let rows use subgroup operations
 *   KAS_FEATURE_COOPMAT    VK_KHR_cooperative_matrix, cooperativeMatrix, VK_EXT_subgroup_size_control,
 *                          computeFullSubgroups, vulkanMemoryModel, vulkanMemoryModelDeviceScope, shaderFloat16 and
 *                          storageBuffer16BitAccess
 *   KAS_FEATURE_COOPMAT2   VK_NV_cooperative_matrix2 with its WorkgroupScope, FlexibleDimensions, Reductions,
 *                          Conversions, PerElementOperations, TensorAddressing and BlockLoads features, COOPMAT, and
 *                          an instance and a device of version 1.3
 *
 * The library submits to `queue` when a stream that it created itself has work. Where other code submits to the same
 * queue from other threads, lock and unlock (both or neither) are called around each submission; they are not called
 * while work is recorded into an imported command buffer.
 *
 * A stream imported from a VkCommandBuffer owns the descriptor sets that the recorded work uses: keep the stream, the
 * session and the buffers until the command buffer has run for the last time or has been reset. Recorded work begins
 * with a barrier after earlier compute and transfer work, and has barriers between its own parts; for what follows it,
 * the caller puts a barrier from SHADER_WRITE and TRANSFER_WRITE in the stages COMPUTE_SHADER and TRANSFER.
 */
typedef struct kas_vulkan_import {
    uint32_t struct_size;
    uint32_t queue_family;  /* of `queue`, with VK_QUEUE_COMPUTE_BIT */
    void *instance;         /* VkInstance */
    void *physical_device;  /* VkPhysicalDevice */
    void *device;           /* VkDevice */
    void *queue;            /* VkQueue */
    kas_vulkan_function get_instance_proc_addr; /* PFN_vkGetInstanceProcAddr; NULL: that of libvulkan.so.1 */
    uint64_t features;                          /* KAS_FEATURE_*, see above */
    void *lock_user;
    void (*lock)(void *lock_user);
    void (*unlock)(void *lock_user);
} kas_vulkan_import;

#ifdef __cplusplus
}
#endif

#endif
