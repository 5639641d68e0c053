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

/* A VkBuffer without memory yet, what memory it needs, and the type of the first wish that such memory fulfils. */
static kas_status create_bare(kas_backend_context *context, uint64_t size, VkBufferUsageFlags usage,
                              const VkMemoryPropertyFlags *wishes, uint32_t wish_count, VkBuffer *handle,
                              VkMemoryRequirements *needs, uint32_t *type)
{
    VkBufferCreateInfo create = {.sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO,
                                 .size = size,
                                 .usage = usage,
                                 .sharingMode = VK_SHARING_MODE_EXCLUSIVE};
    VkBuffer buffer;
    KAS_VULKAN_TRY(context, CreateBuffer, context->device, &create, NULL, &buffer);
    context->api.GetBufferMemoryRequirements(context->device, buffer, needs);
    *type = choose_type(context, needs->memoryTypeBits, wishes, wish_count);
    if (*type == UINT32_MAX) {
        context->api.DestroyBuffer(context->device, buffer, NULL);
        return kas_vulkan_check(context, VK_ERROR_OUT_OF_DEVICE_MEMORY, "vkAllocateMemory");
    }
    *handle = buffer;
    return KAS_OK;
}

/* Memory for one buffer alone. */
static kas_status allocate_dedicated(kas_backend_context *context, VkBuffer buffer, uint64_t size, uint32_t type,
                                     VkDeviceMemory *memory)
{
    /* Told that the memory is one buffer's, drivers may map it by larger pages: reads of single keys miss less. */
    VkMemoryDedicatedAllocateInfo dedicated = {.sType = VK_STRUCTURE_TYPE_MEMORY_DEDICATED_ALLOCATE_INFO,
                                               .buffer = buffer};
    VkMemoryAllocateInfo allocate = {.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO,
                                     .pNext = &dedicated,
                                     .allocationSize = size,
                                     .memoryTypeIndex = type};
    VkDeviceMemory backing;
    KAS_VULKAN_TRY(context, AllocateMemory, context->device, &allocate, NULL, &backing);
    kas_status status =
        kas_vulkan_check(context, context->api.BindBufferMemory(context->device, buffer, backing, 0),
                         "vkBindBufferMemory");
    if (status != KAS_OK) {
        context->api.FreeMemory(context->device, backing, NULL);
        return status;
    }
    *memory = backing;
    return KAS_OK;
}

/* ---- Blocks ----------------------------------------------------------------------------------------------------- */

/* Small buffers share memory: an allocation takes drivers as long whatever its size, and devices may allow no more than
   4,096 of them. */
#define BLOCK_UNIT (32ull << 10)
#define BLOCK_UNITS 64u
#define BLOCK_MOST (8 * BLOCK_UNIT) /* bytes of a buffer that lives in a block */

struct kas_vulkan_block {
    kas_vulkan_block *next;
    VkDeviceMemory memory;
    uint32_t type;
    uint64_t taken; /* a bit a unit */
};

static uint64_t unit_bits(uint32_t first, uint32_t units)
{
    return ((1ull << units) - 1) << first;
}

/* The first of so many free units side by side, BLOCK_UNITS without them. */
static uint32_t find_room(const kas_vulkan_block *block, uint32_t units)
{
    uint32_t first = 0;
    while (first + units <= BLOCK_UNITS && (block->taken & unit_bits(first, units)))
        first++;
    return first + units <= BLOCK_UNITS ? first : BLOCK_UNITS;
}

static kas_status add_block(kas_backend_context *context, uint32_t type)
{
    VkMemoryAllocateInfo allocate = {.sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO,
                                     .allocationSize = BLOCK_UNIT * BLOCK_UNITS,
                                     .memoryTypeIndex = type};
    kas_vulkan_block *block = kas_alloc(1, sizeof(*block));
    if (!block)
        return kas_fail_memory();
    VkResult result = context->api.AllocateMemory(context->device, &allocate, NULL, &block->memory);
    if (result != VK_SUCCESS) {
        kas_release(block);
        return kas_vulkan_check(context, result, "vkAllocateMemory");
    }
    block->type = type;
    block->next = context->blocks;
    context->blocks = block;
    return KAS_OK;
}

static kas_status take_units(kas_backend_context *context, uint32_t type, uint32_t units, kas_backend_buffer *buffer)
{
    kas_vulkan_block *block = context->blocks;
    while (block && (block->type != type || find_room(block, units) == BLOCK_UNITS))
        block = block->next;
    if (!block) {
        KAS_TRY(add_block(context, type));
        block = context->blocks;
    }
    uint32_t first = find_room(block, units);
    block->taken |= unit_bits(first, units);
    buffer->block = block;
    buffer->units = unit_bits(first, units);
    return kas_vulkan_check(context,
                            context->api.BindBufferMemory(context->device, buffer->handle, block->memory,
                                                          first * BLOCK_UNIT),
                            "vkBindBufferMemory");
}

/* One empty block is kept for the next buffer. */
static void give_units(kas_backend_context *context, kas_backend_buffer *buffer)
{
    buffer->block->taken &= ~buffer->units;
    bool kept = false;
    for (kas_vulkan_block **link = &context->blocks; *link;) {
        kas_vulkan_block *block = *link;
        if (block->taken == 0 && kept) {
            *link = block->next;
            context->api.FreeMemory(context->device, block->memory, NULL);
            kas_release(block);
            continue;
        }
        kept = kept || block->taken == 0;
        link = &block->next;
    }
}

void kas_vulkan_blocks_destroy(kas_backend_context *context)
{
    while (context->blocks) {
        kas_vulkan_block *block = context->blocks;
        context->blocks = block->next;
        context->api.FreeMemory(context->device, block->memory, NULL);
        kas_release(block);
    }
}

/* ---- Buffers ---------------------------------------------------------------------------------------------------- */

/* The caller holds the context's lock. */
static void release_buffer(kas_backend_context *context, kas_backend_buffer *buffer)
{
    if (!buffer->imported) {
        context->api.DestroyBuffer(context->device, buffer->handle, NULL);
        context->api.FreeMemory(context->device, buffer->memory, NULL);
    }
    if (buffer->block)
        give_units(context, buffer);
    kas_release(buffer);
}

static kas_status back_buffer(kas_backend_context *context, kas_backend_buffer *buffer)
{
    static const VkMemoryPropertyFlags wishes[] = {VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT, 0};
    VkMemoryRequirements needs;
    uint32_t type;
    KAS_TRY(create_bare(context, buffer->size,
                        VK_BUFFER_USAGE_STORAGE_BUFFER_BIT | VK_BUFFER_USAGE_TRANSFER_SRC_BIT |
                            VK_BUFFER_USAGE_TRANSFER_DST_BIT,
                        wishes, KAS_COUNT(wishes), &buffer->handle, &needs, &type));
    if (needs.size > BLOCK_MOST || needs.alignment > BLOCK_UNIT)
        return allocate_dedicated(context, buffer->handle, needs.size, type, &buffer->memory);
    kas_mutex_lock(context->lock);
    kas_status status = take_units(context, type, (uint32_t)kas_div_up(needs.size, BLOCK_UNIT), buffer);
    kas_mutex_unlock(context->lock);
    return status;
}

kas_status kas_vulkan_buffer_create(kas_backend_context *context, uint64_t size, kas_backend_buffer **buffer)
{
    KAS_TRY(kas_vulkan_usable(context));
    kas_backend_buffer *b = kas_alloc(1, sizeof(*b));
    if (!b)
        return kas_fail_memory();
    /* Kernels read whole words, also the last one. */
    b->size = kas_round_up(size, 16);
    kas_status status = back_buffer(context, b);
    if (status != KAS_OK) {
        kas_mutex_lock(context->lock);
        release_buffer(context, b);
        kas_mutex_unlock(context->lock);
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
    b->imported = true;
    b->offset = offset;
    b->size = size;
    *buffer = b;
    return KAS_OK;
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
    for (const kas_backend_stream *s = context->busy_streams; s; s = s->next)
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

static kas_status map_staging(kas_backend_context *context, kas_vulkan_staging *staging)
{
    void *mapped;
    KAS_VULKAN_TRY(context, MapMemory, context->device, staging->memory, 0, VK_WHOLE_SIZE, 0, &mapped);
    staging->mapped = mapped;
    return KAS_OK;
}

kas_status kas_vulkan_staging_create(kas_backend_context *context, uint64_t size, kas_vulkan_staging *staging)
{
    static const VkMemoryPropertyFlags wishes[] = {
        VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT | VK_MEMORY_PROPERTY_HOST_CACHED_BIT,
        VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_CACHED_BIT,
        VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT,
    };
    kas_vulkan_staging s = {.size = size};
    VkMemoryRequirements needs;
    uint32_t type;
    KAS_TRY(create_bare(context, size, VK_BUFFER_USAGE_TRANSFER_SRC_BIT | VK_BUFFER_USAGE_TRANSFER_DST_BIT, wishes,
                        KAS_COUNT(wishes), &s.handle, &needs, &type));
    s.coherent = (context->memory.memoryTypes[type].propertyFlags & VK_MEMORY_PROPERTY_HOST_COHERENT_BIT) != 0;
    kas_status status = allocate_dedicated(context, s.handle, needs.size, type, &s.memory);
    if (status == KAS_OK)
        status = map_staging(context, &s);
    if (status != KAS_OK) {
        kas_vulkan_staging_destroy(context, &s);
        return status;
    }
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
