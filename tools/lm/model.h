/* model.h - a model's weights in float and the arithmetic around attention: norms, linear layers, rotation, MLP, head. */
#ifndef LM_MODEL_H
#define LM_MODEL_H

#include "config.h"

/* Matrices are row-major [outputs, inputs]. */
typedef struct lm_layer {
    float *input_norm; /* [hidden] */
    float *qkv;        /* [(heads + 2 kv_heads) head_dim, hidden]: q rows, k rows, v rows */
    float *q_norm;     /* [head_dim], NULL without qk_norm */
    float *k_norm;
    float *output;    /* [hidden, heads head_dim] */
    float *post_norm; /* [hidden] */
    float *gate_up;   /* [2 intermediate, hidden]: gate rows, up rows */
    float *down;      /* [hidden, intermediate] */
} lm_layer;

typedef struct lm_model {
    lm_config config;
    float *embedding; /* [vocab, hidden] */
    float *final_norm;
    float *head; /* [vocab, hidden]; the embedding itself when tied */
    lm_layer *layers;
    float *frequencies; /* rotary frequencies [head_dim / 2], radians a position; float as in the reference models */
    float *memory;       /* what everything above but `layers` and `frequencies` lies in */
} lm_model;

/*
 * Reads config.json and the checkpoint of a folder and converts the weights to float once. Blocks while reading.
 * Errors: IO, FORMAT and UNSUPPORTED with the file and field; OUT_OF_MEMORY.
 */
kas_status lm_model_load(const char *folder, lm_model **model);
void lm_model_destroy(lm_model *model);

/* Threads of the linear layers, process-wide. */
void lm_set_threads(uint32_t threads);

/* Elements of a row that lm_project makes: the q, k and v heads of one token. */
uint32_t lm_qkv_width(const lm_config *config);

/* x [rows, hidden] becomes the embeddings of `tokens`, all below vocab. */
void lm_embed(const lm_model *model, const uint32_t *tokens, uint32_t rows, float *x);

/* cosines and sines, each [rows, head_dim / 2], of positions first_position, first_position + 1, ... */
void lm_rotation(const lm_model *model, uint32_t first_position, uint32_t rows, float *cosines, float *sines);

/*
 * qkv [rows, lm_qkv_width] = projections of the normed x, q and k normed (qk_norm) and rotated. normed [rows, hidden]
 * is scratch.
 */
void lm_project(const lm_model *model, uint32_t layer, const float *x, uint32_t rows, const float *cosines,
                const float *sines, float *normed, float *qkv);

/* x += attention [rows, heads head_dim] through the output projection. */
void lm_add_attention(const lm_model *model, uint32_t layer, const float *attention, uint32_t rows, float *x);

/* x += MLP of the normed x. normed [rows, hidden] and inner [rows, 2 intermediate] are scratch. */
void lm_add_mlp(const lm_model *model, uint32_t layer, uint32_t rows, float *normed, float *inner, float *x);

/* logits [rows, vocab] of x. normed [rows, hidden] is scratch. */
void lm_logits(const lm_model *model, const float *x, uint32_t rows, float *normed, float *logits);

#endif
