/* transfer.c - host data to buffers and back through bounded staging memory; device-side copies and fills. */
#include "context.h"

#include <string.h>

/* Staging memory of a stream: two halves, one being filled while the device reads the other. */
#define HALF_SIZE (4ull << 20)
/* Chunks begin at multiples of this, so that flushes of non-coherent memory do not meet. */
#define CHUNK_ALIGNMENT 256

static kas_status refuse_imported(const kas_backend_stream *stream, const char *what)
{
    if (!stream->imported)
        return KAS_OK;
    return kas_fail(KAS_ERROR_UNSUPPORTED, "%s needs a stream of the library's own, not a VkCommandBuffer", what);
}

static kas_status prepare_staging(kas_backend_stream *stream)
{
    if (stream->staging.handle)
        return KAS_OK;
    return kas_vulkan_staging_create(stream->context, 2 * HALF_SIZE, &stream->staging);
}

/* Goes over to the other half, when the device is done with it. */
static kas_status change_half(kas_backend_stream *stream)
{
    KAS_TRY(kas_vulkan_stream_submit(stream));
    stream->half_serial[stream->half] = stream->serial;
    stream->half ^= 1;
    stream->half_used = 0;
    return kas_vulkan_stream_wait_serial(stream, stream->half_serial[stream->half]);
}

static void record_copy(kas_backend_stream *stream, VkBuffer source, uint64_t source_offset, VkBuffer target,
                        uint64_t target_offset, uint64_t size)
{
    VkBufferCopy region = {.srcOffset = source_offset, .dstOffset = target_offset, .size = size};
    kas_vulkan_stream_order(stream);
    stream->context->api.CmdCopyBuffer(stream->commands, source, target, 1, &region);
}

static kas_status write_chunk(kas_backend_stream *stream, kas_backend_buffer *buffer, uint64_t offset,
                              const void *data, uint64_t size)
{
    uint64_t at = stream->half * HALF_SIZE + stream->half_used;
    memcpy(stream->staging.mapped + at, data, size);
    KAS_TRY(kas_vulkan_staging_flush(stream->context, &stream->staging, at, size));
    KAS_TRY(kas_vulkan_stream_next(stream));
    record_copy(stream, stream->staging.handle, at, buffer->handle, buffer->offset + offset, size);
    stream->half_used += kas_round_up(size, CHUNK_ALIGNMENT);
    return KAS_OK;
}

kas_status kas_vulkan_write(kas_backend_stream *stream, kas_backend_buffer *buffer, uint64_t offset, const void *data,
                            uint64_t size)
{
    KAS_TRY(kas_vulkan_usable(stream->context));
    KAS_TRY(refuse_imported(stream, "kas_buffer_write"));
    KAS_TRY(prepare_staging(stream));
    const unsigned char *bytes = data;
    for (uint64_t done = 0; done < size;) {
        if (stream->half_used >= HALF_SIZE)
            KAS_TRY(change_half(stream));
        uint64_t room = HALF_SIZE - stream->half_used;
        uint64_t chunk = size - done < room ? size - done : room;
        KAS_TRY(write_chunk(stream, buffer, offset + done, bytes + done, chunk));
        done += chunk;
    }
    return KAS_OK;
}

/* Makes the copy before it visible to the host that waits for it. */
static void order_host(kas_backend_stream *stream)
{
    VkMemoryBarrier barrier = {.sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER,
                               .srcAccessMask = VK_ACCESS_TRANSFER_WRITE_BIT,
                               .dstAccessMask = VK_ACCESS_HOST_READ_BIT};
    stream->context->api.CmdPipelineBarrier(stream->commands, VK_PIPELINE_STAGE_TRANSFER_BIT,
                                            VK_PIPELINE_STAGE_HOST_BIT, 0, 1, &barrier, 0, NULL, 0, NULL);
}

static kas_status read_chunk(kas_backend_stream *stream, kas_backend_buffer *buffer, uint64_t offset, void *data,
                             uint64_t size)
{
    KAS_TRY(change_half(stream));
    KAS_TRY(kas_vulkan_stream_record(stream));
    uint64_t at = stream->half * HALF_SIZE;
    record_copy(stream, buffer->handle, buffer->offset + offset, stream->staging.handle, at, size);
    order_host(stream);
    KAS_TRY(kas_vulkan_stream_wait(stream));
    KAS_TRY(kas_vulkan_staging_invalidate(stream->context, &stream->staging, at, size));
    memcpy(data, stream->staging.mapped + at, size);
    return KAS_OK;
}

kas_status kas_vulkan_read(kas_backend_stream *stream, kas_backend_buffer *buffer, uint64_t offset, void *data,
                           uint64_t size)
{
    KAS_TRY(kas_vulkan_usable(stream->context));
    KAS_TRY(refuse_imported(stream, "kas_buffer_read"));
    KAS_TRY(prepare_staging(stream));
    unsigned char *bytes = data;
    for (uint64_t done = 0; done < size;) {
        uint64_t chunk = size - done < HALF_SIZE ? size - done : HALF_SIZE;
        KAS_TRY(read_chunk(stream, buffer, offset + done, bytes + done, chunk));
        done += chunk;
    }
    return KAS_OK;
}

kas_status kas_vulkan_copy(kas_backend_stream *stream, kas_backend_buffer *target, uint64_t target_offset,
                           kas_backend_buffer *source, uint64_t source_offset, uint64_t size)
{
    KAS_TRY(kas_vulkan_stream_next(stream));
    record_copy(stream, source->handle, source->offset + source_offset, target->handle, target->offset + target_offset,
                size);
    return KAS_OK;
}

kas_status kas_vulkan_fill(kas_backend_stream *stream, kas_backend_buffer *buffer, uint64_t offset, uint64_t size,
                           uint8_t value)
{
    KAS_TRY(kas_vulkan_stream_next(stream));
    kas_vulkan_stream_order(stream);
    stream->context->api.CmdFillBuffer(stream->commands, buffer->handle, buffer->offset + offset, size,
                                       value * 0x01010101u);
    return KAS_OK;
}
