/*
 * evaluate.h - how well and how fast a model reads a text with one kind of attention: bits per byte, recall of planted
 * values, times.
 */
#ifndef LM_EVALUATE_H
#define LM_EVALUATE_H

#include "recall_text.h"
#include "sequence.h"

/* Sums over texts; the ratios are taken at the end by lm_score. */
typedef struct lm_tally {
    double bits;          /* -log2 of the probability of each plain byte */
    uint64_t plain_bytes; /* the text's own bytes that were predicted; planted lines do not count */
    double digit_bits;    /* -log2 of the probability of each digit, those before it given */
    uint64_t values;
    uint64_t recalled;         /* values whose digits are each the likeliest token, the right digits before it given */
    uint64_t recalled_decoded; /* values written right by greedy decoding, one token after the other */
    lm_sequence_stats stats;
    double seconds; /* whole time, model loading apart */
} lm_tally;

/* Reads one text with a new sequence and adds to the tally. desc->max_tokens is set here. */
kas_status lm_evaluate(const lm_sequence_desc *desc, const lm_recall_text *text, lm_tally *tally);

/* The same without greedy decoding: what counts the decoded stays 0. */
kas_status lm_evaluate_forced(const lm_sequence_desc *desc, const lm_recall_text *text, lm_tally *tally);

/* A tally's ratios. What was not measured (no bytes, no values) is NaN. */
typedef struct lm_score {
    double bits_per_byte;
    double recall, recall_decoded;
    double prefill_attention_ms;         /* a text */
    double decode_attention_ms_per_token;
    double keys_attended;       /* a query token of prefill, averaged over layers and positions */
    double keys_attended_share; /* of the keys that dense attention reads */
    double seconds;             /* a text */
} lm_score;

lm_score lm_tally_score(const lm_tally *tally, uint32_t texts, uint32_t layers);

#endif
