/* variants.c - the rows of this backend, best first within an operation. */
#include "variants.h"

#include "code.h"

extern const unsigned char kas_cl_text_select[];

static const kas_cl_code select_generic = {kas_cl_text_select, 256, 0, NULL};

const kas_variant kas_cl_variants[] = {
    {.name = "select_generic",
     .op = KAS_OP_SELECT,
     .dtypes = KAS_DTYPES_ALL,
     .min_head_dim = 1,
     .max_head_dim = KAS_MAX_HEAD_DIM,
     .head_dim_step = 1,
     .code = &select_generic},
};
