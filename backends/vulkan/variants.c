/* variants.c - the rows of this backend, best first within an operation, and the SPIR-V behind each. */
#include "context.h"

#define DECLARE(symbol)                                                                                                \
    extern const unsigned char kas_vulkan_##symbol[];                                                                  \
    extern const size_t kas_vulkan_##symbol##_size;

#define SPIRV(symbol) kas_vulkan_##symbol
#define SIZE(symbol) &kas_vulkan_##symbol##_size

#define EVERY_DTYPE(entry) [KAS_DTYPE_F32] = (entry), [KAS_DTYPE_F16] = (entry), [KAS_DTYPE_BF16] = (entry)

DECLARE(select)
static const kas_vulkan_code select_generic = {
    {EVERY_DTYPE(SPIRV(select))}, {EVERY_DTYPE(SIZE(select))}, 256};

#define ANY_HEAD_DIM .min_head_dim = 1, .max_head_dim = KAS_MAX_HEAD_DIM, .head_dim_step = 1

const kas_variant kas_vulkan_variants[] = {
    {.name = "select_generic", .op = KAS_OP_SELECT, .dtypes = KAS_DTYPES_ALL, ANY_HEAD_DIM, .code = &select_generic},
};
