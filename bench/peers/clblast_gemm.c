/*
 * clblast_gemm.c - times what a matrix library would do in place of the rows of lse and scores: q . k of all queries of
 * a text by CLBlast's strided-batched sgemm, one product a kv head over bounded chunks of queries, each chunk against
 * the keys that its last query sees. Compare with `kascade bench --tune`, whose rows also sum up what they multiply.
 *
 *     cc -O2 clblast_gemm.c -o clblast_gemm -lclblast -lOpenCL
 *     clblast_gemm TOKENS [CHUNK [HEADS KV_HEADS HEAD_DIM]]
 *
 * Takes the first device of the first platform. q and k lie packed in f32, as a row of this kind would have to bring
 * them: sgemm reads neither page tables nor half precision.
 */
#define CL_TARGET_OPENCL_VERSION 120
#define _POSIX_C_SOURCE 200809L
#include <CL/cl.h>
#include <clblast_c.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

typedef struct pass {
    size_t tokens, chunk, group, kv_heads, head_dim;
    cl_command_queue queue;
    cl_mem q, k, logits;
} pass;

static double seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void require(int good, const char *what, int code)
{
    if (good)
        return;
    fprintf(stderr, "clblast_gemm: %s: %d\n", what, code);
    exit(1);
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Logits of the queries [first, first + chunk), one product a kv head. */
static void multiply(pass *p, size_t first)
{
    size_t rows = least(p->chunk, p->tokens - first) * p->group, keys = least(first + p->chunk, p->tokens);
    CLBlastStatusCode code = CLBlastSgemmStridedBatched(
        CLBlastLayoutRowMajor, CLBlastTransposeNo, CLBlastTransposeYes, rows, keys, p->head_dim, 0.088f, p->q,
        first * p->group * p->head_dim, p->head_dim, p->tokens * p->group * p->head_dim, p->k, 0, p->head_dim,
        p->tokens * p->head_dim, 0.0f, p->logits, 0, p->tokens, p->chunk * p->group * p->tokens, p->kv_heads, &p->queue,
        NULL);
    require(code == CLBlastSuccess, "CLBlastSgemmStridedBatched", (int)code);
}

static double run(pass *p)
{
    double begin = seconds();
    for (size_t first = 0; first < p->tokens; first += p->chunk)
        multiply(p, first);
    int error = clFinish(p->queue);
    require(error == CL_SUCCESS, "clFinish", error);
    return seconds() - begin;
}

static cl_mem buffer(cl_context context, cl_command_queue queue, size_t floats)
{
    const float one = 1.0f;
    int error;
    cl_mem made = clCreateBuffer(context, CL_MEM_READ_WRITE, floats * sizeof(float), NULL, &error);
    require(error == CL_SUCCESS, "clCreateBuffer", error);
    error = clEnqueueFillBuffer(queue, made, &one, sizeof(one), 0, floats * sizeof(float), 0, NULL, NULL);
    require(error == CL_SUCCESS, "clEnqueueFillBuffer", error);
    return made;
}

static size_t number(int argc, char **argv, int index, size_t missing)
{
    return argc > index ? strtoul(argv[index], NULL, 10) : missing;
}

int main(int argc, char **argv)
{
    pass p = {.tokens = number(argc, argv, 1, 4096),
              .chunk = number(argc, argv, 2, 256),
              .kv_heads = number(argc, argv, 4, 8),
              .head_dim = number(argc, argv, 5, 128)};
    p.group = number(argc, argv, 3, 32) / p.kv_heads;
    cl_platform_id platform;
    cl_device_id device;
    char name[128] = "";
    int error = clGetPlatformIDs(1, &platform, NULL);
    require(error == CL_SUCCESS, "clGetPlatformIDs", error);
    error = clGetDeviceIDs(platform, CL_DEVICE_TYPE_ALL, 1, &device, NULL);
    require(error == CL_SUCCESS, "clGetDeviceIDs", error);
    clGetDeviceInfo(device, CL_DEVICE_NAME, sizeof(name), name, NULL);
    cl_context context = clCreateContext(NULL, 1, &device, NULL, NULL, &error);
    require(error == CL_SUCCESS, "clCreateContext", error);
    p.queue = clCreateCommandQueue(context, device, 0, &error);
    require(error == CL_SUCCESS, "clCreateCommandQueue", error);
    p.q = buffer(context, p.queue, p.tokens * p.group * p.kv_heads * p.head_dim);
    p.k = buffer(context, p.queue, p.tokens * p.kv_heads * p.head_dim);
    p.logits = buffer(context, p.queue, p.chunk * p.group * p.tokens * p.kv_heads);
    clFinish(p.queue);

    double begin = seconds();
    multiply(&p, 0);
    clFinish(p.queue);
    printf("%s: first call %.2f s\n", name, seconds() - begin);
    double causal = 0, made = 0, pairs = (double)(p.kv_heads * p.group);
    for (size_t first = 0; first < p.tokens; first += p.chunk) {
        double queries = (double)least(p.chunk, p.tokens - first), end = (double)least(first + p.chunk, p.tokens);
        made += pairs * queries * end;
        causal += pairs * queries * (end - (queries - 1) / 2);
    }
    for (int round = 0; round < 4; round++) {
        double time = run(&p);
        printf("%zu tokens in chunks of %zu: %.3f ms, %.3f TFLOP/s of causal pairs, %.3f of all; %.2f GB of logits\n",
               p.tokens, p.chunk, time * 1e3, causal * 2 * (double)p.head_dim / time * 1e-12,
               made * 2 * (double)p.head_dim / time * 1e-12, made * 4e-9);
    }
    return 0;
}
