/*
 * 04_opencl.c - the library inside an OpenCL program: one layer of decode attention in the program's own context, on
 * its own queue and buffers, between an event of the program's and one that it waits for.
 */
#define CL_TARGET_OPENCL_VERSION 120
#include "check.h"

#include <CL/cl.h>
#include <kascade/opencl.h>

enum { KEYS = 1024, HEADS = 8, KV_HEADS = 2, DIM = 64 };

#define CL_CHECK(call)                                                                                                 \
    do {                                                                                                               \
        cl_int cl_error = (call);                                                                                      \
        if (cl_error != CL_SUCCESS) {                                                                                  \
            fprintf(stderr, "%s:%d: OpenCL error %d\n", __FILE__, __LINE__, cl_error);                                 \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

/* The first device of the first platform that has one. */
static cl_device_id find_device(void)
{
    cl_platform_id platforms[8];
    cl_uint count = 0;
    cl_device_id device = NULL;
    if (clGetPlatformIDs(8, platforms, &count) != CL_SUCCESS)
        return NULL;
    for (cl_uint i = 0; i < count && i < 8 && !device; i++)
        if (clGetDeviceIDs(platforms[i], CL_DEVICE_TYPE_ALL, 1, &device, NULL) != CL_SUCCESS)
            device = NULL;
    return device;
}

/* A cl_mem and the library's view of it. */
typedef struct array {
    cl_mem memory;
    kas_buffer *buffer;
} array;

/* `count` random floats, uploaded on `queue`. */
static array make_array(kas_context *context, cl_context cl, cl_command_queue queue, int count)
{
    cl_int error;
    size_t size = (size_t)count * sizeof(float);
    float *values = malloc(size);
    array made = {clCreateBuffer(cl, CL_MEM_READ_WRITE, size, NULL, &error), NULL};
    CL_CHECK(error);
    for (int i = 0; i < count; i++)
        values[i] = (float)rand() / (float)RAND_MAX - 0.5f;
    CL_CHECK(clEnqueueWriteBuffer(queue, made.memory, CL_TRUE, 0, size, values, 0, NULL, NULL));
    free(values);
    CHECK(kas_buffer_import(context, (uint64_t)(uintptr_t)made.memory, 0, size, &made.buffer));
    return made;
}

static void release_array(array *a)
{
    kas_buffer_destroy(a->buffer);
    clReleaseMemObject(a->memory);
}

int main(void)
{
    cl_int error;
    cl_device_id device = find_device();
    if (!device) {
        printf("no OpenCL device\n");
        return 77;
    }
    cl_context cl = clCreateContext(NULL, 1, &device, NULL, NULL, &error);
    CL_CHECK(error);
    cl_command_queue uploads = clCreateCommandQueue(cl, device, 0, &error);
    CL_CHECK(error);
    cl_command_queue queue = clCreateCommandQueue(cl, device, 0, &error);
    CL_CHECK(error);

    /* The library adopts the context and the queue; both stay the program's. */
    kas_context *context;
    kas_stream *stream;
    kas_session *session;
    kas_opencl_import import = {.struct_size = sizeof(import), .context = cl, .device = device};
    kas_context_desc desc = {.struct_size = sizeof(desc), .device = "opencl", .import = &import};
    kas_session_desc shape = {.struct_size = sizeof(shape), .heads = HEADS, .kv_heads = KV_HEADS, .head_dim = DIM,
                              .dtype = KAS_DTYPE_F32, .max_keys = KEYS};
    CHECK(kas_context_create(&desc, &context));
    CHECK(kas_stream_import(context, (uint64_t)(uintptr_t)queue, &stream));
    CHECK(kas_session_create(context, &shape, &session));

    array q = make_array(context, cl, uploads, HEADS * DIM), out = make_array(context, cl, uploads, HEADS * DIM);
    array k = make_array(context, cl, uploads, KEYS * KV_HEADS * DIM);
    array v = make_array(context, cl, uploads, KEYS * KV_HEADS * DIM);

    /* Attention begins behind what the other queue has done, and an event says when it has ended. */
    cl_event uploaded, attended;
    CL_CHECK(clEnqueueMarkerWithWaitList(uploads, 0, NULL, &uploaded));
    CL_CHECK(clFlush(uploads));
    CL_CHECK(clEnqueueBarrierWithWaitList(queue, 1, &uploaded, NULL));
    kas_attention args = {.struct_size = sizeof(args), .keys = KEYS, .q = {.buffer = q.buffer},
                          .k = {.buffer = k.buffer}, .v = {.buffer = v.buffer}, .out = {.buffer = out.buffer}};
    CHECK(kas_attend(session, stream, KAS_PHASE_DECODE, &args));
    CL_CHECK(clEnqueueMarkerWithWaitList(queue, 0, NULL, &attended));
    CL_CHECK(clWaitForEvents(1, &attended));

    float first;
    CL_CHECK(clEnqueueReadBuffer(queue, out.memory, CL_TRUE, 0, sizeof(first), &first, 0, NULL, NULL));
    printf("out[0] = %f\n", first);

    array arrays[] = {q, k, v, out};
    for (int i = 0; i < 4; i++)
        release_array(&arrays[i]);
    clReleaseEvent(uploaded);
    clReleaseEvent(attended);
    kas_session_destroy(session);
    kas_stream_destroy(stream);
    kas_context_destroy(context);
    clReleaseCommandQueue(queue);
    clReleaseCommandQueue(uploads);
    clReleaseContext(cl);
    return 0;
}
