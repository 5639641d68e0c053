/* device_memory.c - buffers made from images, and their check after the work. */
#include "device_memory.h"

#include "memory.h"
#include "verify.h"

#include <string.h>

bool device_ok(conformance_result *result, const char *what, kas_status status)
{
    if (status != KAS_OK)
        result_fail(result, "%s: %s: %s", what, kas_status_text(status), kas_last_error());
    return status == KAS_OK;
}

bool device_memory_open(device_memory *memory, kas_context *context, conformance_result *result)
{
    kas_device_info info = {.struct_size = sizeof(info)};
    memset(memory, 0, sizeof(*memory));
    memory->context = context;
    memory->result = result;
    return device_ok(result, "kas_context_get_info", kas_context_get_info(context, &info)) &&
           device_ok(result, "kas_stream_create", kas_stream_create(context, &memory->stream));
}

void device_memory_close(device_memory *memory)
{
    kas_stream_destroy(memory->stream);
    for (uint32_t i = 0; i < memory->count; i++) {
        kas_buffer_destroy(memory->blocks[i].buffer);
        data_image_free(&memory->blocks[i].owned);
    }
    memory->count = 0;
}

device_block *device_upload(device_memory *memory, const char *name, device_use use, const data_image *image)
{
    if (memory->count == DEVICE_MEMORY_MAX) {
        result_fail(memory->result, "%s: the case has more than %d buffers", name, DEVICE_MEMORY_MAX);
        return NULL;
    }
    device_block *block = &memory->blocks[memory->count++];
    *block = (device_block){.name = name, .use = use, .image = image};
    if (!device_ok(memory->result, name, kas_buffer_create(memory->context, image->size, &block->buffer)) ||
        !device_restore(memory, block))
        return NULL;
    return block;
}

device_block *device_reserve(device_memory *memory, const char *name, uint64_t size)
{
    data_image image = data_image_make(size, 0, DATA_POISON);
    device_block *block = device_upload(memory, name, DEVICE_OPAQUE, &image);
    if (!block) {
        data_image_free(&image);
        return NULL;
    }
    block->owned = image;
    block->image = &block->owned;
    block->payload = size;
    return block;
}

kas_slice device_slice(const device_block *block)
{
    return (kas_slice){block->buffer, block->image->base};
}

bool device_restore(device_memory *memory, const device_block *block)
{
    return device_ok(memory->result, block->name,
                     kas_buffer_write(memory->stream, block->buffer, 0, block->image->bytes, block->image->size));
}

uint8_t *device_download(device_memory *memory, const device_block *block)
{
    uint8_t *bytes = memory_alloc(block->image->size, 1);
    if (!device_ok(memory->result, block->name,
                   kas_buffer_read(memory->stream, block->buffer, 0, bytes, block->image->size))) {
        free(bytes);
        return NULL;
    }
    result_digest(memory->result, bytes, block->image->size);
    return bytes;
}

void device_memory_check(device_memory *memory)
{
    for (uint32_t i = 0; i < memory->count; i++) {
        device_block *block = &memory->blocks[i];
        if (block->use == DEVICE_OUTPUT || !block->buffer)
            continue;
        uint8_t *bytes = memory_alloc(block->image->size, 1);
        if (device_ok(memory->result, block->name,
                      kas_buffer_read(memory->stream, block->buffer, 0, bytes, block->image->size))) {
            if (block->use == DEVICE_INPUT)
                verify_untouched(memory->result, block->name, block->image, bytes);
            else
                verify_guards(memory->result, block->name, block->image, bytes, block->payload);
        }
        free(bytes);
    }
}
