/*
 * test_model.c - the model host's float forward pass on models/pico-qwen3 against the logits that a reference
 * implementation computed for the same tokens (golden_tokens.npy, golden_logits.npy beside the weights).
 */
#include "lm/sequence.h"
#include "npy.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define MODEL KASCADE_SOURCE_DIR "/models/pico-qwen3"
#define MAX_RELATIVE_ERROR 1e-4
#define DECODED 40 /* tokens at the end of the text that the decode test reads one by one */

typedef struct golden {
    uint32_t *tokens;
    uint32_t count, vocab;
    npy_array logits; /* float [count, vocab] */
    lm_model *model;
    kas_plan *plan;
    kas_context *context;
} golden;

static void assert_ok(kas_status status)
{
    if (status != KAS_OK)
        fail_msg("%s: %s | %s", kas_status_text(status), tool_error(), kas_last_error());
}

static int open_golden(void **state)
{
    golden *g = calloc(1, sizeof(*g));
    npy_array tokens = {0};
    assert_non_null(g);
    assert_ok(npy_open(MODEL "/golden_tokens.npy", &tokens));
    assert_ok(npy_open(MODEL "/golden_logits.npy", &g->logits));
    assert_true(tokens.dtype == NPY_U2 && tokens.dims == 1 && tokens.count > DECODED);
    assert_true(g->logits.dtype == NPY_F4 && g->logits.dims == 2 && g->logits.shape[0] == tokens.count);
    g->count = (uint32_t)tokens.count;
    g->vocab = (uint32_t)g->logits.shape[1];
    g->tokens = malloc(g->count * sizeof(*g->tokens));
    assert_non_null(g->tokens);
    for (uint32_t i = 0; i < g->count; i++)
        g->tokens[i] = ((const uint16_t *)tokens.data)[i];
    npy_close(&tokens);
    lm_set_threads(1);
    assert_ok(lm_model_load(MODEL, &g->model));
    assert_int_equal(g->model->config.vocab, g->vocab);
    assert_ok(kas_plan_load(KASCADE_SOURCE_DIR "/plans/pico-qwen3.json", &g->plan));
    const kas_context_desc desc = {.struct_size = sizeof(desc), .device = "cpu"};
    assert_ok(kas_context_create(&desc, &g->context));
    *state = g;
    return 0;
}

static int close_golden(void **state)
{
    golden *g = *state;
    kas_context_destroy(g->context);
    kas_plan_destroy(g->plan);
    lm_model_destroy(g->model);
    npy_close(&g->logits);
    free(g->tokens);
    free(g);
    return 0;
}

static lm_sequence *open_sequence(const golden *g, lm_attention attention, kas_dtype dtype, uint32_t chunk)
{
    const lm_sequence_desc desc = {
        .model = g->model,
        .context = g->context,
        .plan = g->plan,
        .attention = attention,
        .dtype = dtype,
        .max_tokens = g->count,
        .chunk = chunk,
    };
    lm_sequence *sequence = NULL;
    assert_ok(lm_sequence_create(&desc, &sequence));
    return sequence;
}

/* Compares rows with the golden ones as they come; the relative error is taken at the end, over all of them. */
typedef struct comparison {
    const golden *g;
    uint32_t rows;
    double worst, largest; /* |difference| and |golden| */
} comparison;

static void compare_rows(void *user, uint32_t first, uint32_t rows, const float *logits)
{
    comparison *c = user;
    const float *expected = (const float *)c->g->logits.data + (size_t)first * c->g->vocab;
    for (size_t i = 0; i < (size_t)rows * c->g->vocab; i++) {
        double difference = fabs((double)logits[i] - expected[i]);
        /* A NaN difference is the worst there is, and stays. */
        if (!(difference <= c->worst))
            c->worst = isnan(difference) ? INFINITY : difference;
        c->largest = fmax(c->largest, fabs(expected[i]));
    }
    c->rows += rows;
}

static void assert_agrees(const comparison *c, uint32_t rows, double bound)
{
    assert_int_equal(c->rows, rows);
    assert_true(c->largest > 1);
    print_message("%u rows, relative error %.2g\n", c->rows, c->worst / c->largest);
    if (!(c->worst <= bound * c->largest))
        fail_msg("the logits differ by %g, the largest is %g", c->worst, c->largest);
}

static void prefill_agrees(void **state)
{
    const golden *g = *state;
    comparison c = {.g = g};
    lm_sequence *sequence = open_sequence(g, LM_ATTENTION_DENSE, KAS_DTYPE_F32, g->count);
    assert_ok(lm_sequence_prefill(sequence, g->tokens, g->count, compare_rows, &c));
    lm_sequence_destroy(sequence);
    assert_agrees(&c, g->count, MAX_RELATIVE_ERROR);
}

/* Chunks, calls that end within a chunk, a text cut short and read again: the same logits at every position. */
static void chunks_agree(void **state)
{
    const golden *g = *state;
    comparison c = {.g = g};
    lm_sequence *sequence = open_sequence(g, LM_ATTENTION_DENSE, KAS_DTYPE_F32, 256);
    assert_ok(lm_sequence_prefill(sequence, g->tokens, 301, compare_rows, &c));
    lm_sequence_truncate(sequence, 123);
    assert_ok(lm_sequence_prefill(sequence, g->tokens + 123, 1, compare_rows, &c));
    assert_ok(lm_sequence_prefill(sequence, g->tokens + 124, 400, compare_rows, &c));
    lm_sequence_destroy(sequence);
    assert_agrees(&c, 301 + 1 + 400, MAX_RELATIVE_ERROR);
}

static void decode_agrees(void **state)
{
    const golden *g = *state;
    comparison c = {.g = g};
    float *logits = malloc(g->vocab * sizeof(*logits));
    assert_non_null(logits);
    lm_sequence *sequence = open_sequence(g, LM_ATTENTION_DENSE, KAS_DTYPE_F32, 256);
    assert_ok(lm_sequence_prefill(sequence, g->tokens, g->count - DECODED, NULL, NULL));
    for (uint32_t i = g->count - DECODED; i < g->count; i++) {
        assert_ok(lm_sequence_decode(sequence, g->tokens[i], logits));
        compare_rows(&c, i, 1, logits);
    }
    assert_int_equal(lm_sequence_decode(sequence, g->tokens[0], logits), KAS_ERROR_LIMIT);
    lm_sequence_destroy(sequence);
    free(logits);
    assert_agrees(&c, DECODED, MAX_RELATIVE_ERROR);
}

/* As far as the k rule keeps every key, the plan's sparse layers compute dense attention: 128 candidates and a tile. */
static void plan_agrees_where_it_keeps_everything(void **state)
{
    const golden *g = *state;
    const uint32_t tokens = 160;
    comparison c = {.g = g};
    kas_plan_desc plan = {.struct_size = sizeof(plan)};
    assert_ok(kas_plan_get_desc(g->plan, &plan));
    assert_int_equal(plan.topk.min + plan.tile, tokens);
    lm_sequence *sequence = open_sequence(g, LM_ATTENTION_PLAN, KAS_DTYPE_F32, 128);
    assert_ok(lm_sequence_prefill(sequence, g->tokens, tokens, compare_rows, &c));
    lm_sequence_destroy(sequence);
    assert_agrees(&c, tokens, MAX_RELATIVE_ERROR);
}

/* The test can fail: past that point the plan's logits are not the dense ones. */
static void plan_differs_where_it_drops_keys(void **state)
{
    const golden *g = *state;
    comparison c = {.g = g};
    lm_sequence *sequence = open_sequence(g, LM_ATTENTION_PLAN, KAS_DTYPE_F32, 256);
    assert_ok(lm_sequence_prefill(sequence, g->tokens, g->count, compare_rows, &c));
    lm_sequence_destroy(sequence);
    assert_int_equal(c.rows, g->count);
    assert_true(isfinite(c.worst) && c.worst > 10 * MAX_RELATIVE_ERROR * c.largest);
}

static void rejects_what_it_cannot_read(void **state)
{
    const golden *g = *state;
    const uint32_t past[] = {1, g->vocab};
    lm_sequence *sequence = open_sequence(g, LM_ATTENTION_DENSE, KAS_DTYPE_F32, 128);
    assert_int_equal(lm_sequence_prefill(sequence, past, 2, NULL, NULL), KAS_ERROR_INVALID_ARGUMENT);
    assert_non_null(strstr(tool_error(), "token 1 is"));
    assert_int_equal(lm_sequence_prefill(sequence, g->tokens, g->count + 1, NULL, NULL), KAS_ERROR_LIMIT);
    assert_int_equal(lm_sequence_decode(sequence, UINT32_MAX, NULL), KAS_ERROR_INVALID_ARGUMENT);
    lm_sequence_destroy(sequence);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prefill_agrees),
        cmocka_unit_test(chunks_agree),
        cmocka_unit_test(decode_agrees),
        cmocka_unit_test(plan_agrees_where_it_keeps_everything),
        cmocka_unit_test(plan_differs_where_it_drops_keys),
        cmocka_unit_test(rejects_what_it_cannot_read),
    };
    return cmocka_run_group_tests(tests, open_golden, close_golden);
}
