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

enum { TILE = 32, TILES = LENGTH / TILE, LIST_KEYS = 64 - TILE };

/* Similarities agree to so much, but for those that a near-tie explains: no more than a few. */
#define AGREEMENT 5e-4
enum { MOST_EXPLAINED = 8 };

/* Relative difference up to which two f32 computations may rank two pooled scores differently. */
#define NEAR_TIE 1e-4
enum { MOST_CHOICES = 16 };

static lm_model *model;
static kas_context *context;
static lm_mapped_file prompts;
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
    return status == KAS_OK ? 0 : -1;
}

static int release(void **state)
{
    (void)state;
    measurement_destroy(measured);
    if (prompts.data)
        lm_unmap_file(&prompts);
    lm_model_destroy(model);
    kas_context_destroy(context);
    return 0;
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

/* ---- Near-ties ---------------------------------------------------------------------------------------------------- */

/*
 * A similarity that differs, and what a prompt's minimum over tiles can be: with the lists as they are first, then with
 * one key of a tile's list exchanged for one whose score is nearly the same.
 */
typedef struct suspect {
    int a, b, y, x;
    double expected;
    double minima[PROMPTS][MOST_CHOICES];
    int choices[PROMPTS];
} suspect;

typedef struct reader {
    kas_session *session;
    kas_buffer *device_scores;
    float *scores[LAYERS]; /* [KV_HEADS, TILES, LENGTH] of the prompt being read; NULL: no suspect needs the layer's */
    suspect *suspects;
    int suspect_count, prompt;
} reader;

static const float *tile_scores(const reader *from, int layer, int head, int tile)
{
    return from->scores[layer] + ((size_t)head * TILES + (size_t)tile) * LENGTH;
}

static const float *ranked;

static int by_score(const void *left, const void *right)
{
    const int a = *(const int *)left, b = *(const int *)right;
    return ranked[a] != ranked[b] ? (ranked[a] > ranked[b] ? -1 : 1) : a - b;
}

static void rank_keys(const float *of, int count, int *keys)
{
    for (int i = 0; i < count; i++)
        keys[i] = i;
    ranked = of;
    qsort(keys, (size_t)count, sizeof(*keys), by_score);
}

static double sum_over(const float *values, const int *keys, int count)
{
    double sum = 0;
    for (int i = 0; i < count; i++)
        sum += values[keys[i]];
    return sum;
}

/* The tile's ratio first, then those with one pair of nearly tied keys exchanged; returns how many. */
static int tile_ratios(const reader *from, const suspect *of, int tile, double *ratios)
{
    const float *anchor = tile_scores(from, of->a, of->x, tile), *own = tile_scores(from, of->b, of->y, tile);
    const int candidates = tile * TILE;
    int keys[LENGTH], own_keys[LENGTH], count = 1;
    ratios[0] = 1;
    if (candidates <= LIST_KEYS)
        return count;
    rank_keys(anchor, candidates, keys);
    rank_keys(own, candidates, own_keys);
    const double outside = TILE * HEADS / KV_HEADS - sum_over(own, own_keys, candidates);
    const double whole = sum_over(own, own_keys, LIST_KEYS) + outside;
    ratios[0] = (sum_over(own, keys, LIST_KEYS) + outside) / whole;
    for (int in = LIST_KEYS - 1; in >= 0; in--)
        for (int out = LIST_KEYS; out < candidates; out++) {
            const double lost = anchor[keys[in]], won = anchor[keys[out]];
            if (lost - won > NEAR_TIE * lost)
                break;
            assert_true(count < MOST_CHOICES);
            ratios[count++] = ratios[0] + ((double)own[keys[out]] - own[keys[in]]) / whole;
        }
    return count;
}

/* A value is a minimum where every other tile can stay at or above it. */
static void find_minima(const reader *from, suspect *of)
{
    double ratios[TILES][MOST_CHOICES], most[TILES], least = INFINITY;
    int counts[TILES];
    for (int u = 0; u < TILES; u++) {
        counts[u] = tile_ratios(from, of, u, ratios[u]);
        least = fmin(least, ratios[u][0]);
        most[u] = ratios[u][0];
        for (int i = 1; i < counts[u]; i++)
            most[u] = fmax(most[u], ratios[u][i]);
    }
    int *choices = &of->choices[from->prompt];
    double *minima = of->minima[from->prompt];
    minima[(*choices)++] = least;
    for (int u = 0; u < TILES; u++)
        for (int i = 0; i < counts[u]; i++) {
            bool reached = ratios[u][i] != least;
            for (int other = 0; other < TILES; other++)
                reached = reached && (other == u || most[other] >= ratios[u][i]);
            if (reached) {
                assert_true(*choices < MOST_CHOICES);
                minima[(*choices)++] = ratios[u][i];
            }
        }
}

static kas_status keep_scores(void *user, const lm_observation *observation)
{
    reader *from = user;
    const uint64_t bytes = (uint64_t)KV_HEADS * TILES * LENGTH * sizeof(float);
    const kas_attention args = {.struct_size = sizeof(args), .layer = observation->layer, .queries = LENGTH,
                                .keys = LENGTH, .q = {.buffer = observation->q}, .k = {.buffer = observation->k}};
    const kas_scores scores = {.values = {.buffer = from->device_scores}, .tiles = TILES, .stride = LENGTH};
    float *target = from->scores[observation->layer];
    if (target) {
        TOOL_TRY_LIBRARY(kas_pooled_scores(from->session, observation->stream, KAS_PHASE_PREFILL, &args, &scores));
        TOOL_TRY_LIBRARY(kas_buffer_read(observation->stream, from->device_scores, 0, target, bytes));
    }
    for (int i = 0; observation->layer == LAYERS - 1 && i < from->suspect_count; i++)
        find_minima(from, &from->suspects[i]);
    return KAS_OK;
}

static void create_reader(reader *from)
{
    const uint64_t bytes = (uint64_t)KV_HEADS * TILES * LENGTH * sizeof(float);
    const kas_session_desc desc = {.struct_size = sizeof(desc), .heads = HEADS, .kv_heads = KV_HEADS,
                                   .head_dim = (uint32_t)model->config.head_dim, .dtype = KAS_DTYPE_F32, .tile = TILE,
                                   .max_queries = LENGTH, .max_keys = LENGTH};
    assert_int_equal(kas_session_create(context, &desc, &from->session), KAS_OK);
    assert_int_equal(kas_buffer_create(context, bytes, &from->device_scores), KAS_OK);
    for (int i = 0; i < from->suspect_count; i++) {
        const int layers[] = {from->suspects[i].a, from->suspects[i].b};
        for (int j = 0; j < 2; j++)
            if (!from->scores[layers[j]])
                assert_non_null(from->scores[layers[j]] = malloc(bytes));
    }
}

static void release_reader(reader *from)
{
    for (int i = 0; i < LAYERS; i++)
        free(from->scores[i]);
    kas_buffer_destroy(from->device_scores);
    kas_session_destroy(from->session);
}

/* Reads the prompts again, as measure() does, and fills the suspects' minima. */
static void read_again(reader *from)
{
    static uint32_t tokens[LENGTH];
    const uint32_t first = 0;
    const kas_plan_desc shape = {.struct_size = sizeof(shape), .layers = LAYERS, .heads = HEADS, .kv_heads = KV_HEADS,
                                 .anchors = &first, .anchor_count = 1};
    kas_plan *plan;
    assert_int_equal(kas_plan_create(&shape, &plan), KAS_OK);
    const lm_sequence_desc desc = {.model = model, .context = context, .plan = plan, .attention = LM_ATTENTION_DENSE,
                                   .dtype = KAS_DTYPE_F32, .max_tokens = LENGTH, .chunk = LENGTH,
                                   .observe = keep_scores, .observe_user = from};
    lm_sequence *sequence;
    assert_int_equal(lm_sequence_create(&desc, &sequence), KAS_OK);
    for (from->prompt = 0; from->prompt < PROMPTS; from->prompt++) {
        for (int i = 0; i < LENGTH; i++)
            tokens[i] = prompts.data[from->prompt * LENGTH + i];
        lm_sequence_truncate(sequence, 0);
        assert_int_equal(lm_sequence_prefill(sequence, tokens, LENGTH, NULL, NULL), KAS_OK);
    }
    lm_sequence_destroy(sequence);
    kas_plan_destroy(plan);
}

/* The mean over prompts that lies nearest to what is expected, of all choices of minima from `prompt` on. */
static double nearest_mean(const suspect *of, int prompt, double sum)
{
    if (prompt == PROMPTS)
        return sum / PROMPTS;
    double best = INFINITY;
    for (int i = 0; i < of->choices[prompt]; i++) {
        const double mean = nearest_mean(of, prompt + 1, sum + of->minima[prompt][i]);
        if (fabs(mean - of->expected) < fabs(best - of->expected))
            best = mean;
    }
    return best;
}

static void explain(const suspect *of, double found)
{
    int choices = 1;
    double plain = 0;
    for (int p = 0; p < PROMPTS; p++) {
        choices *= of->choices[p];
        plain += of->minima[p][0] / PROMPTS;
    }
    const double nearest = nearest_mean(of, 0, 0);
    print_message("layers %d and %d, heads %d and %d: %.5f, expected %.5f: %.5f by the nearest of %d choices\n", of->a,
                  of->b, of->x, of->y, found, of->expected, nearest, choices);
    if (!(fabs(plain - found) <= 1e-5))
        fail_msg("without an exchange the plain computation gives %.6f", plain);
    if (!(fabs(nearest - of->expected) <= AGREEMENT))
        fail_msg("no exchange of keys that tie within %g makes them agree", NEAR_TIE);
}

static void similarity(void **state)
{
    (void)state;
    const kas_calibration *calibration = found();
    float *expected = read_floats("similarity.npy", LAYERS * LAYERS * PAIR);
    static suspect suspects[MOST_EXPLAINED];
    reader from = {.suspects = suspects};
    for (int a = 0; a < LAYERS; a++)
        for (int b = a; b < LAYERS; b++)
            for (int i = 0; i < PAIR; i++) {
                const size_t at = ((size_t)a * LAYERS + (size_t)b) * PAIR + (size_t)i;
                if (fabs(calibration->similarity[at] - expected[at]) <= AGREEMENT)
                    continue;
                if (from.suspect_count == MOST_EXPLAINED)
                    fail_msg("more than %d similarities are off by more than %g", MOST_EXPLAINED, AGREEMENT);
                suspects[from.suspect_count++] =
                    (suspect){.a = a, .b = b, .y = i / KV_HEADS, .x = i % KV_HEADS, .expected = expected[at]};
            }
    free(expected);
    create_reader(&from);
    read_again(&from);
    release_reader(&from);
    for (int i = 0; i < from.suspect_count; i++) {
        const suspect *of = &suspects[i];
        const size_t at = ((size_t)of->a * LAYERS + (size_t)of->b) * PAIR + (size_t)(of->y * KV_HEADS + of->x);
        explain(of, calibration->similarity[at]);
    }
}

/* ---- Anchors ------------------------------------------------------------------------------------------------------ */

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
    return cmocka_run_group_tests(tests, calibrate, release);
}
