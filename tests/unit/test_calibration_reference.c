/*
 * test_calibration_reference.c - the bundled model's calibration against the figures of the reference implementation,
 * which are kept outside the project: KASCADE_SHARED, or ../shared beside the sources. Skipped where they are not.
 */
#define _POSIX_C_SOURCE 200809L
#include "calibrate/measure.h"
#include "lm/mapped_file.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { PROMPTS = 12, LENGTH = 4096, LAYERS = 12, KV_HEADS = 4, HEADS = 8, PAIR = KV_HEADS * KV_HEADS };

/* A list's last key may be one of two with scores that f32 does not tell apart. */
#define NEAR_TIES 8
#define NEAR_TIE_BOUND 5e-3

static measurement *measured;

static const char *shared_file(const char *name)
{
    static char path[4096];
    const char *folder = getenv("KASCADE_SHARED");
    snprintf(path, sizeof(path), "%s/model/calibration/%s", folder ? folder : KASCADE_SOURCE_DIR "/../shared", name);
    return path;
}

static int calibrate(void **state)
{
    (void)state;
    if (access(shared_file("prompts.bin"), R_OK) != 0)
        return 0;
    lm_model *model;
    kas_context *context;
    lm_mapped_file prompts;
    const kas_context_desc device = {.struct_size = sizeof(device), .device = "cpu"};
    const measure_listener listener = {0, KAS_REDUCE_MIN};
    if (kas_context_create(&device, &context) != KAS_OK ||
        lm_model_load(KASCADE_SOURCE_DIR "/models/pico-qwen3", &model) != KAS_OK ||
        lm_map_file(shared_file("prompts.bin"), &prompts) != KAS_OK)
        return -1;
    const measure_desc desc = {.model = model, .context = context, .dtype = KAS_DTYPE_F32, .tile = 32,
                               .text = prompts.data, .prompts = PROMPTS, .length = LENGTH,
                               .listeners = &listener, .listener_count = 1};
    kas_status status = prompts.size == PROMPTS * LENGTH ? measure(&desc, &measured) : KAS_ERROR_FORMAT;
    lm_unmap_file(&prompts);
    lm_model_destroy(model);
    return status == KAS_OK ? 0 : -1;
}

static const kas_calibration *found(void)
{
    if (!measured) {
        print_message("skipped: %s is not there\n", shared_file("prompts.bin"));
        skip();
    }
    return measurement_of(measured, 0);
}

/* The floats of an array of `count` elements, from the end of the file. */
static float *read_floats(const char *name, size_t count)
{
    lm_mapped_file file;
    assert_int_equal(lm_map_file(shared_file(name), &file), KAS_OK);
    assert_true(file.size > count * sizeof(float));
    float *values = malloc(count * sizeof(*values));
    memcpy(values, file.data + file.size - count * sizeof(float), count * sizeof(float));
    lm_unmap_file(&file);
    return values;
}

static void importance(void **state)
{
    (void)state;
    const kas_calibration *calibration = found();
    float *expected = read_floats("importance.npy", LAYERS);
    for (int i = 0; i < LAYERS; i++)
        if (fabs(calibration->importance[i] / expected[i] - 1) > 1e-3)
            fail_msg("layer %d: %.6f, expected %.6f", i, calibration->importance[i], expected[i]);
    free(expected);
}

static void similarity(void **state)
{
    (void)state;
    const kas_calibration *calibration = found();
    float *expected = read_floats("similarity.npy", LAYERS * LAYERS * PAIR);
    int ties = 0;
    for (int a = 0; a < LAYERS; a++)
        for (int b = a; b < LAYERS; b++)
            for (int i = 0; i < PAIR; i++) {
                const size_t at = ((size_t)a * LAYERS + b) * PAIR + i;
                const double error = fabs(calibration->similarity[at] - expected[at]);
                ties += error > 5e-4;
                if (!(error <= NEAR_TIE_BOUND))
                    fail_msg("layers %d and %d, entry %d: %.5f, expected %.5f", a, b, i, calibration->similarity[at],
                             expected[at]);
            }
    if (ties > NEAR_TIES)
        fail_msg("%d similarities are off by more than 5e-4: near-ties explain a few", ties);
    free(expected);
}

static void anchors(void **state)
{
    (void)state;
    static const uint32_t expected[6][6] = {{0}, {0, 7}, {0, 4, 9}, {0, 4, 7, 9}, {0, 4, 7, 9, 10}, {0, 4, 7, 8, 9, 10}};
    const kas_calibration *calibration = found();
    for (uint32_t count = 1; count <= 6; count++) {
        const kas_plan_desc wish = {.struct_size = sizeof(wish), .layers = LAYERS, .heads = HEADS,
                                    .kv_heads = KV_HEADS, .anchor_count = count};
        kas_plan_desc made = {.struct_size = sizeof(made)};
        kas_plan *plan;
        assert_int_equal(kas_calibration_plan(calibration, &wish, &plan, NULL), KAS_OK);
        assert_int_equal(kas_plan_get_desc(plan, &made), KAS_OK);
        assert_memory_equal(made.anchors, expected[count - 1], count * sizeof(uint32_t));
        kas_plan_destroy(plan);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(importance),
        cmocka_unit_test(similarity),
        cmocka_unit_test(anchors),
    };
    return cmocka_run_group_tests(tests, calibrate, NULL);
}
