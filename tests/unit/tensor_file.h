/*
 * tensor_file.h - writes .safetensors files for tests: tensors are added one by one, in the storage type asked for, and
 * saved behind the header that describes them.
 */
#ifndef TEST_TENSOR_FILE_H
#define TEST_TENSOR_FILE_H

#include "half.h"

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum tensor_type { TENSOR_F32, TENSOR_F16, TENSOR_BF16, TENSOR_TYPE_COUNT } tensor_type;

typedef struct tensor_file {
    char *header; /* entries so far, without the braces around them */
    unsigned char *data;
    size_t header_size, data_size;
} tensor_file;

/* Stores one value and gives back what a reader will see. */
static inline double tensor_store(tensor_type type, double value, unsigned char *stored)
{
    float plain = (float)value;
    if (type == TENSOR_F32) {
        memcpy(stored, &plain, sizeof(plain));
        return plain;
    }
    uint16_t bits = type == TENSOR_F16 ? half_from_float(plain) : bfloat_from_float(plain);
    memcpy(stored, &bits, sizeof(bits));
    return type == TENSOR_F16 ? half_to_float(bits) : bfloat_to_float(bits);
}

/* Appends a tensor [rows, columns], or [columns] where rows is 0; `values` are rounded to the type. */
static inline void tensor_file_add(tensor_file *file, const char *name, tensor_type type, uint32_t rows,
                                   uint32_t columns, double *values)
{
    static const char *const names[] = {"F32", "F16", "BF16"};
    const size_t element = type == TENSOR_F32 ? 4 : 2, count = (size_t)(rows ? rows : 1) * columns;
    const size_t begin = file->data_size;
    char shape[32], entry[256];
    if (rows)
        snprintf(shape, sizeof(shape), "%u,%u", rows, columns);
    else
        snprintf(shape, sizeof(shape), "%u", columns);
    int length = snprintf(entry, sizeof(entry), "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
                          file->header_size ? "," : "", name, names[type], shape, begin, begin + count * element);
    file->header = realloc(file->header, file->header_size + (size_t)length + 1);
    memcpy(file->header + file->header_size, entry, (size_t)length + 1);
    file->header_size += (size_t)length;
    file->data = realloc(file->data, begin + count * element);
    for (size_t i = 0; i < count; i++)
        values[i] = tensor_store(type, values[i], file->data + begin + i * element);
    file->data_size = begin + count * element;
}

/* The length in front of a header: eight bytes, the least first. */
static inline void tensor_file_length(uint64_t length, unsigned char bytes[8])
{
    for (int i = 0; i < 8; i++)
        bytes[i] = (unsigned char)(length >> 8 * i);
}

/* Writes the file and starts anew. 0 when all of it was written. */
static inline int tensor_file_save(tensor_file *file, const char *path)
{
    unsigned char length[8];
    FILE *out = fopen(path, "wb");
    tensor_file_length(file->header_size + 2, length);
    size_t written = 0;
    if (out) {
        written += fwrite(length, 1, sizeof(length), out);
        written += fwrite("{", 1, 1, out) + fwrite(file->header, 1, file->header_size, out) + fwrite("}", 1, 1, out);
        written += fwrite(file->data, 1, file->data_size, out);
    }
    int whole = out && fclose(out) == 0 && written == sizeof(length) + 2 + file->header_size + file->data_size;
    free(file->header);
    free(file->data);
    *file = (tensor_file){0};
    return whole ? 0 : -1;
}

#endif
