/* variants.c - the rows of this backend, best first within an operation. */
#include "variants.h"

#include "code.h"

/* One text a file in kernels/. */
extern const unsigned char kas_cl_text_attend[], kas_cl_text_lse[], kas_cl_text_scores[], kas_cl_text_select[],
    kas_cl_text_select_split[], kas_cl_text_sparse[], kas_cl_text_attend_split[], kas_cl_text_sparse_split[],
    kas_cl_text_merge[], kas_cl_text_logits[], kas_cl_text_pool[], kas_cl_text_mass[];

#define BY_ELEMENT (KAS_CL_BY_DTYPE | KAS_CL_BY_HEAD_DIM)

/* Takes every session. */
#define ANY_SHAPE .dtypes = KAS_DTYPES_ALL, .min_head_dim = 1, .max_head_dim = KAS_MAX_HEAD_DIM, .head_dim_step = 1

/* ---- Devices that run the items of a group in turns -------------------------------------------------------------- */

enum { SERIAL_QUERIES = 32, SERIAL_KEYS = 256, SERIAL_SELECT_ITEMS = 64 };

#define SERIAL(operation)                                                                                              \
    {                                                                                                                  \
        kas_cl_text_##operation, 1, BY_ELEMENT, KAS_CL_ENGINE_SERIAL, NULL                                             \
    }
#define SERIAL_ROW .name = "serial", .needs = KAS_FEATURE_SERIAL, ANY_SHAPE

static const kas_cl_code attend_serial = SERIAL(attend);
static const kas_cl_code lse_serial = SERIAL(lse);
static const kas_cl_code scores_serial = SERIAL(scores);
static const kas_cl_code sparse_serial = SERIAL(sparse);
static const kas_cl_code attend_split_serial = SERIAL(attend_split);
static const kas_cl_code sparse_split_serial = SERIAL(sparse_split);
static const kas_cl_code logits_serial = SERIAL(logits);
static const kas_cl_code select_serial = {kas_cl_text_select, SERIAL_SELECT_ITEMS, 0, KAS_CL_ENGINE_ROWS, NULL};

/* ---- GPUs -------------------------------------------------------------------------------------------------------- */

enum { TILED_ITEMS = 128, TILED_QUERIES = 64, TILED_KEYS = 256, FEW_ITEMS = 128, WIDE_ITEMS = 1024 };

#define TILED(operation)                                                                                               \
    {                                                                                                                  \
        kas_cl_text_##operation, TILED_ITEMS, BY_ELEMENT, KAS_CL_ENGINE_TILED, NULL                                    \
    }
#define FEW(operation)                                                                                                 \
    {                                                                                                                  \
        kas_cl_text_##operation, FEW_ITEMS, BY_ELEMENT, KAS_CL_ENGINE_FEW, NULL                                        \
    }

/* Head dimensions `least` to `most` by steps of `step`. */
#define VECTOR_ROW(least, most, step)                                                                                  \
    .name = "vector", .dtypes = KAS_DTYPES_ALL, .min_head_dim = least, .max_head_dim = most, .head_dim_step = step

static const kas_cl_code attend_vector = TILED(attend);
static const kas_cl_code lse_vector = TILED(lse);
static const kas_cl_code scores_vector = TILED(scores);
static const kas_cl_code sparse_vector = TILED(sparse);
static const kas_cl_code attend_split_vector = FEW(attend_split);
static const kas_cl_code sparse_split_vector = FEW(sparse_split);
static const kas_cl_code logits_vector = FEW(logits);
static const kas_cl_code select_wide = {kas_cl_text_select, WIDE_ITEMS, 0, KAS_CL_ENGINE_ROWS, NULL};

/* ---- Every device ------------------------------------------------------------------------------------------------ */

/* Work items and queries of a group; rows.clh takes as many keys at a time as there are items. */
enum {
    ROWS_ITEMS = 64,
    ROWS_QUERIES = 16,
    MERGE_ITEMS = 128,
    POOL_ITEMS = 256,
    POOL_KEYS = 1024,
    SELECT_ITEMS = 256,
    SELECT_SPLIT_ITEMS = 512,
    MASS_ITEMS = 64
};

#define ROWS(operation)                                                                                                \
    {                                                                                                                  \
        kas_cl_text_##operation, ROWS_ITEMS, BY_ELEMENT, KAS_CL_ENGINE_ROWS, NULL                                      \
    }
#define GENERIC_ROW .name = "generic", ANY_SHAPE

static const kas_cl_code attend_generic = ROWS(attend);
static const kas_cl_code lse_generic = ROWS(lse);
static const kas_cl_code scores_generic = ROWS(scores);
static const kas_cl_code select_generic = {kas_cl_text_select, SELECT_ITEMS, 0, KAS_CL_ENGINE_ROWS, NULL};
static const kas_cl_code select_split_generic = {kas_cl_text_select_split, SELECT_SPLIT_ITEMS, 0, KAS_CL_ENGINE_ROWS,
                                                 NULL};
static const kas_cl_code sparse_generic = ROWS(sparse);
static const kas_cl_code attend_split_generic = ROWS(attend_split);
static const kas_cl_code sparse_split_generic = ROWS(sparse_split);
static const kas_cl_code merge_generic = {kas_cl_text_merge, MERGE_ITEMS, BY_ELEMENT, KAS_CL_ENGINE_ROWS, NULL};
static const kas_cl_code logits_generic = ROWS(logits);
static const kas_cl_code pool_generic = {kas_cl_text_pool, POOL_ITEMS, 0, KAS_CL_ENGINE_ROWS, NULL};
static const kas_cl_code mass_generic = {kas_cl_text_mass, MASS_ITEMS, 0, KAS_CL_ENGINE_ROWS, NULL};

const kas_variant kas_cl_variants[KAS_CL_VARIANT_COUNT] = {
    {SERIAL_ROW, .op = KAS_OP_ATTEND, .block_queries = SERIAL_QUERIES, .code = &attend_serial},
    {SERIAL_ROW, .op = KAS_OP_LSE, .block_queries = SERIAL_QUERIES, .code = &lse_serial},
    {SERIAL_ROW, .op = KAS_OP_SCORES, .block_keys = SERIAL_KEYS, .code = &scores_serial},
    {SERIAL_ROW, .op = KAS_OP_SPARSE, .block_queries = SERIAL_QUERIES, .code = &sparse_serial},
    {SERIAL_ROW, .op = KAS_OP_ATTEND_SPLIT, .code = &attend_split_serial},
    {SERIAL_ROW, .op = KAS_OP_SPARSE_SPLIT, .code = &sparse_split_serial},
    {SERIAL_ROW, .op = KAS_OP_LOGITS, .code = &logits_serial},
    {SERIAL_ROW, .op = KAS_OP_SELECT, .code = &select_serial},

    {VECTOR_ROW(64, 128, 64), .op = KAS_OP_ATTEND, .block_queries = TILED_QUERIES, .per_head = true,
     .code = &attend_vector},
    {VECTOR_ROW(64, 128, 64), .op = KAS_OP_LSE, .block_queries = TILED_QUERIES, .per_head = true, .code = &lse_vector},
    {VECTOR_ROW(64, 128, 64), .op = KAS_OP_SCORES, .block_keys = TILED_KEYS, .code = &scores_vector},
    {VECTOR_ROW(64, 128, 64), .op = KAS_OP_SPARSE, .code = &sparse_vector},
    {VECTOR_ROW(64, 128, 64), .op = KAS_OP_ATTEND_SPLIT, .code = &attend_split_vector},
    {VECTOR_ROW(64, 128, 64), .op = KAS_OP_SPARSE_SPLIT, .code = &sparse_split_vector},
    {VECTOR_ROW(64, 128, 64), .op = KAS_OP_LOGITS, .code = &logits_vector},
    {.name = "wide", ANY_SHAPE, .op = KAS_OP_SELECT, .code = &select_wide},
    {VECTOR_ROW(256, 256, 1), .op = KAS_OP_ATTEND_SPLIT, .code = &attend_split_vector},
    {VECTOR_ROW(256, 256, 1), .op = KAS_OP_SPARSE_SPLIT, .code = &sparse_split_vector},
    {VECTOR_ROW(256, 256, 1), .op = KAS_OP_LOGITS, .code = &logits_vector},

    {GENERIC_ROW, .op = KAS_OP_ATTEND, .block_queries = ROWS_QUERIES, .code = &attend_generic},
    {GENERIC_ROW, .op = KAS_OP_LSE, .block_queries = ROWS_QUERIES, .code = &lse_generic},
    {GENERIC_ROW, .op = KAS_OP_SCORES, .block_keys = ROWS_ITEMS, .code = &scores_generic},
    {GENERIC_ROW, .op = KAS_OP_SELECT, .code = &select_generic},
    {.name = "split", ANY_SHAPE, .op = KAS_OP_SELECT_SPLIT, .steps = KAS_SELECT_STEPS, .code = &select_split_generic},
    {GENERIC_ROW, .op = KAS_OP_SPARSE, .block_queries = ROWS_QUERIES, .code = &sparse_generic},
    {GENERIC_ROW, .op = KAS_OP_ATTEND_SPLIT, .code = &attend_split_generic},
    {GENERIC_ROW, .op = KAS_OP_SPARSE_SPLIT, .code = &sparse_split_generic},
    {GENERIC_ROW, .op = KAS_OP_MERGE, .code = &merge_generic},
    {GENERIC_ROW, .op = KAS_OP_LOGITS, .code = &logits_generic},
    {GENERIC_ROW, .op = KAS_OP_POOL, .block_keys = POOL_KEYS, .code = &pool_generic},
    {GENERIC_ROW, .op = KAS_OP_MASS, .code = &mass_generic},
};
