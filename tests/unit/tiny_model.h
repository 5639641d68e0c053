/*
 * tiny_model.h - a small random model for tests: its weights in double, saved as a checkpoint folder of the Llama or
 * the Qwen3 layout, and a plain forward pass over them in double precision.
 */
#ifndef TEST_TINY_MODEL_H
#define TEST_TINY_MODEL_H

#include "scratch.h"
#include "tensor_file.h"

#include <math.h>
#include <stdbool.h>

#define TINY_MAX_LAYERS 4
#define TINY_PI 3.14159265358979323846

typedef struct tiny_shape {
    uint32_t hidden, layers, heads, kv_heads, head_dim, inner, vocab;
    double theta, epsilon;
    double rope_factor, rope_low, rope_high; /* factor 0: frequencies are not stretched */
    uint32_t rope_original;
    bool qk_norm, tied;
} tiny_shape;

typedef struct tiny_layer {
    double *input_norm, *q, *k, *v, *q_norm, *k_norm, *output, *post_norm, *gate, *up, *down;
} tiny_layer;

typedef struct tiny_model {
    tiny_shape shape;
    uint32_t random_state;
    double *embedding, *final_norm, *head; /* head is NULL when tied */
    tiny_layer layers[TINY_MAX_LAYERS];
} tiny_model;

/* ---- Weights --------------------------------------------------------------------------------------------------- */

static inline double tiny_random(tiny_model *model)
{
    model->random_state = model->random_state * 1664525u + 1013904223u;
    return (double)(model->random_state >> 8) / (1 << 23) - 1.0;
}

/* Uniform around `mean`; `spread` of a matrix is divided by the root of its inputs. */
static inline double *tiny_weights(tiny_model *model, uint32_t rows, uint32_t columns, double mean, double spread)
{
    const size_t count = (size_t)(rows ? rows : 1) * columns;
    double *values = malloc(count * sizeof(*values));
    const double width = rows ? spread / sqrt(columns) : spread;
    for (size_t i = 0; i < count; i++)
        values[i] = mean + width * tiny_random(model);
    return values;
}

/* Queries and keys are large enough that attention depends on content and position. */
static inline void tiny_model_make(tiny_model *model, const tiny_shape *shape)
{
    const uint32_t hidden = shape->hidden, q_rows = shape->heads * shape->head_dim;
    const uint32_t kv_rows = shape->kv_heads * shape->head_dim;
    *model = (tiny_model){.shape = *shape, .random_state = 11};
    model->embedding = tiny_weights(model, shape->vocab, hidden, 0, 6);
    model->final_norm = tiny_weights(model, 0, hidden, 1, 0.5);
    model->head = shape->tied ? NULL : tiny_weights(model, shape->vocab, hidden, 0, 3);
    for (uint32_t i = 0; i < shape->layers; i++)
        model->layers[i] = (tiny_layer){
            .input_norm = tiny_weights(model, 0, hidden, 1, 0.5),
            .q = tiny_weights(model, q_rows, hidden, 0, 4),
            .k = tiny_weights(model, kv_rows, hidden, 0, 4),
            .v = tiny_weights(model, kv_rows, hidden, 0, 2),
            .q_norm = shape->qk_norm ? tiny_weights(model, 0, shape->head_dim, 1, 0.5) : NULL,
            .k_norm = shape->qk_norm ? tiny_weights(model, 0, shape->head_dim, 1, 0.5) : NULL,
            .output = tiny_weights(model, hidden, q_rows, 0, 2),
            .post_norm = tiny_weights(model, 0, hidden, 1, 0.5),
            .gate = tiny_weights(model, shape->inner, hidden, 0, 2),
            .up = tiny_weights(model, shape->inner, hidden, 0, 2),
            .down = tiny_weights(model, hidden, shape->inner, 0, 2),
        };
}

static inline void tiny_model_release(tiny_model *model)
{
    free(model->embedding);
    free(model->final_norm);
    free(model->head);
    for (uint32_t i = 0; i < model->shape.layers; i++) {
        tiny_layer *layer = &model->layers[i];
        double *const all[] = {layer->input_norm, layer->q,      layer->k,      layer->v,
                               layer->q_norm,     layer->k_norm, layer->output, layer->post_norm,
                               layer->gate,       layer->up,     layer->down};
        for (size_t part = 0; part < sizeof(all) / sizeof(all[0]); part++)
            free(all[part]);
    }
    *model = (tiny_model){0};
}

/* ---- Checkpoint ------------------------------------------------------------------------------------------------ */

/* Writes tensors into `shards` files in turn; the weights take the values that the files hold. */
typedef struct tiny_writer {
    tensor_file files[3];
    uint32_t shards, tensors;
    tensor_type type; /* TENSOR_TYPE_COUNT: each in turn */
    char map[8192];   /* the index, as far as it goes */
} tiny_writer;

static inline void tiny_shard_name(const tiny_writer *writer, uint32_t shard, char name[64])
{
    if (writer->shards == 1)
        snprintf(name, 64, "model.safetensors");
    else
        snprintf(name, 64, "model-%05u-of-%05u.safetensors", shard + 1, writer->shards);
}

static inline void tiny_add(tiny_writer *writer, const char *tensor, uint32_t rows, uint32_t columns, double *values)
{
    const uint32_t shard = writer->tensors % writer->shards;
    const tensor_type type =
        writer->type == TENSOR_TYPE_COUNT ? (tensor_type)(writer->tensors % TENSOR_TYPE_COUNT) : writer->type;
    char file[64];
    const size_t used = strlen(writer->map);
    tiny_shard_name(writer, shard, file);
    snprintf(writer->map + used, sizeof(writer->map) - used, "%s\"%s\":\"%s\"", used ? "," : "", tensor, file);
    tensor_file_add(&writer->files[shard], tensor, type, rows, columns, values);
    writer->tensors++;
}

static inline void tiny_add_to_layer(tiny_writer *writer, uint32_t layer, const char *part, uint32_t rows,
                                     uint32_t columns, double *values)
{
    char name[96];
    snprintf(name, sizeof(name), "model.layers.%u.%s.weight", layer, part);
    tiny_add(writer, name, rows, columns, values);
}

static inline void tiny_add_layer(tiny_writer *writer, const tiny_shape *s, uint32_t index, tiny_layer *layer)
{
    const uint32_t q_rows = s->heads * s->head_dim, kv_rows = s->kv_heads * s->head_dim;
    tiny_add_to_layer(writer, index, "input_layernorm", 0, s->hidden, layer->input_norm);
    tiny_add_to_layer(writer, index, "self_attn.q_proj", q_rows, s->hidden, layer->q);
    tiny_add_to_layer(writer, index, "self_attn.k_proj", kv_rows, s->hidden, layer->k);
    tiny_add_to_layer(writer, index, "self_attn.v_proj", kv_rows, s->hidden, layer->v);
    if (s->qk_norm) {
        tiny_add_to_layer(writer, index, "self_attn.q_norm", 0, s->head_dim, layer->q_norm);
        tiny_add_to_layer(writer, index, "self_attn.k_norm", 0, s->head_dim, layer->k_norm);
    }
    tiny_add_to_layer(writer, index, "self_attn.o_proj", s->hidden, q_rows, layer->output);
    tiny_add_to_layer(writer, index, "post_attention_layernorm", 0, s->hidden, layer->post_norm);
    tiny_add_to_layer(writer, index, "mlp.gate_proj", s->inner, s->hidden, layer->gate);
    tiny_add_to_layer(writer, index, "mlp.up_proj", s->inner, s->hidden, layer->up);
    tiny_add_to_layer(writer, index, "mlp.down_proj", s->hidden, s->inner, layer->down);
}

static inline int tiny_write_text(scratch *folder, const char *name, const char *text)
{
    FILE *file = fopen(scratch_path(folder, name), "w");
    int whole = file && fputs(text, file) >= 0;
    return file && fclose(file) == 0 && whole ? 0 : -1;
}

/*
 * Writes the weights, in one file or with an index of 2 or 3 shards, and rounds those of `model` to what was written.
 * 0 when everything was written.
 */
static inline int tiny_model_save_weights(tiny_model *model, scratch *folder, tensor_type type, uint32_t shards)
{
    const tiny_shape *s = &model->shape;
    tiny_writer writer = {.shards = shards, .type = type};
    int status = 0;
    tiny_add(&writer, "model.embed_tokens.weight", s->vocab, s->hidden, model->embedding);
    for (uint32_t i = 0; i < s->layers; i++)
        tiny_add_layer(&writer, s, i, &model->layers[i]);
    tiny_add(&writer, "model.norm.weight", 0, s->hidden, model->final_norm);
    if (model->head)
        tiny_add(&writer, "lm_head.weight", s->vocab, s->hidden, model->head);
    for (uint32_t i = 0; i < shards; i++) {
        char name[64];
        tiny_shard_name(&writer, i, name);
        status |= tensor_file_save(&writer.files[i], scratch_path(folder, name));
    }
    char index[sizeof(writer.map) + 64];
    snprintf(index, sizeof(index), "{\"metadata\":{\"total_size\":0},\"weight_map\":{%s}}", writer.map);
    return shards > 1 ? status | tiny_write_text(folder, "model.safetensors.index.json", index) : status;
}

/* Writes config.json; `more` is further fields, each with a comma in front. 0 when all was written. */
static inline int tiny_model_save_config(const tiny_model *model, scratch *folder, const char *more)
{
    const tiny_shape *s = &model->shape;
    char text[2048];
    snprintf(text, sizeof(text),
             "{\"model_type\":\"%s\",\"hidden_size\":%u,\"num_hidden_layers\":%u,\"num_attention_heads\":%u,"
             "\"intermediate_size\":%u,\"vocab_size\":%u,\"rms_norm_eps\":%g,\"tie_word_embeddings\":%s%s}",
             s->qk_norm ? "qwen3" : "llama", s->hidden, s->layers, s->heads, s->inner, s->vocab, s->epsilon,
             s->tied ? "true" : "false", more);
    return tiny_write_text(folder, "config.json", text);
}

/* ---- Forward pass ---------------------------------------------------------------------------------------------- */

static inline void tiny_norm(const double *x, const double *weight, uint32_t width, double epsilon, double *out)
{
    double sum = 0;
    for (uint32_t i = 0; i < width; i++)
        sum += x[i] * x[i];
    for (uint32_t i = 0; i < width; i++)
        out[i] = x[i] / sqrt(sum / width + epsilon) * weight[i];
}

static inline void tiny_multiply(const double *matrix, const double *x, uint32_t rows, uint32_t columns, double *out)
{
    for (uint32_t i = 0; i < rows; i++) {
        out[i] = 0;
        for (uint32_t j = 0; j < columns; j++)
            out[i] += matrix[(size_t)i * columns + j] * x[j];
    }
}

/* Radians a position of the pair `i`, as the Llama 3.1 model card's code stretches them: by wave length. */
static inline double tiny_frequency(const tiny_shape *s, uint32_t i)
{
    const double frequency = 1.0 / pow(s->theta, 2.0 * i / s->head_dim), wave = 2 * TINY_PI / frequency;
    if (s->rope_factor == 0 || wave < s->rope_original / s->rope_high)
        return frequency;
    if (wave > s->rope_original / s->rope_low)
        return frequency / s->rope_factor;
    const double smooth = (s->rope_original / wave - s->rope_low) / (s->rope_high - s->rope_low);
    return (1 - smooth) * frequency / s->rope_factor + smooth * frequency;
}

static inline void tiny_rotate(const tiny_shape *s, uint32_t position, double *head)
{
    const uint32_t half = s->head_dim / 2;
    for (uint32_t i = 0; i < half; i++) {
        const double angle = position * tiny_frequency(s, i), a = head[i], b = head[i + half];
        head[i] = a * cos(angle) - b * sin(angle);
        head[i + half] = b * cos(angle) + a * sin(angle);
    }
}

/* Heads of one token: projected, normed where the layout does, rotated. */
static inline void tiny_heads(const tiny_shape *s, const double *matrix, const double *norm, uint32_t heads,
                              uint32_t position, const double *x, double *out)
{
    tiny_multiply(matrix, x, heads * s->head_dim, s->hidden, out);
    for (uint32_t h = 0; h < heads; h++) {
        if (norm)
            tiny_norm(out + (size_t)h * s->head_dim, norm, s->head_dim, s->epsilon, out + (size_t)h * s->head_dim);
        tiny_rotate(s, position, out + (size_t)h * s->head_dim);
    }
}

/* One head's causal attention: keys and values of tokens 0..last lie `stride` apart. */
static inline void tiny_attend(const double *q, const double *k, const double *v, uint32_t last, uint32_t stride,
                               uint32_t head_dim, double *out)
{
    double most = -INFINITY, sum = 0;
    double *logits = malloc((last + 1) * sizeof(*logits));
    for (uint32_t j = 0; j <= last; j++) {
        logits[j] = 0;
        for (uint32_t d = 0; d < head_dim; d++)
            logits[j] += q[d] * k[(size_t)j * stride + d] / sqrt(head_dim);
        most = fmax(most, logits[j]);
    }
    memset(out, 0, head_dim * sizeof(*out));
    for (uint32_t j = 0; j <= last; j++) {
        const double weight = exp(logits[j] - most);
        sum += weight;
        for (uint32_t d = 0; d < head_dim; d++)
            out[d] += weight * v[(size_t)j * stride + d];
    }
    for (uint32_t d = 0; d < head_dim; d++)
        out[d] /= sum;
    free(logits);
}

/* x [count, hidden] through the attention of a layer, added to x. */
static inline void tiny_add_attention(const tiny_shape *s, const tiny_layer *layer, uint32_t count, double *x)
{
    const uint32_t q_width = s->heads * s->head_dim, kv_width = s->kv_heads * s->head_dim;
    double *normed = malloc(s->hidden * sizeof(double)), *q = malloc(q_width * sizeof(double));
    double *k = malloc(sizeof(double) * count * kv_width), *v = malloc(sizeof(double) * count * kv_width);
    double *attended = malloc(q_width * sizeof(double)), *out = malloc(s->hidden * sizeof(double));
    for (uint32_t i = 0; i < count; i++) {
        double *row = x + (size_t)i * s->hidden;
        tiny_norm(row, layer->input_norm, s->hidden, s->epsilon, normed);
        tiny_heads(s, layer->q, layer->q_norm, s->heads, i, normed, q);
        tiny_heads(s, layer->k, layer->k_norm, s->kv_heads, i, normed, k + (size_t)i * kv_width);
        tiny_multiply(layer->v, normed, kv_width, s->hidden, v + (size_t)i * kv_width);
        for (uint32_t h = 0; h < s->heads; h++) {
            const size_t at = (size_t)(h / (s->heads / s->kv_heads)) * s->head_dim;
            tiny_attend(q + (size_t)h * s->head_dim, k + at, v + at, i, kv_width, s->head_dim,
                        attended + (size_t)h * s->head_dim);
        }
        tiny_multiply(layer->output, attended, s->hidden, q_width, out);
        for (uint32_t j = 0; j < s->hidden; j++)
            row[j] += out[j];
    }
    free(normed);
    free(q);
    free(k);
    free(v);
    free(attended);
    free(out);
}

static inline void tiny_add_mlp(const tiny_shape *s, const tiny_layer *layer, uint32_t count, double *x)
{
    double *normed = malloc(s->hidden * sizeof(double)), *out = malloc(s->hidden * sizeof(double));
    double *gate = malloc(s->inner * sizeof(double)), *up = malloc(s->inner * sizeof(double));
    for (uint32_t i = 0; i < count; i++) {
        double *row = x + (size_t)i * s->hidden;
        tiny_norm(row, layer->post_norm, s->hidden, s->epsilon, normed);
        tiny_multiply(layer->gate, normed, s->inner, s->hidden, gate);
        tiny_multiply(layer->up, normed, s->inner, s->hidden, up);
        for (uint32_t j = 0; j < s->inner; j++)
            gate[j] = gate[j] / (1 + exp(-gate[j])) * up[j];
        tiny_multiply(layer->down, gate, s->hidden, s->inner, out);
        for (uint32_t j = 0; j < s->hidden; j++)
            row[j] += out[j];
    }
    free(normed);
    free(out);
    free(gate);
    free(up);
}

/* logits [count, vocab] behind each token, for free. */
static inline double *tiny_model_logits(const tiny_model *model, const uint32_t *tokens, uint32_t count)
{
    const tiny_shape *s = &model->shape;
    double *x = malloc(sizeof(double) * count * s->hidden), *logits = malloc(sizeof(double) * count * s->vocab);
    double *normed = malloc(s->hidden * sizeof(double));
    for (uint32_t i = 0; i < count; i++)
        memcpy(x + (size_t)i * s->hidden, model->embedding + (size_t)tokens[i] * s->hidden, s->hidden * sizeof(double));
    for (uint32_t i = 0; i < s->layers; i++) {
        tiny_add_attention(s, &model->layers[i], count, x);
        tiny_add_mlp(s, &model->layers[i], count, x);
    }
    for (uint32_t i = 0; i < count; i++) {
        tiny_norm(x + (size_t)i * s->hidden, model->final_norm, s->hidden, s->epsilon, normed);
        tiny_multiply(model->head ? model->head : model->embedding, normed, s->vocab, s->hidden,
                      logits + (size_t)i * s->vocab);
    }
    free(x);
    free(normed);
    return logits;
}

#endif
