/* memory.c - device buffers, and the staging memory through which host data reaches them. */
#include "context.h"

#include <string.h>

/* ---- Memory types ----------------------------------------------------------------------------------------------- */

/* The first type among `allowed` that has all of `wanted`, UINT32_MAX without one. Types stand fastest first. */
static uint32_t find_type(const kas_backend_context *context, uint32_t allowed, VkMemoryPropertyFlags wanted)
{
    for (uint32_t i = 0; i < context->memory.memoryTypeCount; i++)
        if ((allowed & (1u << i)) && (context->memory.memoryTypes[i].propertyFlags & wanted) == wanted)
            return i;
    return UINT32_MAX;
}

/* As find_type, for the first of several wishes that any type fulfils. */
static uint32_t choose_type(const kas_backend_context *context, uint32_t allowed, const VkMemoryPropertyFlags *wishes,
                            uint32_t wish_count)
{
    uint32_t type = UINT32_MAX;
    for (uint32_t i = 0; i < wish_count && type == UINT32_MAX; i++)
        type = find_type(context, allowed, wishes[i]);
    return type;
}

/* A VkBuffer with memory of its own; nothing is left behind on failure. */
static kas_status create_backed(kas_backend_context *context, uint64_t size, VkBufferUsageFlags usage,
                                const VkMemoryPropertyFlags *wishes, uint32_t wish_count, VkBuffer *handle,
                                VkDeviceMemory *memory, VkMemoryPropertyFlags *properties)
{
    VkBufferCreateInfo create = {.sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO,
                                 .size = size,
                                 .usage = usage,
                                 .sharingMode = VK_SHARING_MODE_EXCLUSIVE};
    VkBuffer buffer;
    KAS_VULKAN_TRY(context, CreateBuffer, context->device, &create, NULL, &buffer);
    VkMemoryRequirements needs;
    context->api.GetBufferMemoryRequirements(context->device, buffer, &needs);
    uint32_t type = choose_type(context, needs.memoryTypeBits, wishes, wish_count);
    /* Told that the memory is one buffer's, drivers may map it by larger pages: reads of single keys miss less. */
    VkMemoryDedicatedAllocateInfo dedicated = {.sType = VK_STRUCTURE_TYPE_MEMORY_DEDICATED_ALLOCATE_INFO,
                                               .buffer = buffer};
    VkMemoryAllocateInfo allocate = {.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO,
                                     .pNext = &dedicated,
                                     .allocationSize = needs.size,
                                     .memoryTypeIndex = type};
    VkDeviceMemory backing = VK_NULL_HANDLE;
    VkResult result = VK_ERROR_OUT_OF_DEVICE_MEMORY;
    const char *call = "vkAllocateMemory";
    if (type != UINT32_MAX)
        result = context->api.AllocateMemory(context->device, &allocate, NULL, &backing);
    if (result == VK_SUCCESS) {
        call = "vkBindBufferMemory";
        result = context->api.BindBufferMemory(context->device, buffer, backing, 0);
    }
    if (result != VK_SUCCESS) {
        context->api.DestroyBuffer(context->device, buffer, NULL);
        context->api.FreeMemory(context->device, backing, NULL);
        return kas_vulkan_check(context, result, call);
    }
    *handle = buffer;
    *memory = backing;
    *properties = context->memory.memoryTypes[type].propertyFlags;
    return KAS_OK;
}

/* ---- Buffers ---------------------------------------------------------------------------------------------------- */

kas_status kas_vulkan_buffer_create(kas_backend_context *context, uint64_t size, kas_backend_buffer **buffer)
{
    static const VkMemoryPropertyFlags wishes[] = {VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT, 0};
    KAS_TRY(kas_vulkan_usable(context));
    kas_backend_buffer *b = kas_alloc(1, sizeof(*b));
    if (!b)
        return kas_fail_memory();
    /* Kernels read whole words, also the last one. */
    b->size = kas_round_up(size, 16);
    VkMemoryPropertyFlags properties;
    kas_status status = create_backed(context, b->size,
                                      VK_BUFFER_USAGE_STORAGE_BUFFER_BIT | VK_BUFFER_USAGE_TRANSFER_SRC_BIT |
                                          VK_BUFFER_USAGE_TRANSFER_DST_BIT,
                                      wishes, KAS_COUNT(wishes), &b->handle, &b->memory, &properties);
    if (status != KAS_OK) {
        kas_release(b);
        return status;
    }
    *buffer = b;
    return KAS_OK;
}

kas_status kas_vulkan_buffer_import(kas_backend_context *context, uint64_t handle, uint64_t offset, uint64_t size,
                                    kas_backend_buffer **buffer)
{
    KAS_TRY(kas_vulkan_usable(context));
    if (handle == 0)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "the VkBuffer to import is VK_NULL_HANDLE");
    kas_backend_buffer *b = kas_alloc(1, sizeof(*b));
    if (!b)
        return kas_fail_memory();
    /* A VkBuffer is a pointer on some machines and an integer on others; both have 8 bytes where this runs. */
    _Static_assert(sizeof(b->handle) == sizeof(handle), "a VkBuffer has 64 bits");
    memcpy(&b->handle, &handle, sizeof(handle));
    b->offset = offset;
    b->size = size;
    *buffer = b;
    return KAS_OK;
}

static void release_buffer(kas_backend_context *context, kas_backend_buffer *buffer)
{
    if (buffer->memory) {
        context->api.DestroyBuffer(context->device, buffer->handle, NULL);
        context->api.FreeMemory(context->device, buffer->memory, NULL);
    }
    kas_release(buffer);
}

/* Work of a stream that nobody waited for may still use the buffer: it is then released once those that are busy now
   have been idle. */
void kas_vulkan_buffer_destroy(kas_backend_context *context, kas_backend_buffer *buffer)
{
    kas_mutex_lock(context->lock);
    if (!context->busy_streams) {
        release_buffer(context, buffer);
    } else {
        buffer->buried_at = ++context->events;
        buffer->next_buried = context->buried;
        context->buried = buffer;
    }
    kas_mutex_unlock(context->lock);
}

void kas_vulkan_release_buried(kas_backend_context *context)
{
    uint64_t oldest = UINT64_MAX;
    for (const kas_backend_stream *s = context->busy_streams; s; s = s->next_busy)
        oldest = s->busy_since < oldest ? s->busy_since : oldest;
    for (kas_backend_buffer **link = &context->buried; *link;) {
        kas_backend_buffer *buffer = *link;
        if (buffer->buried_at < oldest) {
            *link = buffer->next_buried;
            release_buffer(context, buffer);
        } else {
            link = &buffer->next_buried;
        }
    }
}

/* Even where all memory is the host's, buffers are reached through copies alone: one way for every device. */
void *kas_vulkan_buffer_host(kas_backend_buffer *buffer)
{
    (void)buffer;
    return NULL;
}

/* ---- Staging ---------------------------------------------------------------------------------------------------- */

kas_status kas_vulkan_staging_create(kas_backend_context *context, uint64_t size, kas_vulkan_staging *staging)
{
    static const VkMemoryPropertyFlags wishes[] = {
        VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT | VK_MEMORY_PROPERTY_HOST_CACHED_BIT,
        VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_CACHED_BIT,
        VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT,
    };
    kas_vulkan_staging s = {.size = size};
    VkMemoryPropertyFlags properties;
    KAS_TRY(create_backed(context, size, VK_BUFFER_USAGE_TRANSFER_SRC_BIT | VK_BUFFER_USAGE_TRANSFER_DST_BIT, wishes,
                          KAS_COUNT(wishes), &s.handle, &s.memory, &properties));
    s.coherent = (properties & VK_MEMORY_PROPERTY_HOST_COHERENT_BIT) != 0;
    void *mapped;
    VkResult result = context->api.MapMemory(context->device, s.memory, 0, VK_WHOLE_SIZE, 0, &mapped);
    if (result != VK_SUCCESS) {
        kas_vulkan_staging_destroy(context, &s);
        return kas_vulkan_check(context, result, "vkMapMemory");
    }
    s.mapped = mapped;
    *staging = s;
    return KAS_OK;
}

void kas_vulkan_staging_destroy(kas_backend_context *context, kas_vulkan_staging *staging)
{
    context->api.DestroyBuffer(context->device, staging->handle, NULL);
    context->api.FreeMemory(context->device, staging->memory, NULL);
    memset(staging, 0, sizeof(*staging));
}

/* The range widened to whole atoms, which non-coherent memory is flushed and invalidated by. */
static VkMappedMemoryRange mapped_range(const kas_backend_context *context, const kas_vulkan_staging *staging,
                                        uint64_t offset, uint64_t size)
{
    uint64_t atom = context->limits.non_coherent_atom;
    uint64_t begin = offset / atom * atom;
    uint64_t end = kas_round_up(offset + size, atom);
    return (VkMappedMemoryRange){.sType = VK_STRUCTURE_TYPE_MAPPED_MEMORY_RANGE,
                                 .memory = staging->memory,
                                 .offset = begin,
                                 .size = end >= staging->size ? VK_WHOLE_SIZE : end - begin};
}

kas_status kas_vulkan_staging_flush(kas_backend_context *context, const kas_vulkan_staging *staging, uint64_t offset,
                                    uint64_t size)
{
    if (staging->coherent)
        return KAS_OK;
    VkMappedMemoryRange range = mapped_range(context, staging, offset, size);
    KAS_VULKAN_TRY(context, FlushMappedMemoryRanges, context->device, 1, &range);
    return KAS_OK;
}

kas_status kas_vulkan_staging_invalidate(kas_backend_context *context, const kas_vulkan_staging *staging,
                                         uint64_t offset, uint64_t size)
{
    if (staging->coherent)
        return KAS_OK;
    VkMappedMemoryRange range = mapped_range(context, staging, offset, size);
    KAS_VULKAN_TRY(context, InvalidateMappedMemoryRanges, context->device, 1, &range);
    return KAS_OK;
}
