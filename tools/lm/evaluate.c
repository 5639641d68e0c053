/* evaluate.c - one reading of a text; see evaluate.h. */
#define _POSIX_C_SOURCE 200809L
#include "evaluate.h"

#include <math.h>
#include <stdlib.h>
#include <time.h>

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static uint32_t likeliest(const float *logits, uint32_t vocab)
{
    uint32_t best = 0;
    for (uint32_t i = 1; i < vocab; i++)
        if (logits[i] > logits[best])
            best = i;
    return best;
}

/* -log2 of the probability of `token`. */
static double bits_of(const float *logits, uint32_t vocab, uint32_t token)
{
    float most = logits[likeliest(logits, vocab)];
    double sum = 0;
    for (uint32_t i = 0; i < vocab; i++)
        sum += expf(logits[i] - most);
    return (log(sum) - (logits[token] - most)) / log(2.0);
}

typedef struct listener {
    const lm_recall_text *text;
    uint32_t vocab;
    double bits, digit_bits;
    uint64_t plain_bytes;
    uint32_t digits_right[LM_MAX_VALUES]; /* a question */
} listener;

static void hear_digit(listener *to, uint32_t position, const float *logits)
{
    const lm_recall_text *text = to->text;
    for (uint32_t i = 0; i < text->question_count; i++) {
        uint32_t answer = text->questions[i].answer;
        if (position < answer || position >= answer + LM_VALUE_DIGITS)
            continue;
        to->digits_right[i] += likeliest(logits, to->vocab) == text->tokens[position];
        to->digit_bits += bits_of(logits, to->vocab, text->tokens[position]);
    }
}

static void hear(void *user, uint32_t first, uint32_t rows, const float *logits)
{
    listener *to = user;
    const lm_recall_text *text = to->text;
    for (uint32_t row = 0; row < rows; row++) {
        uint32_t predicted = first + row + 1;
        const float *of_row = logits + (size_t)row * to->vocab;
        if (predicted >= text->count)
            return;
        if (text->plain[predicted]) {
            to->bits += bits_of(of_row, to->vocab, text->tokens[predicted]);
            to->plain_bytes++;
        } else if (predicted >= text->question_begin) {
            hear_digit(to, predicted, of_row);
        }
    }
}

static kas_status read_forced(lm_sequence *sequence, const lm_recall_text *text, uint32_t vocab, lm_tally *tally)
{
    listener to = {.text = text, .vocab = vocab};
    TOOL_TRY(lm_sequence_prefill(sequence, text->tokens, text->count, hear, &to));
    tally->bits += to.bits;
    tally->digit_bits += to.digit_bits;
    tally->plain_bytes += to.plain_bytes;
    tally->values += text->question_count;
    for (uint32_t i = 0; i < text->question_count; i++)
        tally->recalled += to.digits_right[i] == LM_VALUE_DIGITS;
    return KAS_OK;
}

/*
 * Asks one question behind the text that precedes all of them: the line up to the digits, then what the model says.
 * Its own digits are fed back, so one wrong digit can spoil the next.
 */
static kas_status ask(lm_sequence *sequence, const lm_recall_text *text, const lm_question *question, uint32_t vocab,
                      float *logits, bool *right)
{
    lm_sequence_truncate(sequence, text->question_begin);
    for (uint32_t i = question->begin; i < question->answer; i++)
        TOOL_TRY(lm_sequence_decode(sequence, text->tokens[i], logits));
    *right = true;
    for (uint32_t i = 0; i < LM_VALUE_DIGITS; i++) {
        uint32_t said = likeliest(logits, vocab);
        *right = *right && said == text->tokens[question->answer + i];
        if (i + 1 < LM_VALUE_DIGITS)
            TOOL_TRY(lm_sequence_decode(sequence, said, logits));
    }
    return KAS_OK;
}

static kas_status ask_all(lm_sequence *sequence, const lm_recall_text *text, uint32_t vocab, lm_tally *tally)
{
    float *logits = malloc(vocab * sizeof(*logits));
    kas_status status = logits ? KAS_OK : tool_fail_memory();
    for (uint32_t i = 0; status == KAS_OK && i < text->question_count; i++) {
        bool right = false;
        status = ask(sequence, text, &text->questions[i], vocab, logits, &right);
        tally->recalled_decoded += right;
    }
    free(logits);
    return status;
}

static void add_stats(lm_sequence_stats *sum, const lm_sequence_stats *more)
{
    sum->prefill_tokens += more->prefill_tokens;
    sum->decode_tokens += more->decode_tokens;
    sum->prefill_attention_ms += more->prefill_attention_ms;
    sum->decode_attention_ms += more->decode_attention_ms;
    sum->keys_attended += more->keys_attended;
    sum->keys_causal += more->keys_causal;
}

static kas_status evaluate(const lm_sequence_desc *desc, const lm_recall_text *text, bool decoded, lm_tally *tally)
{
    double begin = now();
    uint32_t vocab = desc->model->config.vocab;
    lm_sequence_desc sized = *desc;
    sized.max_tokens = text->count;
    lm_sequence *sequence;
    TOOL_TRY(lm_sequence_create(&sized, &sequence));
    kas_status status = read_forced(sequence, text, vocab, tally);
    if (status == KAS_OK && decoded)
        status = ask_all(sequence, text, vocab, tally);
    if (status == KAS_OK)
        add_stats(&tally->stats, lm_sequence_get_stats(sequence));
    lm_sequence_destroy(sequence);
    tally->seconds += now() - begin;
    return status;
}

kas_status lm_evaluate(const lm_sequence_desc *desc, const lm_recall_text *text, lm_tally *tally)
{
    return evaluate(desc, text, true, tally);
}

kas_status lm_evaluate_forced(const lm_sequence_desc *desc, const lm_recall_text *text, lm_tally *tally)
{
    return evaluate(desc, text, false, tally);
}

lm_score lm_tally_score(const lm_tally *tally, uint32_t texts, uint32_t layers)
{
    const lm_sequence_stats *stats = &tally->stats;
    return (lm_score){
        .bits_per_byte = tally->bits / (double)tally->plain_bytes,
        .recall = (double)tally->recalled / (double)tally->values,
        .recall_decoded = (double)tally->recalled_decoded / (double)tally->values,
        .prefill_attention_ms = stats->prefill_attention_ms / texts,
        .decode_attention_ms_per_token = stats->decode_attention_ms / (double)stats->decode_tokens,
        .keys_attended = stats->keys_attended / ((double)stats->prefill_tokens * layers),
        .keys_attended_share = stats->keys_attended / stats->keys_causal,
        .seconds = tally->seconds / texts,
    };
}
