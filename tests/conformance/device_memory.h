/*
 * device_memory.h - the buffers of a case on a device: made from images, read back as a whole. What a case only reads
 * must come back unchanged, guards included.
 */
#ifndef CONFORMANCE_DEVICE_MEMORY_H
#define CONFORMANCE_DEVICE_MEMORY_H

#include "../cases/data.h"
#include "result.h"

#define DEVICE_MEMORY_MAX 40

typedef enum device_use {
    DEVICE_INPUT,  /* nothing may write to it */
    DEVICE_OUTPUT, /* the case checks it */
    DEVICE_OPAQUE  /* the payload is the library's, the guards are ours */
} device_use;

typedef struct device_block {
    const char *name;
    device_use use;
    kas_buffer *buffer;
    const data_image *image;
    data_image owned; /* of DEVICE_OPAQUE */
    uint64_t payload; /* likewise */
} device_block;

typedef struct device_memory {
    kas_context *context;
    kas_stream *stream;
    conformance_result *result;
    uint32_t slice_alignment;
    uint32_t count;
    device_block blocks[DEVICE_MEMORY_MAX];
} device_memory;

/* False (and a failed result) when the device refuses; device_memory_close is due in either case. */
bool device_memory_open(device_memory *memory, kas_context *context, conformance_result *result);
void device_memory_close(device_memory *memory);

/* Uploads an image; NULL when that failed. The image outlives the memory. */
device_block *device_upload(device_memory *memory, const char *name, device_use use, const data_image *image);
/* A guarded block of `size` bytes that the library may use as it likes. */
device_block *device_reserve(device_memory *memory, const char *name, uint64_t size);

kas_slice device_slice(const device_block *block);

/* Puts the image back (between calls that write the same output). */
bool device_restore(device_memory *memory, const device_block *block);
/* The block's bytes for free(), added to the digest; NULL when the read failed. */
uint8_t *device_download(device_memory *memory, const device_block *block);

/* Inputs unchanged, guards of opaque blocks unchanged. */
void device_memory_check(device_memory *memory);

/* Fails the result with the library's sentence unless status is KAS_OK. */
bool device_ok(conformance_result *result, const char *what, kas_status status);

#endif
