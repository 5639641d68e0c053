/*
 * limits_layer.c - a Vulkan layer that makes of any device one with little of everything: short buffer ranges, small
 * allocations and grids, 15 storage buffers a kernel, memory of its own that the host does not see, and host memory
 * that is not coherent. What the host writes reaches the device when it is flushed and not before, what the device
 * writes is seen when it is invalidated, and whoever passes a limit ends the process with a sentence. Tests run the
 * library under it through VK_INSTANCE_LAYERS.
 */
#include <vulkan/vk_layer.h>
#include <vulkan/vulkan.h>

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORTED __attribute__((visibility("default"))) /* the headers' own macro has left them */

#define MOST_RANGE (5u << 20)
#define MOST_ALLOCATION (12u << 20)
#define MOST_GROUPS_X 48u
#define MOST_GROUPS_Y 12u
#define MOST_GROUPS_Z 5u
#define MOST_STORAGE_BUFFERS 15u
#define MOST_SHARED_MEMORY 32768u
#define MOST_PUSH_CONSTANTS 128u
#define ALIGNMENT 64u
#define ATOM 256u
#define HEAP (1ull << 30)

/* The two types of memory that the layer shows; the device allocates both as its own first type. */
enum { DEVICE_MEMORY, HOST_MEMORY, MEMORY_TYPES };

static void refuse(const char *what, uint64_t value, uint64_t most)
{
    fprintf(stderr, "limits layer: %s is %llu, the limit is %llu\n", what, (unsigned long long)value,
            (unsigned long long)most);
    abort();
}

static void demand(const char *what, uint64_t value, uint64_t most)
{
    if (value > most)
        refuse(what, value, most);
}

/* ---- What lies below -------------------------------------------------------------------------------------------- */

#define INSTANCE_LIST(X)                                                                                               \
    X(CreateDevice)                                                                                                    \
    X(GetPhysicalDeviceProperties)                                                                                     \
    X(GetPhysicalDeviceProperties2)                                                                                    \
    X(GetPhysicalDeviceMemoryProperties)                                                                               \
    X(GetPhysicalDeviceMemoryProperties2)

#define DEVICE_LIST(X)                                                                                                 \
    X(AllocateMemory)                                                                                                  \
    X(FreeMemory)                                                                                                      \
    X(MapMemory)                                                                                                       \
    X(UnmapMemory)                                                                                                     \
    X(FlushMappedMemoryRanges)                                                                                         \
    X(InvalidateMappedMemoryRanges)                                                                                    \
    X(GetBufferMemoryRequirements)                                                                                     \
    X(CreatePipelineLayout)                                                                                            \
    X(CreateDescriptorSetLayout)                                                                                       \
    X(UpdateDescriptorSets)                                                                                            \
    X(CmdDispatch)

#define MEMBER(name) PFN_vk##name name;

/* One instance and one device at a time, which is what the tests have. */
static struct {
    PFN_vkGetInstanceProcAddr get;
    INSTANCE_LIST(MEMBER)
} instance_below;

static struct {
    PFN_vkGetDeviceProcAddr get;
    DEVICE_LIST(MEMBER)
} device_below;

/* ---- Limits ----------------------------------------------------------------------------------------------------- */

static void lower(uint32_t *value, uint32_t most)
{
    *value = *value < most ? *value : most;
}

static void lower_limits(VkPhysicalDeviceLimits *limits)
{
    lower(&limits->maxStorageBufferRange, MOST_RANGE);
    lower(&limits->maxComputeWorkGroupCount[0], MOST_GROUPS_X);
    lower(&limits->maxComputeWorkGroupCount[1], MOST_GROUPS_Y);
    lower(&limits->maxComputeWorkGroupCount[2], MOST_GROUPS_Z);
    lower(&limits->maxPerStageDescriptorStorageBuffers, MOST_STORAGE_BUFFERS);
    lower(&limits->maxComputeSharedMemorySize, MOST_SHARED_MEMORY);
    lower(&limits->maxPushConstantsSize, MOST_PUSH_CONSTANTS);
    limits->minStorageBufferOffsetAlignment = ALIGNMENT;
    limits->nonCoherentAtomSize = ATOM;
}

static VKAPI_ATTR void VKAPI_CALL get_properties(VkPhysicalDevice physical, VkPhysicalDeviceProperties *properties)
{
    instance_below.GetPhysicalDeviceProperties(physical, properties);
    lower_limits(&properties->limits);
}

static VKAPI_ATTR void VKAPI_CALL get_properties2(VkPhysicalDevice physical, VkPhysicalDeviceProperties2 *properties)
{
    instance_below.GetPhysicalDeviceProperties2(physical, properties);
    lower_limits(&properties->properties.limits);
    for (VkBaseOutStructure *next = properties->pNext; next; next = next->pNext)
        if (next->sType == VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_PROPERTIES)
            ((VkPhysicalDeviceVulkan11Properties *)(void *)next)->maxMemoryAllocationSize = MOST_ALLOCATION;
        else if (next->sType == VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MAINTENANCE_3_PROPERTIES)
            ((VkPhysicalDeviceMaintenance3Properties *)(void *)next)->maxMemoryAllocationSize = MOST_ALLOCATION;
}

static const VkPhysicalDeviceMemoryProperties memory_shown = {
    .memoryTypeCount = MEMORY_TYPES,
    .memoryTypes = {{VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT, 0},
                    {VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_CACHED_BIT, 1}},
    .memoryHeapCount = 2,
    .memoryHeaps = {{HEAP, VK_MEMORY_HEAP_DEVICE_LOCAL_BIT}, {HEAP, 0}},
};

static VKAPI_ATTR void VKAPI_CALL get_memory(VkPhysicalDevice physical, VkPhysicalDeviceMemoryProperties *properties)
{
    (void)physical;
    *properties = memory_shown;
}

static VKAPI_ATTR void VKAPI_CALL get_memory2(VkPhysicalDevice physical, VkPhysicalDeviceMemoryProperties2 *properties)
{
    (void)physical;
    properties->memoryProperties = memory_shown;
}

/* ---- Memory ----------------------------------------------------------------------------------------------------- */

/* An allocation of host memory; `shadow` is what the host sees of it. */
typedef struct host_memory {
    VkDeviceMemory handle;
    uint64_t size;
    unsigned char *device, *shadow;
    struct host_memory *next;
} host_memory;

static host_memory *host_memories;

static host_memory **find_memory(VkDeviceMemory handle)
{
    host_memory **at = &host_memories;
    while (*at && (*at)->handle != handle)
        at = &(*at)->next;
    return at;
}

static VKAPI_ATTR void VKAPI_CALL get_requirements(VkDevice device, VkBuffer buffer, VkMemoryRequirements *needs)
{
    device_below.GetBufferMemoryRequirements(device, buffer, needs);
    needs->memoryTypeBits = (1u << MEMORY_TYPES) - 1;
}

static VKAPI_ATTR VkResult VKAPI_CALL allocate(VkDevice device, const VkMemoryAllocateInfo *info,
                                               const VkAllocationCallbacks *callbacks, VkDeviceMemory *handle)
{
    VkMemoryAllocateInfo real = *info;
    demand("an allocation", info->allocationSize, MOST_ALLOCATION);
    demand("a memory type", info->memoryTypeIndex, MEMORY_TYPES - 1);
    real.memoryTypeIndex = 0;
    VkResult result = device_below.AllocateMemory(device, &real, callbacks, handle);
    if (result != VK_SUCCESS || info->memoryTypeIndex != HOST_MEMORY)
        return result;
    host_memory *memory = calloc(1, sizeof(*memory));
    if (!memory)
        abort();
    *memory = (host_memory){.handle = *handle, .size = info->allocationSize, .next = host_memories};
    host_memories = memory;
    return VK_SUCCESS;
}

static VKAPI_ATTR void VKAPI_CALL release(VkDevice device, VkDeviceMemory handle, const VkAllocationCallbacks *callbacks)
{
    host_memory **at = find_memory(handle), *memory = *at;
    if (memory) {
        *at = memory->next;
        free(memory->shadow);
        free(memory);
    }
    device_below.FreeMemory(device, handle, callbacks);
}

static VKAPI_ATTR VkResult VKAPI_CALL map(VkDevice device, VkDeviceMemory handle, VkDeviceSize offset, VkDeviceSize size,
                                          VkMemoryMapFlags flags, void **data)
{
    host_memory *memory = *find_memory(handle);
    void *real;
    if (!memory)
        refuse("the type of mapped memory", DEVICE_MEMORY, HOST_MEMORY);
    VkResult result = device_below.MapMemory(device, handle, 0, VK_WHOLE_SIZE, flags, &real);
    (void)size;
    if (result != VK_SUCCESS)
        return result;
    memory->device = real;
    memory->shadow = malloc(memory->size);
    if (!memory->shadow)
        abort();
    memset(memory->shadow, 0xcc, memory->size);
    *data = memory->shadow + offset;
    return VK_SUCCESS;
}

static VKAPI_ATTR void VKAPI_CALL unmap(VkDevice device, VkDeviceMemory handle)
{
    host_memory *memory = *find_memory(handle);
    if (memory) {
        free(memory->shadow);
        memory->shadow = NULL;
    }
    device_below.UnmapMemory(device, handle);
}

/* Moves ranges between what the host sees and what the device has. */
static VkResult move(uint32_t count, const VkMappedMemoryRange *ranges, int flush)
{
    for (uint32_t i = 0; i < count; i++) {
        const host_memory *memory = *find_memory(ranges[i].memory);
        if (!memory || !memory->shadow)
            refuse("mapped memory of a range", 0, 1);
        uint64_t offset = ranges[i].offset, size = ranges[i].size;
        demand("what a range's offset passes an atom by", offset % ATOM, 0);
        demand("a range's offset", offset, memory->size);
        if (size == VK_WHOLE_SIZE)
            size = memory->size - offset;
        else if (offset + size != memory->size)
            demand("what a range's size passes an atom by", size % ATOM, 0);
        demand("a range's end", offset + size, memory->size);
        memcpy((flush ? memory->device : memory->shadow) + offset, (flush ? memory->shadow : memory->device) + offset,
               size);
    }
    return VK_SUCCESS;
}

static VKAPI_ATTR VkResult VKAPI_CALL flush(VkDevice device, uint32_t count, const VkMappedMemoryRange *ranges)
{
    (void)device;
    return move(count, ranges, 1);
}

static VKAPI_ATTR VkResult VKAPI_CALL invalidate(VkDevice device, uint32_t count, const VkMappedMemoryRange *ranges)
{
    (void)device;
    return move(count, ranges, 0);
}

/* ---- Work ------------------------------------------------------------------------------------------------------- */

static VKAPI_ATTR VkResult VKAPI_CALL create_pipeline_layout(VkDevice device, const VkPipelineLayoutCreateInfo *info,
                                                             const VkAllocationCallbacks *callbacks,
                                                             VkPipelineLayout *layout)
{
    for (uint32_t i = 0; i < info->pushConstantRangeCount; i++)
        demand("the end of push constants", info->pPushConstantRanges[i].offset + info->pPushConstantRanges[i].size,
               MOST_PUSH_CONSTANTS);
    return device_below.CreatePipelineLayout(device, info, callbacks, layout);
}

static VKAPI_ATTR VkResult VKAPI_CALL create_set_layout(VkDevice device, const VkDescriptorSetLayoutCreateInfo *info,
                                                        const VkAllocationCallbacks *callbacks,
                                                        VkDescriptorSetLayout *layout)
{
    demand("the number of a kernel's storage buffers", info->bindingCount, MOST_STORAGE_BUFFERS);
    return device_below.CreateDescriptorSetLayout(device, info, callbacks, layout);
}

static VKAPI_ATTR void VKAPI_CALL update_sets(VkDevice device, uint32_t count, const VkWriteDescriptorSet *writes,
                                              uint32_t copy_count, const VkCopyDescriptorSet *copies)
{
    for (uint32_t i = 0; i < count; i++) {
        demand("the range of a buffer", writes[i].pBufferInfo->range, MOST_RANGE);
        demand("what a buffer's offset passes its alignment by", writes[i].pBufferInfo->offset % ALIGNMENT, 0);
    }
    device_below.UpdateDescriptorSets(device, count, writes, copy_count, copies);
}

static VKAPI_ATTR void VKAPI_CALL dispatch(VkCommandBuffer commands, uint32_t x, uint32_t y, uint32_t z)
{
    demand("a grid's x", x, MOST_GROUPS_X);
    demand("a grid's y", y, MOST_GROUPS_Y);
    demand("a grid's z", z, MOST_GROUPS_Z);
    device_below.CmdDispatch(commands, x, y, z);
}

/* ---- The chain -------------------------------------------------------------------------------------------------- */

static VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL get_device_function(VkDevice device, const char *name);

static VKAPI_ATTR VkResult VKAPI_CALL create_instance(const VkInstanceCreateInfo *info,
                                                      const VkAllocationCallbacks *callbacks, VkInstance *instance)
{
    VkLayerInstanceCreateInfo *link = (VkLayerInstanceCreateInfo *)info->pNext;
    while (link->sType != VK_STRUCTURE_TYPE_LOADER_INSTANCE_CREATE_INFO || link->function != VK_LAYER_LINK_INFO)
        link = (VkLayerInstanceCreateInfo *)link->pNext;
    PFN_vkGetInstanceProcAddr get = link->u.pLayerInfo->pfnNextGetInstanceProcAddr;
    link->u.pLayerInfo = link->u.pLayerInfo->pNext;
    PFN_vkCreateInstance create = (PFN_vkCreateInstance)get(NULL, "vkCreateInstance");
    VkResult result = create(info, callbacks, instance);
    if (result != VK_SUCCESS)
        return result;
    instance_below.get = get;
#define LOAD_INSTANCE(name) instance_below.name = (PFN_vk##name)get(*instance, "vk" #name);
    INSTANCE_LIST(LOAD_INSTANCE)
    return VK_SUCCESS;
}

static VKAPI_ATTR VkResult VKAPI_CALL create_device(VkPhysicalDevice physical, const VkDeviceCreateInfo *info,
                                                    const VkAllocationCallbacks *callbacks, VkDevice *device)
{
    VkLayerDeviceCreateInfo *link = (VkLayerDeviceCreateInfo *)info->pNext;
    while (link->sType != VK_STRUCTURE_TYPE_LOADER_DEVICE_CREATE_INFO || link->function != VK_LAYER_LINK_INFO)
        link = (VkLayerDeviceCreateInfo *)link->pNext;
    PFN_vkGetDeviceProcAddr get = link->u.pLayerInfo->pfnNextGetDeviceProcAddr;
    link->u.pLayerInfo = link->u.pLayerInfo->pNext;
    VkResult result = instance_below.CreateDevice(physical, info, callbacks, device);
    if (result != VK_SUCCESS)
        return result;
    device_below.get = get;
#define LOAD_DEVICE(name) device_below.name = (PFN_vk##name)get(*device, "vk" #name);
    DEVICE_LIST(LOAD_DEVICE)
    return VK_SUCCESS;
}

static VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL get_instance_function(VkInstance instance, const char *name);

typedef struct entry {
    const char *name;
    PFN_vkVoidFunction function;
} entry;

static PFN_vkVoidFunction find(const entry *entries, size_t count, const char *name)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(entries[i].name, name) == 0)
            return entries[i].function;
    return NULL;
}

#define ENTRY(name, function) {name, (PFN_vkVoidFunction)function}
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static const entry device_entries[] = {
    ENTRY("vkGetDeviceProcAddr", get_device_function),
    ENTRY("vkAllocateMemory", allocate),
    ENTRY("vkFreeMemory", release),
    ENTRY("vkMapMemory", map),
    ENTRY("vkUnmapMemory", unmap),
    ENTRY("vkFlushMappedMemoryRanges", flush),
    ENTRY("vkInvalidateMappedMemoryRanges", invalidate),
    ENTRY("vkGetBufferMemoryRequirements", get_requirements),
    ENTRY("vkCreatePipelineLayout", create_pipeline_layout),
    ENTRY("vkCreateDescriptorSetLayout", create_set_layout),
    ENTRY("vkUpdateDescriptorSets", update_sets),
    ENTRY("vkCmdDispatch", dispatch),
};

static const entry instance_entries[] = {
    ENTRY("vkGetInstanceProcAddr", get_instance_function),
    ENTRY("vkCreateInstance", create_instance),
    ENTRY("vkCreateDevice", create_device),
    ENTRY("vkGetPhysicalDeviceProperties", get_properties),
    ENTRY("vkGetPhysicalDeviceProperties2", get_properties2),
    ENTRY("vkGetPhysicalDeviceMemoryProperties", get_memory),
    ENTRY("vkGetPhysicalDeviceMemoryProperties2", get_memory2),
};

static VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL get_device_function(VkDevice device, const char *name)
{
    PFN_vkVoidFunction ours = find(device_entries, COUNT(device_entries), name);
    return ours ? ours : device_below.get(device, name);
}

static VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL get_instance_function(VkInstance instance, const char *name)
{
    PFN_vkVoidFunction ours = find(instance_entries, COUNT(instance_entries), name);
    if (!ours)
        ours = find(device_entries, COUNT(device_entries), name);
    return ours ? ours : instance_below.get ? instance_below.get(instance, name) : NULL;
}

EXPORTED VKAPI_ATTR VkResult VKAPI_CALL
vkNegotiateLoaderLayerInterfaceVersion(VkNegotiateLayerInterface *version);

EXPORTED VKAPI_ATTR VkResult VKAPI_CALL
vkNegotiateLoaderLayerInterfaceVersion(VkNegotiateLayerInterface *version)
{
    version->loaderLayerInterfaceVersion = 2;
    version->pfnGetInstanceProcAddr = get_instance_function;
    version->pfnGetDeviceProcAddr = get_device_function;
    version->pfnGetPhysicalDeviceProcAddr = NULL;
    return VK_SUCCESS;
}
