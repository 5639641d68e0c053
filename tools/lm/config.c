/* config.c - config.json of the Qwen3 and Llama layouts; see config.h. */
#include "config.h"

#include "json.h"
#include "mapped_file.h"

#include <stdio.h>
#include <string.h>

#define MAX_CONFIG (1u << 20)
#define MAX_PATH 4096
#define MAX_HIDDEN (1u << 20)
#define MAX_VOCAB (1u << 24)

static kas_status fail_unsupported(const char *file, const char *name, const char *value, const char *can)
{
    return tool_fail(KAS_ERROR_UNSUPPORTED, "%s: %s is %.60s, which is not supported: %s", file, name, value, can);
}

/* Fields that change the arithmetic must have the one value that the host computes. */
static kas_status refuse_true(const char *file, const cJSON *root, const char *name)
{
    bool value = false;
    TOOL_TRY(lm_json_bool(file, root, name, &value));
    return value ? fail_unsupported(file, name, "true", "it must be false or absent") : KAS_OK;
}

static kas_status read_layout(const char *file, const cJSON *root, lm_config *config)
{
    const char *type = NULL, *activation = "silu";
    TOOL_TRY(lm_json_text(file, root, "model_type", &type));
    if (!type)
        return tool_fail(KAS_ERROR_FORMAT, "%s: model_type is missing", file);
    config->qk_norm = strcmp(type, "qwen3") == 0;
    if (!config->qk_norm && strcmp(type, "llama") != 0)
        return fail_unsupported(file, "model_type", type, "it must be qwen3 or llama");
    snprintf(config->model_type, sizeof(config->model_type), "%s", type);
    TOOL_TRY(lm_json_text(file, root, "hidden_act", &activation));
    if (strcmp(activation, "silu") != 0)
        return fail_unsupported(file, "hidden_act", activation, "it must be silu");
    TOOL_TRY(refuse_true(file, root, "attention_bias"));
    TOOL_TRY(refuse_true(file, root, "mlp_bias"));
    TOOL_TRY(refuse_true(file, root, "use_sliding_window"));
    const cJSON *quantization = NULL;
    TOOL_TRY(lm_json_object(file, root, "quantization_config", &quantization));
    if (quantization)
        return fail_unsupported(file, "quantization_config", "given", "weights must be F32, F16 or BF16");
    return lm_json_bool(file, root, "tie_word_embeddings", &config->tied_embedding);
}

static kas_status read_sizes(const char *file, const cJSON *root, lm_config *config)
{
    TOOL_TRY(lm_json_u32(file, root, "hidden_size", true, 1, MAX_HIDDEN, &config->hidden));
    TOOL_TRY(lm_json_u32(file, root, "num_hidden_layers", true, 1, 1024, &config->layers));
    TOOL_TRY(lm_json_u32(file, root, "num_attention_heads", true, 1, 1024, &config->heads));
    config->kv_heads = config->heads;
    TOOL_TRY(lm_json_u32(file, root, "num_key_value_heads", false, 1, config->heads, &config->kv_heads));
    if (config->heads % config->kv_heads != 0)
        return tool_fail(KAS_ERROR_FORMAT, "%s: num_attention_heads is %u: it must be a multiple of "
                         "num_key_value_heads, which is %u", file, config->heads, config->kv_heads);
    config->head_dim = config->hidden / config->heads;
    TOOL_TRY(lm_json_u32(file, root, "head_dim", false, 2, KAS_MAX_HEAD_DIM, &config->head_dim));
    if (config->head_dim < 2 || config->head_dim > KAS_MAX_HEAD_DIM || config->head_dim % 2 != 0)
        return tool_fail(KAS_ERROR_FORMAT, "%s: head_dim is %u: it must be an even number from 2 to %d", file,
                         config->head_dim, KAS_MAX_HEAD_DIM);
    TOOL_TRY(lm_json_u32(file, root, "intermediate_size", true, 1, MAX_HIDDEN, &config->intermediate));
    TOOL_TRY(lm_json_u32(file, root, "vocab_size", true, 1, MAX_VOCAB, &config->vocab));
    TOOL_TRY(lm_json_u32(file, root, "max_position_embeddings", false, 1, UINT32_MAX, &config->max_positions));
    return lm_json_real(file, root, "rms_norm_eps", true, 0, 1, &config->norm_epsilon);
}

static kas_status read_scaling(const char *file, const cJSON *scaling, lm_rope_scaling *out)
{
    /* Older files say "type" for "rope_type". */
    const char *type = "default";
    TOOL_TRY(lm_json_text(file, scaling, "type", &type));
    TOOL_TRY(lm_json_text(file, scaling, "rope_type", &type));
    if (strcmp(type, "default") == 0)
        return KAS_OK;
    if (strcmp(type, "llama3") != 0)
        return fail_unsupported(file, "rope_type", type, "it must be default or llama3");
    TOOL_TRY(lm_json_real(file, scaling, "factor", true, 1, 1e6, &out->factor));
    TOOL_TRY(lm_json_real(file, scaling, "low_freq_factor", true, 1e-6, 1e6, &out->low_freq_factor));
    TOOL_TRY(lm_json_real(file, scaling, "high_freq_factor", true, 1e-6, 1e6, &out->high_freq_factor));
    if (out->high_freq_factor <= out->low_freq_factor)
        return tool_fail(KAS_ERROR_FORMAT, "%s: high_freq_factor is %g: it must be above low_freq_factor, which is %g",
                         file, out->high_freq_factor, out->low_freq_factor);
    return lm_json_u32(file, scaling, "original_max_position_embeddings", true, 1, UINT32_MAX,
                       &out->original_positions);
}

static kas_status read_rope(const char *file, const cJSON *root, lm_config *config)
{
    /* Newer files hold the base beside the scaling, in rope_parameters. */
    const cJSON *scaling = NULL, *parameters = NULL;
    TOOL_TRY(lm_json_object(file, root, "rope_scaling", &scaling));
    TOOL_TRY(lm_json_object(file, root, "rope_parameters", &parameters));
    config->rope_theta = 10000.0;
    TOOL_TRY(lm_json_real(file, root, "rope_theta", false, 1, 1e12, &config->rope_theta));
    if (parameters)
        TOOL_TRY(lm_json_real(file, parameters, "rope_theta", false, 1, 1e12, &config->rope_theta));
    double rotated = 1.0;
    TOOL_TRY(lm_json_real(file, root, "partial_rotary_factor", false, 0, 1, &rotated));
    if (rotated != 1.0)
        return tool_fail(KAS_ERROR_UNSUPPORTED, "%s: partial_rotary_factor is %g, which is not supported: it must be 1",
                         file, rotated);
    if (!scaling)
        scaling = parameters;
    return scaling ? read_scaling(file, scaling, &config->rope_scaling) : KAS_OK;
}

static kas_status read_start_token(const char *file, const cJSON *root, lm_config *config)
{
    uint32_t token = UINT32_MAX;
    TOOL_TRY(lm_json_u32(file, root, "bos_token_id", false, 0, config->vocab - 1, &token));
    config->start_token = token == UINT32_MAX ? -1 : (int64_t)token;
    return KAS_OK;
}

static kas_status read_config(const char *file, const cJSON *root, lm_config *config)
{
    TOOL_TRY(read_layout(file, root, config));
    TOOL_TRY(read_sizes(file, root, config));
    TOOL_TRY(read_rope(file, root, config));
    return read_start_token(file, root, config);
}

kas_status lm_config_parse(const char *file, const char *text, size_t size, lm_config *config)
{
    if (size > MAX_CONFIG)
        return tool_fail(KAS_ERROR_FORMAT, "%s: holds %zu bytes: the most is %u", file, size, MAX_CONFIG);
    cJSON *root;
    TOOL_TRY(lm_json_parse(file, text, size, &root));
    lm_config found = {0};
    kas_status status = read_config(file, root, &found);
    cJSON_Delete(root);
    if (status == KAS_OK)
        *config = found;
    return status;
}

kas_status lm_config_load(const char *folder, lm_config *config)
{
    char path[MAX_PATH];
    if (snprintf(path, sizeof(path), "%s/config.json", folder) >= MAX_PATH)
        return tool_fail(KAS_ERROR_IO, "%.60s...: the path is longer than %d bytes", folder, MAX_PATH - 1);
    lm_mapped_file mapped;
    TOOL_TRY(lm_map_file(path, &mapped));
    kas_status status = lm_config_parse(path, (const char *)mapped.data, mapped.size, config);
    lm_unmap_file(&mapped);
    return status;
}
