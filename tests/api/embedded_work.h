/*
 * embedded_work.h - what the tests of embedding let the library do inside a program of theirs: a prefill of a plan's
 * first layers over one buffer, whose output the CPU device must agree with. Included behind cmocka.h.
 */
#ifndef TESTS_EMBEDDED_WORK_H
#define TESTS_EMBEDDED_WORK_H

#include <kascade/kascade.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define check(call)                                                                                                    \
    do {                                                                                                               \
        if ((call) != KAS_OK)                                                                                          \
            fail_msg("%s: %s", #call, kas_last_error());                                                               \
    } while (0)

#define HEADS 4u
#define KV_HEADS 2u
#define HEAD_DIM 32u
#define TOKENS 193u
#define LAYERS 3u
#define Q_FLOATS (TOKENS * HEADS * HEAD_DIM)
#define KV_FLOATS (TOKENS * KV_HEADS * HEAD_DIM)
#define GUARD 0x5a

/* q, k, v and out lie in one buffer, each from a multiple of 256 bytes, a guard behind each. */
#define PART_BYTES(floats) (((floats) * sizeof(float) + 511) / 256 * 256)
static const uint64_t q_at = 256;
static const uint64_t k_at = q_at + PART_BYTES(Q_FLOATS);
static const uint64_t v_at = k_at + PART_BYTES(KV_FLOATS);
static const uint64_t out_at = v_at + PART_BYTES(KV_FLOATS);
static const uint64_t all_bytes = out_at + PART_BYTES(Q_FLOATS);

static void fill_floats(float *values, size_t count, uint64_t seed)
{
    for (size_t i = 0; i < count; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        values[i] = (float)((double)(seed >> 40) / (1 << 24) * 4.0 - 2.0);
    }
}

static void fill_tensors(unsigned char *bytes)
{
    memset(bytes, GUARD, all_bytes);
    fill_floats((float *)(bytes + q_at), Q_FLOATS, 1);
    fill_floats((float *)(bytes + k_at), KV_FLOATS, 2);
    fill_floats((float *)(bytes + v_at), KV_FLOATS, 3);
}

static void check_guards(const unsigned char *bytes)
{
    const uint64_t ends[] = {0, q_at + Q_FLOATS * sizeof(float), k_at + KV_FLOATS * sizeof(float),
                             v_at + KV_FLOATS * sizeof(float), out_at + Q_FLOATS * sizeof(float), all_bytes};
    const uint64_t begins[] = {q_at, k_at, v_at, out_at, all_bytes, all_bytes};
    for (int part = 0; part < 5; part++)
        for (uint64_t i = ends[part]; i < begins[part]; i++)
            assert_int_equal(bytes[i], GUARD);
}

static kas_status make_session(kas_context *context, kas_session **session)
{
    const uint32_t anchors[] = {0, 1};
    kas_plan_desc plan_desc = {.struct_size = sizeof(plan_desc), .layers = LAYERS, .heads = HEADS, .kv_heads = KV_HEADS,
                               .topk = {.fraction = 0.25, .min = 8, .round = 8}, .anchors = anchors, .anchor_count = 2};
    kas_plan *plan;
    kas_status status = kas_plan_create(&plan_desc, &plan);
    if (status != KAS_OK)
        return status;
    kas_session_desc desc = {.struct_size = sizeof(desc), .plan = plan, .head_dim = HEAD_DIM, .dtype = KAS_DTYPE_F32,
                             .max_queries = TOKENS, .max_keys = TOKENS};
    status = kas_session_create(context, &desc, session);
    kas_plan_destroy(plan);
    return status;
}

/* All layers over the same tensors; the last one's output stays. */
static kas_status run_layers(kas_session *session, kas_stream *stream, kas_buffer *buffer)
{
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        kas_attention args = {.struct_size = sizeof(args), .layer = layer, .queries = TOKENS, .keys = TOKENS,
                              .q = {.buffer = buffer, .offset = q_at}, .k = {.buffer = buffer, .offset = k_at},
                              .v = {.buffer = buffer, .offset = v_at}, .out = {.buffer = buffer, .offset = out_at}};
        kas_status status = kas_prefill(session, stream, &args);
        if (status != KAS_OK)
            return status;
    }
    return KAS_OK;
}

/* What the CPU device makes of it. */
static float *expected_output(void)
{
    kas_context_desc desc = {.struct_size = sizeof(desc), .device = "cpu"};
    unsigned char *bytes = malloc(all_bytes);
    float *expected = malloc(Q_FLOATS * sizeof(float));
    kas_context *context;
    kas_stream *stream;
    kas_buffer *buffer;
    kas_session *session;
    fill_tensors(bytes);
    check(kas_context_create(&desc, &context));
    check(kas_stream_create(context, &stream));
    check(kas_buffer_create(context, all_bytes, &buffer));
    check(kas_buffer_write(stream, buffer, 0, bytes, all_bytes));
    check(make_session(context, &session));
    check(run_layers(session, stream, buffer));
    check(kas_buffer_read(stream, buffer, out_at, expected, Q_FLOATS * sizeof(float)));
    kas_session_destroy(session);
    kas_buffer_destroy(buffer);
    kas_stream_destroy(stream);
    kas_context_destroy(context);
    free(bytes);
    return expected;
}

static void check_output(const unsigned char *bytes, const float *expected)
{
    const float *out = (const float *)(bytes + out_at);
    for (uint32_t i = 0; i < Q_FLOATS; i++)
        if (!(fabsf(out[i] - expected[i]) <= 2e-5f))
            fail_msg("element %u is %g, the CPU has %g", i, (double)out[i], (double)expected[i]);
    check_guards(bytes);
}

#endif
