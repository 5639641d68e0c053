/*
 * sequence.h - one text being read by a model: the key/value cache, the position, and attention by the library on its
 * device. Everything but attention is computed on the host; the cache is in the session's storage type.
 */
#ifndef LM_SEQUENCE_H
#define LM_SEQUENCE_H

#include "model.h"

typedef enum lm_attention {
    LM_ATTENTION_DENSE,  /* every layer dense */
    LM_ATTENTION_PLAN,   /* the plan's roles */
    LM_ATTENTION_WINDOW, /* layer 0 dense, the others read the first keys and the newest: as many as Kascade reads */
} lm_attention;

/* Keys at the start of the text that LM_ATTENTION_WINDOW always reads. */
#define LM_WINDOW_SINKS 4

/* A layer of one prefill call: device buffers, and hidden states on the host that the observer may not keep. */
typedef struct lm_observation {
    uint32_t layer, first, rows; /* tokens first .. first + rows - 1 */
    kas_stream *stream;
    kas_buffer *q;               /* [rows, heads, head_dim], in the sequence's dtype */
    kas_buffer *k;               /* [first + rows, kv_heads, head_dim] */
    const float *before, *after; /* [rows, hidden]: the residual stream before and after attention */
} lm_observation;

typedef struct lm_sequence_desc {
    const lm_model *model;
    kas_context *context;
    const kas_plan *plan; /* roles, tile and k rule, which set the window's budget too; outlives the sequence */
    lm_attention attention;
    kas_dtype dtype;     /* of q, k, v and the output of attention */
    uint32_t max_tokens; /* the longest text */
    uint32_t chunk;      /* query tokens of one prefill call, a multiple of 128 (any tile) */
    void (*progress)(void *user, uint32_t tokens); /* prefill: tokens done so far; may be NULL */
    void *progress_user;
    /* What calibration looks at; may be NULL. Called in prefill alone, after the attention of each layer. */
    kas_status (*observe)(void *user, const struct lm_observation *observation);
    void *observe_user;
} lm_sequence_desc;

typedef struct lm_sequence lm_sequence;

typedef struct lm_sequence_stats {
    uint64_t prefill_tokens, decode_tokens;
    double prefill_attention_ms, decode_attention_ms; /* the device's time for the attention calls alone */
    /* Sums over layers and query tokens of prefill: the keys that a query attends to, and those it could. */
    double keys_attended, keys_causal;
} lm_sequence_stats;

/* The logits [rows, vocab] behind the tokens at positions first .. first + rows - 1. */
typedef void (*lm_logits_fn)(void *user, uint32_t first, uint32_t rows, const float *logits);

/* Errors: as kas_session_create; OUT_OF_MEMORY; INVALID_ARGUMENT when the plan is for another shape. */
kas_status lm_sequence_create(const lm_sequence_desc *desc, lm_sequence **sequence);
void lm_sequence_destroy(lm_sequence *sequence);

/*
 * Reads `count` more tokens in chunks. `on_logits` (may be NULL) gets the logits in blocks of rows. Blocks. Errors:
 * INVALID_ARGUMENT for a token past the vocabulary; LIMIT past max_tokens; those of kas_prefill.
 */
kas_status lm_sequence_prefill(lm_sequence *sequence, const uint32_t *tokens, uint32_t count, lm_logits_fn on_logits,
                               void *user);

/* Reads one more token through the decode path; logits [vocab] may be NULL. Errors as above. */
kas_status lm_sequence_decode(lm_sequence *sequence, uint32_t token, float *logits);

/* Forgets everything from position `length` on; does nothing when the text is shorter. */
void lm_sequence_truncate(lm_sequence *sequence, uint32_t length);

const lm_sequence_stats *lm_sequence_get_stats(const lm_sequence *sequence);

#endif
