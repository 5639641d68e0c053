/*
 * 07_speculative.c - speculative decoding: a draft of four tokens is verified in one step, the rejected part is taken
 * back by shortening kv_lens, and the next draft overwrites its keys.
 *
 * The model is a stand-in: random numbers where projections would be, and a coin where tokens would be compared.
 */
#include "check.h"

enum { LAYERS = 6, HEADS = 8, KV_HEADS = 2, DIM = 64, PROMPT = 600, DRAFT = 4, STEPS = 20, MAX_KEYS = 1024 };

static float *host(kas_buffer *buffer)
{
    return kas_buffer_host(buffer);
}

static void project(float *values, int count)
{
    for (int i = 0; i < count; i++)
        values[i] = (float)rand() / (float)RAND_MAX - 0.5f;
}

/* How many drafted tokens the model agrees with; the first is its own choice of the step before. */
static int accepted(void)
{
    return 1 + rand() % DRAFT;
}

int main(void)
{
    kas_context *context;
    kas_stream *stream;
    kas_plan *plan;
    kas_session *session;
    CHECK(kas_context_create(&(kas_context_desc){.struct_size = sizeof(kas_context_desc), .device = "cpu"}, &context));
    CHECK(kas_stream_create(context, &stream));
    const uint32_t anchors[] = {0, 3};
    CHECK(kas_plan_create(&(kas_plan_desc){.struct_size = sizeof(kas_plan_desc),
                                           .layers = LAYERS,
                                           .heads = HEADS,
                                           .kv_heads = KV_HEADS,
                                           .anchors = anchors,
                                           .anchor_count = 2},
                          &plan));
    CHECK(kas_session_create(context,
                             &(kas_session_desc){.struct_size = sizeof(kas_session_desc),
                                                 .plan = plan,
                                                 .head_dim = DIM,
                                                 .dtype = KAS_DTYPE_F32,
                                                 .max_decode_queries = DRAFT,
                                                 .max_keys = MAX_KEYS},
                             &session));
    kas_buffer *q, *out, *lengths, *k[LAYERS], *v[LAYERS];
    const int token = KV_HEADS * DIM; /* elements of a token's keys in one layer */
    CHECK(kas_buffer_create(context, sizeof(float) * DRAFT * HEADS * DIM, &q));
    CHECK(kas_buffer_create(context, sizeof(float) * DRAFT * HEADS * DIM, &out));
    CHECK(kas_buffer_create(context, sizeof(int32_t), &lengths));
    for (int layer = 0; layer < LAYERS; layer++) {
        CHECK(kas_buffer_create(context, sizeof(float) * MAX_KEYS * token, &k[layer]));
        CHECK(kas_buffer_create(context, sizeof(float) * MAX_KEYS * token, &v[layer]));
        project(host(k[layer]), PROMPT * token); /* as a prefill would have left them */
        project(host(v[layer]), PROMPT * token);
    }
    int32_t keys = PROMPT;
    int kept = 0;
    for (int step = 0; step < STEPS; step++) {
        const int32_t drafted = keys + DRAFT;
        CHECK(kas_buffer_write(stream, lengths, 0, &drafted, sizeof(drafted)));
        for (int layer = 0; layer < LAYERS; layer++) {
            project(host(q), DRAFT * HEADS * DIM);
            project(host(k[layer]) + keys * token, DRAFT * token);
            project(host(v[layer]) + keys * token, DRAFT * token);
            kas_attention args = {.struct_size = sizeof(args),
                                  .layer = (uint32_t)layer,
                                  .queries = DRAFT,
                                  .keys = MAX_KEYS,
                                  .q = {.buffer = q},
                                  .k = {.buffer = k[layer]},
                                  .v = {.buffer = v[layer]},
                                  .out = {.buffer = out},
                                  .kv_lens = {.buffer = lengths}};
            CHECK(kas_decode(session, stream, &args));
            CHECK(kas_stream_wait(stream)); /* the next layer's projections need this one's output */
        }
        int good = accepted();
        kept += good;
        keys += good; /* keys of rejected tokens lie past the length: the next draft overwrites them */
    }
    printf("%d steps of %d drafted tokens: %d kept, %d keys in the cache\n", STEPS, DRAFT, kept, (int)keys);
    for (int layer = 0; layer < LAYERS; layer++) {
        kas_buffer_destroy(k[layer]);
        kas_buffer_destroy(v[layer]);
    }
    kas_buffer_destroy(q);
    kas_buffer_destroy(out);
    kas_buffer_destroy(lengths);
    kas_session_destroy(session);
    kas_plan_destroy(plan);
    kas_stream_destroy(stream);
    kas_context_destroy(context);
    return 0;
}
