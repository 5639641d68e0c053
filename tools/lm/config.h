/* config.h - a model's shape, from its config.json: the Qwen3 and the Llama layout. */
#ifndef LM_CONFIG_H
#define LM_CONFIG_H

#include "../fail.h"

#include <stdbool.h>

/* Rotary frequencies as Llama 3.1 stretches them; factor 0: not stretched. */
typedef struct lm_rope_scaling {
    double factor, low_freq_factor, high_freq_factor;
    uint32_t original_positions;
} lm_rope_scaling;

typedef struct lm_config {
    char model_type[16]; /* "qwen3" or "llama" */
    uint32_t hidden, layers, heads, kv_heads, head_dim, intermediate, vocab;
    uint32_t max_positions; /* the longest text the model was made for; 0: not said */
    int64_t start_token;    /* bos_token_id, -1: none */
    double norm_epsilon;
    double rope_theta;
    lm_rope_scaling rope_scaling;
    bool qk_norm;        /* RMS norm of every query and key head, before the rotation */
    bool tied_embedding; /* the head is the embedding */
} lm_config;

/*
 * Reads a config.json in memory; `file` is for sentences. Errors: FORMAT with the file, the field, the value and the
 * bound; UNSUPPORTED for a layout or an option that the host does not compute.
 */
kas_status lm_config_parse(const char *file, const char *text, size_t size, lm_config *config);

/* Reads config.json of a folder. Errors: as above, IO. */
kas_status lm_config_load(const char *folder, lm_config *config);

#endif
