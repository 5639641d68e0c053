/* variants.c - the rows of this backend, best first within an operation. */
#include "code.h"

#define GENERIC_HEAD_DIMS {64, 128, 256}

#define GENERIC_CODE(op)                                                                                               \
    (&(const kas_cuda_code){KAS_CUDA_IMAGE_##op, #op "_generic", .by_dtype = true, .head_dims = GENERIC_HEAD_DIMS})

/* Any dtype, head dimension, group and tile. */
#define ANY_SHAPE .dtypes = KAS_DTYPES_ALL, .min_head_dim = 1, .max_head_dim = KAS_MAX_HEAD_DIM, .head_dim_step = 1

/* Tuned rows take 16-bit types at the head dimensions that models use: 64, 80 and 96, 128, 256. */
#define TUNED_DTYPES .dtypes = KAS_DTYPE_BIT(KAS_DTYPE_F16) | KAS_DTYPE_BIT(KAS_DTYPE_BF16)
#define TUNED_HEAD_DIMS {64, 80, 96, 128, 256}

/* Two entries, because the head dimensions are no single progression. */
#define SPLIT_MMA_ROWS(row, operation)                                                                                 \
    SPLIT_MMA_ROW(row, operation, 64, 96, 16), SPLIT_MMA_ROW(row, operation, 128, 256, 128)

#define SPLIT_MMA_ROW(row, operation, least, most, step)                                                               \
    {                                                                                                                  \
        .name = #row "_mma", .op = operation, TUNED_DTYPES, .min_head_dim = least, .max_head_dim = most,               \
        .head_dim_step = step, .needs = KAS_FEATURE_MMA,                                                               \
        .code = &(const kas_cuda_code) { KAS_CUDA_IMAGE_##row##_mma, #row "_mma", true, TUNED_HEAD_DIMS, {16, 32} }    \
    }

#define PREFILL_MMA_ROWS(row, operation, ...)                                                                          \
    PREFILL_MMA_ROW(row, operation, 64, 96, 16, __VA_ARGS__), PREFILL_MMA_ROW(row, operation, 128, 256, 128, __VA_ARGS__)

#define PREFILL_MMA_ROW(row, operation, least, most, step, ...)                                                        \
    {                                                                                                                  \
        .name = #row "_mma", .op = operation, TUNED_DTYPES, .min_head_dim = least, .max_head_dim = most,               \
        .head_dim_step = step, .needs = KAS_FEATURE_MMA, __VA_ARGS__,                                                  \
        .code = &(const kas_cuda_code) { KAS_CUDA_IMAGE_##row##_mma, #row "_mma", true, TUNED_HEAD_DIMS }              \
    }

/* The matrix unit of sm_90a, head dimension 128. */
#define WGMMA_ROW(row, operation, ...)                                                                                 \
    {                                                                                                                  \
        .name = #row "_wgmma", .op = operation, TUNED_DTYPES, .min_head_dim = 128, .max_head_dim = 128,                \
        .head_dim_step = 128, .needs = KAS_FEATURE_WGMMA, __VA_ARGS__,                                                 \
        .code = &(const kas_cuda_code)                                                                                 \
        {                                                                                                              \
            KAS_CUDA_IMAGE_##row##_wgmma, #row "_wgmma", .by_dtype = true, .head_dims = {128}, .key_maps = true        \
        }                                                                                                              \
    }

const kas_variant kas_cuda_variants[] = {
    WGMMA_ROW(attend, KAS_OP_ATTEND, .per_head = true, .block_queries = 128),
    PREFILL_MMA_ROWS(attend, KAS_OP_ATTEND, .per_head = true, .block_queries = 128),
    {.name = "attend_generic", .op = KAS_OP_ATTEND, ANY_SHAPE, .block_queries = 16, .per_head = true,
     .code = GENERIC_CODE(attend)},
    WGMMA_ROW(lse, KAS_OP_LSE, .per_head = true, .block_queries = 256),
    PREFILL_MMA_ROWS(lse, KAS_OP_LSE, .per_head = true, .block_queries = 128, .no_estimate = true),
    {.name = "lse_generic", .op = KAS_OP_LSE, ANY_SHAPE, .block_queries = 16, .per_head = true,
     .code = GENERIC_CODE(lse)},
    WGMMA_ROW(scores, KAS_OP_SCORES, .block_keys = 16384),
    PREFILL_MMA_ROWS(scores, KAS_OP_SCORES, .block_keys = 2048),
    {.name = "scores_generic", .op = KAS_OP_SCORES, ANY_SHAPE, .block_keys = 128, .code = GENERIC_CODE(scores)},
    {.name = "select_cluster", .op = KAS_OP_SELECT, ANY_SHAPE, .needs = KAS_FEATURE_WGMMA,
     .code = &(const kas_cuda_code){KAS_CUDA_IMAGE_select_cluster, "select_cluster_many", .few = "select_cluster",
                                    .blocks = 8}},
    {.name = "select_generic", .op = KAS_OP_SELECT, ANY_SHAPE,
     .code = &(const kas_cuda_code){KAS_CUDA_IMAGE_select, "select_generic"}},
    WGMMA_ROW(sparse, KAS_OP_SPARSE, .block_queries = 0),
    PREFILL_MMA_ROWS(sparse, KAS_OP_SPARSE, .block_queries = 0),
    {.name = "sparse_generic", .op = KAS_OP_SPARSE, ANY_SHAPE, .block_queries = 16, .per_head = true,
     .code = GENERIC_CODE(sparse)},
    SPLIT_MMA_ROWS(attend_split, KAS_OP_ATTEND_SPLIT),
    {.name = "attend_split_generic", .op = KAS_OP_ATTEND_SPLIT, ANY_SHAPE, .code = GENERIC_CODE(attend_split)},
    SPLIT_MMA_ROWS(sparse_split, KAS_OP_SPARSE_SPLIT),
    {.name = "sparse_split_generic", .op = KAS_OP_SPARSE_SPLIT, ANY_SHAPE, .code = GENERIC_CODE(sparse_split)},
    {.name = "merge_generic", .op = KAS_OP_MERGE, ANY_SHAPE,
     .code = &(const kas_cuda_code){KAS_CUDA_IMAGE_merge, "merge_generic", .by_dtype = true}},
    SPLIT_MMA_ROWS(logits, KAS_OP_LOGITS),
    {.name = "logits_generic", .op = KAS_OP_LOGITS, ANY_SHAPE, .code = GENERIC_CODE(logits)},
    {.name = "pool_generic", .op = KAS_OP_POOL, ANY_SHAPE, .block_keys = 4096,
     .code = &(const kas_cuda_code){KAS_CUDA_IMAGE_pool, "pool_generic"}},
    /* With two blocks a multiprocessor every GPC has room for a cluster of sixteen. */
    {.name = "anchor_cluster", .op = KAS_OP_ANCHOR, TUNED_DTYPES, .min_head_dim = 64, .max_head_dim = 128,
     .head_dim_step = 64, .max_group = 16, .needs = KAS_FEATURE_WGMMA, .team = 16, .team_keys = 16384,
     .code = &(const kas_cuda_code){KAS_CUDA_IMAGE_anchor_cluster, "anchor_cluster", true, {64, 128}, {16, 32},
                                    .team = true}},
    {.name = "mass_generic", .op = KAS_OP_MASS, ANY_SHAPE,
     .code = &(const kas_cuda_code){KAS_CUDA_IMAGE_mass, "mass_generic"}},
};
