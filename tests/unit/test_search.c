/*
 * test_search.c - the search of anchors by loss on a small random model, against reading every set of anchors: the sets
 * that do best on the short texts, read with a smaller fraction of the keys, read the long ones, and the one that loses
 * least there is taken.
 */
#define _DEFAULT_SOURCE
#include "calibrate/measure.h"
#include "calibrate/search.h"
#include "tiny_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

enum { LAYERS = 4, SHORT = 256, LONG = 768, VALUES = 2, PROMPTS = 2, TEXT_BYTES = PROMPTS * SHORT + SHORT + LONG };
#define FRACTION 0.25

static const tiny_shape shape = {48, LAYERS, 4, 2, 16, 64, 272, 10000, 1e-5, 0, 0, 0, 0, true, false};

static tiny_model tiny;
static scratch folder;
static lm_model *model;
static kas_context *context;
static measurement *measured;
static quality_texts short_texts, long_texts;
static double spent;

static kas_plan_desc describe(void)
{
    return (kas_plan_desc){.struct_size = sizeof(kas_plan_desc), .layers = LAYERS, .heads = shape.heads,
                           .kv_heads = shape.kv_heads, .tile = 16, .topk = {.fraction = FRACTION, .min = 8, .round = 4}};
}

static kas_status make_texts(const unsigned char *bytes, uint32_t length, uint64_t seed, quality_texts *set)
{
    const uint32_t first = 0;
    kas_plan_desc wish = describe();
    kas_plan *plan;
    wish.anchors = &first;
    wish.anchor_count = 1;
    TOOL_TRY_LIBRARY(kas_plan_create(&wish, &plan));
    *set = (quality_texts){.model = model, .context = context, .dtype = KAS_DTYPE_F32, .count = 1, .length = length};
    kas_status status = quality_texts_make(set, bytes, VALUES, seed, plan);
    kas_plan_destroy(plan);
    return status;
}

static kas_status prepare(void)
{
    static unsigned char text[TEXT_BYTES];
    const measure_listener listeners[] = {{0, KAS_REDUCE_MIN}, {26, KAS_REDUCE_MEAN}};
    const kas_context_desc device = {.struct_size = sizeof(device), .device = "cpu", .threads = 1};
    for (uint32_t i = 0; i < TEXT_BYTES; i++)
        text[i] = i % 23 == 22 ? '\n' : (unsigned char)('a' + (i * i * 7 + i / 5) % 26);
    lm_set_threads(1);
    TOOL_TRY_LIBRARY(kas_context_create(&device, &context));
    TOOL_TRY(lm_model_load(folder.folder, &model));
    const measure_desc desc = {.model = model, .context = context, .dtype = KAS_DTYPE_F32, .tile = 16, .text = text,
                               .prompts = PROMPTS, .length = SHORT, .listeners = listeners, .listener_count = 2};
    TOOL_TRY(measure(&desc, &measured));
    TOOL_TRY(make_texts(text + PROMPTS * SHORT, SHORT, 1, &short_texts));
    return make_texts(text + PROMPTS * SHORT + SHORT, LONG, 2, &long_texts);
}

static int set_up(void **state)
{
    (void)state;
    tiny_model_make(&tiny, &shape);
    if (scratch_open(&folder) != 0 || tiny_model_save_weights(&tiny, &folder, TENSOR_F16, 1) != 0 ||
        tiny_model_save_config(&tiny, &folder, ",\"num_key_value_heads\":2,\"head_dim\":16") != 0)
        return -1;
    if (prepare() == KAS_OK)
        return 0;
    print_error("%s\n", tool_error());
    return -1;
}

static int tear_down(void **state)
{
    (void)state;
    quality_texts_release(&short_texts);
    quality_texts_release(&long_texts);
    measurement_destroy(measured);
    lm_model_destroy(model);
    kas_context_destroy(context);
    tiny_model_release(&tiny);
    scratch_close(&folder);
    return 0;
}

static void spend(void *user, double cost)
{
    (void)user;
    spent += cost;
}

static search_desc describe_search(const quality_texts *finals, uint32_t finalists)
{
    return (search_desc){.texts = &short_texts, .finals = finals, .finalists = finalists,
                         .anchors = measurement_of(measured, 0), .maps = measurement_of(measured, 1),
                         .wish = describe(), .progress = spend};
}

/* What the anchors 0 and `second` lose with the maps of their similarities and a fraction of the keys. */
static double loss_of(const quality_texts *texts, double fraction, uint32_t second)
{
    const uint32_t anchors[] = {0, second};
    kas_plan_desc wish = describe();
    kas_plan *plan;
    quality found;
    wish.anchors = anchors;
    wish.anchor_count = 2;
    wish.topk.fraction = fraction;
    assert_int_equal(kas_calibration_plan(measurement_of(measured, 1), &wish, &plan, NULL), KAS_OK);
    assert_int_equal(quality_measure(texts, plan, &found), KAS_OK);
    kas_plan_destroy(plan);
    return quality_loss(texts, &found);
}

/* Runs a search up to two anchors: the second one and the loss, and that it cost no more than was foretold. */
static uint32_t search_two(const search_desc *desc, double *loss)
{
    search *made;
    kas_plan_desc found = {.struct_size = sizeof(found)};
    uint32_t second = 0;
    spent = 0;
    assert_int_equal(search_begin(desc, &made), KAS_OK);
    for (uint32_t count = 1; count <= 2; count++) {
        kas_plan *plan;
        if (search_next(made, &plan, loss) != KAS_OK)
            fail_msg("%u anchors: %s", count, tool_error());
        assert_int_equal(kas_plan_get_desc(plan, &found), KAS_OK);
        assert_int_equal(found.anchor_count, count);
        assert_int_equal(found.anchors[0], 0);
        second = found.anchors[count - 1];
        kas_plan_destroy(plan);
    }
    search_end(made);
    assert_true(spent > 0 && spent <= search_cost(desc, 1) + search_cost(desc, 2));
    return second;
}

/* The layers 1.. by loss, least first. */
static void rank(const quality_texts *texts, double fraction, uint32_t order[LAYERS - 1], double loss[LAYERS])
{
    for (uint32_t layer = 1; layer < LAYERS; layer++) {
        loss[layer] = loss_of(texts, fraction, layer);
        uint32_t at = layer - 1;
        for (; at > 0 && loss[order[at - 1]] > loss[layer]; at--)
            order[at] = order[at - 1];
        order[at] = layer;
    }
}

static void short_texts_decide_alone(void **state)
{
    (void)state;
    uint32_t order[LAYERS - 1];
    double loss[LAYERS], found;
    rank(&short_texts, FRACTION, order, loss);
    const search_desc desc = describe_search(NULL, 0);
    assert_int_equal(search_two(&desc, &found), order[0]);
    assert_true(found <= loss[order[0]]); /* exchanged rows of the map can only help */
}

static void long_texts_decide(void **state)
{
    (void)state;
    uint32_t by_short[LAYERS - 1], with_more_keys[LAYERS - 1], by_long[LAYERS - 1];
    double short_loss[LAYERS], long_loss[LAYERS], found;
    rank(&short_texts, FRACTION * SHORT / LONG, by_short, short_loss);
    rank(&long_texts, FRACTION, by_long, long_loss);
    /* Otherwise nothing would be tested. */
    assert_int_not_equal(by_short[0], by_long[0]);
    rank(&short_texts, FRACTION, with_more_keys, short_loss);
    assert_int_not_equal(by_short[0], with_more_keys[0]);
    search_desc desc = describe_search(&long_texts, LAYERS);
    assert_int_equal(search_two(&desc, &found), by_long[0]);
    assert_true(found <= long_loss[by_long[0]]);
    desc.finalists = 1;
    assert_int_equal(search_two(&desc, &found), by_short[0]);
    assert_true(found <= long_loss[by_short[0]]);
}

static void every_layer(void **state)
{
    (void)state;
    const search_desc desc = describe_search(&long_texts, 2);
    search *made;
    kas_plan *plan;
    double loss;
    assert_int_equal(search_begin(&desc, &made), KAS_OK);
    for (uint32_t count = 1; count <= LAYERS; count++) {
        assert_int_equal(search_next(made, &plan, &loss), KAS_OK);
        kas_plan_destroy(plan);
    }
    assert_int_equal(search_next(made, &plan, &loss), KAS_ERROR_STATE);
    assert_non_null(strstr(tool_error(), "every layer"));
    search_end(made);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(short_texts_decide_alone),
        cmocka_unit_test(long_texts_decide),
        cmocka_unit_test(every_layer),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
