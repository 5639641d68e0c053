/* variants.c - the rows of this backend, best first within an operation. */
#include "code.h"

#define GENERIC_HEAD_DIMS {64, 128, 256}

#define GENERIC_CODE(op)                                                                                               \
    (&(const kas_cuda_code){KAS_CUDA_IMAGE_##op, #op "_generic", .by_dtype = true, .head_dims = GENERIC_HEAD_DIMS})

/* Any dtype, head dimension, group and tile. */
#define ANY_SHAPE .dtypes = KAS_DTYPES_ALL, .min_head_dim = 1, .max_head_dim = KAS_MAX_HEAD_DIM, .head_dim_step = 1

const kas_variant kas_cuda_variants[] = {
    {.name = "attend_generic", .op = KAS_OP_ATTEND, ANY_SHAPE, .block_queries = 16, .per_head = true,
     .code = GENERIC_CODE(attend)},
    {.name = "lse_generic", .op = KAS_OP_LSE, ANY_SHAPE, .block_queries = 16, .per_head = true,
     .code = GENERIC_CODE(lse)},
    {.name = "scores_generic", .op = KAS_OP_SCORES, ANY_SHAPE, .block_keys = 128, .code = GENERIC_CODE(scores)},
    {.name = "select_generic", .op = KAS_OP_SELECT, ANY_SHAPE,
     .code = &(const kas_cuda_code){KAS_CUDA_IMAGE_select, "select_generic"}},
    {.name = "sparse_generic", .op = KAS_OP_SPARSE, ANY_SHAPE, .block_queries = 16, .per_head = true,
     .code = GENERIC_CODE(sparse)},
    {.name = "attend_split_generic", .op = KAS_OP_ATTEND_SPLIT, ANY_SHAPE, .code = GENERIC_CODE(attend_split)},
    {.name = "sparse_split_generic", .op = KAS_OP_SPARSE_SPLIT, ANY_SHAPE, .code = GENERIC_CODE(sparse_split)},
    {.name = "merge_generic", .op = KAS_OP_MERGE, ANY_SHAPE,
     .code = &(const kas_cuda_code){KAS_CUDA_IMAGE_merge, "merge_generic", .by_dtype = true}},
    {.name = "logits_generic", .op = KAS_OP_LOGITS, ANY_SHAPE, .code = GENERIC_CODE(logits)},
    {.name = "pool_generic", .op = KAS_OP_POOL, ANY_SHAPE, .block_keys = 1024,
     .code = &(const kas_cuda_code){KAS_CUDA_IMAGE_pool, "pool_generic"}},
};
