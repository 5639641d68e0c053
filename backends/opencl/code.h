/*
 * code.h - what kas_variant.code points to in this backend: the text of a row's kernel, its entry point and what it is
 * compiled for.
 */
#ifndef KAS_OPENCL_CODE_H
#define KAS_OPENCL_CODE_H

#include "core/backend.h"

/* Members of kas_kernel_spec that a row's text depends on; the others do not lead to another program. */
enum { KAS_CL_BY_DTYPE = 1, KAS_CL_BY_HEAD_DIM = 2, KAS_CL_BY_GROUP = 4, KAS_CL_BY_TILE = 8, KAS_CL_BY_PAGE = 16 };

/* The attention that kernels/engine.clh puts into a row's kernel. */
enum { KAS_CL_ENGINE_ROWS, KAS_CL_ENGINE_SERIAL, KAS_CL_ENGINE_TILED, KAS_CL_ENGINE_FEW };

typedef struct kas_cl_code {
    const unsigned char *text; /* zero-terminated; its kernel is named kas_OPERATION */
    uint32_t items;            /* work items a group, KAS_ITEMS in the text */
    uint32_t by;               /* KAS_CL_BY_* */
    uint32_t engine;           /* KAS_CL_ENGINE_* */
    const char *options;       /* further ones for the compiler, or NULL */
} kas_cl_code;

#endif
