/*
 * verify.h - comparing what a device wrote with what the oracle says. Each function takes a copy of the whole output
 * buffer, checks the elements that belong to the result and puts poison in their place, so that verify_untouched can
 * then demand that everything else is as it was.
 */
#ifndef CONFORMANCE_VERIFY_H
#define CONFORMANCE_VERIFY_H

#include "../cases/data.h"
#include "result.h"

/* outputs[b]: the oracle's, for each sequence of the call. */
void verify_attention(conformance_result *result, const char *what, const case_data *data, const data_call *call,
                      const oracle_output *const *outputs, uint8_t *bytes);
void verify_lse(conformance_result *result, const char *what, const case_data *data, const data_call *call,
                const oracle_output *const *outputs, uint8_t *bytes);

/* Scores of one tile against the oracle's; expected NULL: any value will do. */
void verify_scores(conformance_result *result, const case_data *data, uint64_t at, const double *expected,
                   uint32_t candidates, uint8_t *bytes);

/*
 * A list of `tile`: strictly ascending candidates, `keep` of them, all of them in a dense tile, and as a set the best by
 * `scores` but for ties within tolerance (NULL: no scores to go by). False when it is no list at all.
 */
bool verify_list(conformance_result *result, const char *what, const oracle_tile *tile, const double *scores,
                 const int32_t *list);

/* A list in the caller's rectangle that must be exactly `expected`, padded with -1. */
void verify_exact_list(conformance_result *result, const case_data *data, uint64_t at, const int32_t *expected,
                       uint32_t keep, uint8_t *bytes);

/* One of the sums that mass makes: of the values that a list of `count` positions names. */
void verify_sum(conformance_result *result, const case_data *data, uint64_t at, const float *values,
                const int32_t *list, uint32_t count, uint8_t *bytes);

/* Bytes are those of the image. */
void verify_untouched(conformance_result *result, const char *what, const data_image *image, const uint8_t *bytes);
/* Only the guards around the payload are. */
void verify_guards(conformance_result *result, const char *what, const data_image *image, const uint8_t *bytes,
                   uint64_t payload);

#endif
