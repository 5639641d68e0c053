/*
 * data.h - the numbers of a case: logical values for the oracle, and images of the buffers that a device gets, with
 * guard regions around the payload and poison wherever nothing belongs.
 */
#ifndef CASES_DATA_H
#define CASES_DATA_H

#include "cases.h"

#include "../conformance/oracle.h"

#define DATA_LAYERS 7
#define DATA_MAX_SEGMENTS 3

/* Bytes in front of and behind each payload; a multiple of every slice alignment. */
#define DATA_GUARD 1024

/* Poison of float tensors: a NaN in every storage type. Integers have another, which no list holds. */
#define DATA_POISON 0xff
#define DATA_POISON_INTEGER 0xa5

/* A buffer as it is before the work: guard, payload from `base` on, guard. */
typedef struct data_image {
    uint8_t *bytes;
    uint64_t size, base;
    uint8_t poison;
} data_image;

/* Where the elements of a tensor lie in its image's payload. */
typedef struct data_layout {
    uint32_t stride[3];
    bool packed; /* strides are the documented default and need not be given */
} data_layout;

/* One call of a case: all of it, or a chunk of its queries. */
typedef struct data_call {
    uint32_t first; /* token of q, out */
    uint32_t queries, keys;
    uint32_t q_len[CASE_MAX_BATCH], kv_len[CASE_MAX_BATCH];
} data_call;

typedef struct case_data {
    const conformance_case *c;
    oracle_rule rule;
    uint32_t layers;              /* of q: DATA_LAYERS, otherwise 1 */
    float *q[DATA_LAYERS][CASE_MAX_BATCH];
    float *k[CASE_MAX_BATCH], *v[CASE_MAX_BATCH];
    bool *absent[CASE_MAX_BATCH]; /* NULL: no bad pages */
    bool *dirty;                  /* [batch][kv_heads]: a NaN may reach it */
    uint32_t expected_bits;       /* of kas_session_check */

    uint32_t calls;
    uint32_t session_queries, session_keys; /* the session's maxima */
    uint32_t tiles, rows;         /* of caller's lists and scores */
    uint32_t list_width, score_stride;
    uint32_t final_len[CASE_MAX_BATCH];
    uint32_t q_starts[CASE_MAX_BATCH];
    oracle_lists given[CASE_MAX_BATCH]; /* the valid entries where lists are given */
    uint32_t head_map[DATA_LAYERS * 16];
    uint32_t normalizer_map[DATA_LAYERS * 16];

    data_layout q_layout, out_layout, k_layout, v_layout;
    uint32_t segments, segment_count[DATA_MAX_SEGMENTS];
    data_image q_image[DATA_LAYERS], k_image[DATA_MAX_SEGMENTS], v_image[DATA_MAX_SEGMENTS];
    data_image out_image, lse_image; /* poison alone */
    data_image q_lens_image, kv_lens_image, q_starts_image, final_lens_image, page_table_image;
    data_image lists_image, scores_image, mass_image;
    uint32_t page_table_stride, page_count;
    int32_t *pages; /* [batch][page_table_stride]: where keys really lie */
} case_data;

case_data *data_make(const conformance_case *c);
void data_free(case_data *data);

/* Scores, lists are an input of the case. */
static inline bool data_has_scores(const conformance_case *c)
{
    return c->operation == CASE_SELECT || c->operation == CASE_MASS;
}

static inline bool data_has_lists(const conformance_case *c)
{
    return c->operation == CASE_LISTS || c->operation == CASE_MASS;
}

data_call data_call_at(const case_data *data, uint32_t call);
/* Sequence b of a call with the queries of `layer`. */
oracle_sequence data_sequence(const case_data *data, const data_call *call, uint32_t layer, uint32_t b);

/* Element (b, token i of the whole case, head h, 0) of q or out. */
uint64_t data_query_at(const case_data *data, const data_layout *layout, uint32_t b, uint32_t i, uint32_t h);
/* Element of lse: query i of the call. */
uint64_t data_lse_at(const case_data *data, const data_call *call, uint32_t b, uint32_t i, uint32_t h);
/* First element of a caller's list or of the scores of a tile. */
uint64_t data_tile_at(const case_data *data, uint32_t width, uint32_t b, uint32_t row, uint32_t tile);

data_image data_image_make(uint64_t payload, uint64_t skew, uint8_t poison);
void data_image_free(data_image *image);

#endif
