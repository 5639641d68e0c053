/*
 * test_repeat.c [RUNS [DEVICE]] - the promise of determinism: layers of a plan computed again and again over the same
 * inputs leave the same bits, outputs and published lists alike. Prefill and decode, dense, anchor and reuse.
 */
#include <kascade/kascade.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { LAYERS = 4, HEADS = 8, KV_HEADS = 2, DIM = 128, BATCH = 3, QUERIES = 200, KEYS = 3000, SKIPPED = 77 };

/* Layer 0 is dense and publishes, layer 2 is an anchor, 1 and 3 reuse their lists. */
static const uint32_t anchors[] = {0, 2}, head_map[LAYERS * KV_HEADS] = {0, 1, 0, 0, 0, 1, 1, 0};

typedef struct repeater {
    kas_context *context;
    kas_stream *stream;
    kas_session *session;
    kas_buffer *q, *k, *v, *out;
} repeater;

static void check(kas_status status, const char *what)
{
    if (status == KAS_OK)
        return;
    fprintf(stderr, "%s: %s\n", what, kas_last_error());
    exit(1);
}

static kas_buffer *make_buffer(repeater *r, uint64_t size)
{
    kas_buffer *buffer;
    check(kas_buffer_create(r->context, size, &buffer), "kas_buffer_create");
    return buffer;
}

/* f16 numbers between -1 and 1 with exponents from 2^-8 up. */
static kas_buffer *random_buffer(repeater *r, uint64_t count)
{
    static uint32_t state = 1;
    kas_buffer *buffer = make_buffer(r, count * sizeof(uint16_t));
    uint16_t *values = malloc(count * sizeof(*values));
    if (!values)
        exit(1);
    for (uint64_t i = 0; i < count; i++) {
        state = state * 1664525u + 1013904223u;
        values[i] = (uint16_t)((state >> 16 & 0x83ffu) | (7u + (state >> 8) % 8u) << 10);
    }
    check(kas_buffer_write(r->stream, buffer, 0, values, count * sizeof(*values)), "kas_buffer_write");
    check(kas_stream_wait(r->stream), "kas_stream_wait");
    free(values);
    return buffer;
}

static void open_device(repeater *r, const char *device)
{
    kas_context_desc desc = {.struct_size = sizeof(desc), .device = device};
    kas_status status = kas_context_create(&desc, &r->context);
    if (status == KAS_ERROR_NO_DEVICE) {
        printf("skipped: %s\n", kas_last_error());
        exit(SKIPPED);
    }
    check(status, "kas_context_create");
    check(kas_stream_create(r->context, &r->stream), "kas_stream_create");
    r->q = random_buffer(r, (uint64_t)BATCH * QUERIES * HEADS * DIM);
    r->k = random_buffer(r, (uint64_t)BATCH * KEYS * KV_HEADS * DIM);
    r->v = random_buffer(r, (uint64_t)BATCH * KEYS * KV_HEADS * DIM);
    r->out = make_buffer(r, (uint64_t)BATCH * QUERIES * HEADS * DIM * sizeof(uint16_t));
}

static void make_session(repeater *r)
{
    kas_plan *plan;
    check(kas_plan_create(&(kas_plan_desc){.struct_size = sizeof(kas_plan_desc),
                                           .layers = LAYERS,
                                           .heads = HEADS,
                                           .kv_heads = KV_HEADS,
                                           .anchors = anchors,
                                           .anchor_count = 2,
                                           .head_map = head_map},
                          &plan),
          "kas_plan_create");
    check(kas_session_create(r->context,
                             &(kas_session_desc){.struct_size = sizeof(kas_session_desc),
                                                 .plan = plan,
                                                 .head_dim = DIM,
                                                 .dtype = KAS_DTYPE_F16,
                                                 .max_batch = BATCH,
                                                 .max_queries = QUERIES,
                                                 .max_keys = KEYS},
                             &r->session),
          "kas_session_create");
    kas_plan_destroy(plan);
}

/* FNV-1a over a slice of a buffer. */
static uint64_t hash_slice(repeater *r, kas_slice slice, uint64_t size, uint64_t hash)
{
    unsigned char *bytes = malloc(size);
    if (!bytes)
        exit(1);
    check(kas_buffer_read(r->stream, slice.buffer, slice.offset, bytes, size), "kas_buffer_read");
    check(kas_stream_wait(r->stream), "kas_stream_wait");
    for (uint64_t i = 0; i < size; i++)
        hash = (hash ^ bytes[i]) * 1099511628211u;
    free(bytes);
    return hash;
}

/* The anchor's lists in decode; those of prefill lie apart, and the reuse layers' outputs speak for them. */
static uint64_t hash_lists(repeater *r, kas_phase phase, uint64_t hash)
{
    kas_published_lists lists = {.struct_size = sizeof(lists)};
    if (phase == KAS_PHASE_PREFILL)
        return hash;
    check(kas_session_get_lists(r->session, phase, &lists), "kas_session_get_lists");
    return hash_slice(r, lists.indices, (uint64_t)BATCH * KV_HEADS * lists.row_capacity * sizeof(int32_t), hash);
}

/* Runs all layers once. */
static uint64_t run(repeater *r, kas_phase phase)
{
    uint32_t queries = phase == KAS_PHASE_PREFILL ? QUERIES : 1;
    uint64_t hash = 14695981039346656037u;
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        const kas_attention args = {.struct_size = sizeof(args),
                                    .layer = layer,
                                    .batch = BATCH,
                                    .queries = queries,
                                    .keys = KEYS,
                                    .q = {.buffer = r->q},
                                    .k = {.buffer = r->k},
                                    .v = {.buffer = r->v},
                                    .out = {.buffer = r->out}};
        check(phase == KAS_PHASE_PREFILL ? kas_prefill(r->session, r->stream, &args)
                                         : kas_decode(r->session, r->stream, &args),
              "layer");
        hash = hash_slice(r, (kas_slice){r->out, 0}, (uint64_t)BATCH * queries * HEADS * DIM * sizeof(uint16_t), hash);
    }
    return hash_lists(r, phase, hash);
}

static int repeat(repeater *r, kas_phase phase, const char *name, unsigned long runs)
{
    const uint64_t first = run(r, phase);
    for (unsigned long i = 1; i < runs; i++)
        if (run(r, phase) != first) {
            printf("%s: run %lu of %lu has other bits than the first\n", name, i + 1, runs);
            return 1;
        }
    printf("%s: %lu runs, the same bits (%016llx)\n", name, runs, (unsigned long long)first);
    return 0;
}

int main(int argc, char **argv)
{
    const unsigned long runs = argc > 1 ? strtoul(argv[1], NULL, 10) : 3;
    repeater r = {0};
    open_device(&r, argc > 2 ? argv[2] : "cpu");
    make_session(&r);
    int differs = repeat(&r, KAS_PHASE_PREFILL, "prefill", runs);
    differs |= repeat(&r, KAS_PHASE_DECODE, "decode", runs);
    kas_session_destroy(r.session);
    kas_buffer_destroy(r.q);
    kas_buffer_destroy(r.k);
    kas_buffer_destroy(r.v);
    kas_buffer_destroy(r.out);
    kas_stream_destroy(r.stream);
    kas_context_destroy(r.context);
    return differs;
}
