/*
 * loader.h - the Vulkan entry points this backend calls, found at run time in libvulkan.so.1 or through the caller's
 * own vkGetInstanceProcAddr. An entry point is named once, in one of the lists.
 */
#ifndef KAS_VULKAN_LOADER_H
#define KAS_VULKAN_LOADER_H

#include "core/base.h"
#include "extensions.h"

#define KAS_VULKAN_GLOBAL_LIST(X)                                                                                      \
    X(EnumerateInstanceVersion)                                                                                        \
    X(CreateInstance)

#define KAS_VULKAN_INSTANCE_LIST(X)                                                                                    \
    X(DestroyInstance)                                                                                                 \
    X(EnumeratePhysicalDevices)                                                                                        \
    X(EnumerateDeviceExtensionProperties)                                                                              \
    X(GetPhysicalDeviceFeatures2)                                                                                      \
    X(GetPhysicalDeviceMemoryProperties)                                                                               \
    X(GetPhysicalDeviceProperties2)                                                                                    \
    X(GetPhysicalDeviceQueueFamilyProperties)                                                                          \
    X(CreateDevice)                                                                                                    \
    X(GetDeviceProcAddr)

#define KAS_VULKAN_DEVICE_LIST(X)                                                                                      \
    X(DestroyDevice)                                                                                                   \
    X(GetDeviceQueue)                                                                                                  \
    X(QueueSubmit)                                                                                                     \
    X(AllocateMemory)                                                                                                  \
    X(FreeMemory)                                                                                                      \
    X(MapMemory)                                                                                                       \
    X(FlushMappedMemoryRanges)                                                                                         \
    X(InvalidateMappedMemoryRanges)                                                                                    \
    X(CreateBuffer)                                                                                                    \
    X(DestroyBuffer)                                                                                                   \
    X(GetBufferMemoryRequirements)                                                                                     \
    X(BindBufferMemory)                                                                                                \
    X(CreateFence)                                                                                                     \
    X(DestroyFence)                                                                                                    \
    X(ResetFences)                                                                                                     \
    X(WaitForFences)                                                                                                   \
    X(CreateCommandPool)                                                                                               \
    X(DestroyCommandPool)                                                                                              \
    X(AllocateCommandBuffers)                                                                                          \
    X(BeginCommandBuffer)                                                                                              \
    X(EndCommandBuffer)                                                                                                \
    X(CmdBindDescriptorSets)                                                                                           \
    X(CmdBindPipeline)                                                                                                 \
    X(CmdCopyBuffer)                                                                                                   \
    X(CmdDispatch)                                                                                                     \
    X(CmdFillBuffer)                                                                                                   \
    X(CmdPipelineBarrier)                                                                                              \
    X(CmdPushConstants)                                                                                                \
    X(CmdResetQueryPool)                                                                                               \
    X(CmdWriteTimestamp)                                                                                               \
    X(CreateDescriptorPool)                                                                                            \
    X(DestroyDescriptorPool)                                                                                           \
    X(ResetDescriptorPool)                                                                                             \
    X(AllocateDescriptorSets)                                                                                          \
    X(UpdateDescriptorSets)                                                                                            \
    X(CreateDescriptorSetLayout)                                                                                       \
    X(DestroyDescriptorSetLayout)                                                                                      \
    X(CreatePipelineLayout)                                                                                            \
    X(DestroyPipelineLayout)                                                                                           \
    X(CreateShaderModule)                                                                                              \
    X(DestroyShaderModule)                                                                                             \
    X(CreateComputePipelines)                                                                                          \
    X(DestroyPipeline)                                                                                                 \
    X(CreatePipelineCache)                                                                                             \
    X(DestroyPipelineCache)                                                                                            \
    X(GetPipelineCacheData)                                                                                            \
    X(CreateQueryPool)                                                                                                 \
    X(DestroyQueryPool)                                                                                                \
    X(GetQueryPoolResults)

#define KAS_VULKAN_MEMBER(name) PFN_vk##name name;

typedef struct kas_vulkan_global_api {
    KAS_VULKAN_GLOBAL_LIST(KAS_VULKAN_MEMBER)
} kas_vulkan_global_api;

typedef struct kas_vulkan_instance_api {
    KAS_VULKAN_INSTANCE_LIST(KAS_VULKAN_MEMBER)
    /* NULL where the driver and the loader know nothing of the extension. */
    PFN_vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR GetPhysicalDeviceCooperativeMatrixPropertiesKHR;
} kas_vulkan_instance_api;

typedef struct kas_vulkan_device_api {
    KAS_VULKAN_DEVICE_LIST(KAS_VULKAN_MEMBER)
} kas_vulkan_device_api;

/* vkGetInstanceProcAddr of libvulkan.so.1, NULL without that library. */
PFN_vkGetInstanceProcAddr kas_vulkan_loader(void);

/* Each is false, and names the missing entry point in `missing`, when one cannot be found. */
bool kas_vulkan_load_global(PFN_vkGetInstanceProcAddr get, kas_vulkan_global_api *api, const char **missing);
bool kas_vulkan_load_instance(PFN_vkGetInstanceProcAddr get, VkInstance instance, kas_vulkan_instance_api *api,
                              const char **missing);
bool kas_vulkan_load_device(PFN_vkGetDeviceProcAddr get, VkDevice device, kas_vulkan_device_api *api,
                            const char **missing);

/* The name of a result, "VkResult -42" for one this build does not know; static or thread-local storage. */
const char *kas_vulkan_result_text(VkResult result);

#endif
