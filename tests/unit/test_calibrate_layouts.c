/*
 * test_calibrate_layouts.c - calibration of checkpoints of the Llama layout, written here with random weights: shards,
 * f16 and bf16, a tied head, rotary frequencies stretched as in Llama 3.1. Importance is compared with a forward pass in
 * double precision, and a plan comes of it.
 */
#define _DEFAULT_SOURCE
#include "calibrate/measure.h"
#include "tiny_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

enum { LENGTH = 150, PROMPTS = 2 };

typedef struct layout {
    const char *name;
    tiny_shape shape;
    const char *config; /* fields of config.json that no tiny_shape has a name for */
    tensor_type type;
    uint32_t shards;
} layout;

#define ROPE_3_1                                                                                                       \
    ",\"rope_theta\":500000.0,\"rope_scaling\":{\"factor\":8.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"      \
    "\"original_max_position_embeddings\":64,\"rope_type\":\"llama3\"},\"num_key_value_heads\":2,\"head_dim\":16"

static const layout layouts[] = {
    {"f16, sharded, tied", {40, 4, 6, 2, 16, 56, 272, 500000, 1e-5, 8, 1, 4, 64, false, true}, ROPE_3_1, TENSOR_F16, 3},
    {"bf16, sharded", {40, 3, 4, 2, 16, 56, 256, 500000, 1e-5, 8, 1, 4, 64, false, false}, ROPE_3_1, TENSOR_BF16, 2},
};

static double turned(const double *a, const double *b, uint32_t width)
{
    double ab = 0, aa = 0, bb = 0;
    for (uint32_t i = 0; i < width; i++) {
        ab += a[i] * b[i];
        aa += a[i] * a[i];
        bb += b[i] * b[i];
    }
    return 1 - ab / sqrt(aa * bb);
}

/* Adds a prompt's share to the importance of every layer. */
static void expect_importance(const tiny_model *tiny, const unsigned char *text, double *importance)
{
    const tiny_shape *s = &tiny->shape;
    const size_t count = (size_t)LENGTH * s->hidden;
    double *x = malloc(count * sizeof(*x)), *before = malloc(count * sizeof(*before));
    for (uint32_t i = 0; i < LENGTH; i++)
        memcpy(x + (size_t)i * s->hidden, tiny->embedding + (size_t)text[i] * s->hidden, s->hidden * sizeof(*x));
    for (uint32_t layer = 0; layer < s->layers; layer++) {
        memcpy(before, x, count * sizeof(*x));
        tiny_add_attention(s, &tiny->layers[layer], LENGTH, x);
        for (uint32_t i = 0; i < LENGTH; i++)
            importance[layer] +=
                turned(before + (size_t)i * s->hidden, x + (size_t)i * s->hidden, s->hidden) / (LENGTH * PROMPTS);
        tiny_add_mlp(s, &tiny->layers[layer], LENGTH, x);
    }
    free(x);
    free(before);
}

static void check_layout(const layout *of, kas_context *context)
{
    tiny_model tiny;
    scratch folder;
    lm_model *model;
    measurement *measured;
    unsigned char text[PROMPTS * LENGTH];
    double importance[TINY_MAX_LAYERS] = {0};
    const measure_listener listeners[] = {{0, KAS_REDUCE_MIN}, {16, KAS_REDUCE_MEAN}};
    for (uint32_t i = 0; i < sizeof(text); i++)
        text[i] = (unsigned char)((i * i * 7 + i / 3) % 251);
    assert_int_equal(scratch_open(&folder), 0);
    tiny_model_make(&tiny, &of->shape);
    assert_int_equal(tiny_model_save_weights(&tiny, &folder, of->type, of->shards), 0);
    assert_int_equal(tiny_model_save_config(&tiny, &folder, of->config), 0);
    if (lm_model_load(folder.folder, &model) != KAS_OK)
        fail_msg("%s: %s", of->name, tool_error());
    const measure_desc desc = {.model = model, .context = context, .dtype = KAS_DTYPE_F32, .tile = 16, .text = text,
                               .prompts = PROMPTS, .length = LENGTH, .listeners = listeners, .listener_count = 2};
    if (measure(&desc, &measured) != KAS_OK)
        fail_msg("%s: %s", of->name, tool_error());
    for (int p = 0; p < PROMPTS; p++)
        expect_importance(&tiny, text + p * LENGTH, importance);
    for (uint32_t listener = 0; listener < 2; listener++) {
        const kas_calibration *found = measurement_of(measured, listener);
        kas_plan *plan;
        const kas_plan_desc wish = {.struct_size = sizeof(wish), .layers = of->shape.layers, .heads = of->shape.heads,
                                    .kv_heads = of->shape.kv_heads, .anchor_count = 2};
        for (uint32_t i = 0; i < of->shape.layers; i++)
            if (!(fabs(found->importance[i] / importance[i] - 1) < 1e-3))
                fail_msg("%s, layer %u: %.6f, expected %.6f", of->name, i, found->importance[i], importance[i]);
        assert_int_equal(kas_calibration_plan(found, &wish, &plan, NULL), KAS_OK);
        kas_plan_destroy(plan);
    }
    measurement_destroy(measured);
    lm_model_destroy(model);
    tiny_model_release(&tiny);
    scratch_close(&folder);
}

static void llama_checkpoints(void **state)
{
    (void)state;
    kas_context *context;
    const kas_context_desc desc = {.struct_size = sizeof(desc), .device = "cpu", .threads = 1};
    assert_int_equal(kas_context_create(&desc, &context), KAS_OK);
    for (size_t i = 0; i < sizeof(layouts) / sizeof(layouts[0]); i++)
        check_layout(&layouts[i], context);
    kas_context_destroy(context);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(llama_checkpoints)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
