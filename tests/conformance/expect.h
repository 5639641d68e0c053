/*
 * expect.h - what the oracle says of a case, computed when first asked for and kept: the same case runs once for every
 * variant row.
 */
#ifndef CONFORMANCE_EXPECT_H
#define CONFORMANCE_EXPECT_H

#include "../cases/data.h"

typedef struct expect_cache expect_cache;

expect_cache *expect_make(const case_data *data);
void expect_free(expect_cache *cache);

/* Dense attention of sequence b with its log-sum-exp, or of it the log-sum-exp alone, which is half the work. */
const oracle_output *expect_dense(expect_cache *cache, uint32_t call, uint32_t layer, uint32_t b);
const oracle_output *expect_lse(expect_cache *cache, uint32_t call, uint32_t layer, uint32_t b);

/*
 * Attention of sequence b over lists read through `rows`, which a device may have chosen: the newest result of each
 * call, layer and sequence is kept and serves again for equal lists.
 */
const oracle_output *expect_sparse(expect_cache *cache, uint32_t call, uint32_t layer, uint32_t b,
                                   const oracle_lists *lists, const uint32_t *rows);

/* Pooled scores of a tile's candidates, normalised over all causal keys; NULL where a NaN reaches the row. */
const double *expect_scores(expect_cache *cache, uint32_t call, uint32_t layer, uint32_t b, uint32_t row,
                            uint32_t tile);

/* Whether a NaN may reach list row `row` of sequence b. */
bool expect_row_is_dirty(const case_data *data, uint32_t b, uint32_t row);

#endif
