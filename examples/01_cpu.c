/* 01_cpu.c - one layer of dense decode attention on the CPU, from nothing to the output. */
#include "check.h"

enum { KEYS = 1024, HEADS = 8, KV_HEADS = 2, DIM = 64 };

static kas_tensor tensor(kas_context *context, int count)
{
    kas_tensor t = {0};
    CHECK(kas_buffer_create(context, (uint64_t)count * sizeof(float), &t.buffer));
    for (int i = 0; i < count; i++)
        ((float *)kas_buffer_host(t.buffer))[i] = (float)rand() / (float)RAND_MAX - 0.5f;
    return t;
}

int main(void)
{
    kas_context *context;
    kas_stream *stream;
    kas_session *session;
    kas_context_desc device = {.struct_size = sizeof(device), .device = "cpu"};
    kas_session_desc shape = {.struct_size = sizeof(shape), .heads = HEADS, .kv_heads = KV_HEADS, .head_dim = DIM,
                              .dtype = KAS_DTYPE_F32, .max_keys = KEYS};
    CHECK(kas_context_create(&device, &context));
    CHECK(kas_stream_create(context, &stream));
    CHECK(kas_session_create(context, &shape, &session));
    kas_tensor q = tensor(context, HEADS * DIM), out = tensor(context, HEADS * DIM);
    kas_tensor k = tensor(context, KEYS * KV_HEADS * DIM), v = tensor(context, KEYS * KV_HEADS * DIM);
    kas_attention args = {.struct_size = sizeof(args), .keys = KEYS, .q = q, .k = k, .v = v, .out = out};
    CHECK(kas_attend(session, stream, KAS_PHASE_DECODE, &args));
    CHECK(kas_stream_wait(stream));
    printf("out[0] = %f\n", ((float *)kas_buffer_host(out.buffer))[0]);
    kas_tensor tensors[] = {q, k, v, out};
    for (int i = 0; i < 4; i++)
        kas_buffer_destroy(tensors[i].buffer);
    kas_session_destroy(session);
    kas_stream_destroy(stream);
    kas_context_destroy(context);
    return 0;
}
