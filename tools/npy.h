/*
 * npy.h - arrays in NumPy's .npy files, versions 1.0 to 3.0: little-endian, C order, plain numbers. Nothing in a file
 * is trusted: a header that lies about its length, its shape or the bytes behind it is refused with a sentence that
 * names the file, the value and the bound (tool_error).
 */
#ifndef TOOLS_NPY_H
#define TOOLS_NPY_H

#include "fail.h"
#include "lm/mapped_file.h"
#include "out_file.h"

#define NPY_MAX_DIMS 8

/* X(enumerator, descr, bytes) */
#define NPY_DTYPE_LIST(X)                                                                                              \
    X(NPY_F2, "<f2", 2)                                                                                                \
    X(NPY_F4, "<f4", 4)                                                                                                \
    X(NPY_F8, "<f8", 8)                                                                                                \
    X(NPY_I4, "<i4", 4)                                                                                                \
    X(NPY_I8, "<i8", 8)                                                                                                \
    X(NPY_U1, "|u1", 1)                                                                                                \
    X(NPY_U2, "<u2", 2)                                                                                                \
    X(NPY_U4, "<u4", 4)

typedef enum npy_dtype {
#define NPY_DTYPE_ENUM(name, descr, bytes) name,
    NPY_DTYPE_LIST(NPY_DTYPE_ENUM)
#undef NPY_DTYPE_ENUM
} npy_dtype;

/* Bytes of one element. */
size_t npy_dtype_size(npy_dtype dtype);

typedef struct npy_array {
    npy_dtype dtype;
    uint32_t dims; /* 0: a single number */
    uint64_t shape[NPY_MAX_DIMS];
    uint64_t count;      /* elements, the product of shape */
    const void *data;    /* aligned for the dtype; count elements */
    lm_mapped_file file; /* what npy_open mapped */
} npy_array;

/*
 * Maps a file and checks it; nothing is copied, so a file that another process cuts short afterwards can still end this
 * one. Errors: IO, FORMAT, UNSUPPORTED (a type, byte order or axis order that is valid but not read here).
 */
kas_status npy_open(const char *path, npy_array *array);
void npy_close(npy_array *array);

/* Reads an array from memory aligned to 8 bytes, which `array->data` points into; `name` stands for the file. */
kas_status npy_parse(const char *name, const void *bytes, size_t size, npy_array *array);

typedef struct npy_text {
    char text[256];
} npy_text;

/* "<f4 (32, 8)", for sentences. */
npy_text npy_describe(npy_dtype dtype, const uint64_t *shape, uint32_t dims);

typedef struct npy_writer {
    out_file file;
    uint64_t left; /* bytes still to come */
} npy_writer;

/* Errors: INVALID_ARGUMENT for too many dimensions or bytes past 2^63; IO; OUT_OF_MEMORY. */
kas_status npy_writer_open(npy_writer *writer, const char *path, npy_dtype dtype, const uint64_t *shape, uint32_t dims);
/* Appends elements in C order. Errors: INVALID_ARGUMENT for more than the shape holds; IO. */
kas_status npy_writer_append(npy_writer *writer, const void *data, uint64_t bytes);
/* Puts the file in place; STATE when elements are missing. Whatever it answers, the writer is spent. */
kas_status npy_writer_finish(npy_writer *writer);
/* Removes what was written. Does nothing for a writer that is spent, zeroed, or was never opened successfully. */
void npy_writer_abandon(npy_writer *writer);

/* Writes a whole array. Errors: as above. */
kas_status npy_save(const char *path, npy_dtype dtype, const uint64_t *shape, uint32_t dims, const void *data);

#endif
