/*
 * recall_text.h - a text to read with values planted in it: lines "# let abcd = 123456" in its early and middle part,
 * the questions "# get abcd = 123456" near its end. A reader that lost the line cannot know the digits.
 */
#ifndef LM_RECALL_TEXT_H
#define LM_RECALL_TEXT_H

#include "../fail.h"

#include <stdbool.h>

#define LM_NAME_LETTERS 4
#define LM_VALUE_DIGITS 6
#define LM_MAX_VALUES 256

typedef struct lm_question {
    uint32_t begin;  /* token that begins its line */
    uint32_t answer; /* token of the first of the LM_VALUE_DIGITS digits */
} lm_question;

typedef struct lm_recall_text {
    uint32_t *tokens; /* byte tokens */
    uint32_t count;
    bool *plain; /* [count] whether the token is a byte of the text itself, not planted and no start token */
    uint32_t question_begin; /* the first question; a multiple of 128, so that no tile straddles it */
    uint32_t question_count;
    lm_question questions[LM_MAX_VALUES];
} lm_recall_text;

/*
 * Makes exactly `count` tokens: the start token (-1: none), text with `values` planted lines, the questions in another
 * order, and the text's continuation where room is left. The same seed and text give the same tokens. Errors:
 * INVALID_ARGUMENT with the bound when `count` is too small for the values, or the text too short for `count`.
 */
kas_status lm_recall_text_make(const unsigned char *text, uint64_t text_size, int64_t start_token, uint32_t count,
                               uint32_t values, uint64_t seed, lm_recall_text *made);
void lm_recall_text_release(lm_recall_text *text);

/* Bytes of text that `count` tokens take. */
uint64_t lm_recall_text_bytes(int64_t start_token, uint32_t count, uint32_t values);

/* The smallest count that holds so many values. */
uint32_t lm_recall_text_min(uint32_t values);

#endif
