/* model.c - loading a model's weights; see model.h. */
#include "model.h"

#include "safetensors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define PI 3.14159265358979323846

uint32_t lm_qkv_width(const lm_config *config)
{
    return (config->heads + 2 * config->kv_heads) * config->head_dim;
}

/* Hands out parts of one block; with no block it only counts. Bounds of config.c keep the sums far from 2^64. */
typedef struct carver {
    float *block;
    uint64_t used;
} carver;

static float *carve(carver *from, uint64_t rows, uint64_t columns)
{
    float *part = from->block ? from->block + from->used : NULL;
    from->used += rows * columns;
    return part;
}

static void carve_layer(const lm_config *config, carver *from, lm_layer *layer)
{
    uint64_t hidden = config->hidden;
    layer->input_norm = carve(from, 1, hidden);
    layer->qkv = carve(from, lm_qkv_width(config), hidden);
    layer->q_norm = config->qk_norm ? carve(from, 1, config->head_dim) : NULL;
    layer->k_norm = config->qk_norm ? carve(from, 1, config->head_dim) : NULL;
    layer->output = carve(from, hidden, (uint64_t)config->heads * config->head_dim);
    layer->post_norm = carve(from, 1, hidden);
    layer->gate_up = carve(from, 2 * (uint64_t)config->intermediate, hidden);
    layer->down = carve(from, hidden, config->intermediate);
}

static uint64_t carve_model(lm_model *model, float *block)
{
    const lm_config *config = &model->config;
    carver from = {block, 0};
    model->embedding = carve(&from, config->vocab, config->hidden);
    model->final_norm = carve(&from, 1, config->hidden);
    model->head = config->tied_embedding ? model->embedding : carve(&from, config->vocab, config->hidden);
    for (uint32_t i = 0; i < config->layers; i++)
        carve_layer(config, &from, &model->layers[i]);
    return from.used;
}

static kas_status allocate(lm_model *model)
{
    model->layers = calloc(model->config.layers, sizeof(*model->layers));
    model->frequencies = calloc(model->config.head_dim / 2, sizeof(*model->frequencies));
    if (!model->layers || !model->frequencies)
        return tool_fail_memory();
    uint64_t elements = carve_model(model, NULL);
    model->memory = elements < SIZE_MAX / sizeof(float) ? malloc(elements * sizeof(float)) : NULL;
    if (!model->memory)
        return tool_fail(KAS_ERROR_OUT_OF_MEMORY, "the weights need %.1f GiB of memory in float, which is not there",
                         (double)elements * sizeof(float) / (1u << 30));
    carve_model(model, model->memory);
    return KAS_OK;
}

/* ---- Reading --------------------------------------------------------------------------------------------------- */

typedef struct reader {
    const lm_checkpoint *checkpoint;
    uint32_t layer;
} reader;

static kas_status read_vector(const reader *from, const char *part, uint64_t length, float *values)
{
    char name[128];
    snprintf(name, sizeof(name), "model.layers.%u.%s.weight", from->layer, part);
    return lm_checkpoint_read(from->checkpoint, name, 1, &length, values);
}

static kas_status read_matrix(const reader *from, const char *part, uint64_t rows, uint64_t columns, float *values)
{
    char name[128];
    snprintf(name, sizeof(name), "model.layers.%u.%s.weight", from->layer, part);
    const uint64_t shape[2] = {rows, columns};
    return lm_checkpoint_read(from->checkpoint, name, 2, shape, values);
}

static kas_status read_layer(const reader *from, const lm_config *config, lm_layer *layer)
{
    uint64_t hidden = config->hidden, inner = config->intermediate;
    uint64_t q_rows = (uint64_t)config->heads * config->head_dim;
    uint64_t kv_rows = (uint64_t)config->kv_heads * config->head_dim;
    TOOL_TRY(read_vector(from, "input_layernorm", hidden, layer->input_norm));
    TOOL_TRY(read_matrix(from, "self_attn.q_proj", q_rows, hidden, layer->qkv));
    TOOL_TRY(read_matrix(from, "self_attn.k_proj", kv_rows, hidden, layer->qkv + q_rows * hidden));
    TOOL_TRY(read_matrix(from, "self_attn.v_proj", kv_rows, hidden, layer->qkv + (q_rows + kv_rows) * hidden));
    if (config->qk_norm) {
        TOOL_TRY(read_vector(from, "self_attn.q_norm", config->head_dim, layer->q_norm));
        TOOL_TRY(read_vector(from, "self_attn.k_norm", config->head_dim, layer->k_norm));
    }
    TOOL_TRY(read_matrix(from, "self_attn.o_proj", hidden, q_rows, layer->output));
    TOOL_TRY(read_vector(from, "post_attention_layernorm", hidden, layer->post_norm));
    TOOL_TRY(read_matrix(from, "mlp.gate_proj", inner, hidden, layer->gate_up));
    TOOL_TRY(read_matrix(from, "mlp.up_proj", inner, hidden, layer->gate_up + inner * hidden));
    return read_matrix(from, "mlp.down_proj", hidden, inner, layer->down);
}

static kas_status read_weights(lm_model *model, const lm_checkpoint *checkpoint)
{
    const lm_config *config = &model->config;
    const uint64_t table[2] = {config->vocab, config->hidden};
    TOOL_TRY(lm_checkpoint_read(checkpoint, "model.embed_tokens.weight", 2, table, model->embedding));
    TOOL_TRY(lm_checkpoint_read(checkpoint, "model.norm.weight", 1, &table[1], model->final_norm));
    if (!config->tied_embedding)
        TOOL_TRY(lm_checkpoint_read(checkpoint, "lm_head.weight", 2, table, model->head));
    for (uint32_t i = 0; i < config->layers; i++)
        TOOL_TRY(read_layer(&(reader){checkpoint, i}, config, &model->layers[i]));
    return KAS_OK;
}

/*
 * theta^(-2i/D); Llama 3.1 divides the frequencies of long waves by `factor`, keeps those of short waves and blends
 * between, by how often a wave fits into the original context.
 */
static void set_frequencies(lm_model *model)
{
    const lm_rope_scaling *scaling = &model->config.rope_scaling;
    for (uint32_t i = 0; i < model->config.head_dim / 2; i++) {
        double frequency = pow(model->config.rope_theta, -2.0 * i / model->config.head_dim);
        if (scaling->factor > 0) {
            double waves = scaling->original_positions * frequency / (2 * PI);
            double keep = (waves - scaling->low_freq_factor) / (scaling->high_freq_factor - scaling->low_freq_factor);
            keep = fmin(fmax(keep, 0.0), 1.0);
            frequency *= keep + (1.0 - keep) / scaling->factor;
        }
        model->frequencies[i] = (float)frequency;
    }
}

static kas_status load(lm_model *model, const char *folder)
{
    TOOL_TRY(lm_config_load(folder, &model->config));
    lm_checkpoint *checkpoint;
    TOOL_TRY(lm_checkpoint_open(folder, &checkpoint));
    kas_status status = allocate(model);
    if (status == KAS_OK)
        status = read_weights(model, checkpoint);
    lm_checkpoint_destroy(checkpoint);
    if (status == KAS_OK)
        set_frequencies(model);
    return status;
}

kas_status lm_model_load(const char *folder, lm_model **model)
{
    lm_model *made = calloc(1, sizeof(*made));
    if (!made)
        return tool_fail_memory();
    kas_status status = load(made, folder);
    if (status != KAS_OK) {
        lm_model_destroy(made);
        return status;
    }
    *model = made;
    return KAS_OK;
}

void lm_model_destroy(lm_model *model)
{
    if (!model)
        return;
    free(model->layers);
    free(model->frequencies);
    free(model->memory);
    free(model);
}
