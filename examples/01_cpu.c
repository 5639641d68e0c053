/* 01_cpu.c - one layer of dense decode attention on the CPU, from nothing to the output. */
#include "check.h"

enum { KEYS = 1024, HEADS = 8, KV_HEADS = 2, DIM = 64 };

static kas_tensor tensor(kas_context *context, int count)
{
    kas_tensor t = {0};
    CHECK(kas_buffer_create(context, count * sizeof(float), &t.buffer));
    for (int i = 0; i < count; i++)
        ((float *)kas_buffer_host(t.buffer))[i] = (float)rand() / (float)RAND_MAX - 0.5f;
    return t;
}

int main(void)
{
    kas_context *context;
    kas_stream *stream;
    kas_session *session;
    CHECK(kas_context_create(&(kas_context_desc){.struct_size = sizeof(kas_context_desc), .device = "cpu"}, &context));
    CHECK(kas_stream_create(context, &stream));
    kas_session_desc desc = {.struct_size = sizeof(desc),
                             .heads = HEADS,
                             .kv_heads = KV_HEADS,
                             .head_dim = DIM,
                             .dtype = KAS_DTYPE_F32,
                             .max_keys = KEYS};
    CHECK(kas_session_create(context, &desc, &session));
    kas_attention args = {.struct_size = sizeof(args),
                          .keys = KEYS,
                          .q = tensor(context, HEADS * DIM),
                          .k = tensor(context, KEYS * KV_HEADS * DIM),
                          .v = tensor(context, KEYS * KV_HEADS * DIM),
                          .out = tensor(context, HEADS * DIM)};
    CHECK(kas_attend(session, stream, KAS_PHASE_DECODE, &args));
    CHECK(kas_stream_wait(stream));
    printf("out[0] = %f\n", ((float *)kas_buffer_host(args.out.buffer))[0]);
    for (int i = 0; i < 4; i++)
        kas_buffer_destroy((kas_buffer *[]){args.q.buffer, args.k.buffer, args.v.buffer, args.out.buffer}[i]);
    kas_session_destroy(session);
    kas_stream_destroy(stream);
    kas_context_destroy(context);
    return 0;
}
