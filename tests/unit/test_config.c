/*
 * test_config.c - config.json of the Qwen3 and the Llama layout: what the host reads in it, and what it refuses, with a
 * sentence that names the file, the field, the value and the bound.
 */
#define _DEFAULT_SOURCE
#include "lm/config.h"
#include "scratch.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

#define LLAMA                                                                                                          \
    "\"model_type\":\"llama\",\"hidden_size\":4096,\"num_hidden_layers\":32,\"num_attention_heads\":32,"               \
    "\"intermediate_size\":14336,\"vocab_size\":128256,\"rms_norm_eps\":1e-05"

static void assert_sentence(const char *part)
{
    if (!strstr(tool_error(), part))
        fail_msg("\"%s\" expected in \"%s\"", part, tool_error());
}

static lm_config read_good(const char *text)
{
    lm_config config;
    if (lm_config_parse("FILE", text, strlen(text), &config) != KAS_OK)
        fail_msg("%s: %s", text, tool_error());
    return config;
}

static void reads_the_llama_layout(void **state)
{
    (void)state;
    lm_config config = read_good(
        "{" LLAMA ",\"num_key_value_heads\":8,\"rope_theta\":500000.0,\"bos_token_id\":128000,\"eos_token_id\":[1,2],"
        "\"tie_word_embeddings\":true,\"max_position_embeddings\":131072,\"rope_scaling\":{\"factor\":8.0,"
        "\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,\"original_max_position_embeddings\":8192,"
        "\"rope_type\":\"llama3\"}}");
    assert_string_equal(config.model_type, "llama");
    assert_int_equal(config.head_dim, 128);
    assert_int_equal(config.kv_heads, 8);
    assert_int_equal(config.start_token, 128000);
    assert_int_equal(config.max_positions, 131072);
    assert_int_equal(config.rope_scaling.original_positions, 8192);
    assert_true(config.rope_theta == 500000 && config.rope_scaling.factor == 8 && config.norm_epsilon == 1e-5);
    assert_true(config.rope_scaling.low_freq_factor == 1 && config.rope_scaling.high_freq_factor == 4);
    assert_true(config.tied_embedding && !config.qk_norm);
}

/* Absent and null are the same, and mean what the layout's own code takes them for. */
static void fills_in_what_is_absent(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "{" LLAMA "}",
        "{" LLAMA ",\"num_key_value_heads\":null,\"head_dim\":null,\"rope_theta\":null,\"rope_scaling\":null,"
        "\"bos_token_id\":null,\"tie_word_embeddings\":null,\"max_position_embeddings\":null,\"hidden_act\":null}",
    };
    for (size_t i = 0; i < COUNT(texts); i++) {
        lm_config config = read_good(texts[i]);
        assert_int_equal(config.kv_heads, 32);
        assert_int_equal(config.head_dim, 128);
        assert_int_equal(config.start_token, -1);
        assert_int_equal(config.max_positions, 0);
        assert_true(config.rope_theta == 10000 && config.rope_scaling.factor == 0 && !config.tied_embedding);
    }
}

static void rejects_bad_fields(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        kas_status status;
        const char *sentence;
    } cases[] = {
        {"", KAS_ERROR_FORMAT, "malformed at byte 0 of 0"},
        {"{\"model_type\":\"llama\",", KAS_ERROR_FORMAT, "malformed at byte"},
        {"[]", KAS_ERROR_FORMAT, "is not an object"},
        {"{}", KAS_ERROR_FORMAT, "model_type is missing"},
        {"{\"model_type\":7}", KAS_ERROR_FORMAT, "model_type is not a string"},
        {"{\"model_type\":\"mamba\"}", KAS_ERROR_UNSUPPORTED,
         "model_type is mamba, which is not supported: it must be qwen3 or llama"},
        {"{\"model_type\":\"llama\"}", KAS_ERROR_FORMAT, "hidden_size is missing"},
        {"{" LLAMA ",\"hidden_act\":\"gelu\"}", KAS_ERROR_UNSUPPORTED, "hidden_act is gelu"},
        {"{" LLAMA ",\"attention_bias\":true}", KAS_ERROR_UNSUPPORTED, "attention_bias is true"},
        {"{" LLAMA ",\"mlp_bias\":true}", KAS_ERROR_UNSUPPORTED, "mlp_bias is true"},
        {"{" LLAMA ",\"mlp_bias\":1}", KAS_ERROR_FORMAT, "mlp_bias is neither true nor false"},
        {"{" LLAMA ",\"use_sliding_window\":true}", KAS_ERROR_UNSUPPORTED, "use_sliding_window is true"},
        {"{" LLAMA ",\"quantization_config\":{}}", KAS_ERROR_UNSUPPORTED, "quantization_config is given"},
        {"{" LLAMA ",\"partial_rotary_factor\":0.5}", KAS_ERROR_UNSUPPORTED, "partial_rotary_factor is 0.5"},
        {"{" LLAMA ",\"num_key_value_heads\":5}", KAS_ERROR_FORMAT,
         "num_attention_heads is 32: it must be a multiple of num_key_value_heads, which is 5"},
        {"{" LLAMA ",\"num_key_value_heads\":0}", KAS_ERROR_FORMAT, "num_key_value_heads is 0: it must be"},
        {"{" LLAMA ",\"num_key_value_heads\":64}", KAS_ERROR_FORMAT, "whole number from 1 to 32"},
        {"{" LLAMA ",\"head_dim\":258}", KAS_ERROR_FORMAT, "head_dim is 258: it must be a whole number from 2 to 256"},
        {"{" LLAMA ",\"head_dim\":33}", KAS_ERROR_FORMAT, "head_dim is 33: it must be an even number from 2 to 256"},
        {"{" LLAMA ",\"head_dim\":\"64\"}", KAS_ERROR_FORMAT, "head_dim is not a number"},
        {"{" LLAMA ",\"rope_theta\":0}", KAS_ERROR_FORMAT, "rope_theta is 0: it must be from 1 to 1e+12"},
        {"{" LLAMA ",\"rope_theta\":1e400}", KAS_ERROR_FORMAT, "rope_theta is inf"},
        {"{" LLAMA ",\"bos_token_id\":128256}", KAS_ERROR_FORMAT, "bos_token_id is 128256: it must be"},
        {"{" LLAMA ",\"bos_token_id\":-1}", KAS_ERROR_FORMAT, "bos_token_id is -1: it must be"},
        {"{" LLAMA ",\"bos_token_id\":0.5}", KAS_ERROR_FORMAT, "bos_token_id is 0.5: it must be"},
        {"{" LLAMA ",\"rope_scaling\":7}", KAS_ERROR_FORMAT, "rope_scaling is not an object"},
        {"{" LLAMA ",\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4}}", KAS_ERROR_UNSUPPORTED,
         "rope_type is yarn, which is not supported: it must be default or llama3"},
        {"{" LLAMA ",\"rope_scaling\":{\"type\":\"linear\",\"factor\":4}}", KAS_ERROR_UNSUPPORTED,
         "rope_type is linear"},
        {"{" LLAMA ",\"rope_scaling\":{\"rope_type\":\"llama3\"}}", KAS_ERROR_FORMAT, "factor is missing"},
        {"{" LLAMA ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":0.5}}", KAS_ERROR_FORMAT,
         "factor is 0.5: it must be from 1"},
        {"{" LLAMA ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,"
         "\"high_freq_factor\":4}}",
         KAS_ERROR_FORMAT, "high_freq_factor is 4: it must be above low_freq_factor, which is 4"},
        {"{" LLAMA ",\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1,"
         "\"high_freq_factor\":4,\"original_max_position_embeddings\":0}}",
         KAS_ERROR_FORMAT, "original_max_position_embeddings is 0"},
        {"{\"model_type\":\"llama\",\"hidden_size\":1048577}", KAS_ERROR_FORMAT,
         "hidden_size is 1048577: it must be a whole number from 1 to 1048576"},
        {"{\"model_type\":\"llama\",\"hidden_size\":4,\"num_hidden_layers\":0}", KAS_ERROR_FORMAT,
         "num_hidden_layers is 0: it must be a whole number from 1 to 1024"},
        {"{\"model_type\":\"llama\",\"hidden_size\":4,\"num_hidden_layers\":1e9}", KAS_ERROR_FORMAT,
         "num_hidden_layers is 1000000000"},
        {"{\"model_type\":\"llama\",\"hidden_size\":4,\"num_hidden_layers\":1,\"num_attention_heads\":8}",
         KAS_ERROR_FORMAT, "head_dim is 0: it must be an even number"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        lm_config config = {.layers = 99};
        kas_status status = lm_config_parse("FILE", cases[i].text, strlen(cases[i].text), &config);
        if (status != cases[i].status)
            fail_msg("\"%s\": %s: %s", cases[i].sentence, kas_status_text(status), tool_error());
        assert_int_equal(config.layers, 99);
        assert_sentence("FILE: ");
        assert_sentence(cases[i].sentence);
    }
}

static void rejects_files_that_cannot_be_read(void **state)
{
    (void)state;
    scratch folder;
    lm_config config = {.layers = 99};
    assert_int_equal(scratch_open(&folder), 0);
    assert_int_equal(lm_config_load(folder.folder, &config), KAS_ERROR_IO);
    assert_sentence("/config.json: cannot be opened: No such file");
    FILE *file = fopen(scratch_path(&folder, "config.json"), "w");
    assert_non_null(file);
    for (int i = 0; i < (1 << 20) + 1; i++)
        fputc('[', file);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(lm_config_load(folder.folder, &config), KAS_ERROR_FORMAT);
    assert_sentence("/config.json: holds 1048577 bytes: the most is 1048576");
    assert_int_equal(truncate(scratch_path(&folder, "config.json"), 1 << 20), 0);
    assert_int_equal(lm_config_load(folder.folder, &config), KAS_ERROR_FORMAT);
    assert_sentence("/config.json: the JSON is malformed at byte");
    assert_int_equal(config.layers, 99);
    scratch_close(&folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_the_llama_layout),
        cmocka_unit_test(fills_in_what_is_absent),
        cmocka_unit_test(rejects_bad_fields),
        cmocka_unit_test(rejects_files_that_cannot_be_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
