/*
 * test_calibrator.c - calibration through the public interface, on every device of this machine: similarity, importance
 * and coverage of random layers against a plain computation in double, whatever the chunks; plans made from them; and
 * everything that a caller can get wrong, on the null device.
 */
#include "core/registry.h"
#include "tests/null/null_backend.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { LAYERS = 3, HEADS = 4, KV_HEADS = 2, GROUP = 2, DIM = 16, HIDDEN = 12, TILE = 16, KEYS = 8, PROMPTS = 2 };
enum { MOST_TOKENS = 170, PAIRS = LAYERS * LAYERS * KV_HEADS * KV_HEADS };

static const uint32_t prompt_tokens[PROMPTS] = {170, 83};

#define CHECK(call)                                                                                                    \
    do {                                                                                                               \
        if ((call) != KAS_OK)                                                                                          \
            fail_msg("%s: %s", #call, kas_last_error());                                                               \
    } while (0)

#define REFUSED(expected, call, word)                                                                                  \
    do {                                                                                                               \
        kas_status refused = (call);                                                                                   \
        if (refused != (expected) || !strstr(kas_last_error(), word))                                                  \
            fail_msg("%s: status %d, \"%s\"; expected %d and \"%s\"", #call, (int)refused, kas_last_error(),           \
                     (int)(expected), word);                                                                           \
    } while (0)

/* ---- Values ----------------------------------------------------------------------------------------------------- */

static float q[PROMPTS][LAYERS][MOST_TOKENS][HEADS][DIM];
static float k[PROMPTS][LAYERS][MOST_TOKENS][KV_HEADS][DIM];
static float before[PROMPTS][LAYERS][MOST_TOKENS][HIDDEN], after[PROMPTS][LAYERS][MOST_TOKENS][HIDDEN];

static float draw(uint64_t *state)
{
    double sum = 0;
    for (int i = 0; i < 4; i++) {
        *state = *state * 6364136223846793005u + 1442695040888963407u;
        sum += (double)(*state >> 40) / 16777216.0 - 0.5;
    }
    return (float)(sum * 1.7);
}

static void fill(float *values, size_t count, uint64_t seed)
{
    for (size_t i = 0; i < count; i++)
        values[i] = draw(&seed);
}

static int make_values(void **state)
{
    (void)state;
    fill(&q[0][0][0][0][0], sizeof(q) / sizeof(float), 1);
    fill(&k[0][0][0][0][0], sizeof(k) / sizeof(float), 2);
    fill(&before[0][0][0][0], sizeof(before) / sizeof(float), 3);
    fill(&after[0][0][0][0], sizeof(after) / sizeof(float), 4);
    /* Later layers look for some of what the layers before them look for. */
    for (int p = 0; p < PROMPTS; p++)
        for (int layer = 1; layer < LAYERS; layer++)
            for (uint32_t i = 0; i < MOST_TOKENS; i++)
                for (int d = 0; d < DIM; d++)
                    for (int g = 0; g < KV_HEADS; g++)
                        k[p][layer][i][g][d] += k[p][layer - 1][i][KV_HEADS - 1 - g][d];
    null_install();
    return 0;
}

/* ---- The plain computation -------------------------------------------------------------------------------------- */

typedef struct expected_values {
    double similarity[PAIRS], importance[LAYERS], coverage[LAYERS * KV_HEADS];
} expected_values;

/* Pooled weights of a tile: candidates' own entries of `scores`, those of the tile's own keys summed. */
static double pool(int p, int layer, int g, uint32_t start, uint32_t tokens, double *scores)
{
    double own = 0, weights[MOST_TOKENS];
    memset(scores, 0, MOST_TOKENS * sizeof(*scores));
    for (uint32_t i = start; i < start + TILE && i < tokens; i++) {
        for (int r = 0; r < GROUP; r++) {
            double sum = 0;
            for (uint32_t j = 0; j <= i; j++) {
                double logit = 0;
                for (int d = 0; d < DIM; d++)
                    logit += (double)q[p][layer][i][g * GROUP + r][d] * k[p][layer][j][g][d];
                weights[j] = exp(logit / 4);
                sum += weights[j];
            }
            for (uint32_t j = 0; j <= i; j++) {
                scores[j] += j < start ? weights[j] / sum : 0;
                own += j < start ? 0 : weights[j] / sum;
            }
        }
    }
    return own;
}

static void choose(const double *scores, uint32_t candidates, bool *listed)
{
    memset(listed, 0, MOST_TOKENS * sizeof(*listed));
    for (uint32_t n = 0; n < KEYS && n < candidates; n++) {
        uint32_t best = MOST_TOKENS;
        for (uint32_t j = 0; j < candidates; j++)
            if (!listed[j] && (best == MOST_TOKENS || scores[j] > scores[best]))
                best = j;
        listed[best] = true;
    }
}

static double sum_listed(const double *scores, const bool *listed)
{
    double sum = 0;
    for (uint32_t j = 0; j < MOST_TOKENS; j++)
        sum += listed[j] ? scores[j] : 0;
    return sum;
}

static size_t pair_at(int a, int b, int y, int x)
{
    return (((size_t)a * LAYERS + b) * KV_HEADS + y) * KV_HEADS + x;
}

static void expect_tile(int p, uint32_t start, uint32_t tokens, double *sums, double *least, expected_values *found,
                        uint32_t *covered)
{
    static double scores[LAYERS][KV_HEADS][MOST_TOKENS];
    static bool listed[LAYERS][KV_HEADS][MOST_TOKENS];
    double own[LAYERS][KV_HEADS];
    for (int layer = 0; layer < LAYERS; layer++)
        for (int g = 0; g < KV_HEADS; g++) {
            own[layer][g] = pool(p, layer, g, start, tokens, scores[layer][g]);
            choose(scores[layer][g], start, listed[layer][g]);
        }
    const double total = GROUP * (double)(tokens - start < TILE ? tokens - start : TILE);
    *covered += start > KEYS;
    for (int b = 0; b < LAYERS; b++)
        for (int y = 0; y < KV_HEADS; y++) {
            const double kept = sum_listed(scores[b][y], listed[b][y]) + own[b][y];
            if (start > KEYS)
                found->coverage[b * KV_HEADS + y] += kept / total;
            for (int a = 0; a <= b; a++)
                for (int x = 0; x < KV_HEADS; x++) {
                    const double ratio = (sum_listed(scores[b][y], listed[a][x]) + own[b][y]) / kept;
                    const size_t at = pair_at(a, b, y, x);
                    sums[at] += ratio;
                    least[at] = ratio < least[at] ? ratio : least[at];
                }
        }
}

static double turned(const float *a, const float *b)
{
    double ab = 0, aa = 0, bb = 0;
    for (int d = 0; d < HIDDEN; d++) {
        ab += (double)a[d] * b[d];
        aa += (double)a[d] * a[d];
        bb += (double)b[d] * b[d];
    }
    return 1 - ab / sqrt(aa * bb);
}

static void expect_all(kas_reduce reduce, expected_values *found)
{
    uint32_t covered = 0;
    memset(found, 0, sizeof(*found));
    for (int p = 0; p < PROMPTS; p++) {
        const uint32_t tokens = prompt_tokens[p], tiles = (tokens + TILE - 1) / TILE;
        double sums[PAIRS] = {0}, least[PAIRS];
        for (int i = 0; i < PAIRS; i++)
            least[i] = INFINITY;
        for (uint32_t u = 0; u < tiles; u++)
            expect_tile(p, u * TILE, tokens, sums, least, found, &covered);
        for (int a = 0; a < LAYERS; a++)
            for (int b = a; b < LAYERS; b++)
                for (size_t i = pair_at(a, b, 0, 0); i < pair_at(a, b, 0, 0) + KV_HEADS * KV_HEADS; i++)
                    found->similarity[i] += (reduce == KAS_REDUCE_MEAN ? sums[i] / tiles : least[i]) / PROMPTS;
        for (int layer = 0; layer < LAYERS; layer++)
            for (uint32_t i = 0; i < tokens; i++)
                found->importance[layer] += turned(before[p][layer][i], after[p][layer][i]) / tokens / PROMPTS;
    }
    for (int i = 0; i < LAYERS * KV_HEADS; i++)
        found->coverage[i] /= covered;
}

/* ---- Feeding ---------------------------------------------------------------------------------------------------- */

typedef struct device {
    kas_context *context;
    kas_stream *stream;
    kas_buffer *q, *k, *before, *after;
} device;

static kas_calibrator_desc describe(kas_reduce reduce)
{
    return (kas_calibrator_desc){.struct_size = sizeof(kas_calibrator_desc),
                                 .layers = LAYERS,
                                 .heads = HEADS,
                                 .kv_heads = KV_HEADS,
                                 .head_dim = DIM,
                                 .hidden = HIDDEN,
                                 .max_tokens = MOST_TOKENS,
                                 .dtype = KAS_DTYPE_F32,
                                 .tile = TILE,
                                 .list_keys = KEYS,
                                 .reduce = reduce};
}

static bool open_device(device *d, const char *name)
{
    const kas_context_desc desc = {.struct_size = sizeof(desc), .device = name};
    *d = (device){0};
    if (kas_context_create(&desc, &d->context) != KAS_OK)
        return false;
    CHECK(kas_stream_create(d->context, &d->stream));
    CHECK(kas_buffer_create(d->context, sizeof(q[0][0]), &d->q));
    CHECK(kas_buffer_create(d->context, sizeof(k[0][0]), &d->k));
    CHECK(kas_buffer_create(d->context, 2 * sizeof(before[0][0]), &d->before));
    CHECK(kas_buffer_create(d->context, 2 * sizeof(after[0][0]), &d->after));
    return true;
}

static void close_device(device *d)
{
    kas_buffer_destroy(d->q);
    kas_buffer_destroy(d->k);
    kas_buffer_destroy(d->before);
    kas_buffer_destroy(d->after);
    kas_stream_destroy(d->stream);
    kas_context_destroy(d->context);
}

static kas_calibration_layer layer_of(const device *d, uint32_t layer, uint32_t tokens)
{
    return (kas_calibration_layer){.struct_size = sizeof(kas_calibration_layer),
                                   .layer = layer,
                                   .tokens = tokens,
                                   .q = {.buffer = d->q},
                                   .k = {.buffer = d->k},
                                   .before = {.buffer = d->before},
                                   .after = {.buffer = d->after}};
}

/* `gap`: floats between the hidden states of two tokens. */
static void feed_prompt(const device *d, kas_calibrator *calibrator, int p, uint32_t gap)
{
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        kas_calibration_layer fed = layer_of(d, layer, prompt_tokens[p]);
        CHECK(kas_buffer_write(d->stream, d->q, 0, q[p][layer], sizeof(q[p][layer])));
        CHECK(kas_buffer_write(d->stream, d->k, 0, k[p][layer], sizeof(k[p][layer])));
        for (uint32_t i = 0; i < prompt_tokens[p]; i++) {
            const uint64_t at = (uint64_t)i * (HIDDEN + gap) * sizeof(float);
            CHECK(kas_buffer_write(d->stream, d->before, at, before[p][layer][i], HIDDEN * sizeof(float)));
            CHECK(kas_buffer_write(d->stream, d->after, at, after[p][layer][i], HIDDEN * sizeof(float)));
        }
        fed.before.stride[1] = fed.after.stride[1] = gap ? HIDDEN + gap : 0;
        CHECK(kas_calibrator_feed(calibrator, d->stream, &fed));
    }
}

static void assert_close(const char *what, const float *got, const double *expected, size_t count, double bound)
{
    for (size_t i = 0; i < count; i++)
        if (!(fabs(got[i] - expected[i]) <= bound))
            fail_msg("%s, entry %zu: %.7f, expected %.7f", what, i, got[i], expected[i]);
}

static void compare(const kas_calibration *found, kas_reduce reduce)
{
    expected_values expected;
    expect_all(reduce, &expected);
    assert_int_equal(found->layers, LAYERS);
    assert_int_equal(found->kv_heads, KV_HEADS);
    assert_int_equal(found->prompts, PROMPTS);
    for (int a = 0; a < LAYERS; a++) {
        const size_t at = pair_at(a, a, 0, 0);
        assert_close("similarity", found->similarity + at, expected.similarity + at,
                     (size_t)(LAYERS - a) * KV_HEADS * KV_HEADS, 2e-5);
        for (int x = 0; x < KV_HEADS; x++)
            assert_true(found->similarity[pair_at(a, a, x, x)] == 1.0f);
    }
    assert_close("importance", found->importance, expected.importance, LAYERS, 1e-6);
    assert_close("coverage", found->coverage, expected.coverage, LAYERS * KV_HEADS, 2e-5);
}

/* Feeds both prompts; the result is compared and, where wanted, kept. */
static void calibrate_on(const device *d, kas_reduce reduce, uint64_t scratch, uint32_t gap, float *similarity)
{
    kas_calibrator_desc desc = describe(reduce);
    kas_calibrator *calibrator;
    kas_calibration found = {.struct_size = sizeof(found)};
    desc.scratch_limit = scratch;
    CHECK(kas_calibrator_create(d->context, &desc, &calibrator));
    for (int p = 0; p < PROMPTS; p++)
        feed_prompt(d, calibrator, p, gap);
    CHECK(kas_calibrator_finish(calibrator, &found));
    compare(&found, reduce);
    if (similarity)
        memcpy(similarity, found.similarity, PAIRS * sizeof(float));
    kas_calibrator_destroy(calibrator);
}

static void agrees_with_a_plain_computation(void **state)
{
    (void)state;
    static const char *const names[] = {"cpu", "opencl", "vulkan", "cuda"};
    uint32_t devices = 0;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        device d;
        if (!open_device(&d, names[i])) {
            print_message("%s is left out: %s\n", names[i], kas_last_error());
            continue;
        }
        devices++;
        calibrate_on(&d, KAS_REDUCE_MIN, 0, 0, NULL);
        calibrate_on(&d, KAS_REDUCE_MEAN, 0, 3, NULL);
        close_device(&d);
    }
    assert_true(devices > 0);
}

/* The smallest scratch that is accepted cuts the work into many chunks and changes no bit. */
static void chunks_change_nothing(void **state)
{
    (void)state;
    device d;
    float whole[PAIRS], cut[PAIRS];
    kas_calibrator_desc desc = describe(KAS_REDUCE_MEAN);
    assert_true(open_device(&d, "null"));
    null_reset();
    calibrate_on(&d, KAS_REDUCE_MEAN, 0, 0, whole);
    const uint32_t launches = null_launch_count();
    uint64_t least = 1u << 20;
    for (kas_calibrator *made; desc.scratch_limit = least / 2, kas_calibrator_create(d.context, &desc, &made) == KAS_OK;
         least /= 2)
        kas_calibrator_destroy(made);
    assert_non_null(strstr(kas_last_error(), "scratch_limit"));
    null_reset();
    calibrate_on(&d, KAS_REDUCE_MEAN, least, 0, cut);
    assert_true(null_launch_count() > 2 * launches);
    assert_memory_equal(whole, cut, sizeof(whole));
    close_device(&d);
}

static void halves(void **state)
{
    (void)state;
    device d;
    kas_calibrator_desc desc = describe(KAS_REDUCE_MIN);
    kas_calibrator *calibrator;
    kas_calibration found = {.struct_size = sizeof(found)};
    uint16_t states[HIDDEN] = {0x3c00, 0, 0x4000}, other[HIDDEN] = {0x3c00, 0x3c00, 0x4000};
    assert_true(open_device(&d, "cpu"));
    desc.hidden_dtype = KAS_DTYPE_F16;
    desc.layers = 1;
    CHECK(kas_calibrator_create(d.context, &desc, &calibrator));
    CHECK(kas_buffer_write(d.stream, d.before, 0, states, sizeof(states)));
    CHECK(kas_buffer_write(d.stream, d.after, 0, other, sizeof(other)));
    kas_calibration_layer fed = layer_of(&d, 0, 1);
    CHECK(kas_calibrator_feed(calibrator, d.stream, &fed));
    CHECK(kas_calibrator_finish(calibrator, &found));
    assert_true(fabs(found.importance[0] - (1 - 5 / sqrt(30))) < 1e-6);
    assert_true(found.coverage[0] == 1.0f);
    kas_calibrator_destroy(calibrator);
    close_device(&d);
}

/* ---- What a caller can get wrong -------------------------------------------------------------------------------- */

static void descriptors(void **state)
{
    (void)state;
    device d;
    kas_calibrator *const poison = (kas_calibrator *)(uintptr_t)64, *made = poison;
    assert_true(open_device(&d, "null"));
    kas_calibrator_desc desc = describe(KAS_REDUCE_MIN);
#define WRONG(field, value, word)                                                                                      \
    do {                                                                                                               \
        kas_calibrator_desc wrong = desc;                                                                              \
        wrong.field = value;                                                                                           \
        REFUSED(KAS_ERROR_INVALID_ARGUMENT, kas_calibrator_create(d.context, &wrong, &made), word);                    \
    } while (0)
    WRONG(struct_size, 3, "struct_size");
    WRONG(layers, 0, "layers is 0");
    WRONG(layers, 5000, "4096");
    WRONG(heads, 3, "kv_heads");
    WRONG(heads, 0, "heads is 0");
    WRONG(head_dim, 257, "head_dim");
    WRONG(hidden, 0, "hidden is 0");
    WRONG(max_tokens, 0, "max_tokens");
    WRONG(dtype, KAS_DTYPE_DEFAULT, "dtype");
    WRONG(hidden_dtype, KAS_DTYPE_I8, "hidden_dtype");
    WRONG(tile, 24, "tile is 24");
    WRONG(reduce, (kas_reduce)2, "reduce is 2");
    REFUSED(KAS_ERROR_INVALID_ARGUMENT, kas_calibrator_create(NULL, &desc, &made), "NULL");
    REFUSED(KAS_ERROR_INVALID_ARGUMENT, kas_calibrator_create(d.context, NULL, &made), "desc");
    REFUSED(KAS_ERROR_INVALID_ARGUMENT, kas_calibrator_create(d.context, &desc, NULL), "NULL");
    assert_ptr_equal(made, poison);
    close_device(&d);
}

static void fed_wrongly(void **state)
{
    (void)state;
    device d, other;
    kas_calibrator *calibrator;
    kas_calibration found = {.struct_size = sizeof(found)};
    const kas_calibrator_desc desc = describe(KAS_REDUCE_MIN);
    assert_true(open_device(&d, "null"));
    assert_true(open_device(&other, "null"));
    CHECK(kas_calibrator_create(d.context, &desc, &calibrator));
    REFUSED(KAS_ERROR_STATE, kas_calibrator_finish(calibrator, &found), "no prompt");
    REFUSED(KAS_ERROR_INVALID_ARGUMENT, kas_calibrator_finish(calibrator, NULL), "NULL");

    kas_calibration_layer fed = layer_of(&d, 1, 40);
    REFUSED(KAS_ERROR_STATE, kas_calibrator_feed(calibrator, d.stream, &fed), "layer 0 of prompt 0 is next");
    fed.layer = LAYERS;
    REFUSED(KAS_ERROR_INVALID_ARGUMENT, kas_calibrator_feed(calibrator, d.stream, &fed), "layer is 3");
    fed = layer_of(&d, 0, 0);
    REFUSED(KAS_ERROR_INVALID_ARGUMENT, kas_calibrator_feed(calibrator, d.stream, &fed), "tokens is 0");
    fed.tokens = MOST_TOKENS + 1;
    REFUSED(KAS_ERROR_INVALID_ARGUMENT, kas_calibrator_feed(calibrator, d.stream, &fed), "max_tokens, 170");
    fed.tokens = 40;
    fed.q.buffer = NULL;
    REFUSED(KAS_ERROR_INVALID_ARGUMENT, kas_calibrator_feed(calibrator, d.stream, &fed), "q has no buffer");
    fed = layer_of(&d, 0, 40);
    fed.after.buffer = other.after;
    REFUSED(KAS_ERROR_INVALID_ARGUMENT, kas_calibrator_feed(calibrator, d.stream, &fed), "after belongs");
    fed = layer_of(&d, 0, 40);
    fed.before.offset = 2 * sizeof(before[0][0]) - 64;
    REFUSED(KAS_ERROR_INVALID_ARGUMENT, kas_calibrator_feed(calibrator, d.stream, &fed), "before");
    fed.before.offset = 2;
    REFUSED(KAS_ERROR_INVALID_ARGUMENT, kas_calibrator_feed(calibrator, d.stream, &fed), "before.offset");
    fed = layer_of(&d, 0, 40);
    fed.before.stride[1] = HIDDEN - 1;
    REFUSED(KAS_ERROR_INVALID_ARGUMENT, kas_calibrator_feed(calibrator, d.stream, &fed), "before.stride[1] is 11");
    fed = layer_of(&d, 0, 40);
    REFUSED(KAS_ERROR_INVALID_ARGUMENT, kas_calibrator_feed(calibrator, other.stream, &fed), "contexts");
    REFUSED(KAS_ERROR_INVALID_ARGUMENT, kas_calibrator_feed(calibrator, d.stream, NULL), "layer");
    REFUSED(KAS_ERROR_INVALID_ARGUMENT, kas_calibrator_feed(NULL, d.stream, &fed), "NULL");

    CHECK(kas_calibrator_feed(calibrator, d.stream, &fed));
    REFUSED(KAS_ERROR_STATE, kas_calibrator_finish(calibrator, &found), "prompt 0 ends before layer 1");
    REFUSED(KAS_ERROR_STATE, kas_calibrator_feed(calibrator, d.stream, &fed), "layer 1 of prompt 0 is next");
    fed.layer = 1;
    fed.tokens = 41;
    REFUSED(KAS_ERROR_INVALID_ARGUMENT, kas_calibrator_feed(calibrator, d.stream, &fed), "but 40 in the layers before");
    /* What was refused has changed nothing. */
    fed.tokens = 40;
    CHECK(kas_calibrator_feed(calibrator, d.stream, &fed));
    fed.layer = 2;
    CHECK(kas_calibrator_feed(calibrator, d.stream, &fed));
    CHECK(kas_calibrator_finish(calibrator, &found));
    kas_calibrator_destroy(calibrator);
    kas_calibrator_destroy(NULL);
    close_device(&d);
    close_device(&other);
}

static void failing_devices(void **state)
{
    (void)state;
    static const null_call kinds[] = {NULL_LAUNCH, NULL_COPY, NULL_BUFFER};
    const kas_calibrator_desc desc = describe(KAS_REDUCE_MIN);
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        device d;
        kas_calibrator *calibrator;
        kas_calibration found = {.struct_size = sizeof(found)};
        null_reset();
        const uint32_t alive = null_alive();
        assert_true(open_device(&d, "null"));
        CHECK(kas_calibrator_create(d.context, &desc, &calibrator));
        kas_calibration_layer fed = layer_of(&d, 0, 40);
        null_fail(kinds[i], 1, 1, KAS_ERROR_DRIVER);
        assert_int_equal(kas_calibrator_feed(calibrator, d.stream, &fed), KAS_ERROR_DRIVER);
        REFUSED(KAS_ERROR_STATE, kas_calibrator_feed(calibrator, d.stream, &fed), "earlier layer failed");
        REFUSED(KAS_ERROR_STATE, kas_calibrator_finish(calibrator, &found), "earlier layer failed");
        kas_calibrator_destroy(calibrator);
        close_device(&d);
        assert_int_equal(null_alive(), alive);
    }
    /* Each thing that creating makes, in turn. */
    for (uint32_t nth = 1;; nth++) {
        device d;
        kas_calibrator *made = NULL;
        null_reset();
        assert_true(open_device(&d, "null"));
        const uint32_t alive = null_alive();
        null_fail(NULL_BUFFER, nth, 1, KAS_ERROR_OUT_OF_DEVICE_MEMORY);
        kas_status status = kas_calibrator_create(d.context, &desc, &made);
        if (status != KAS_OK)
            assert_int_equal(null_alive(), alive);
        kas_calibrator_destroy(made);
        close_device(&d);
        if (status == KAS_OK) {
            assert_true(nth > LAYERS);
            break;
        }
    }
    null_reset();
}

/* ---- Plans ------------------------------------------------------------------------------------------------------ */

static void plans(void **state)
{
    (void)state;
    enum { N = 4 };
    float similarity[N][N][1][1], importance[N] = {1, 1, 1, 1};
    const float values[N][N] = {{1, .9f, .2f, .1f}, {0, 1, .3f, .2f}, {0, 0, 1, .8f}, {0, 0, 0, 1}};
    for (int a = 0; a < N; a++)
        for (int b = 0; b < N; b++)
            similarity[a][b][0][0] = values[a][b];
    kas_calibration calibration = {.struct_size = sizeof(calibration), .layers = N, .kv_heads = 1,
                                   .similarity = &similarity[0][0][0][0], .importance = importance};
    kas_plan_desc wish = {.struct_size = sizeof(wish), .layers = N, .heads = 2, .kv_heads = 1, .anchor_count = 2};
    kas_plan_desc made = {.struct_size = sizeof(made)};
    kas_plan *plan;
    double objective, layers[N * N];
    CHECK(kas_calibration_layers(&calibration, layers));
    assert_true(layers[1] == (double).9f && layers[N] == 0);
    CHECK(kas_calibration_plan(&calibration, &wish, &plan, &objective));
    CHECK(kas_plan_get_desc(plan, &made));
    assert_int_equal(made.anchor_count, 2);
    assert_int_equal(made.anchors[1], 2);
    assert_true(fabs(objective - 3.7) < 1e-6);
    assert_non_null(made.normalizer_map);
    kas_plan_destroy(plan);

    wish.anchors = (const uint32_t[]){0, 3};
    CHECK(kas_calibration_plan(&calibration, &wish, &plan, &objective));
    assert_true(fabs(objective - 3.1) < 1e-6);
    kas_plan_destroy(plan);

    /* A dense layer is no anchor, and nobody's similarity to it counts. */
    wish.anchors = NULL;
    wish.dense_layers = (const uint32_t[]){2};
    wish.dense_layer_count = 1;
    CHECK(kas_calibration_plan(&calibration, &wish, &plan, &objective));
    CHECK(kas_plan_get_desc(plan, &made));
    assert_int_equal(made.anchors[1], 3);
    assert_true(fabs(objective - 2.9) < 1e-6);
    kas_plan_destroy(plan);
    plan = NULL;
    wish.anchor_count = 4;
    REFUSED(KAS_ERROR_INVALID_ARGUMENT, kas_calibration_plan(&calibration, &wish, &plan, NULL), "do not fit");
    wish.anchor_count = 5;
    REFUSED(KAS_ERROR_INVALID_ARGUMENT, kas_calibration_plan(&calibration, &wish, &plan, NULL), "anchor_count is 5");
    wish.anchor_count = 2;
    wish.kv_heads = 2;
    REFUSED(KAS_ERROR_INVALID_ARGUMENT, kas_calibration_plan(&calibration, &wish, &plan, NULL), "kv_heads");
    wish.kv_heads = 1;
    wish.anchors = (const uint32_t[]){0, 9};
    REFUSED(KAS_ERROR_INVALID_ARGUMENT, kas_calibration_plan(&calibration, &wish, &plan, NULL), "anchors[1] is 9");
    wish.anchors = NULL;
    importance[3] = NAN;
    REFUSED(KAS_ERROR_INVALID_ARGUMENT, kas_calibration_plan(&calibration, &wish, &plan, NULL), "finite");
    calibration.importance = NULL;
    REFUSED(KAS_ERROR_INVALID_ARGUMENT, kas_calibration_plan(&calibration, &wish, &plan, NULL), "importance");
    REFUSED(KAS_ERROR_INVALID_ARGUMENT, kas_calibration_layers(NULL, layers), "calibration");
    assert_null(plan);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_a_plain_computation),
        cmocka_unit_test(chunks_change_nothing),
        cmocka_unit_test(halves),
        cmocka_unit_test(descriptors),
        cmocka_unit_test(fed_wrongly),
        cmocka_unit_test(failing_devices),
        cmocka_unit_test(plans),
    };
    return cmocka_run_group_tests(tests, make_values, NULL);
}
