/* variants.c - the rows of this backend, best first within an operation, and the SPIR-V behind each. */
#include "context.h"

#define HALVES (KAS_DTYPE_BIT(KAS_DTYPE_F16) | KAS_DTYPE_BIT(KAS_DTYPE_BF16))

#define DECLARE(symbol)                                                                                                \
    extern const unsigned char kas_spirv_##symbol[];                                                                  \
    extern const size_t kas_spirv_##symbol##_size;

#define BUILD(dtype, symbol) .spirv[dtype] = kas_spirv_##symbol, .size[dtype] = &kas_spirv_##symbol##_size

/* ---- Generic rows: any device, any shape ------------------------------------------------------------------------ */

#define GENERIC_INVOCATIONS 128

/* A kernel that does not see the storage type. */
#define PLAIN_CODE(op)                                                                                                 \
    DECLARE(op)                                                                                                        \
    static const kas_vulkan_code op##_generic = {BUILD(KAS_DTYPE_F32, op), BUILD(KAS_DTYPE_F16, op),                   \
                                                 BUILD(KAS_DTYPE_BF16, op), .invocations = GENERIC_INVOCATIONS};

/* A kernel with a build for each storage type, those of 16 bits twice. */
#define TYPED_CODE(op)                                                                                                 \
    DECLARE(op##_f32)                                                                                                  \
    DECLARE(op##_f16)                                                                                                  \
    DECLARE(op##_bf16)                                                                                                 \
    DECLARE(op##_f16_packed)                                                                                           \
    DECLARE(op##_bf16_packed)                                                                                          \
    static const kas_vulkan_code op##_generic = {BUILD(KAS_DTYPE_F32, op##_f32), BUILD(KAS_DTYPE_F16, op##_f16),       \
                                                 BUILD(KAS_DTYPE_BF16, op##_bf16), .invocations = GENERIC_INVOCATIONS, \
                                                 .by_blocks = true};                                                   \
    static const kas_vulkan_code op##_packed = {BUILD(KAS_DTYPE_F16, op##_f16_packed),                                 \
                                                BUILD(KAS_DTYPE_BF16, op##_bf16_packed),                               \
                                                .invocations = GENERIC_INVOCATIONS, .by_blocks = true};

PLAIN_CODE(select)
PLAIN_CODE(pool)
PLAIN_CODE(mass)
TYPED_CODE(attend)
TYPED_CODE(lse)
TYPED_CODE(scores)
TYPED_CODE(sparse)
TYPED_CODE(attend_split)
TYPED_CODE(sparse_split)
TYPED_CODE(merge)
TYPED_CODE(logits)

/* ---- Rows by subgroups: 16-bit storage types, whole vectors of 8 elements --------------------------------------- */

#define LANES_CODE(op)                                                                                                 \
    DECLARE(op##_lanes_f16)                                                                                            \
    DECLARE(op##_lanes_bf16)                                                                                           \
    static const kas_vulkan_code op##_lanes = {BUILD(KAS_DTYPE_F16, op##_lanes_f16),                                   \
                                               BUILD(KAS_DTYPE_BF16, op##_lanes_bf16), .invocations = 128};

LANES_CODE(attend_split)
LANES_CODE(sparse_split)
LANES_CODE(merge)
LANES_CODE(logits)

/* It does not see the storage type. */
DECLARE(pool_lanes)
static const kas_vulkan_code pool_lanes = {BUILD(KAS_DTYPE_F32, pool_lanes), BUILD(KAS_DTYPE_F16, pool_lanes),
                                           BUILD(KAS_DTYPE_BF16, pool_lanes), .invocations = 128};

/* ---- Rows in large work groups, which a device may not have ------------------------------------------------------ */

#define WIDE_CODE(op, variant)                                                                                         \
    static const kas_vulkan_code variant = {BUILD(KAS_DTYPE_F32, op), BUILD(KAS_DTYPE_F16, op),                        \
                                            BUILD(KAS_DTYPE_BF16, op), .invocations = 1024, .shared = 32 * 1024};

DECLARE(select_split)
WIDE_CODE(select, select_wide)
WIDE_CODE(select_split, select_split_generic)

#define LANES_ROW(number, text, suffix, ...)                                                                           \
    {.name = #text "_" suffix,                                                                                         \
     .op = number,                                                                                                     \
     .dtypes = HALVES,                                                                                                 \
     .min_head_dim = 8,                                                                                                \
     .max_head_dim = KAS_MAX_HEAD_DIM,                                                                                 \
     .head_dim_step = 8,                                                                                               \
     .needs = KAS_FEATURE_SUBGROUP | KAS_FEATURE_STORAGE16,                                                            \
     .code = &text##_lanes,                                                                                            \
     __VA_ARGS__}

/* Query rows that the kernels hold all at once: keys are read once, where matrices would be mostly empty. */
#define FEW_ROWS .max_group = 8, .max_queries = 1

/* ---- Rows on cooperative matrices: f16, head dimensions in steps of a matrix's sides ----------------------------- */

#ifdef KAS_VULKAN_HAVE_MATRIX
#define MATRIX_CODE(op, kind, invocation_count)                                                                        \
    DECLARE(op##_matrix_f16)                                                                                           \
    static const kas_vulkan_code op##_matrix = {                                                                       \
        BUILD(KAS_DTYPE_F16, op##_matrix_f16), .invocations = invocation_count, .matrix = KAS_VULKAN_MATRIX_##kind};

MATRIX_CODE(attend, BLOCK, 256)
MATRIX_CODE(lse, LOGITS, 256)
MATRIX_CODE(scores, LOGITS, 256)
MATRIX_CODE(sparse, BLOCK, 256)
MATRIX_CODE(attend_split, STREAM, 0)
MATRIX_CODE(sparse_split, STREAM, 0)
MATRIX_CODE(logits, STREAM, 0)

#define MATRIX_KIND_ROW(number, text, kind, features, ...)                                                             \
    {.name = #text #kind,                                                                                              \
     .op = number,                                                                                                     \
     .dtypes = KAS_DTYPE_BIT(KAS_DTYPE_F16),                                                                           \
     .min_head_dim = 16,                                                                                               \
     .max_head_dim = 128,                                                                                              \
     .head_dim_step = 16,                                                                                              \
     .needs = KAS_FEATURE_SUBGROUP | KAS_FEATURE_STORAGE16 | (features),                                               \
     .code = &text##kind,                                                                                              \
     __VA_ARGS__},
#define MATRIX_ROW(number, text, ...) MATRIX_KIND_ROW(number, text, _matrix, KAS_FEATURE_COOPMAT, __VA_ARGS__)
#else
#define MATRIX_ROW(number, text, ...)
#endif

/* With reductions and conversions of matrices: VK_NV_cooperative_matrix2. */
#ifdef KAS_VULKAN_HAVE_MATRIX2
#define MATRIX2_CODE(op)                                                                                               \
    DECLARE(op##_matrix2_f16)                                                                                          \
    static const kas_vulkan_code op##_matrix2 = {                                                                      \
        BUILD(KAS_DTYPE_F16, op##_matrix2_f16), .invocations = 256, .matrix = KAS_VULKAN_MATRIX_REDUCED};

MATRIX2_CODE(attend)
MATRIX2_CODE(sparse)

#define MATRIX2_ROW(number, text, ...)                                                                                 \
    MATRIX_KIND_ROW(number, text, _matrix2, KAS_FEATURE_COOPMAT | KAS_FEATURE_COOPMAT2, __VA_ARGS__)
#else
#define MATRIX2_ROW(number, text, ...)
#endif

/* ---- The table -------------------------------------------------------------------------------------------------- */

#define ANY_HEAD_DIM .min_head_dim = 1, .max_head_dim = KAS_MAX_HEAD_DIM, .head_dim_step = 1

#define PLAIN_ROW(number, text, ...)                                                                                   \
    {.name = #text "_generic", .op = number, .dtypes = KAS_DTYPES_ALL, ANY_HEAD_DIM, .code = &text##_generic, __VA_ARGS__}

/* f32 asks nothing of the device, 16-bit types want them in storage buffers or go by words. */
#define TYPED_ROWS(number, text, ...)                                                                                  \
    {.name = #text "_generic",                                                                                         \
     .op = number,                                                                                                     \
     .dtypes = KAS_DTYPE_BIT(KAS_DTYPE_F32),                                                                           \
     ANY_HEAD_DIM,                                                                                                     \
     .code = &text##_generic,                                                                                          \
     __VA_ARGS__},                                                                                                     \
        {.name = #text "_generic16",                                                                                   \
         .op = number,                                                                                                 \
         .dtypes = HALVES,                                                                                             \
         ANY_HEAD_DIM,                                                                                                 \
         .needs = KAS_FEATURE_STORAGE16,                                                                               \
         .code = &text##_generic,                                                                                      \
         __VA_ARGS__},                                                                                                 \
    {                                                                                                                  \
        .name = #text "_packed", .op = number, .dtypes = HALVES, ANY_HEAD_DIM, .code = &text##_packed, __VA_ARGS__     \
    }

const kas_variant kas_vulkan_variants[] = {
    MATRIX2_ROW(KAS_OP_ATTEND, attend, .block_queries = 32)
    MATRIX_ROW(KAS_OP_ATTEND, attend, .block_queries = 32)
    TYPED_ROWS(KAS_OP_ATTEND, attend, .block_queries = 16, .per_head = true),
    MATRIX_ROW(KAS_OP_LSE, lse, .block_queries = 64)
    TYPED_ROWS(KAS_OP_LSE, lse, .block_queries = 16, .per_head = true),
    MATRIX_ROW(KAS_OP_SCORES, scores, .block_keys = 2048)
    TYPED_ROWS(KAS_OP_SCORES, scores, .block_keys = 128),
    {.name = "select_wide", .op = KAS_OP_SELECT, .dtypes = KAS_DTYPES_ALL, ANY_HEAD_DIM, .code = &select_wide},
    PLAIN_ROW(KAS_OP_SELECT, select),
    PLAIN_ROW(KAS_OP_SELECT_SPLIT, select_split, .steps = 2),
    MATRIX2_ROW(KAS_OP_SPARSE, sparse, .block_queries = 32)
    MATRIX_ROW(KAS_OP_SPARSE, sparse, .block_queries = 32)
    TYPED_ROWS(KAS_OP_SPARSE, sparse, .block_queries = 16, .per_head = true),
    LANES_ROW(KAS_OP_ATTEND_SPLIT, attend_split, "few", FEW_ROWS),
    MATRIX_ROW(KAS_OP_ATTEND_SPLIT, attend_split, .max_group = 0)
    LANES_ROW(KAS_OP_ATTEND_SPLIT, attend_split, "subgroup"),
    TYPED_ROWS(KAS_OP_ATTEND_SPLIT, attend_split),
    LANES_ROW(KAS_OP_SPARSE_SPLIT, sparse_split, "few", FEW_ROWS),
    MATRIX_ROW(KAS_OP_SPARSE_SPLIT, sparse_split, .max_group = 0)
    LANES_ROW(KAS_OP_SPARSE_SPLIT, sparse_split, "subgroup"),
    TYPED_ROWS(KAS_OP_SPARSE_SPLIT, sparse_split),
    LANES_ROW(KAS_OP_MERGE, merge, "subgroup"),
    TYPED_ROWS(KAS_OP_MERGE, merge),
    LANES_ROW(KAS_OP_LOGITS, logits, "few", FEW_ROWS),
    MATRIX_ROW(KAS_OP_LOGITS, logits, .max_group = 0)
    LANES_ROW(KAS_OP_LOGITS, logits, "subgroup"),
    TYPED_ROWS(KAS_OP_LOGITS, logits),
    {.name = "pool_subgroup",
     .op = KAS_OP_POOL,
     .dtypes = KAS_DTYPES_ALL,
     ANY_HEAD_DIM,
     .needs = KAS_FEATURE_SUBGROUP,
     .code = &pool_lanes,
     .block_keys = 4 * 128},
    PLAIN_ROW(KAS_OP_POOL, pool, .block_keys = GENERIC_INVOCATIONS),
    PLAIN_ROW(KAS_OP_MASS, mass),
};
