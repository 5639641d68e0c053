/* forward.c - the arithmetic of a layer around attention, in float, linear layers by OpenBLAS; see model.h. */
#include "model.h"

#include <cblas.h>
#include <math.h>
#include <string.h>

void lm_set_threads(uint32_t threads)
{
    openblas_set_num_threads((int)threads);
}

/* out = x W^T for row-major x [rows, inputs] and W [outputs, inputs]; beta 1 adds to out. */
static void linear(const float *x, const float *weights, uint32_t rows, uint32_t inputs, uint32_t outputs, float beta,
                   float *out)
{
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)rows, (blasint)outputs, (blasint)inputs, 1.0f, x,
                (blasint)inputs, weights, (blasint)inputs, beta, out, (blasint)outputs);
}

static void norm_row(const float *x, const float *weight, uint32_t width, double epsilon, float *out)
{
    double sum = 0;
    for (uint32_t i = 0; i < width; i++)
        sum += (double)x[i] * x[i];
    float scale = (float)(1.0 / sqrt(sum / width + epsilon));
    for (uint32_t i = 0; i < width; i++)
        out[i] = x[i] * scale * weight[i];
}

static void norm_rows(const lm_config *config, const float *x, const float *weight, uint32_t rows, float *out)
{
    for (uint32_t i = 0; i < rows; i++)
        norm_row(x + (size_t)i * config->hidden, weight, config->hidden, config->norm_epsilon,
                 out + (size_t)i * config->hidden);
}

/* Rotates the pairs (i, i + half) of one head. */
static void rotate_head(float *head, uint32_t half, const float *cosines, const float *sines)
{
    for (uint32_t i = 0; i < half; i++) {
        float a = head[i], b = head[i + half];
        head[i] = a * cosines[i] - b * sines[i];
        head[i + half] = b * cosines[i] + a * sines[i];
    }
}

void lm_embed(const lm_model *model, const uint32_t *tokens, uint32_t rows, float *x)
{
    uint32_t hidden = model->config.hidden;
    for (uint32_t i = 0; i < rows; i++)
        memcpy(x + (size_t)i * hidden, model->embedding + (size_t)tokens[i] * hidden, hidden * sizeof(float));
}

void lm_rotation(const lm_model *model, uint32_t first_position, uint32_t rows, float *cosines, float *sines)
{
    uint32_t half = model->config.head_dim / 2;
    for (uint32_t row = 0; row < rows; row++)
        for (uint32_t i = 0; i < half; i++) {
            float angle = (float)(first_position + row) * model->frequencies[i];
            cosines[(size_t)row * half + i] = (float)cos(angle);
            sines[(size_t)row * half + i] = (float)sin(angle);
        }
}

void lm_project(const lm_model *model, uint32_t layer, const float *x, uint32_t rows, const float *cosines,
                const float *sines, float *normed, float *qkv)
{
    const lm_config *config = &model->config;
    const lm_layer *weights = &model->layers[layer];
    uint32_t width = lm_qkv_width(config), half = config->head_dim / 2;
    norm_rows(config, x, weights->input_norm, rows, normed);
    linear(normed, weights->qkv, rows, config->hidden, width, 0, qkv);
    for (uint32_t row = 0; row < rows; row++) {
        float *heads = qkv + (size_t)row * width;
        for (uint32_t h = 0; h < config->heads + config->kv_heads; h++) {
            float *head = heads + (size_t)h * config->head_dim;
            if (config->qk_norm)
                norm_row(head, h < config->heads ? weights->q_norm : weights->k_norm, config->head_dim,
                         config->norm_epsilon, head);
            rotate_head(head, half, cosines + (size_t)row * half, sines + (size_t)row * half);
        }
    }
}

void lm_add_attention(const lm_model *model, uint32_t layer, const float *attention, uint32_t rows, float *x)
{
    const lm_config *config = &model->config;
    linear(attention, model->layers[layer].output, rows, config->heads * config->head_dim, config->hidden, 1, x);
}

/* gate = silu(gate) * up, in place of the gate half of each row. */
static void gate_rows(float *inner, uint32_t rows, uint32_t width)
{
    for (uint32_t row = 0; row < rows; row++) {
        float *gate = inner + (size_t)row * 2 * width;
        const float *up = gate + width;
        for (uint32_t i = 0; i < width; i++)
            gate[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
    }
}

void lm_add_mlp(const lm_model *model, uint32_t layer, uint32_t rows, float *normed, float *inner, float *x)
{
    const lm_config *config = &model->config;
    const lm_layer *weights = &model->layers[layer];
    uint32_t width = config->intermediate;
    norm_rows(config, x, weights->post_norm, rows, normed);
    linear(normed, weights->gate_up, rows, config->hidden, 2 * width, 0, inner);
    gate_rows(inner, rows, width);
    /* The gated half of each row lies 2 * width apart. */
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, (blasint)rows, (blasint)config->hidden, (blasint)width, 1.0f,
                inner, (blasint)(2 * width), weights->down, (blasint)width, 1.0f, x, (blasint)config->hidden);
}

void lm_logits(const lm_model *model, const float *x, uint32_t rows, float *normed, float *logits)
{
    const lm_config *config = &model->config;
    norm_rows(config, x, model->final_norm, rows, normed);
    linear(normed, model->head, rows, config->hidden, config->vocab, 0, logits);
}
