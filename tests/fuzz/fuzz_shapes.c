/*
 * fuzz_shapes.c - a conformance case of any shape, lengths, layout, rule and circumstances on the CPU device, with rows
 * of any instruction set: it agrees with the double-precision oracle, and nothing beside its outputs is written. A case
 * that fails is printed with all it was made of; the input replays it.
 */
#include "fuzz.h"

#include "expect.h"
#include "input.h"
#include "runner.h"

#include <string.h>

#define KEYED (1u << CASE_ATTEND | 1u << CASE_LSE | 1u << CASE_SCORES | 1u << CASE_LISTS | 1u << CASE_LAYERS)
#define ATTENTION (1u << CASE_ATTEND | 1u << CASE_LISTS | 1u << CASE_LAYERS)

static bool is_of(const conformance_case *c, uint32_t operations)
{
    return operations >> c->operation & 1u;
}

/* ---- Choices ----------------------------------------------------------------------------------------------------- */

static void choose_shape(conformance_case *c, fuzz_input *input)
{
    static const uint32_t dims[] = {1, 2, 7, 8, 16, 24, 37, 40, 64, 80, 96, 128, 256};
    c->operation = (case_operation)(input_byte(input) % (CASE_LAYERS + 1));
    c->phase = (kas_phase)(input_byte(input) % 2);
    c->dtype = (kas_dtype)(KAS_DTYPE_F32 + input_byte(input) % 3);
    c->kv_heads = 1 + input_byte(input) % 4;
    c->group = 1 + input_byte(input) % 5;
    c->head_dim = dims[input_byte(input) % (sizeof(dims) / sizeof(*dims))];
    c->tile = 16u << input_byte(input) % 4;
    c->page_size = input_byte(input) % 2 ? 1 + input_byte(input) % 40 : 0;
}

static void choose_rule(conformance_case *c, fuzz_input *input)
{
    static const double fractions[] = {0.1, 1e-9, 0.03, 0.25, 0.5, 0.999, 1.0};
    c->topk.fraction = fractions[input_byte(input) % (sizeof(fractions) / sizeof(*fractions))];
    c->topk.min = 1 + input_byte(input) % 64;
    c->topk.round = 1 + input_byte(input) % 32;
    c->topk.mode = (kas_topk_mode)(input_byte(input) % 2);
    c->pooling = (kas_pooling)(input_byte(input) % 2);
    if (c->operation == CASE_LAYERS)
        c->normalizer = (kas_normalizer)(input_byte(input) % 2);
    c->scale = input_byte(input) % 4 ? 0.0f : 0.05f;
}

/* Sequences unlike one another, some without queries, some without keys; the first one has both, and the most of them.
 */
static void choose_ragged(conformance_case *c, uint32_t most_queries, fuzz_input *input)
{
    for (uint32_t b = 0; b < c->batch; b++) {
        uint32_t queries = input_range(input, 0, most_queries), before = input_range(input, 0, 160);
        bool keyless = input_byte(input) % 8 == 0;
        c->q_len[b] = queries;
        c->kv_len[b] = keyless ? 0 : queries + before;
    }
    for (uint32_t b = 0; b < c->batch; b++)
        c->q_len[0] = c->q_len[b] > c->q_len[0] ? c->q_len[b] : c->q_len[0];
    c->q_len[0] = c->q_len[0] ? c->q_len[0] : 1;
    c->kv_len[0] = c->kv_len[0] > c->q_len[0] ? c->kv_len[0] : c->q_len[0];
}

static void choose_lengths(conformance_case *c, fuzz_input *input)
{
    uint32_t most_queries = c->phase == KAS_PHASE_DECODE ? KAS_MAX_DECODE_QUERIES : 50;
    c->batch = 1 + input_byte(input) % 4;
    c->traits |= input_byte(input) % 2 ? CASE_LENS : 0;
    if (c->traits & CASE_LENS) {
        choose_ragged(c, most_queries, input);
        return;
    }
    uint32_t queries = input_range(input, 1, most_queries), before = input_range(input, 0, 160);
    for (uint32_t b = 0; b < c->batch; b++) {
        c->q_len[b] = queries;
        c->kv_len[b] = queries + before;
    }
    if (c->operation == CASE_LAYERS && c->phase == KAS_PHASE_PREFILL && input_byte(input) % 2)
        c->chunk = input_range(input, 1, queries);
}

/* Where a trait is not chosen, or does not go with the rest of the case, it stays away. */
static void choose_traits(conformance_case *c, fuzz_input *input)
{
    static const struct {
        uint32_t trait, operations, without;
    } traits[] = {
        {CASE_PADDED, ~0u, 0},
        {CASE_HEAD_MAJOR, ~0u, CASE_PADDED},
        {CASE_MISALIGNED, ~0u, 0},
        {CASE_WITH_LSE, ATTENTION | 1u << CASE_LSE, 0},
        {CASE_OWN_MEMORY, ~0u, 0},
        {CASE_ROOM, ~0u, 0},
        {CASE_REPEAT, ~0u, 0},
        {CASE_TIGHT, 1u << CASE_LAYERS, 0},
        {CASE_MAPPED, 1u << CASE_LISTS, 0},
        {CASE_BAD_LISTS, 1u << CASE_LISTS, 0},
    };
    for (size_t i = 0; i < sizeof(traits) / sizeof(*traits); i++)
        if (input_byte(input) % 3 == 1 && is_of(c, traits[i].operations) && !(c->traits & traits[i].without))
            c->traits |= traits[i].trait;
    if (c->operation == CASE_SCORES && c->phase == KAS_PHASE_DECODE)
        c->traits |= CASE_ROOM; /* scores of a stride that the session has scratch for */
    bool whole = c->chunk == 0;
    if (input_byte(input) % 3 == 1 && whole && is_of(c, KEYED))
        c->traits |= CASE_STARTS;
    if (input_byte(input) % 3 == 1 && !c->page_size && is_of(c, ATTENTION | 1u << CASE_LSE))
        c->traits |= CASE_SEGMENTS;
    if (input_byte(input) % 3 == 1 && (c->traits & CASE_LENS) && is_of(c, ATTENTION))
        c->traits |= CASE_DEFAULT_KEYS;
    if (input_byte(input) % 3 == 1 && (c->traits & CASE_LENS) && c->topk.mode == KAS_TOPK_FIXED)
        c->traits |= CASE_FINAL_LENS;
}

/* Whether the first sequence's first page is read, whatever computes the case: pooled scores of a text that is no
   longer than its last tile have no candidates. */
static bool must_read(const conformance_case *c)
{
    uint32_t candidates = c->phase == KAS_PHASE_PREFILL ? (c->kv_len[0] - 1) / c->tile * c->tile
                          : c->q_len[0] == 1            ? c->kv_len[0]
                                                        : c->kv_len[0] - c->q_len[0];
    return c->operation != CASE_SCORES || candidates > 0;
}

/* Of the sequences after the first, one becomes a hole that device data of the wrong kind can be put into. */
static void choose_faults(conformance_case *c, fuzz_input *input)
{
    uint32_t fault = input_byte(input) % 4, hole = 1 + input_byte(input) % 3;
    if (fault == 1 && c->page_size && is_of(c, KEYED & ~(1u << CASE_LISTS)) && must_read(c))
        c->traits |= CASE_BAD_PAGES;
    if (fault < 2 || hole >= c->batch || !(c->traits & CASE_LENS))
        return;
    if (fault == 3 && !(c->traits & CASE_STARTS))
        return;
    for (uint32_t b = 0; b < c->batch; b++)
        if (c->kv_len[b] == 0 || b == hole)
            c->q_len[b] = c->kv_len[b] = 0;
    c->traits |= fault == 2 ? CASE_BAD_LENGTHS : CASE_BAD_STARTS;
}

static void choose_values(conformance_case *c, fuzz_input *input)
{
    uint32_t values = input_byte(input) % 8, nan = input_byte(input) % 8;
    if (values == 1 || values == 2)
        c->values = values == 1 ? CASE_COARSE : CASE_EQUAL;
    if (values == 3 && is_of(c, 1u << CASE_ATTEND | 1u << CASE_LISTS | 1u << CASE_LSE))
        c->values = CASE_PEAKED;
    if (values == 4 && c->operation == CASE_SELECT)
        c->values = CASE_SPECIAL;
    if (c->traits & CASE_BAD_PAGES)
        return;
    if ((nan == CASE_NAN_Q || nan == CASE_NAN_K) && is_of(c, KEYED))
        c->nan = (case_nan)nan;
    if (nan == CASE_NAN_V && is_of(c, ATTENTION))
        c->nan = CASE_NAN_V;
}

/* ---- Running ----------------------------------------------------------------------------------------------------- */

/* A context for each kind of rows that this processor has, the best first. */
static kas_context *context_of(uint32_t choice)
{
    static const char *const names[] = {NULL, "generic", "avx2", "avx512", "avx512-bf16", "neon"};
    static kas_context *contexts[sizeof(names) / sizeof(*names)];
    uint32_t which = choice % (sizeof(names) / sizeof(*names));
    kas_context_desc desc = {.struct_size = sizeof(desc), .device = "cpu", .threads = 2, .variant = names[which]};
    if (!contexts[which] && kas_context_create(&desc, &contexts[which]) != KAS_OK)
        which = 0;
    if (!contexts[0])
        desc.variant = NULL;
    if (!contexts[which])
        FUZZ_CHECK(kas_context_create(&desc, &contexts[which]) == KAS_OK);
    return contexts[which];
}

static void ignore_row(void *user, const char *operation, const char *variant)
{
    (void)user, (void)operation, (void)variant;
}

static void print_case(const conformance_case *c, const conformance_result *result)
{
    fprintf(stderr, "%s\n", result->message);
    fprintf(stderr, "operation %d, phase %d, dtype %d, kv_heads %u, group %u, head_dim %u, tile %u, page_size %u\n",
            c->operation, c->phase, c->dtype, c->kv_heads, c->group, c->head_dim, c->tile, c->page_size);
    fprintf(stderr, "topk {%g, %u, %u, %d}, pooling %d, normalizer %d, scale %g, chunk %u\n", c->topk.fraction,
            c->topk.min, c->topk.round, c->topk.mode, c->pooling, c->normalizer, (double)c->scale, c->chunk);
    for (uint32_t b = 0; b < c->batch; b++)
        fprintf(stderr, "sequence %u: %u queries, %u keys\n", b, c->q_len[b], c->kv_len[b]);
    fprintf(stderr, "traits 0x%x, values %d, nan %d, seed %llu\n", c->traits, c->values, c->nan,
            (unsigned long long)c->seed);
}

static void run_case(const conformance_case *c, kas_context *context)
{
    case_data *data = data_make(c);
    expect_cache *expected = expect_make(data);
    uint64_t digest = 0;
    for (int turn = 0; turn < (c->traits & CASE_REPEAT ? 2 : 1); turn++) {
        conformance_result result = {0};
        runner_run(context, data, expected, ignore_row, NULL, &result);
        if (turn == 1 && result.digest != digest)
            result_fail(&result, "a second run gave other bits");
        if (result.verdict != CONFORMANCE_PASSED)
            print_case(c, &result);
        FUZZ_CHECK(result.verdict == CONFORMANCE_PASSED);
        digest = result.digest;
    }
    expect_free(expected);
    data_free(data);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input input = {data, size};
    conformance_case c = {.name = "fuzz"};
    uint32_t rows = input_byte(&input);
    choose_shape(&c, &input);
    choose_rule(&c, &input);
    choose_lengths(&c, &input);
    choose_traits(&c, &input);
    choose_faults(&c, &input);
    choose_values(&c, &input);
    c.seed = input_number(&input, 8);
    run_case(&c, context_of(rows));
    return 0;
}
