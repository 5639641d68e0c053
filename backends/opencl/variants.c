/* variants.c - the rows of this backend, best first within an operation. */
#include "variants.h"

#include "code.h"

/* One text a file in kernels/. */
extern const unsigned char kas_cl_text_attend[], kas_cl_text_lse[], kas_cl_text_scores[], kas_cl_text_select[],
    kas_cl_text_sparse[], kas_cl_text_attend_split[], kas_cl_text_sparse_split[], kas_cl_text_merge[],
    kas_cl_text_logits[], kas_cl_text_pool[];

/* Work items, queries and keys of a generic row's group; rows.clh takes as many keys at a time as there are items. */
enum { ROWS_ITEMS = 64, ROWS_QUERIES = 16, POOL_ITEMS = 256, SELECT_ITEMS = 256 };

#define BY_ELEMENT (KAS_CL_BY_DTYPE | KAS_CL_BY_HEAD_DIM)

static const kas_cl_code attend_generic = {kas_cl_text_attend, ROWS_ITEMS, BY_ELEMENT, NULL};
static const kas_cl_code lse_generic = {kas_cl_text_lse, ROWS_ITEMS, BY_ELEMENT, NULL};
static const kas_cl_code scores_generic = {kas_cl_text_scores, ROWS_ITEMS, BY_ELEMENT, NULL};
static const kas_cl_code select_generic = {kas_cl_text_select, SELECT_ITEMS, 0, NULL};
static const kas_cl_code sparse_generic = {kas_cl_text_sparse, ROWS_ITEMS, BY_ELEMENT, NULL};
static const kas_cl_code attend_split_generic = {kas_cl_text_attend_split, ROWS_ITEMS, BY_ELEMENT, NULL};
static const kas_cl_code sparse_split_generic = {kas_cl_text_sparse_split, ROWS_ITEMS, BY_ELEMENT, NULL};
static const kas_cl_code merge_generic = {kas_cl_text_merge, ROWS_ITEMS, BY_ELEMENT, NULL};
static const kas_cl_code logits_generic = {kas_cl_text_logits, ROWS_ITEMS, BY_ELEMENT, NULL};
static const kas_cl_code pool_generic = {kas_cl_text_pool, POOL_ITEMS, 0, NULL};

/* Takes every session. */
#define GENERIC .dtypes = KAS_DTYPES_ALL, .min_head_dim = 1, .max_head_dim = KAS_MAX_HEAD_DIM, .head_dim_step = 1

const kas_variant kas_cl_variants[] = {
    {.name = "generic", .op = KAS_OP_ATTEND, GENERIC, .block_queries = ROWS_QUERIES, .code = &attend_generic},
    {.name = "generic", .op = KAS_OP_LSE, GENERIC, .block_queries = ROWS_QUERIES, .code = &lse_generic},
    {.name = "generic", .op = KAS_OP_SCORES, GENERIC, .block_keys = ROWS_ITEMS, .code = &scores_generic},
    {.name = "generic", .op = KAS_OP_SELECT, GENERIC, .code = &select_generic},
    {.name = "generic", .op = KAS_OP_SPARSE, GENERIC, .block_queries = ROWS_QUERIES, .code = &sparse_generic},
    {.name = "generic", .op = KAS_OP_ATTEND_SPLIT, GENERIC, .code = &attend_split_generic},
    {.name = "generic", .op = KAS_OP_SPARSE_SPLIT, GENERIC, .code = &sparse_split_generic},
    {.name = "generic", .op = KAS_OP_MERGE, GENERIC, .code = &merge_generic},
    {.name = "generic", .op = KAS_OP_LOGITS, GENERIC, .code = &logits_generic},
    {.name = "generic", .op = KAS_OP_POOL, GENERIC, .block_keys = POOL_ITEMS, .code = &pool_generic},
};
