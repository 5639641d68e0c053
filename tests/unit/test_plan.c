/*
 * test_plan.c - anchor plans: every rule, the file format on good and hostile text, exhausted memory, and the search
 * for anchors against brute force.
 */
#define _DEFAULT_SOURCE
#include "core/plan.h"
#include "core/plan_search.h"
#include "core/platform.h"
#include "scratch.h"

#include <locale.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/stat.h>
#include <cmocka.h>

/* ---- A valid plan to change ------------------------------------------------------------------------------------ */

#define LAYERS 8
#define KV_HEADS 4

typedef struct fixture {
    uint32_t anchors[3];
    uint32_t head_map[LAYERS * KV_HEADS];
    uint32_t normalizer_map[2 * KV_HEADS];
    uint32_t dense_layers[2];
    kas_plan_desc desc;
} fixture;

/* Anchors 0, 3, 5; layers 2 and 7 dense; layer 1 reads rows 0 and 2, the normaliser of anchor 3 row 3. */
static void fixture_make(fixture *f)
{
    static const uint32_t anchors[] = {0, 3, 5};
    static const uint32_t normalizer_map[] = {3, 3, 3, 3, 0, 1, 2, 3};
    static const uint32_t head_map[LAYERS][KV_HEADS] = {{0, 1, 2, 3}, {0, 2, 0, 0}, {1, 1, 1, 1}, {0, 1, 2, 3},
                                                        {3, 2, 1, 0}, {0, 1, 2, 3}, {2, 2, 2, 3}, {0, 0, 0, 0}};
    memset(f, 0, sizeof(*f));
    memcpy(f->anchors, anchors, sizeof(anchors));
    memcpy(f->head_map, head_map, sizeof(head_map));
    memcpy(f->normalizer_map, normalizer_map, sizeof(normalizer_map));
    f->dense_layers[0] = 2;
    f->dense_layers[1] = 7;
    f->desc = (kas_plan_desc){.struct_size = sizeof(f->desc),
                              .model = "m \"quoted\" \\ \t \xc3\xa9",
                              .source = "s",
                              .layers = LAYERS,
                              .heads = 8,
                              .kv_heads = KV_HEADS,
                              .tile = 64,
                              .topk = {.fraction = 0.1, .min = 32, .round = 16, .mode = KAS_TOPK_FIXED},
                              .pooling = KAS_POOLING_GROUP,
                              .normalizer = KAS_NORMALIZER_ESTIMATED,
                              .anchors = f->anchors,
                              .anchor_count = 3,
                              .head_map = f->head_map,
                              .normalizer_map = f->normalizer_map,
                              .dense_layers = f->dense_layers,
                              .dense_layer_count = 2};
}

static kas_plan *make(const kas_plan_desc *desc)
{
    kas_plan *plan = NULL;
    if (kas_plan_create(desc, &plan) != KAS_OK)
        fail_msg("%s", kas_last_error());
    return plan;
}

static void assert_same_plan(const kas_plan *a, const kas_plan *b)
{
    const size_t row = a->kv_heads * sizeof(uint32_t);
    assert_string_equal(a->model, b->model);
    assert_string_equal(a->source, b->source);
    assert_int_equal(a->layers, b->layers);
    assert_int_equal(a->heads, b->heads);
    assert_int_equal(a->kv_heads, b->kv_heads);
    assert_int_equal(a->tile, b->tile);
    assert_true(a->topk.fraction == b->topk.fraction);
    assert_int_equal(a->topk.min, b->topk.min);
    assert_int_equal(a->topk.round, b->topk.round);
    assert_int_equal(a->topk.mode, b->topk.mode);
    assert_int_equal(a->pooling, b->pooling);
    assert_int_equal(a->normalizer, b->normalizer);
    assert_int_equal(a->anchor_count, b->anchor_count);
    assert_memory_equal(a->anchors, b->anchors, a->anchor_count * sizeof(uint32_t));
    assert_int_equal(a->dense_layer_count, b->dense_layer_count);
    assert_memory_equal(a->dense_layers, b->dense_layers, a->dense_layer_count * sizeof(uint32_t));
    assert_memory_equal(a->head_map, b->head_map, a->layers * row);
    assert_int_equal(a->normalizer_map != NULL, b->normalizer_map != NULL);
    if (a->normalizer_map)
        assert_memory_equal(a->normalizer_map, b->normalizer_map, (a->anchor_count - 1) * row);
    assert_memory_equal(a->roles, b->roles, a->layers);
    assert_memory_equal(a->first_rows_read, b->first_rows_read, a->kv_heads);
}

/* ---- Rules ----------------------------------------------------------------------------------------------------- */

static void assert_sentence(const char *part, int line)
{
    if (!strstr(kas_last_error(), part))
        fail_msg("line %d: \"%s\" expected in \"%s\"", line, part, kas_last_error());
}

static void assert_rejected(const kas_plan_desc *desc, const char *sentence, int line)
{
    kas_plan *const untouched = (kas_plan *)(void *)&line;
    kas_plan *plan = untouched;
    if (kas_plan_create(desc, &plan) != KAS_ERROR_INVALID_ARGUMENT)
        fail_msg("line %d: not rejected", line);
    assert_ptr_equal(plan, untouched);
    assert_sentence(sentence, line);
}

/* `change` breaks one rule of the fixture `f`. */
#define REJECTS(change, sentence)                                                                                      \
    do {                                                                                                               \
        fixture f;                                                                                                     \
        fixture_make(&f);                                                                                              \
        change;                                                                                                        \
        assert_rejected(&f.desc, sentence, __LINE__);                                                                  \
    } while (0)

static void rules_of_the_shape(void **state)
{
    (void)state;
    REJECTS(f.desc.struct_size = 0, "struct_size is 0");
    REJECTS(f.desc.struct_size += 1, "struct_size is ");
    REJECTS(f.desc.layers = 0, "layers is 0: it must be from 1 to 4096");
    REJECTS(f.desc.layers = 4097, "layers is 4097: it must be from 1 to 4096");
    REJECTS(f.desc.layers = UINT32_MAX, "layers is 4294967295");
    REJECTS(f.desc.heads = 0, "heads is 0: it must be from 1 to 1024");
    REJECTS(f.desc.heads = 1025, "heads is 1025: it must be from 1 to 1024");
    REJECTS(f.desc.kv_heads = 0, "kv_heads is 0: it must be from 1 to heads = 8");
    REJECTS(f.desc.kv_heads = 16, "kv_heads is 16: it must be from 1 to heads = 8");
    REJECTS(f.desc.kv_heads = 3, "heads is 8: it must be a multiple of kv_heads = 3");
    REJECTS((f.desc.layers = 4096, f.desc.heads = f.desc.kv_heads = 65),
            "layers * kv_heads is 266240: it must be at most 262144");
}

static void rules_of_texts(void **state)
{
    (void)state;
    static char long_text[KAS_PLAN_MAX_TEXT + 2];
    memset(long_text, 'a', KAS_PLAN_MAX_TEXT + 1);
    REJECTS(f.desc.model = long_text, "model is 4097 bytes long: it must be at most 4096");
    REJECTS(f.desc.source = long_text, "source is 4097 bytes long");
    REJECTS(f.desc.model = "ab\xff", "model must be UTF-8: its byte 2 is 0xff");
    REJECTS(f.desc.source = "\xc3", "source must be UTF-8: its byte 0 is 0xc3");
}

static void rules_of_the_lists(void **state)
{
    (void)state;
    REJECTS(f.desc.tile = 1, "tile is 1: it must be 16, 32, 64 or 128");
    REJECTS(f.desc.tile = 256, "tile is 256");
    REJECTS(f.desc.topk.fraction = -0.5, "topk.fraction is -0.5");
    REJECTS(f.desc.topk.fraction = NAN, "topk.fraction is ");
    REJECTS(f.desc.topk.fraction = INFINITY, "topk.fraction is inf");
    REJECTS(f.desc.topk.min = (1u << 30) + 1, "topk.min is 1073741825: it must be at most 1073741824");
    REJECTS(f.desc.topk.round = UINT32_MAX, "topk.round is 4294967295: it must be at most 1073741824");
    REJECTS(f.desc.topk.mode = (kas_topk_mode)2, "topk.mode is 2");
    REJECTS(f.desc.pooling = (kas_pooling)2, "pooling is 2");
    REJECTS(f.desc.normalizer = (kas_normalizer)7, "normalizer is 7");
}

static void rules_of_layers(void **state)
{
    (void)state;
    REJECTS(f.desc.anchors = NULL, "anchors is empty");
    REJECTS(f.desc.anchor_count = 0, "anchors is empty");
    REJECTS(f.desc.anchor_count = 9, "anchors has 9 entries: there are 8 layers");
    REJECTS(f.desc.anchor_count = UINT32_MAX, "anchors has 4294967295 entries");
    REJECTS(f.anchors[0] = 1, "anchors[0] is 1: the first anchor must be layer 0");
    REJECTS(f.anchors[2] = 3, "anchors[2] is 3: it must be above the anchor before it, 3");
    REJECTS(f.anchors[2] = 1, "anchors[2] is 1: it must be above");
    REJECTS(f.anchors[2] = 8, "anchors[2] is 8: it must be below layers = 8");
    REJECTS(f.anchors[1] = UINT32_MAX, "anchors[1] is 4294967295");
    REJECTS(f.desc.dense_layers = NULL, "dense_layers is NULL");
    REJECTS(f.desc.dense_layer_count = 9, "dense_layers has 9 entries: there are 8 layers");
    REJECTS(f.dense_layers[1] = 8, "dense_layers[1] is 8: it must be below layers = 8");
    REJECTS(f.dense_layers[1] = 2, "dense_layers[1] is 2: it must be above the one before it, 2");
    REJECTS(f.dense_layers[1] = 5, "dense_layers[1] is 5: this layer is an anchor");
    REJECTS(f.dense_layers[0] = 0, "dense_layers[0] is 0: this layer is an anchor");
}

static void rules_of_maps(void **state)
{
    (void)state;
    REJECTS(f.head_map[1 * KV_HEADS + 2] = 4, "head_map[1][2] is 4: it must be below kv_heads = 4");
    REJECTS(f.head_map[7 * KV_HEADS + 3] = UINT32_MAX, "head_map[7][3] is 4294967295");
    REJECTS(f.head_map[0] = 4, "head_map[0][0] is 4");
    REJECTS(f.normalizer_map[5] = 4, "normalizer_map of anchor 5, entry 1 is 4: it must be below kv_heads = 4");
    REJECTS(f.desc.normalizer_map = NULL, "normalizer is estimated: it needs a normalizer_map");
}

static void null_arguments(void **state)
{
    (void)state;
    fixture f;
    fixture_make(&f);
    kas_plan *plan = make(&f.desc), *other = NULL;
    kas_plan_desc desc = {.struct_size = sizeof(desc)};
    assert_int_equal(kas_plan_create(NULL, &other), KAS_ERROR_INVALID_ARGUMENT);
    assert_int_equal(kas_plan_create(&f.desc, NULL), KAS_ERROR_INVALID_ARGUMENT);
    assert_int_equal(kas_plan_parse(NULL, 0, &other), KAS_ERROR_INVALID_ARGUMENT);
    assert_int_equal(kas_plan_parse("{}", 2, NULL), KAS_ERROR_INVALID_ARGUMENT);
    assert_int_equal(kas_plan_load(NULL, &other), KAS_ERROR_INVALID_ARGUMENT);
    assert_int_equal(kas_plan_load("x", NULL), KAS_ERROR_INVALID_ARGUMENT);
    assert_int_equal(kas_plan_save(NULL, "x"), KAS_ERROR_INVALID_ARGUMENT);
    assert_int_equal(kas_plan_save(plan, NULL), KAS_ERROR_INVALID_ARGUMENT);
    assert_int_equal(kas_plan_get_desc(NULL, &desc), KAS_ERROR_INVALID_ARGUMENT);
    assert_int_equal(kas_plan_get_desc(plan, NULL), KAS_ERROR_INVALID_ARGUMENT);
    desc.struct_size = 4;
    assert_int_equal(kas_plan_get_desc(plan, &desc), KAS_ERROR_INVALID_ARGUMENT);
    assert_sentence("struct_size is 4", __LINE__);
    assert_int_equal(kas_plan_role(NULL, 0), KAS_ROLE_DENSE);
    assert_null(other);
    kas_plan_destroy(plan);
    kas_plan_destroy(NULL);
}

/* ---- Plans made ------------------------------------------------------------------------------------------------ */

static void defaults(void **state)
{
    (void)state;
    const uint32_t anchors[] = {0, 1};
    const kas_plan_desc given = {.struct_size = sizeof(given),
                                 .layers = 3,
                                 .heads = 6,
                                 .kv_heads = 3,
                                 .anchors = anchors,
                                 .anchor_count = 2};
    kas_plan *plan = make(&given);
    kas_plan_desc desc = {.struct_size = sizeof(desc)};
    assert_int_equal(kas_plan_get_desc(plan, &desc), KAS_OK);
    assert_string_equal(desc.model, "");
    assert_string_equal(desc.source, "");
    assert_int_equal(desc.tile, 32);
    assert_true(desc.topk.fraction == 0.10);
    assert_int_equal(desc.topk.min, 128);
    assert_int_equal(desc.topk.round, 128);
    assert_int_equal(desc.topk.mode, KAS_TOPK_ROLLING);
    assert_null(desc.normalizer_map);
    assert_null(desc.dense_layers);
    for (uint32_t i = 0; i < 9; i++)
        assert_int_equal(desc.head_map[i], i % 3);
    kas_plan *again = make(&desc);
    assert_same_plan(plan, again);
    kas_plan_destroy(plan);
    kas_plan_destroy(again);
}

static void arrays_are_copied(void **state)
{
    (void)state;
    fixture f;
    fixture_make(&f);
    kas_plan *plan = make(&f.desc), *pristine = make(&f.desc);
    memset(f.anchors, 0xff, sizeof(f.anchors));
    memset(f.head_map, 0xff, sizeof(f.head_map));
    memset(f.normalizer_map, 0xff, sizeof(f.normalizer_map));
    memset(f.dense_layers, 0xff, sizeof(f.dense_layers));
    assert_same_plan(plan, pristine);
    kas_plan_destroy(plan);
    kas_plan_destroy(pristine);
}

static void largest_plans(void **state)
{
    (void)state;
    static uint32_t anchors[4096];
    for (uint32_t i = 0; i < 4096; i++)
        anchors[i] = i;
    kas_plan_desc desc = {.struct_size = sizeof(desc), .anchors = anchors};
    desc.layers = desc.anchor_count = 4096;
    desc.heads = desc.kv_heads = 64;
    kas_plan *deep = make(&desc);
    desc.layers = desc.anchor_count = 256;
    desc.heads = desc.kv_heads = 1024;
    kas_plan *wide = make(&desc);
    desc.layers = desc.anchor_count = desc.heads = desc.kv_heads = 1;
    kas_plan *least = make(&desc);
    kas_plan *const plans[] = {deep, wide, least};
    for (size_t i = 0; i < KAS_COUNT(plans); i++) {
        char *text = NULL;
        size_t size = 0;
        kas_plan *parsed = NULL;
        assert_int_equal(kas_plan_format(plans[i], &text, &size), KAS_OK);
        assert_int_equal(kas_plan_parse(text, size, &parsed), KAS_OK);
        assert_same_plan(plans[i], parsed);
        kas_release(text);
        kas_plan_destroy(parsed);
        kas_plan_destroy(plans[i]);
    }
}

static void roles(void **state)
{
    (void)state;
    static const kas_role expected[] = {KAS_ROLE_DENSE_SELECT, KAS_ROLE_REUSE,  KAS_ROLE_DENSE, KAS_ROLE_ANCHOR,
                                        KAS_ROLE_REUSE,        KAS_ROLE_ANCHOR, KAS_ROLE_REUSE, KAS_ROLE_DENSE,
                                        KAS_ROLE_DENSE /* past the plan */};
    fixture f;
    fixture_make(&f);
    kas_plan *plan = make(&f.desc);
    for (uint32_t layer = 0; layer < KAS_COUNT(expected); layer++)
        assert_int_equal(kas_plan_role(plan, layer), expected[layer]);
    assert_int_equal(kas_plan_role(plan, UINT32_MAX), KAS_ROLE_DENSE);
    kas_plan_destroy(plan);
}

/* Bit `row` is set when the row is read. */
static uint32_t rows_read(const kas_plan *plan, uint32_t layer)
{
    uint32_t bits = 0;
    for (uint32_t row = 0; row < 32; row++)
        bits |= (uint32_t)kas_plan_row_is_read(plan, layer, row) << row;
    return bits;
}

static void expect_rows(const fixture *f, const uint32_t expected[LAYERS])
{
    kas_plan *plan = make(&f->desc);
    for (uint32_t layer = 0; layer < LAYERS; layer++)
        assert_int_equal(rows_read(plan, layer), expected[layer]);
    assert_false(kas_plan_row_is_read(plan, LAYERS, 0));
    kas_plan_destroy(plan);
}

static void rows_that_are_read(void **state)
{
    (void)state;
    fixture f;
    fixture_make(&f);
    /* Layer 2 is dense: its map does not count. Layer 4 follows the next anchor. */
    f.desc.normalizer = KAS_NORMALIZER_EXACT;
    expect_rows(&f, (uint32_t[LAYERS]){0x5, 0, 0, 0xf, 0, 0xf});
    f.desc.normalizer = KAS_NORMALIZER_ESTIMATED;
    expect_rows(&f, (uint32_t[LAYERS]){0xd, 0, 0, 0xf, 0, 0xf});
    f.desc.pooling = KAS_POOLING_ALL_HEADS;
    expect_rows(&f, (uint32_t[LAYERS]){0x1, 0, 0, 0x1, 0, 0x1});
    f.dense_layers[0] = 1;
    f.dense_layers[1] = 2;
    expect_rows(&f, (uint32_t[LAYERS]){0x1, 0, 0, 0x1, 0, 0x1});
    /* Nothing stands between layer 0 and the anchor that reads it, and that anchor normalises exactly. */
    f.desc.normalizer = KAS_NORMALIZER_EXACT;
    expect_rows(&f, (uint32_t[LAYERS]){0x0, 0, 0, 0x1, 0, 0x1});
    f.desc.pooling = KAS_POOLING_GROUP;
    expect_rows(&f, (uint32_t[LAYERS]){0x0, 0, 0, 0xf, 0, 0xf});
    f.desc.anchor_count = 1;
    f.desc.dense_layer_count = 0;
    f.desc.normalizer = KAS_NORMALIZER_ESTIMATED; /* no anchor whose normaliser it could be */
    expect_rows(&f, (uint32_t[LAYERS]){0xf, 0, 0, 0, 0, 0});
}

static void publishing_layers_read_their_own_rows(void **state)
{
    (void)state;
    fixture f;
    fixture_make(&f);
    f.head_map[3 * KV_HEADS + 1] = 3;
    f.head_map[0] = 2;
    kas_plan *plan = make(&f.desc);
    for (uint32_t head = 0; head < KV_HEADS; head++) {
        assert_int_equal(kas_plan_list_row(plan, 0, head), head);
        assert_int_equal(kas_plan_list_row(plan, 3, head), head);
        assert_int_equal(kas_plan_list_row(plan, 4, head), KV_HEADS - 1 - head);
    }
    kas_plan_destroy(plan);
    f.desc.pooling = KAS_POOLING_ALL_HEADS;
    plan = make(&f.desc);
    assert_int_equal(kas_plan_row_count(plan), 1);
    assert_int_equal(kas_plan_list_row(plan, 4, 0), 0);
    kas_plan_destroy(plan);
}

/* ---- The file format ------------------------------------------------------------------------------------------- */

#define VALID                                                                                                          \
    "{\"version\": 1, \"model\": \"m\", \"source\": \"s\", \"layers\": 3, \"heads\": 4, \"kv_heads\": 2, "              \
    "\"pooling\": \"group\", \"normalizer\": \"exact\", \"tile\": 32, "                                                \
    "\"topk\": {\"fraction\": 0.1, \"min\": 128, \"round\": 128, \"mode\": \"rolling\"}, "                              \
    "\"anchors\": [0, 1], \"head_map\": [[0, 1], [0, 1], [1, 0]], \"normalizer_map\": {\"1\": [1, 1]}, "                \
    "\"dense_layers\": []}"

/* VALID with the first `part` replaced. */
static char *replaced(const char *part, const char *by)
{
    const char *at = strstr(VALID, part);
    assert_non_null(at);
    size_t capacity = sizeof(VALID) + strlen(by);
    char *text = test_malloc(capacity);
    snprintf(text, capacity, "%.*s%s%s", (int)(at - VALID), VALID, by, at + strlen(part));
    return text;
}

static void assert_text_rejected(const char *text, size_t size, kas_status expected, const char *sentence)
{
    kas_plan *const untouched = (kas_plan *)(void *)&expected;
    kas_plan *plan = untouched;
    kas_status status = kas_plan_parse(text, size, &plan);
    if (status != expected)
        fail_msg("\"%s\": %s", sentence, kas_status_text(status));
    assert_ptr_equal(plan, untouched);
    if (!strstr(kas_last_error(), sentence))
        fail_msg("\"%s\" expected in \"%s\"", sentence, kas_last_error());
}

static void bad_fields(void **state)
{
    (void)state;
    static const struct {
        const char *part, *by, *sentence;
    } cases[] = {
        {"\"version\": 1, ", "", "version is missing: it must be 1"},
        {"\"version\": 1", "\"version\": 2", "version is 2: this library reads version 1"},
        {"\"version\": 1", "\"version\": \"1\"", "version is \"1\""},
        {"\"version\": 1", "\"version\": 1.5", "version is 1.5"},
        {"\"version\": 1", "\"version\": null", "version is null"},
        {"\"layers\": 3, ", "", "layers is missing"},
        {"\"heads\": 4, ", "", "heads is missing"},
        {"\"kv_heads\": 2, ", "", "kv_heads is missing"},
        {"\"anchors\": [0, 1], ", "", "anchors is missing"},
        {"\"layers\": 3", "\"layers\": 0", "layers is 0: it must be from 1 to 4096"},
        {"\"layers\": 3", "\"layers\": -3", "layers is -3: it must be a whole number"},
        {"\"layers\": 3", "\"layers\": 3.5", "layers is 3.5: it must be a whole number"},
        {"\"layers\": 3", "\"layers\": 1e300", "layers is 1.0000000000000001e+300"},
        {"\"layers\": 3", "\"layers\": 1e999", "layers is inf"},
        {"\"layers\": 3", "\"layers\": 4294967296", "layers is 4294967296: it must be a whole number from 0 to"},
        {"\"layers\": 3", "\"layers\": 4294967295", "layers is 4294967295: it must be from 1 to 4096"},
        {"\"layers\": 3", "\"layers\": true", "layers is true"},
        {"\"layers\": 3", "\"layers\": [3]", "layers is an array"},
        {"\"layers\": 3", "\"layers\": 4", "head_map has 3 entries: it must have 4"},
        {"\"layers\": 3", "\"layers\": NaN", "is not valid JSON"},
        {"\"layers\": 3", "\"layers\": nan", "is not valid JSON"},
        {"\"layers\": 3", "\"layers\": Infinity", "is not valid JSON"},
        {"\"heads\": 4", "\"heads\": 3", "heads is 3: it must be a multiple of kv_heads = 2"},
        {"\"kv_heads\": 2", "\"kv_heads\": 4", "head_map[0] has 2 entries: it must have 4"},
        {"\"model\": \"m\"", "\"model\": 1", "model is 1: it must be a string"},
        {"\"source\": \"s\"", "\"source\": {}", "source is an object: it must be a string"},
        {"\"model\": \"m\"", "\"model\": \"a\\u0000b\"", "line 1 holds the character \\u0000"},
        {"\"model\": \"m\"", "\"model\": \"\\ud800\"", "is not valid JSON"},
        {"\"model\": \"m\"", "\"model\": \"a\nb\x01\"", "line 2 holds the control character 0x01"},
        {"\"model\": \"m\"", "\"model\": \"\xff\"", "is not UTF-8: byte 25 of the text is 0xff"},
        {"\"model\": \"m\"", "\"model\": \"\xed\xa0\x80\"", "is not UTF-8"},
        {"\"model\": \"m\"", "\"model\": \"\xc0\x80\"", "is not UTF-8"},
        {"\"model\": \"m\"", "\"model\": \"\xf4\x90\x80\x80\"", "is not UTF-8"},
        {"\"model\": \"m\"", "\"model\": \"\xe0\x80\x80\"", "is not UTF-8"},
        {"\"group\"", "\"heads\"", "pooling is \"heads\": it must be \"group\" or \"all_heads\""},
        {"\"group\"", "\"01234567890123456789012345678901234567\xc3\xa9\xc3\xa9\"",
         "pooling is \"01234567890123456789012345678901234567\xc3\xa9...\""},
        {"\"group\"", "\"\\u001b[2J\"", "pooling is \"?[2J\""},
        {"\"group\"", "0", "pooling is 0"},
        {"\"exact\"", "\"guess\"", "normalizer is \"guess\": it must be \"exact\" or \"estimated\""},
        {"\"tile\": 32", "\"tile\": 33", "tile is 33: it must be 16, 32, 64 or 128"},
        {"\"tile\": 32", "\"tile\": 0", "tile is 0"},
        {"{\"fraction\": 0.1, \"min\": 128, \"round\": 128, \"mode\": \"rolling\"}", "[]",
         "topk is an array: it must be an object"},
        {"\"fraction\": 0.1", "\"fraction\": 0", "topk.fraction is 0: it must be a finite number above 0"},
        {"\"fraction\": 0.1", "\"fraction\": -0.1", "topk.fraction is -0.1"},
        {"\"fraction\": 0.1", "\"fraction\": 1e999", "topk.fraction is inf"},
        {"\"fraction\": 0.1", "\"fraction\": \"0.1\"", "topk.fraction is \"0.1\""},
        {"\"min\": 128", "\"min\": 0", "topk.min is 0: it must be a whole number from 1"},
        {"\"min\": 128", "\"min\": 2000000000", "topk.min is 2000000000: it must be at most 1073741824"},
        {"\"round\": 128", "\"round\": 0", "topk.round is 0"},
        {"\"round\": 128", "\"round\": 0.5", "topk.round is 0.5"},
        {"\"rolling\"", "\"sliding\"", "topk.mode is \"sliding\": it must be \"rolling\" or \"fixed\""},
        {"\"min\": 128", "\"min\": 128, \"min\": 128", "topk names \"min\" twice"},
        {"\"tile\": 32", "\"tile\": 32, \"layers\": 3", "the plan names \"layers\" twice"},
        {"\"tile\": 32", "\"tile\": 32, \"x\": 3, \"x\": 3", "the plan names \"x\" twice"},
        {"\"anchors\": [0, 1]", "\"anchors\": []", "anchors is empty"},
        {"\"anchors\": [0, 1]", "\"anchors\": 0", "anchors is 0: it must be an array"},
        {"\"anchors\": [0, 1]", "\"anchors\": [1]", "anchors[0] is 1: the first anchor must be layer 0"},
        {"\"anchors\": [0, 1]", "\"anchors\": [0, 1, 1]", "anchors[2] is 1: it must be above"},
        {"\"anchors\": [0, 1]", "\"anchors\": [0, 2, 1]", "anchors[2] is 1: it must be above"},
        {"\"anchors\": [0, 1]", "\"anchors\": [0, 3]", "anchors[1] is 3: it must be below layers = 3"},
        {"\"anchors\": [0, 1]", "\"anchors\": [0, 1, 2, 3]", "anchors has 4 entries: there are 3 layers"},
        {"\"anchors\": [0, 1]", "\"anchors\": [0, -1]", "anchors[1] is -1"},
        {"\"anchors\": [0, 1]", "\"anchors\": [0, \"1\"]", "anchors[1] is \"1\""},
        {"[[0, 1], [0, 1], [1, 0]]", "[[0, 1], [0, 1]]", "head_map has 2 entries: it must have 3"},
        {"[[0, 1], [0, 1], [1, 0]]", "[[0, 1], [0, 1], [1]]", "head_map[2] has 1 entries: it must have 2"},
        {"[[0, 1], [0, 1], [1, 0]]", "[[0, 1], [0, 1], 7]", "head_map[2] is 7: it must be an array"},
        {"[[0, 1], [0, 1], [1, 0]]", "[[0, 1], [0, 1], [1, 2]]", "head_map[2][1] is 2: it must be below"},
        {"[[0, 1], [0, 1], [1, 0]]", "[[0, 1], [0, 1], [1, -1]]", "head_map[2][1] is -1: it must be a whole number"},
        {"[[0, 1], [0, 1], [1, 0]]", "[[0, 1], [0, 1], [0.5, 0]]", "head_map[2][0] is 0.5"},
        {"[[0, 1], [0, 1], [1, 0]]", "{}", "head_map is an object: it must be an array"},
        {"{\"1\": [1, 1]}", "{\"2\": [1, 1]}", "normalizer_map[\"1\"] is missing: layer 1 is an anchor"},
        {"{\"1\": [1, 1]}", "{\"01\": [1, 1]}", "normalizer_map[\"1\"] is missing"},
        {"{\"1\": [1, 1]}", "{}", "normalizer_map has 0 entries: it must have 1"},
        {"{\"1\": [1, 1]}", "{\"1\": [1, 1], \"2\": [1, 1]}", "normalizer_map has 2 entries: it must have 1"},
        {"{\"1\": [1, 1]}", "{\"1\": [1, 1], \"1\": [1, 1]}", "normalizer_map names \"1\" twice"},
        {"{\"1\": [1, 1]}", "{\"1\": [1]}", "normalizer_map[\"1\"] has 1 entries: it must have 2"},
        {"{\"1\": [1, 1]}", "{\"1\": [1, 2]}", "normalizer_map of anchor 1, entry 1 is 2: it must be below"},
        {"{\"1\": [1, 1]}", "[[1, 1]]", "normalizer_map is an array: it must be an object"},
        {"\"dense_layers\": []", "\"dense_layers\": [1]", "dense_layers[0] is 1: this layer is an anchor"},
        {"\"dense_layers\": []", "\"dense_layers\": [3]", "dense_layers[0] is 3: it must be below"},
        {"\"dense_layers\": []", "\"dense_layers\": [2, 2]", "dense_layers[1] is 2: it must be above"},
        {"\"dense_layers\": []", "\"dense_layers\": {}", "dense_layers is an object"},
        {"\"dense_layers\": []", "\"dense_layers\": [null]", "dense_layers[0] is null"},
    };
    for (size_t i = 0; i < KAS_COUNT(cases); i++) {
        char *text = replaced(cases[i].part, cases[i].by);
        assert_text_rejected(text, strlen(text), KAS_ERROR_FORMAT, cases[i].sentence);
        test_free(text);
    }
}

static void bad_text(void **state)
{
    (void)state;
    static const struct {
        const char *text, *sentence;
    } cases[] = {
        {"", "line 1 is not valid JSON"},
        {"null", "the plan is null: it must be an object"},
        {"[]", "the plan is an array: it must be an object"},
        {"3", "the plan is 3"},
        {"{}", "version is missing"},
        {"{\"version\": 1, \"layers\": 2, \"heads\": 1, \"kv_heads\": 1, \"anchors\": [0, 1], "
         "\"normalizer\": \"estimated\"}", "normalizer is estimated: it needs a normalizer_map"},
        {"{\"version\": 1,}", "is not valid JSON"},
        {"{\n\n\"version\": 1 \"layers\"", "line 3 is not valid JSON"},
        {VALID "\n\n x", "line 3 goes on behind the end of the plan"},
        {VALID VALID, "line 1 goes on behind the end of the plan"},
        {VALID "]", "line 1 goes on behind"},
        {"\xef\xbb\xbf", "line 1 is not valid JSON"},
        {"\xef\xbb\xbf\xef\xbb\xbf" VALID, "line 1 is not valid JSON"},
        {" \xef\xbb\xbf" VALID, "line 1 is not valid JSON"},
    };
    for (size_t i = 0; i < KAS_COUNT(cases); i++)
        assert_text_rejected(cases[i].text, strlen(cases[i].text), KAS_ERROR_FORMAT, cases[i].sentence);
    assert_text_rejected(VALID, sizeof(VALID), KAS_ERROR_FORMAT, "control character 0x00");
}

/* No text that ends early is a plan, and none is read past its end: each is copied into a block of its own size. */
static void every_truncation(void **state)
{
    (void)state;
    for (size_t size = 0; size < sizeof(VALID) - 1; size++) {
        char *text = test_malloc(size + (size == 0));
        memcpy(text, VALID, size);
        assert_text_rejected(text, size, KAS_ERROR_FORMAT, "plan text: ");
        test_free(text);
    }
}

static void deep_nesting(void **state)
{
    (void)state;
    const size_t huge = 100u << 20;
    char *text = malloc(huge);
    assert_non_null(text);
    memset(text, '[', huge);
    assert_text_rejected(text, huge, KAS_ERROR_FORMAT, "104857600 bytes, at most 4194304 are read");
    assert_text_rejected(text, 1u << 20, KAS_ERROR_FORMAT, "line 1 nests deeper than 32 levels");
    assert_text_rejected(text, 33, KAS_ERROR_FORMAT, "nests deeper than 32 levels");
    assert_text_rejected(text, 32, KAS_ERROR_FORMAT, "is not valid JSON");
    scratch folder;
    assert_int_equal(scratch_open(&folder), 0);
    FILE *file = fopen(scratch_path(&folder, "huge.json"), "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, huge, file), huge);
    fclose(file);
    kas_plan *plan = NULL;
    assert_int_equal(kas_plan_load(folder.path, &plan), KAS_ERROR_FORMAT);
    assert_sentence("huge.json: 104857600 bytes, at most 4194304", __LINE__);
    assert_null(plan);
    scratch_close(&folder);
    free(text);
    /* Brackets in strings do not nest; a quote behind a backslash does not end one. */
    char *quoted = replaced("\"m\"", "\"\\\"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\"");
    assert_int_equal(kas_plan_parse(quoted, strlen(quoted), &plan), KAS_OK);
    kas_plan_destroy(plan);
    test_free(quoted);
}

static void minimal_text(void **state)
{
    (void)state;
    static const char text[] = "\xef\xbb\xbf { \"version\": 1, \"layers\": 2, \"heads\": 2, \"kv_heads\": 1, "
                               "\"anchors\": [0] } \r\n\t";
    const uint32_t anchors[] = {0};
    kas_plan *plan = NULL;
    assert_int_equal(kas_plan_parse(text, sizeof(text) - 1, &plan), KAS_OK);
    kas_plan *expected = make(&(kas_plan_desc){
        .struct_size = sizeof(kas_plan_desc), .layers = 2, .heads = 2, .kv_heads = 1, .anchors = anchors,
        .anchor_count = 1});
    assert_same_plan(plan, expected);
    kas_plan_destroy(plan);
    kas_plan_destroy(expected);
}

static void count_warning(void *user, kas_log_level level, const char *message)
{
    if (level == KAS_LOG_WARNING && strstr(message, "is unknown and ignored"))
        ++*(int *)user;
}

static void unknown_names_are_ignored_with_a_warning(void **state)
{
    (void)state;
    int warnings = 0;
    char *text = replaced("\"min\": 128", "\"min\": 128, \"later\": [[{}]], \"MIN\": 2");
    kas_plan *plan = NULL;
    kas_set_log(count_warning, &warnings, KAS_LOG_WARNING);
    assert_int_equal(kas_plan_parse(text, strlen(text), &plan), KAS_OK);
    kas_set_log(NULL, NULL, KAS_LOG_ERROR);
    assert_int_equal(warnings, 2);
    assert_int_equal(plan->topk.min, 128);
    kas_plan_destroy(plan);
    test_free(text);
}

static void round_trip(const kas_plan *plan)
{
    scratch folder;
    kas_plan *loaded = NULL;
    char *first = NULL, *second = NULL;
    size_t first_size = 0, second_size = 0;
    assert_int_equal(scratch_open(&folder), 0);
    assert_int_equal(kas_plan_save(plan, scratch_path(&folder, "plan.json")), KAS_OK);
    assert_int_equal(kas_plan_load(folder.path, &loaded), KAS_OK);
    assert_same_plan(plan, loaded);
    assert_int_equal(kas_plan_format(plan, &first, &first_size), KAS_OK);
    assert_int_equal(kas_plan_format(loaded, &second, &second_size), KAS_OK);
    assert_string_equal(first, second);
    assert_int_equal(strlen(first), first_size);
    assert_int_equal(scratch_count(&folder, 0), 1);
    kas_release(first);
    kas_release(second);
    kas_plan_destroy(loaded);
    scratch_close(&folder);
}

static void round_trips(void **state)
{
    (void)state;
    static const double fractions[] = {0.1, 0.05, 1.0 / 3, 1e-300, 5e-324, 1e300, 1, 123456.789, 0.1 + 0.2};
    fixture f;
    fixture_make(&f);
    for (size_t i = 0; i < KAS_COUNT(fractions); i++) {
        f.desc.topk.fraction = fractions[i];
        f.desc.pooling = (kas_pooling)(i % 2);
        f.desc.topk.mode = (kas_topk_mode)(i / 2 % 2);
        kas_plan *plan = make(&f.desc);
        round_trip(plan);
        kas_plan_destroy(plan);
    }
    f.desc.normalizer = KAS_NORMALIZER_EXACT;
    f.desc.normalizer_map = NULL;
    f.desc.dense_layer_count = 0;
    kas_plan *plan = make(&f.desc);
    round_trip(plan);
    kas_plan_destroy(plan);
}

static void saved_form(void **state)
{
    (void)state;
    static const char expected[] = "{\n"
                                   "  \"version\": 1,\n"
                                   "  \"model\": \"a\\\"\\\\\\u0009\xc3\xa9\",\n"
                                   "  \"source\": \"\",\n"
                                   "  \"layers\": 4,\n"
                                   "  \"heads\": 4,\n"
                                   "  \"kv_heads\": 2,\n"
                                   "  \"pooling\": \"all_heads\",\n"
                                   "  \"normalizer\": \"estimated\",\n"
                                   "  \"tile\": 32,\n"
                                   "  \"topk\": {\n"
                                   "    \"fraction\": 0.1,\n"
                                   "    \"min\": 128,\n"
                                   "    \"round\": 128,\n"
                                   "    \"mode\": \"fixed\"\n"
                                   "  },\n"
                                   "  \"anchors\": [0, 2],\n"
                                   "  \"dense_layers\": [3],\n"
                                   "  \"head_map\": [\n"
                                   "    [0, 1],\n"
                                   "    [1, 1],\n"
                                   "    [0, 1],\n"
                                   "    [1, 0]\n"
                                   "  ],\n"
                                   "  \"normalizer_map\": {\n"
                                   "    \"2\": [1, 0]\n"
                                   "  }\n"
                                   "}\n";
    const uint32_t anchors[] = {0, 2}, head_map[] = {0, 1, 1, 1, 0, 1, 1, 0}, normalizer_map[] = {1, 0}, dense[] = {3};
    kas_plan *plan = make(&(kas_plan_desc){.struct_size = sizeof(kas_plan_desc),
                                           .model = "a\"\\\t\xc3\xa9",
                                           .layers = 4,
                                           .heads = 4,
                                           .kv_heads = 2,
                                           .topk = {.mode = KAS_TOPK_FIXED},
                                           .pooling = KAS_POOLING_ALL_HEADS,
                                           .normalizer = KAS_NORMALIZER_ESTIMATED,
                                           .anchors = anchors,
                                           .anchor_count = 2,
                                           .head_map = head_map,
                                           .normalizer_map = normalizer_map,
                                           .dense_layers = dense,
                                           .dense_layer_count = 1});
    char *text = NULL;
    size_t size = 0;
    assert_int_equal(kas_plan_format(plan, &text, &size), KAS_OK);
    assert_string_equal(text, expected);
    kas_release(text);
    kas_plan_destroy(plan);
}

static void longest_texts_fit_a_file(void **state)
{
    (void)state;
    static char text[KAS_PLAN_MAX_TEXT + 1];
    memset(text, '\x01', KAS_PLAN_MAX_TEXT); /* six bytes each in the file */
    fixture f;
    fixture_make(&f);
    f.desc.model = f.desc.source = text;
    kas_plan *plan = make(&f.desc);
    round_trip(plan);
    kas_plan_destroy(plan);
}

static void decimal_commas_of_a_locale(void **state)
{
    (void)state;
    fixture f;
    fixture_make(&f);
    if (!setlocale(LC_NUMERIC, "de_DE.UTF-8") && !setlocale(LC_NUMERIC, "fr_FR.UTF-8"))
        skip();
    kas_plan *plan = make(&f.desc);
    round_trip(plan);
    char *text = NULL;
    size_t size = 0;
    assert_int_equal(kas_plan_format(plan, &text, &size), KAS_OK);
    assert_non_null(strstr(text, "\"fraction\": 0.1,"));
    setlocale(LC_NUMERIC, "C");
    kas_release(text);
    kas_plan_destroy(plan);
}

static void files_that_cannot_be_used(void **state)
{
    (void)state;
    scratch folder;
    fixture f;
    kas_plan *loaded = NULL;
    fixture_make(&f);
    kas_plan *plan = make(&f.desc);
    assert_int_equal(scratch_open(&folder), 0);
    assert_int_equal(kas_plan_load(scratch_path(&folder, "absent.json"), &loaded), KAS_ERROR_IO);
    assert_sentence("absent.json", __LINE__);
    assert_int_equal(kas_plan_load(folder.folder, &loaded), KAS_ERROR_IO);
    assert_int_equal(kas_plan_save(plan, scratch_path(&folder, "absent/plan.json")), KAS_ERROR_IO);
    assert_sentence("absent/plan.json", __LINE__);
    struct stat pipe;
    assert_int_equal(mkfifo(scratch_path(&folder, "pipe"), 0600), 0);
    assert_int_equal(kas_plan_save(plan, folder.path), KAS_ERROR_IO);
    assert_sentence("pipe: cannot be written: not a regular file", __LINE__);
    assert_int_equal(stat(folder.path, &pipe), 0);
    assert_true(S_ISFIFO(pipe.st_mode));
    remove(folder.path);
    FILE *file = fopen(scratch_path(&folder, "bad.json"), "wb");
    assert_non_null(file);
    fputs("{\"version\": 9}", file);
    fclose(file);
    assert_int_equal(kas_plan_load(folder.path, &loaded), KAS_ERROR_FORMAT);
    assert_sentence("bad.json: version is 9", __LINE__);
    assert_int_equal(scratch_count(&folder, 0), 1);
    assert_null(loaded);
    kas_plan_destroy(plan);
    scratch_close(&folder);
}

static void bundled_plan(void **state)
{
    (void)state;
    kas_plan *plan = NULL;
    if (kas_plan_load(KASCADE_SOURCE_DIR "/plans/pico-qwen3.json", &plan) != KAS_OK)
        fail_msg("%s", kas_last_error());
    const uint32_t anchors[] = {0, 5, 9, 10};
    assert_int_equal(plan->anchor_count, 4);
    assert_memory_equal(plan->anchors, anchors, sizeof(anchors));
    assert_int_equal(plan->normalizer_map[2 * 4 + 0], 3); /* of anchor 10 */
    round_trip(plan);
    kas_plan_destroy(plan);
}

/* ---- Exhausted memory ------------------------------------------------------------------------------------------ */

typedef struct faulty_memory {
    long live;
    long until_failure; /* allocations that succeed before one fails */
    bool failed;
} faulty_memory;

static void *faulty_allocate(void *user, size_t size, size_t alignment)
{
    faulty_memory *memory = user;
    if (memory->until_failure-- == 0) {
        memory->failed = true;
        return NULL;
    }
    memory->live++;
    return aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
}

static void faulty_release(void *user, void *pointer, size_t size)
{
    (void)size;
    ((faulty_memory *)user)->live--;
    free(pointer);
}

typedef struct fault_target {
    kas_plan_desc desc;
    const char *text; /* a plan in the saved form */
    const char *path; /* a file that holds it */
    scratch *folder;  /* where try_save writes */
    kas_plan *plan;   /* what the call gave */
    char *formatted;
} fault_target;

static kas_status try_create(fault_target *target)
{
    return kas_plan_create(&target->desc, &target->plan);
}

static kas_status try_parse(fault_target *target)
{
    return kas_plan_parse(target->text, strlen(target->text), &target->plan);
}

static kas_status try_load(fault_target *target)
{
    return kas_plan_load(target->path, &target->plan);
}

/* With a plan of its own, because the allocator only changes while no handle lives. */
static kas_status with_plan(fault_target *target, kas_status (*use)(fault_target *target, const kas_plan *plan))
{
    kas_plan *plan = NULL;
    KAS_TRY(kas_plan_create(&target->desc, &plan));
    kas_status status = use(target, plan);
    kas_plan_destroy(plan);
    return status;
}

static kas_status use_format(fault_target *target, const kas_plan *plan)
{
    size_t size = 0;
    return kas_plan_format(plan, &target->formatted, &size);
}

static kas_status use_save(fault_target *target, const kas_plan *plan)
{
    kas_status status = kas_plan_save(plan, scratch_path(target->folder, "saved.json"));
    assert_int_equal(scratch_count(target->folder, 0), status == KAS_OK);
    return status;
}

static kas_status try_format(fault_target *target)
{
    return with_plan(target, use_format);
}

static kas_status try_save(fault_target *target)
{
    return with_plan(target, use_save);
}

static kas_status try_search(fault_target *target)
{
    (void)target;
    static const double similarity[] = {1, 1, 1, 0, 1, 1, 0, 0, 1};
    uint32_t anchors[2];
    return kas_search_anchors(similarity, 3, 2, anchors, NULL);
}

/* Lets each of the allocations of `call` fail in turn. */
static void fail_in_turn(kas_status (*call)(fault_target *target), fault_target *target, long allocations)
{
    for (long n = 0; n <= allocations; n++) {
        faulty_memory memory = {.until_failure = n};
        const kas_allocator hooks = {&memory, faulty_allocate, faulty_release};
        kas_set_allocator(&hooks);
        target->plan = NULL;
        target->formatted = NULL;
        kas_status status = call(target);
        assert_int_equal(memory.failed, n < allocations);
        assert_int_equal(status, memory.failed ? KAS_ERROR_OUT_OF_MEMORY : KAS_OK);
        if (memory.failed) {
            assert_null(target->plan);
            assert_null(target->formatted);
        }
        kas_plan_destroy(target->plan);
        kas_release(target->formatted);
        assert_int_equal(memory.live, 0);
        kas_set_allocator(NULL);
    }
}

static void exhausted_memory(void **state)
{
    (void)state;
    scratch folder, empty;
    static char long_text[KAS_PLAN_MAX_TEXT + 1];
    fixture f;
    fixture_make(&f);
    memset(long_text, 'a', KAS_PLAN_MAX_TEXT);
    f.desc.model = long_text; /* so that the saved form outgrows its first block */
    kas_plan *plan = make(&f.desc);
    char *text = NULL;
    size_t size = 0;
    assert_int_equal(scratch_open(&folder), 0);
    assert_int_equal(scratch_open(&empty), 0);
    assert_int_equal(kas_plan_save(plan, scratch_path(&folder, "plan.json")), KAS_OK);
    assert_int_equal(kas_plan_format(plan, &text, &size), KAS_OK);
    char *copy = test_malloc(size + 1);
    memcpy(copy, text, size + 1);
    kas_release(text);
    kas_plan_destroy(plan);

    fault_target target = {.desc = f.desc, .text = copy, .path = folder.path, .folder = &empty};
    fail_in_turn(try_create, &target, 1);
    fail_in_turn(try_parse, &target, 8); /* names of 3 objects, 4 arrays, the plan */
    fail_in_turn(try_load, &target, 9);  /* and the file */
    fail_in_turn(try_format, &target, 3); /* the plan, two blocks of text */
    fail_in_turn(try_save, &target, 4);   /* and the name of the temporary file */
    fail_in_turn(try_search, &target, 3);
    test_free(copy);
    scratch_close(&folder);
    scratch_close(&empty);
}

/* ---- Search ---------------------------------------------------------------------------------------------------- */

/* Numbers whose sums are exact in double, so that equal sums are equal. */
static double random_value(uint32_t *seed, uint32_t levels)
{
    *seed = *seed * 1664525u + 1013904223u;
    return (double)((*seed >> 8) % levels) / 1024;
}

static double objective_of(const double *similarity, uint32_t layers, const uint32_t *anchors, uint32_t count)
{
    double sum = 0;
    for (uint32_t b = 0, segment = 0; b < layers; b++) {
        segment += segment + 1 < count && anchors[segment + 1] == b;
        sum += similarity[anchors[segment] * layers + b];
    }
    return sum;
}

/* All choices in lexicographic order; the first of the best is kept. */
static double brute_force(const double *similarity, uint32_t layers, uint32_t count, uint32_t *best)
{
    uint32_t anchors[16];
    double best_sum = -INFINITY;
    for (uint32_t i = 0; i < count; i++)
        anchors[i] = i;
    for (;;) {
        double sum = objective_of(similarity, layers, anchors, count);
        if (sum > best_sum) {
            best_sum = sum;
            memcpy(best, anchors, count * sizeof(*best));
        }
        uint32_t i = count;
        while (i > 1 && anchors[i - 1] == layers - count + i - 1)
            i--;
        if (i <= 1)
            return best_sum;
        anchors[i - 1]++;
        for (uint32_t j = i; j < count; j++)
            anchors[j] = anchors[j - 1] + 1;
    }
}

static void search_agrees_with_brute_force(void **state)
{
    (void)state;
    uint32_t seed = 7;
    double similarity[12 * 12];
    for (uint32_t layers = 1; layers <= 12; layers++) {
        for (uint32_t round = 0; round < 12; round++) {
            /* Few levels make many equal sums; entries below the diagonal must not count. */
            const uint32_t levels = round % 3 == 0 ? 2 : round % 3 == 1 ? 5 : 100000;
            for (uint32_t i = 0; i < layers * layers; i++)
                similarity[i] = i % layers < i / layers ? NAN : random_value(&seed, levels) - (round % 2) * 0.5;
            for (uint32_t count = 1; count <= layers; count++) {
                uint32_t expected[12], anchors[12];
                double best = brute_force(similarity, layers, count, expected), objective = -1;
                assert_int_equal(kas_search_anchors(similarity, layers, count, anchors, &objective), KAS_OK);
                assert_true(objective == best);
                assert_memory_equal(anchors, expected, count * sizeof(*anchors));
            }
        }
    }
}

static void equal_sums_give_the_smallest_anchors(void **state)
{
    (void)state;
    double similarity[36];
    uint32_t anchors[3];
    for (uint32_t i = 0; i < 36; i++)
        similarity[i] = 1;
    assert_int_equal(kas_search_anchors(similarity, 6, 3, anchors, NULL), KAS_OK);
    assert_memory_equal(anchors, ((uint32_t[]){0, 1, 2}), sizeof(anchors));
}

/* 128 layers and 32 anchors, the best of several rounds so that a busy machine does not count. */
static void search_is_quick(void **state)
{
    (void)state;
    enum { layers = 128, count = 32 };
    static double similarity[layers * layers];
    uint32_t seed = 11, anchors[count];
    uint64_t best = UINT64_MAX;
    for (uint32_t i = 0; i < layers * layers; i++)
        similarity[i] = random_value(&seed, 100000);
    for (int round = 0; round < 20; round++) {
        const uint64_t begun = kas_clock();
        assert_int_equal(kas_search_anchors(similarity, layers, count, anchors, NULL), KAS_OK);
        const uint64_t spent = kas_clock() - begun;
        best = spent < best ? spent : best;
    }
    if (best >= 10 * 1000 * 1000)
        fail_msg("128 layers, 32 anchors: %.1f ms, needed is less than 10", (double)best * 1e-6);
}

/* Where no layer is served better than by its own lists, one more anchor never costs anything. */
static void more_anchors_never_lower_the_objective(void **state)
{
    (void)state;
    enum { layers = 40 };
    static double similarity[layers * layers];
    uint32_t seed = 3, anchors[layers];
    for (uint32_t b = 0; b < layers; b++)
        for (uint32_t a = 0; a <= b; a++)
            similarity[a * layers + b] = a == b ? 1 : random_value(&seed, 1024);
    double last = -INFINITY;
    for (uint32_t count = 1; count <= layers; count++) {
        double objective = 0;
        assert_int_equal(kas_search_anchors(similarity, layers, count, anchors, &objective), KAS_OK);
        assert_true(objective >= last);
        assert_true(fabs(objective - objective_of(similarity, layers, anchors, count)) < 1e-9);
        last = objective;
    }
    assert_true(last == layers);
}

static void bad_searches(void **state)
{
    (void)state;
    double similarity[4] = {1, 1, 1, 1};
    uint32_t anchors[2] = {77, 77};
    assert_int_equal(kas_search_anchors(similarity, 0, 1, anchors, NULL), KAS_ERROR_INVALID_ARGUMENT);
    assert_sentence("layers is 0: it must be from 1 to 4096", __LINE__);
    assert_int_equal(kas_search_anchors(similarity, 4097, 1, anchors, NULL), KAS_ERROR_INVALID_ARGUMENT);
    assert_int_equal(kas_search_anchors(similarity, 2, 0, anchors, NULL), KAS_ERROR_INVALID_ARGUMENT);
    assert_int_equal(kas_search_anchors(similarity, 2, 3, anchors, NULL), KAS_ERROR_INVALID_ARGUMENT);
    assert_sentence("count is 3: it must be from 1 to layers = 2", __LINE__);
    similarity[1] = NAN;
    assert_int_equal(kas_search_anchors(similarity, 2, 1, anchors, NULL), KAS_ERROR_INVALID_ARGUMENT);
    assert_sentence("the similarity of anchor 0 for layer 1 is", __LINE__);
    assert_int_equal(anchors[0], 77);
}

/* Three layers of two heads, worked out by hand. */
static void maps_and_layer_similarity(void **state)
{
    (void)state;
    const float x = NAN; /* layer pairs with a > b: not read */
    const float similarity[3][3][2][2] = {{{{1, .5f}, {.25f, 1}}, {{.25f, .75f}, {.5f, .125f}}, {{.5f, .25f}, {1, .25f}}},
                                          {{{x, x}, {x, x}}, {{1, 0}, {0, 1}}, {{.25f, .75f}, {.125f, .25f}}},
                                          {{{x, x}, {x, x}}, {{x, x}, {x, x}}, {{1, 0}, {.5f, 1}}}};
    const float importance[] = {2, 4, 8};
    const kas_calibration calibration = {
        .layers = 3, .kv_heads = 2, .similarity = &similarity[0][0][0][0], .importance = importance};
    const double expected[] = {2, 4 * .625, 8 * .75, 0, 4, 8 * .5, 0, 0, 8};
    double layer_similarity[9];
    kas_layer_similarity(&calibration, layer_similarity);
    for (uint32_t i = 0; i < 9; i++)
        assert_true(layer_similarity[i] == expected[i]);

    const uint32_t anchors[] = {0, 1, 2};
    uint32_t map[6], normalizer_map[4];
    kas_search_head_map(&calibration, anchors, 1, map);
    assert_memory_equal(map, ((uint32_t[]){0, 1, 1, 0, 0, 0}), sizeof(map)); /* equal similarities: the lower head */
    kas_search_head_map(&calibration, anchors, 2, map);
    assert_memory_equal(map, ((uint32_t[]){0, 1, 0, 1, 1, 1}), sizeof(map));
    kas_search_normalizer_map(&calibration, anchors, 3, normalizer_map);
    assert_memory_equal(normalizer_map, ((uint32_t[]){1, 0, 1, 1}), sizeof(normalizer_map));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rules_of_the_shape),
        cmocka_unit_test(rules_of_texts),
        cmocka_unit_test(rules_of_the_lists),
        cmocka_unit_test(rules_of_layers),
        cmocka_unit_test(rules_of_maps),
        cmocka_unit_test(null_arguments),
        cmocka_unit_test(defaults),
        cmocka_unit_test(arrays_are_copied),
        cmocka_unit_test(largest_plans),
        cmocka_unit_test(roles),
        cmocka_unit_test(rows_that_are_read),
        cmocka_unit_test(publishing_layers_read_their_own_rows),
        cmocka_unit_test(bad_fields),
        cmocka_unit_test(bad_text),
        cmocka_unit_test(every_truncation),
        cmocka_unit_test(deep_nesting),
        cmocka_unit_test(minimal_text),
        cmocka_unit_test(unknown_names_are_ignored_with_a_warning),
        cmocka_unit_test(round_trips),
        cmocka_unit_test(saved_form),
        cmocka_unit_test(longest_texts_fit_a_file),
        cmocka_unit_test(decimal_commas_of_a_locale),
        cmocka_unit_test(files_that_cannot_be_used),
        cmocka_unit_test(bundled_plan),
        cmocka_unit_test(exhausted_memory),
        cmocka_unit_test(search_agrees_with_brute_force),
        cmocka_unit_test(equal_sums_give_the_smallest_anchors),
        cmocka_unit_test(search_is_quick),
        cmocka_unit_test(more_anchors_never_lower_the_objective),
        cmocka_unit_test(bad_searches),
        cmocka_unit_test(maps_and_layer_similarity),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
