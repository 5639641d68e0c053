/*
 * test_layers.c - layers by role on a device, on the CPU with each instruction set forced in turn, against the
 * double-precision oracle: dense outputs, published lists, and attention over them through head maps, in prefill and
 * decode, for every storage type.
 */
#include "../conformance/oracle.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define KV_HEADS 2u
#define GUARD 64u
#define POISON 0xffu

typedef struct shape {
    kas_phase phase;
    uint32_t group, dim, queries, keys;
} shape;

static const shape shapes[] = {
    {KAS_PHASE_PREFILL, 4, 64, 799, 799}, {KAS_PHASE_PREFILL, 3, 37, 77, 415}, {KAS_PHASE_PREFILL, 1, 128, 1, 1},
    {KAS_PHASE_PREFILL, 16, 40, 33, 1023}, {KAS_PHASE_DECODE, 4, 128, 1, 1023}, {KAS_PHASE_DECODE, 3, 80, 4, 799},
    {KAS_PHASE_DECODE, 8, 256, 8, 31},     {KAS_PHASE_DECODE, 1, 16, 1, 1},
    {KAS_PHASE_PREFILL, 1, 64, 3, 40007}, /* more keys than llvmpipe goes through where a loop turns once a key */
};

/* Deterministic values of a normal shape: the sum of four uniform ones. */
static float next_value(uint64_t *state)
{
    float sum = 0;
    for (int i = 0; i < 4; i++) {
        *state = *state * 6364136223846793005u + 1442695040888963407u;
        sum += (float)(*state >> 40) / (float)(1u << 24) - 0.5f;
    }
    return sum * 1.7f;
}

/* A tensor on the device, guarded behind its end, with the values its storage type holds on the host. */
typedef struct tensor {
    kas_buffer *buffer;
    kas_dtype dtype;
    size_t count;
    unsigned char *bytes; /* count elements and GUARD bytes, as the device stores them */
    float *values;
} tensor;

#define check(call)                                                                                                    \
    do {                                                                                                               \
        if ((call) != KAS_OK)                                                                                          \
            fail_msg("%s: %s", #call, kas_last_error());                                                               \
    } while (0)

static size_t tensor_bytes(const tensor *t)
{
    return (t->count * storage_size(t->dtype) + GUARD + 3) / 4 * 4;
}

static void tensor_upload(tensor *t, kas_stream *stream)
{
    check(kas_buffer_write(stream, t->buffer, 0, t->bytes, tensor_bytes(t)));
}

static tensor tensor_make(kas_context *context, kas_stream *stream, kas_dtype dtype, size_t count, uint64_t seed)
{
    tensor t = {.dtype = dtype, .count = count};
    t.bytes = malloc(tensor_bytes(&t));
    t.values = malloc(count * sizeof(float));
    memset(t.bytes, POISON, tensor_bytes(&t));
    for (size_t i = 0; seed && i < count; i++) {
        storage_put(dtype, t.bytes, i, next_value(&seed));
        t.values[i] = storage_get(dtype, t.bytes, i);
    }
    check(kas_buffer_create(context, tensor_bytes(&t), &t.buffer));
    tensor_upload(&t, stream);
    return t;
}

static void tensor_download(tensor *t, kas_stream *stream)
{
    check(kas_buffer_read(stream, t->buffer, 0, t->bytes, tensor_bytes(t)));
    for (size_t i = 0; i < t->count; i++)
        t->values[i] = storage_get(t->dtype, t->bytes, i);
}

static void tensor_free(tensor *t)
{
    kas_buffer_destroy(t->buffer);
    free(t->bytes);
    free(t->values);
}

static void check_output(const oracle_output *expected, const tensor *out)
{
    double bound = 2 * expected->out_error + 1e-5 * expected->out_most;
    for (size_t i = 0; i < out->count; i++)
        if (!(fabs(out->values[i] - expected->out[i]) <= bound))
            fail_msg("element %zu is %g, the oracle's %g, bound %g", i, out->values[i], expected->out[i], bound);
    for (size_t i = out->count * storage_size(out->dtype); i < tensor_bytes(out); i++)
        assert_int_equal(out->bytes[i], POISON);
}

/* Reads a published list into the oracle's form and checks it against the oracle's scores. */
static void check_list(const oracle_tile *tile, const double *scores, const int32_t *list)
{
    double threshold = INFINITY;
    int32_t *best = malloc((tile->keep + 1) * sizeof(*best));
    oracle_select(scores, tile->candidates, tile->keep, best);
    for (uint32_t i = 0; i < tile->keep; i++)
        threshold = scores[best[i]] < threshold ? scores[best[i]] : threshold;
    for (uint32_t i = 0; i < tile->keep; i++) {
        assert_in_range(list[i], i ? list[i - 1] + 1 : 0, tile->candidates - 1);
        assert_true(scores[list[i]] >= threshold - 1e-4 * threshold - 1e-30);
    }
    free(best);
}

typedef struct fixture {
    const shape *shape;
    oracle_rule rule;
    oracle_sequence sequence;
    kas_dtype dtype;
    kas_stream *stream;
    kas_session *session;
    kas_attention args;
    tensor out;
} fixture;

static oracle_lists read_lists(fixture *f, bool every_row)
{
    kas_published_lists published = {.struct_size = sizeof(published)};
    assert_int_equal(kas_session_get_lists(f->session, f->shape->phase, &published), KAS_OK);
    assert_true(published.live);
    size_t size = published.rows * published.row_capacity * sizeof(int32_t);
    int32_t *entries = malloc(size + 1);
    check(kas_buffer_read(f->stream, published.indices.buffer, published.indices.offset, entries, size));
    uint32_t tiles = oracle_tile_count(&f->rule, &f->sequence);
    oracle_lists lists = oracle_lists_make(KV_HEADS, tiles, f->shape->keys);
    oracle_output dense = oracle_attend(&f->rule, &f->sequence, f->dtype, NULL, NULL, NULL);
    double *scores = malloc(f->shape->keys * sizeof(*scores));
    uint32_t first = (f->shape->keys - f->shape->queries) / f->rule.tile;
    for (uint32_t row = 0; row < (every_row ? KV_HEADS : 1); row++) {
        for (uint32_t u = 0; u < tiles; u++) {
            oracle_tile tile = oracle_tile_at(&f->rule, &f->sequence, u);
            const int32_t *list = entries + row * published.row_capacity;
            if (published.tile_offset)
                list += published.tile_offset[first + u] - published.tile_offset[first];
            oracle_pool(&f->rule, &f->sequence, &tile, row, dense.lse, false, scores);
            check_list(&tile, scores, list);
            memcpy(oracle_list(&lists, row, u), list, tile.keep * sizeof(*list));
            lists.count[row * tiles + u] = tile.keep;
        }
    }
    free(scores);
    free(entries);
    oracle_output_free(&dense);
    return lists;
}

static void run_layer(fixture *f, uint32_t layer)
{
    memset(f->out.bytes, POISON, tensor_bytes(&f->out));
    tensor_upload(&f->out, f->stream);
    f->args.layer = layer;
    kas_status status = f->shape->phase == KAS_PHASE_DECODE ? kas_decode(f->session, f->stream, &f->args)
                                                            : kas_prefill(f->session, f->stream, &f->args);
    if (status != KAS_OK)
        fail_msg("layer %u: %s", layer, kas_last_error());
    tensor_download(&f->out, f->stream);
}

static void check_layer(fixture *f, const oracle_lists *lists, const uint32_t *rows)
{
    oracle_output expected = oracle_attend(&f->rule, &f->sequence, f->dtype, lists, rows, NULL);
    check_output(&expected, &f->out);
    oracle_output_free(&expected);
}

/* Layers: 0 dense and publishing (row 0 is read alone), 1 reuse through row 0, 2 anchor, 3 reuse with rows swapped. */
static void check_plan_layers(fixture *f)
{
    static const uint32_t one_row[KV_HEADS] = {0, 0}, swapped[KV_HEADS] = {1, 0};
    run_layer(f, 0);
    check_layer(f, NULL, NULL);
    oracle_lists lists = read_lists(f, false);
    run_layer(f, 1);
    check_layer(f, &lists, one_row);
    oracle_lists_free(&lists);
    run_layer(f, 2);
    lists = read_lists(f, true);
    check_layer(f, &lists, NULL);
    run_layer(f, 3);
    check_layer(f, &lists, swapped);
    oracle_lists_free(&lists);
}

static kas_plan *make_plan(uint32_t heads)
{
    static const uint32_t anchors[] = {0, 2}, maps[] = {0, 1, 0, 0, 0, 1, 1, 0};
    kas_plan *plan = NULL;
    kas_plan_desc desc = {.struct_size = sizeof(desc), .layers = 4, .heads = heads, .kv_heads = KV_HEADS,
                          .topk = {.fraction = 0.1, .min = 16, .round = 16}, .anchors = anchors, .anchor_count = 2,
                          .head_map = maps};
    assert_int_equal(kas_plan_create(&desc, &plan), KAS_OK);
    return plan;
}

static void run_shape(kas_context *context, kas_stream *stream, const shape *s, kas_dtype dtype)
{
    uint32_t heads = KV_HEADS * s->group;
    size_t q_count = (size_t)s->queries * heads * s->dim, kv_count = (size_t)s->keys * KV_HEADS * s->dim;
    tensor q = tensor_make(context, stream, dtype, q_count, 1), k = tensor_make(context, stream, dtype, kv_count, 2);
    tensor v = tensor_make(context, stream, dtype, kv_count, 3);
    fixture f = {.shape = s, .dtype = dtype, .stream = stream, .out = tensor_make(context, stream, dtype, q_count, 0)};
    f.rule = (oracle_rule){heads, KV_HEADS, s->dim, 32, 1 / sqrt(s->dim), {0.1, 16, 16, KAS_TOPK_ROLLING}, false, s->phase};
    f.sequence = (oracle_sequence){s->queries, s->keys, s->keys, q.values, k.values, v.values, NULL};
    f.args = (kas_attention){.struct_size = sizeof(f.args), .queries = s->queries, .keys = s->keys,
                             .q = {.buffer = q.buffer}, .k = {.buffer = k.buffer}, .v = {.buffer = v.buffer},
                             .out = {.buffer = f.out.buffer}};
    kas_plan *plan = make_plan(heads);
    kas_session_desc desc = {.struct_size = sizeof(desc), .plan = plan, .head_dim = s->dim, .dtype = dtype,
                             .max_queries = s->phase == KAS_PHASE_PREFILL ? s->queries : 0,
                             .max_decode_queries = s->phase == KAS_PHASE_DECODE ? s->queries : 1, .max_keys = s->keys};
    check(kas_session_create(context, &desc, &f.session));
    check_plan_layers(&f);
    kas_session_destroy(f.session);
    kas_plan_destroy(plan);
    tensor_free(&q);
    tensor_free(&k);
    tensor_free(&v);
    tensor_free(&f.out);
}

static void run_device(const char *device, const char *variant)
{
    kas_context_desc desc = {.struct_size = sizeof(desc), .device = device, .variant = variant};
    kas_context *context = NULL;
    kas_stream *stream = NULL;
    check(kas_context_create(&desc, &context));
    check(kas_stream_create(context, &stream));
    for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++)
        for (kas_dtype dtype = KAS_DTYPE_F32; dtype <= KAS_DTYPE_BF16; dtype++)
            run_shape(context, stream, &shapes[i], dtype);
    kas_stream_destroy(stream);
    kas_context_destroy(context);
}

static void skip_without(uint64_t feature)
{
    kas_device_info info = {.struct_size = sizeof(info)};
    assert_int_equal(kas_device_get_info("cpu", &info), KAS_OK);
    if (!(info.features & feature))
        skip();
}

static void generic_rows(void **state)
{
    (void)state;
    run_device("cpu", "generic");
}

static void avx2_rows(void **state)
{
    (void)state;
    skip_without(KAS_FEATURE_AVX2);
    run_device("cpu", "avx2");
}

static void avx512_rows(void **state)
{
    (void)state;
    skip_without(KAS_FEATURE_AVX512);
    run_device("cpu", "avx512");
}

static int run_cpu(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(generic_rows),
        cmocka_unit_test(avx2_rows),
        cmocka_unit_test(avx512_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}

static void other_device(void **state)
{
    run_device(*state, NULL);
}

/* test_layers [DEVICE]: without one, the CPU. */
int main(int count, char **arguments)
{
    if (count < 2)
        return run_cpu();
    const struct CMUnitTest tests[] = {cmocka_unit_test_prestate(other_device, arguments[1])};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
