/* 01_cpu.c - one layer of dense decode attention on the CPU, from nothing to the output. */
#include <kascade/kascade.h>

#include <stdio.h>
#include <stdlib.h>

enum { KEYS = 1024, HEADS = 8, KV_HEADS = 2, DIM = 64 };

#define CHECK(call)                                                                                                    \
    do {                                                                                                               \
        if ((call) != KAS_OK) {                                                                                        \
            fprintf(stderr, "%s\n", kas_last_error());                                                                 \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

static kas_buffer *tensor(kas_context *context, int count)
{
    kas_buffer *buffer;
    CHECK(kas_buffer_create(context, count * sizeof(float), &buffer));
    float *values = kas_buffer_host(buffer);
    for (int i = 0; i < count; i++)
        values[i] = (float)rand() / (float)RAND_MAX - 0.5f;
    return buffer;
}

int main(void)
{
    kas_context *context;
    kas_stream *stream;
    kas_session *session;
    CHECK(kas_context_create(&(kas_context_desc){.struct_size = sizeof(kas_context_desc), .device = "cpu"}, &context));
    CHECK(kas_stream_create(context, &stream));
    kas_session_desc desc = {.struct_size = sizeof(desc), .heads = HEADS, .kv_heads = KV_HEADS, .head_dim = DIM,
                             .dtype = KAS_DTYPE_F32, .max_keys = KEYS};
    CHECK(kas_session_create(context, &desc, &session));
    kas_buffer *q = tensor(context, HEADS * DIM), *out = tensor(context, HEADS * DIM);
    kas_buffer *k = tensor(context, KEYS * KV_HEADS * DIM), *v = tensor(context, KEYS * KV_HEADS * DIM);
    kas_attention args = {.struct_size = sizeof(args), .keys = KEYS, .q = {.buffer = q}, .k = {.buffer = k},
                          .v = {.buffer = v}, .out = {.buffer = out}};
    CHECK(kas_attend(session, stream, KAS_PHASE_DECODE, &args));
    CHECK(kas_stream_wait(stream));
    printf("out[0] = %f\n", ((float *)kas_buffer_host(out))[0]);
    kas_buffer *buffers[] = {q, k, v, out};
    for (int i = 0; i < 4; i++)
        kas_buffer_destroy(buffers[i]);
    kas_session_destroy(session);
    kas_stream_destroy(stream);
    kas_context_destroy(context);
    return 0;
}
