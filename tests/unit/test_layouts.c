/*
 * test_layouts.c - checkpoints of the Llama and the Qwen3 layout, written here with random weights: one file or shards,
 * every storage type, tied and untied heads, stretched rotary frequencies, and a forward pass in double precision to
 * compare the host's logits with.
 */
#define _DEFAULT_SOURCE
#include "lm/sequence.h"
#include "tiny_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#define TOKENS 150
#define PREFILLED 143 /* the others are decoded one by one */
#define MAX_RELATIVE_ERROR 1e-4
/* Caches of 16 bits: half an ulp of each q, k and v, which these models amplify (measured: 18 and 15 times). */
#define MAX_RELATIVE_ERROR_F16 (32 * 0x1p-11)
#define MAX_RELATIVE_ERROR_BF16 (32 * 0x1p-8)

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

typedef struct layout {
    const char *name;
    tiny_shape shape;
    const char *config; /* fields of config.json that no tiny_shape has a name for */
    tensor_type type;
    uint32_t shards;
} layout;

/* Of the eight frequencies with head_dim 16, the first is kept, the second blended and the others divided. */
static const layout layouts[] = {
    {"llama 3.1 in f16, sharded, tied",
     {40, 3, 6, 2, 16, 56, 96, 500000, 1e-5, 8, 1, 4, 64, false, true},
     ",\"num_key_value_heads\":2,\"head_dim\":16,\"rope_theta\":500000.0,\"bos_token_id\":1,\"rope_scaling\":"
     "{\"factor\":8.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,\"original_max_position_embeddings\":64,"
     "\"rope_type\":\"llama3\"},\"attention_bias\":false,\"mlp_bias\":false,\"pretraining_tp\":1",
     TENSOR_F16,
     3},
    {"llama 3.1 in bf16, sharded, as older files write it",
     {48, 2, 4, 4, 12, 40, 80, 10000, 1e-6, 32, 1, 4, 100, false, false},
     ",\"rope_scaling\":{\"type\":\"llama3\",\"factor\":32,\"low_freq_factor\":1,\"high_freq_factor\":4,"
     "\"original_max_position_embeddings\":100},\"head_dim\":null",
     TENSOR_BF16,
     2},
    {"llama 3.1 in f32, one file, as newer files write it",
     {24, 1, 8, 1, 8, 16, 33, 20000, 1e-5, 4, 2, 8, 50, false, true},
     ",\"num_key_value_heads\":1,\"head_dim\":8,\"rope_parameters\":{\"rope_theta\":20000,\"rope_type\":\"llama3\","
     "\"factor\":4,\"low_freq_factor\":2,\"high_freq_factor\":8,\"original_max_position_embeddings\":50}",
     TENSOR_F32,
     1},
    {"llama 2, types mixed",
     {32, 2, 4, 2, 8, 24, 50, 10000, 1e-5, 0, 0, 0, 0, false, false},
     ",\"num_key_value_heads\":2,\"rope_scaling\":null",
     TENSOR_TYPE_COUNT,
     2},
    {"qwen3, types mixed, tied",
     {40, 2, 4, 2, 24, 56, 64, 1000000, 1e-6, 0, 0, 0, 0, true, true},
     ",\"num_key_value_heads\":2,\"head_dim\":24,\"rope_theta\":1000000,\"use_sliding_window\":false,"
     "\"rope_scaling\":{\"rope_type\":\"default\"}",
     TENSOR_TYPE_COUNT,
     3},
};

/* What the cases of one layout share. */
typedef struct opened {
    const layout *of;
    tiny_model tiny;
    scratch folder;
    lm_model *model;
    kas_plan *plan;
    kas_context *context;
    uint32_t tokens[TOKENS];
    double *expected; /* [TOKENS, vocab] */
} opened;

static void assert_ok(kas_status status)
{
    if (status != KAS_OK)
        fail_msg("%s: %s | %s", kas_status_text(status), tool_error(), kas_last_error());
}

static void open_layout(opened *o, const layout *of)
{
    const tiny_shape *s = &of->shape;
    *o = (opened){.of = of};
    assert_int_equal(scratch_open(&o->folder), 0);
    tiny_model_make(&o->tiny, s);
    assert_int_equal(tiny_model_save_weights(&o->tiny, &o->folder, of->type, of->shards), 0);
    assert_int_equal(tiny_model_save_config(&o->tiny, &o->folder, of->config), 0);
    assert_ok(lm_model_load(o->folder.folder, &o->model));
    const uint32_t anchors[] = {0};
    const kas_plan_desc plan = {.struct_size = sizeof(plan),
                                .layers = s->layers,
                                .heads = s->heads,
                                .kv_heads = s->kv_heads,
                                .topk = {.min = TOKENS}, /* keeps every key */
                                .anchors = anchors,
                                .anchor_count = 1};
    assert_ok(kas_plan_create(&plan, &o->plan));
    const kas_context_desc context = {.struct_size = sizeof(context), .device = "cpu", .threads = 1};
    assert_ok(kas_context_create(&context, &o->context));
    for (uint32_t i = 0; i < TOKENS; i++)
        o->tokens[i] = (i * i * 7 + i / 3) % s->vocab;
    o->expected = tiny_model_logits(&o->tiny, o->tokens, TOKENS);
}

static void close_layout(opened *o)
{
    kas_context_destroy(o->context);
    kas_plan_destroy(o->plan);
    lm_model_destroy(o->model);
    tiny_model_release(&o->tiny);
    scratch_close(&o->folder);
    free(o->expected);
}

typedef struct comparison {
    const double *expected;
    uint32_t vocab, rows;
    double worst, largest;
} comparison;

static void compare_rows(void *user, uint32_t first, uint32_t rows, const float *logits)
{
    comparison *c = user;
    for (size_t i = 0; i < (size_t)rows * c->vocab; i++) {
        const double expected = c->expected[(size_t)first * c->vocab + i], difference = fabs(logits[i] - expected);
        if (!(difference <= c->worst))
            c->worst = isnan(difference) ? INFINITY : difference;
        c->largest = fmax(c->largest, fabs(expected));
    }
    c->rows += rows;
}

/* Relative error of the host's logits, prefilled and decoded, against `expected`. */
static double host_error(const opened *o, lm_attention attention, kas_dtype dtype, const double *expected)
{
    comparison c = {.expected = expected, .vocab = o->of->shape.vocab};
    const lm_sequence_desc desc = {.model = o->model,
                                   .context = o->context,
                                   .plan = o->plan,
                                   .attention = attention,
                                   .dtype = dtype,
                                   .max_tokens = TOKENS,
                                   .chunk = 128};
    float *logits = malloc(c.vocab * sizeof(*logits));
    lm_sequence *sequence = NULL;
    assert_non_null(logits);
    assert_ok(lm_sequence_create(&desc, &sequence));
    assert_ok(lm_sequence_prefill(sequence, o->tokens, PREFILLED, compare_rows, &c));
    for (uint32_t i = PREFILLED; i < TOKENS; i++) {
        assert_ok(lm_sequence_decode(sequence, o->tokens[i], logits));
        compare_rows(&c, i, 1, logits);
    }
    lm_sequence_destroy(sequence);
    free(logits);
    assert_int_equal(c.rows, TOKENS);
    return c.worst / c.largest;
}

static void assert_within(const layout *of, const char *what, double error, double bound)
{
    print_message("%s, %s: relative error %.2g\n", of->name, what, error);
    if (!(error <= bound))
        fail_msg("%s, %s: relative error %g is above %g", of->name, what, error, bound);
}

static void logits_agree(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(layouts); i++) {
        opened o;
        open_layout(&o, &layouts[i]);
        assert_within(&layouts[i], "dense", host_error(&o, LM_ATTENTION_DENSE, KAS_DTYPE_F32, o.expected),
                      MAX_RELATIVE_ERROR);
        assert_within(&layouts[i], "a plan that keeps every key",
                      host_error(&o, LM_ATTENTION_PLAN, KAS_DTYPE_F32, o.expected), MAX_RELATIVE_ERROR);
        assert_within(&layouts[i], "caches in f16", host_error(&o, LM_ATTENTION_DENSE, KAS_DTYPE_F16, o.expected),
                      MAX_RELATIVE_ERROR_F16);
        assert_within(&layouts[i], "caches in bf16", host_error(&o, LM_ATTENTION_DENSE, KAS_DTYPE_BF16, o.expected),
                      MAX_RELATIVE_ERROR_BF16);
        close_layout(&o);
    }
}

/* The comparison can fail: frequencies that are not stretched, or stretched another way, are far from the host's. */
static void stretching_matters(void **state)
{
    (void)state;
    opened o;
    open_layout(&o, &layouts[0]);
    tiny_model other = o.tiny;
    static const struct {
        double factor, high;
    } stretchings[] = {{0, 4}, {7, 4}, {8, 1000}};
    for (size_t i = 0; i < COUNT(stretchings); i++) {
        other.shape.rope_factor = stretchings[i].factor;
        other.shape.rope_high = stretchings[i].high;
        double *expected = tiny_model_logits(&other, o.tokens, TOKENS);
        assert_true(host_error(&o, LM_ATTENTION_DENSE, KAS_DTYPE_F32, expected) > 100 * MAX_RELATIVE_ERROR);
        free(expected);
    }
    close_layout(&o);
}

static void refused(opened *o, const char *config, const char *sentence)
{
    lm_model *model = NULL;
    assert_int_equal(tiny_model_save_config(&o->tiny, &o->folder, config), 0);
    assert_int_equal(lm_model_load(o->folder.folder, &model), KAS_ERROR_FORMAT);
    assert_null(model);
    if (!strstr(tool_error(), o->folder.folder) || !strstr(tool_error(), sentence))
        fail_msg("\"%s\" expected in \"%s\"", sentence, tool_error());
}

/* config.json asks for tensors that the files do not hold, or hold in another shape. */
static void refuses_other_weights(void **state)
{
    (void)state;
    opened o;
    open_layout(&o, &layouts[0]);
    tiny_shape *shape = &o.tiny.shape;
    const tiny_shape good = *shape;
    shape->tied = false;
    refused(&o, layouts[0].config, "holds no tensor 'lm_head.weight'");
    *shape = good;
    shape->qk_norm = true;
    refused(&o, layouts[0].config, "holds no tensor 'model.layers.0.self_attn.q_norm.weight'");
    *shape = good;
    shape->layers++;
    refused(&o, layouts[0].config, "holds no tensor 'model.layers.3.input_layernorm.weight'");
    *shape = good;
    shape->vocab++;
    refused(&o, layouts[0].config,
            "tensor 'model.embed_tokens.weight' has shape [96, 40], by config.json it is [97, 40]");
    *shape = good;
    shape->inner--;
    refused(&o, layouts[0].config, "tensor 'model.layers.0.mlp.gate_proj.weight' has shape [56, 40]");
    *shape = good;
    refused(&o, ",\"num_key_value_heads\":3,\"head_dim\":16", "k_proj.weight' has shape [32, 40]");
    refused(&o, ",\"num_key_value_heads\":4,\"head_dim\":16", "num_attention_heads is 6: it must be a multiple of");
    close_layout(&o);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_agree),
        cmocka_unit_test(stretching_matters),
        cmocka_unit_test(refuses_other_weights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
