/*
 * variants.c - the CPU's rows, best first. A row serves every dtype, head dimension, group and tile, except that dot
 * products of bf16 pairs are for bf16 and even head dimensions.
 */
#include "variants.h"

#define ROW_OF(row_name, operation, features, kernel, ...)                                                             \
    {                                                                                                                  \
        .name = row_name, .op = operation, .dtypes = KAS_DTYPES_ALL, .min_head_dim = 1,                                \
        .max_head_dim = KAS_MAX_HEAD_DIM, .head_dim_step = 1, .needs = features, .code = &(kernel), __VA_ARGS__        \
    }
#define ROW(row_name, operation, features, kernel) ROW_OF(row_name, operation, features, kernel, .block_queries = 0)
#define QUERY_ROW(row_name, operation, features, kernel)                                                               \
    ROW_OF(row_name, operation, features, kernel, .block_queries = KAS_CPU_ATTEND_QUERIES)

#define ROWS(row_name, features, kernels)                                                                              \
    QUERY_ROW(row_name, KAS_OP_ATTEND, features, (kernels).attend),                                                    \
        QUERY_ROW(row_name, KAS_OP_LSE, features, (kernels).lse),                                                      \
        ROW_OF(row_name, KAS_OP_SCORES, features, (kernels).scores, .own_lse_keys = KAS_CPU_OWN_LSE_KEYS),             \
        ROW(row_name, KAS_OP_SELECT, features, (kernels).select),                                                      \
        ROW(row_name, KAS_OP_SPARSE, features, (kernels).sparse),                                                      \
        ROW_OF(row_name, KAS_OP_PUBLISH, features, (kernels).publish, .max_keys = KAS_CPU_OWN_LSE_KEYS),               \
        ROW(row_name, KAS_OP_ATTEND_SPLIT, features, (kernels).attend_split),                                          \
        ROW(row_name, KAS_OP_SPARSE_SPLIT, features, (kernels).sparse_split),                                          \
        ROW(row_name, KAS_OP_LOGITS, features, (kernels).logits),                                                      \
        ROW_OF(row_name, KAS_OP_POOL, features, (kernels).pool, .block_keys = KAS_CPU_POOL_KEYS)

/* The operations with products, over pairs of bf16. */
#define PAIR_ROW(operation, kernel, ...)                                                                               \
    {                                                                                                                  \
        .name = "avx512-bf16", .op = operation, .dtypes = KAS_DTYPE_BIT(KAS_DTYPE_BF16), .min_head_dim = 2,            \
        .max_head_dim = KAS_MAX_HEAD_DIM, .head_dim_step = 2, .needs = KAS_FEATURE_AVX512 | KAS_FEATURE_AVX512_BF16,   \
        .code = &(kernel), __VA_ARGS__                                                                                 \
    }
#define PAIR_ROWS(kernels)                                                                                             \
    PAIR_ROW(KAS_OP_ATTEND, (kernels).attend, .block_queries = KAS_CPU_ATTEND_QUERIES),                                \
        PAIR_ROW(KAS_OP_LSE, (kernels).lse, .block_queries = KAS_CPU_ATTEND_QUERIES),                                  \
        PAIR_ROW(KAS_OP_SCORES, (kernels).scores, .own_lse_keys = KAS_CPU_OWN_LSE_KEYS),                               \
        PAIR_ROW(KAS_OP_SPARSE, (kernels).sparse, .block_queries = 0),                                                 \
        PAIR_ROW(KAS_OP_PUBLISH, (kernels).publish, .max_keys = KAS_CPU_OWN_LSE_KEYS),                                 \
        PAIR_ROW(KAS_OP_ATTEND_SPLIT, (kernels).attend_split, .block_queries = 0),                                     \
        PAIR_ROW(KAS_OP_SPARSE_SPLIT, (kernels).sparse_split, .block_queries = 0),                                     \
        PAIR_ROW(KAS_OP_LOGITS, (kernels).logits, .block_queries = 0)

const kas_variant kas_cpu_variants[KAS_CPU_VARIANT_COUNT] = {
#if defined(__x86_64__)
    PAIR_ROWS(kas_cpu_rows_avx512_bf16),
    ROWS("avx512", KAS_FEATURE_AVX512, kas_cpu_rows_avx512),
    ROWS("avx2", KAS_FEATURE_AVX2, kas_cpu_rows_avx2),
#elif defined(__aarch64__)
    ROWS("neon", KAS_FEATURE_NEON, kas_cpu_rows_neon),
#endif
    ROWS("generic", 0, kas_cpu_rows_generic),
    ROW("generic", KAS_OP_MERGE, 0, kas_cpu_merge),
    ROW("generic", KAS_OP_MASS, 0, kas_cpu_mass),
};
