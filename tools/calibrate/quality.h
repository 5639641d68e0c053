/*
 * quality.h - what a plan costs a model: bits per byte of texts and the recall of values planted in them, with the plan
 * and with dense attention.
 */
#ifndef CALIBRATE_QUALITY_H
#define CALIBRATE_QUALITY_H

#include "lm/evaluate.h"

typedef struct quality {
    double bits_per_byte;
    double digit_bits; /* a digit of the planted values: 0 known for sure, log2(10) guessed */
    double recall;     /* share of values whose digits are each the likeliest token */
    double keys_share; /* of the causal keys, attended */
} quality;

typedef struct quality_texts {
    const lm_model *model;
    kas_context *context;
    kas_dtype dtype;
    uint32_t count, length;
    lm_recall_text *texts; /* [count] */
    quality dense;
} quality_texts;

/*
 * Texts of `length` tokens made of the bytes, with `values` planted in each, and what dense attention makes of them.
 * The descriptor's fields up to `length` are the caller's. Errors: as lm_recall_text_make and lm_evaluate.
 */
kas_status quality_texts_make(quality_texts *set, const unsigned char *bytes, uint32_t values, uint64_t seed,
                              const kas_plan *shape);
void quality_texts_release(quality_texts *set);

/* Bytes of text that such a set takes. */
uint64_t quality_texts_bytes(const lm_model *model, uint32_t count, uint32_t length, uint32_t values);

/* How long a reading takes against another's: between linear in the length, as layers are, and attention's square. */
double quality_texts_cost(const quality_texts *set);

/* Reads every text with the plan. Blocks. */
kas_status quality_measure(const quality_texts *set, const kas_plan *plan, quality *found);

/* Change of bits per byte against dense; the loss that the search minimises adds what is forgotten of the digits. */
double quality_change(const quality_texts *set, const quality *found);
double quality_loss(const quality_texts *set, const quality *found);

#endif
