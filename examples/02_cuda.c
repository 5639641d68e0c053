/*
 * 02_cuda.c - decoding inside a CUDA program: the program's own context, stream and memory, and a decode step of all
 * layers captured once in a CUDA graph that is replayed while the sequences grow.
 *
 *     example_02_cuda [keys [batch [layers]]]
 *
 * Prints what a step takes as a graph, beside dense attention in all layers, and what each kind of layer takes. The
 * driver is opened at run time, so that this builds without CUDA; a program that includes cuda.h or cuda_runtime.h
 * passes its handles just the same.
 */
#include "check.h"

#include <dlfcn.h>
#include <kascade/cuda.h>
#include <string.h>

enum { HEADS = 32, KV_HEADS = 8, DIM = 128, MOST_LAYERS = 32, REPLAYS = 20, SKIPPED = 77 };

typedef struct CUctx_st *CUcontext;
typedef struct CUstream_st *CUstream;
typedef struct CUevent_st *CUevent;
typedef struct CUgraph_st *CUgraph;
typedef struct CUgraphExec_st *CUgraphExec;
typedef unsigned long long CUdeviceptr;

#define CUDA_ENTRIES(X)                                                                                                \
    X(init, "cuInit", (unsigned flags))                                                                                \
    X(device_get, "cuDeviceGet", (int *device, int ordinal))                                                           \
    X(context_create, "cuCtxCreate_v2", (CUcontext *context, unsigned flags, int device))                              \
    X(context_destroy, "cuCtxDestroy_v2", (CUcontext context))                                                         \
    X(allocate, "cuMemAlloc_v2", (CUdeviceptr *pointer, size_t bytes))                                                 \
    X(release, "cuMemFree_v2", (CUdeviceptr pointer))                                                                  \
    X(copy_in, "cuMemcpyHtoD_v2", (CUdeviceptr target, const void *source, size_t bytes))                              \
    X(copy_out, "cuMemcpyDtoH_v2", (void *target, CUdeviceptr source, size_t bytes))                                   \
    X(copy, "cuMemcpyDtoD_v2", (CUdeviceptr target, CUdeviceptr source, size_t bytes))                                 \
    X(stream_create, "cuStreamCreate", (CUstream *stream, unsigned flags))                                             \
    X(stream_wait, "cuStreamSynchronize", (CUstream stream))                                                           \
    X(stream_destroy, "cuStreamDestroy_v2", (CUstream stream))                                                         \
    X(capture_begin, "cuStreamBeginCapture_v2", (CUstream stream, int mode))                                           \
    X(capture_end, "cuStreamEndCapture", (CUstream stream, CUgraph *graph))                                            \
    X(graph_instantiate, "cuGraphInstantiateWithFlags", (CUgraphExec *exec, CUgraph graph, unsigned long long flags))  \
    X(graph_launch, "cuGraphLaunch", (CUgraphExec exec, CUstream stream))                                              \
    X(graph_destroy, "cuGraphDestroy", (CUgraph graph))                                                                \
    X(exec_destroy, "cuGraphExecDestroy", (CUgraphExec exec))                                                          \
    X(event_create, "cuEventCreate", (CUevent *event, unsigned flags))                                                 \
    X(event_record, "cuEventRecord", (CUevent event, CUstream stream))                                                 \
    X(event_elapsed, "cuEventElapsedTime", (float *milliseconds, CUevent first, CUevent second))                       \
    X(event_destroy, "cuEventDestroy_v2", (CUevent event))

static struct {
#define CUDA_FIELD(field, symbol, arguments) int(*field) arguments;
    CUDA_ENTRIES(CUDA_FIELD)
#undef CUDA_FIELD
} cuda;

#define CUDA(call)                                                                                                     \
    do {                                                                                                               \
        int error = cuda.call;                                                                                         \
        if (error != 0) {                                                                                              \
            fprintf(stderr, "%s:%d: CUDA error %d\n", __FILE__, __LINE__, error);                                      \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

/* Ends the program, as skipped, where there is no CUDA device. */
static void open_cuda(int *device)
{
    void *library = dlopen("libcuda.so.1", RTLD_NOW), *entry;
    if (!library) {
        printf("skipped: there is no libcuda.so.1\n");
        exit(SKIPPED);
    }
#define CUDA_LOAD(field, symbol, arguments)                                                                            \
    entry = dlsym(library, symbol);                                                                                    \
    if (!entry)                                                                                                        \
        exit(SKIPPED);                                                                                                 \
    memcpy(&cuda.field, &entry, sizeof(entry));
    CUDA_ENTRIES(CUDA_LOAD)
#undef CUDA_LOAD
    if (cuda.init(0) != 0 || cuda.device_get(device, 0) != 0) {
        printf("skipped: there is no CUDA device\n");
        exit(SKIPPED);
    }
}

/* What the program owns, in memory of its own. */
typedef struct program {
    uint32_t keys, batch, layers;
    int device;
    CUcontext context;
    CUstream stream;
    CUdeviceptr q, out, lengths, k[MOST_LAYERS], v[MOST_LAYERS];
} program;

static size_t cache_bytes(const program *p)
{
    return sizeof(uint16_t) * p->batch * p->keys * KV_HEADS * DIM;
}

static size_t rows_bytes(const program *p)
{
    return sizeof(uint16_t) * p->batch * HEADS * DIM;
}

/* Device memory of random numbers between -1 and 1, as f16: sign, the exponents from 2^-8 up, any mantissa. */
static CUdeviceptr random_memory(size_t bytes)
{
    static uint32_t state = 1;
    CUdeviceptr memory;
    uint16_t *values = malloc(bytes);
    if (!values)
        exit(1);
    for (size_t i = 0; i < bytes / sizeof(*values); i++) {
        state = state * 1664525u + 1013904223u;
        values[i] = (uint16_t)((state >> 16 & 0x83ffu) | (7u + (state >> 8) % 8u) << 10);
    }
    CUDA(allocate(&memory, bytes));
    CUDA(copy_in(memory, values, bytes));
    free(values);
    return memory;
}

static void prepare(program *p)
{
    open_cuda(&p->device);
    CUDA(context_create(&p->context, 0, p->device));
    CUDA(stream_create(&p->stream, 1)); /* 1: it does not wait for the default stream */
    p->q = random_memory(rows_bytes(p));
    CUDA(allocate(&p->out, rows_bytes(p) * p->layers));
    CUDA(allocate(&p->lengths, sizeof(int32_t) * p->batch));
    for (uint32_t layer = 0; layer < p->layers; layer++) {
        if (layer == 0) {
            p->k[0] = random_memory(cache_bytes(p));
            p->v[0] = random_memory(cache_bytes(p));
            continue;
        }
        CUDA(allocate(&p->k[layer], cache_bytes(p)));
        CUDA(allocate(&p->v[layer], cache_bytes(p)));
        CUDA(copy(p->k[layer], p->k[0], cache_bytes(p)));
        CUDA(copy(p->v[layer], p->v[0], cache_bytes(p)));
    }
}

static void clean_up(program *p)
{
    CUDA(release(p->q));
    CUDA(release(p->out));
    CUDA(release(p->lengths));
    for (uint32_t layer = 0; layer < p->layers; layer++) {
        CUDA(release(p->k[layer]));
        CUDA(release(p->v[layer]));
    }
    CUDA(stream_destroy(p->stream));
    CUDA(context_destroy(p->context));
}

/* The same things as libkascade knows them: imported, nothing is copied. */
typedef struct attention {
    kas_context *context;
    kas_stream *stream;
    kas_plan *plan;
    kas_session *session;
    kas_buffer *q, *out, *lengths, *k[MOST_LAYERS], *v[MOST_LAYERS];
} attention;

static kas_buffer *import(const attention *a, CUdeviceptr pointer, size_t bytes)
{
    kas_buffer *buffer;
    CHECK(kas_buffer_import(a->context, pointer, 0, bytes, &buffer));
    return buffer;
}

/* The anchors of the published plan for Llama-3.1-8B. */
static const uint32_t anchors[] = {0, 2, 8, 13, 14};

static uint32_t anchor_count(const program *p)
{
    uint32_t count = 0;
    while (count < sizeof(anchors) / sizeof(anchors[0]) && anchors[count] < p->layers)
        count++;
    return count;
}

/* As in that plan layer 1 reads one list, so that layer 0 makes no other. */
static void fill_head_map(uint32_t *map)
{
    for (uint32_t i = 0; i < MOST_LAYERS * KV_HEADS; i++)
        map[i] = i / KV_HEADS == 1 ? 0 : i % KV_HEADS;
}

/* false: libkascade cannot use this device. */
static int adopt(attention *a, const program *p)
{
    const kas_cuda_import handles = {.struct_size = sizeof(handles), .device = p->device, .context = p->context};
    const kas_context_desc desc = {.struct_size = sizeof(desc), .device = "cuda:0", .import = &handles};
    if (kas_context_create(&desc, &a->context) != KAS_OK) {
        printf("skipped: %s\n", kas_last_error());
        return 0;
    }
    CHECK(kas_stream_import(a->context, (uint64_t)(uintptr_t)p->stream, &a->stream));
    uint32_t head_map[MOST_LAYERS * KV_HEADS];
    fill_head_map(head_map);
    CHECK(kas_plan_create(&(kas_plan_desc){.struct_size = sizeof(kas_plan_desc),
                                           .layers = p->layers,
                                           .heads = HEADS,
                                           .kv_heads = KV_HEADS,
                                           .anchors = anchors,
                                           .anchor_count = anchor_count(p),
                                           .head_map = head_map},
                          &a->plan));
    CHECK(kas_session_create(a->context,
                             &(kas_session_desc){.struct_size = sizeof(kas_session_desc),
                                                 .plan = a->plan,
                                                 .head_dim = DIM,
                                                 .dtype = KAS_DTYPE_F16,
                                                 .max_batch = p->batch,
                                                 .max_keys = p->keys},
                             &a->session));
    a->q = import(a, p->q, rows_bytes(p));
    a->out = import(a, p->out, rows_bytes(p) * p->layers);
    a->lengths = import(a, p->lengths, sizeof(int32_t) * p->batch);
    for (uint32_t layer = 0; layer < p->layers; layer++) {
        a->k[layer] = import(a, p->k[layer], cache_bytes(p));
        a->v[layer] = import(a, p->v[layer], cache_bytes(p));
    }
    return 1;
}

static void let_go(attention *a, uint32_t layers)
{
    for (uint32_t layer = 0; layer < layers; layer++) {
        kas_buffer_destroy(a->k[layer]);
        kas_buffer_destroy(a->v[layer]);
    }
    kas_buffer_destroy(a->q);
    kas_buffer_destroy(a->out);
    kas_buffer_destroy(a->lengths);
    kas_session_destroy(a->session);
    kas_plan_destroy(a->plan);
    kas_stream_destroy(a->stream);
    kas_context_destroy(a->context);
}

/* What is done over the keys of all layers: a step of the plan, or the same kind of layer again and again. */
typedef enum work { STEP, DENSE, LAYER_0, ANCHOR } work;

/* Lengths are read on the device, so a captured step stays right. */
static void run(const attention *a, const program *p, work what)
{
    for (uint32_t layer = 0; layer < p->layers; layer++) {
        const kas_attention args = {.struct_size = sizeof(args),
                                    .layer = what == STEP ? layer : what == ANCHOR ? anchors[1] : 0,
                                    .batch = p->batch,
                                    .queries = 1,
                                    .keys = p->keys,
                                    .q = {.buffer = a->q},
                                    .k = {.buffer = a->k[layer]},
                                    .v = {.buffer = a->v[layer]},
                                    .out = {.buffer = a->out, .offset = rows_bytes(p) * layer},
                                    .kv_lens = {.buffer = a->lengths}};
        if (what == DENSE)
            CHECK(kas_attend(a->session, a->stream, KAS_PHASE_DECODE, &args));
        else
            CHECK(kas_decode(a->session, a->stream, &args));
    }
}

static CUgraphExec capture(const attention *a, const program *p, work what)
{
    CUgraph graph;
    CUgraphExec exec;
    CUDA(capture_begin(p->stream, 1)); /* 1: other threads may go on using CUDA */
    run(a, p, what);
    CUDA(capture_end(p->stream, &graph));
    CUDA(graph_instantiate(&exec, graph, 0));
    CUDA(graph_destroy(graph));
    return exec;
}

static void set_lengths(const program *p, uint32_t length)
{
    for (uint32_t i = 0; i < p->batch; i++) {
        const int32_t own = (int32_t)length;
        CUDA(copy_in(p->lengths + i * sizeof(own), &own, sizeof(own)));
    }
}

/* The outputs of a step, which the caller frees. */
static unsigned char *outputs(const program *p)
{
    const size_t size = rows_bytes(p) * p->layers;
    unsigned char *values = malloc(size);
    if (!values)
        exit(1);
    CUDA(stream_wait(p->stream));
    CUDA(copy_out(values, p->out, size));
    return values;
}

/* Replays the graph while the sequences grow to p->keys and compares each step with calls outside of a graph. */
static int check_growth(const attention *a, const program *p, CUgraphExec exec)
{
    int same = 1;
    for (uint32_t length = p->keys - 3; length <= p->keys; length++) {
        set_lengths(p, length);
        CUDA(graph_launch(exec, p->stream));
        unsigned char *replayed = outputs(p);
        run(a, p, STEP);
        unsigned char *called = outputs(p);
        same = same && memcmp(replayed, called, rows_bytes(p) * p->layers) == 0;
        free(replayed);
        free(called);
    }
    return same;
}

static float milliseconds(const program *p, CUgraphExec exec)
{
    float elapsed;
    CUevent first, last;
    CUDA(event_create(&first, 0));
    CUDA(event_create(&last, 0));
    CUDA(graph_launch(exec, p->stream));
    CUDA(event_record(first, p->stream));
    for (int i = 0; i < REPLAYS; i++)
        CUDA(graph_launch(exec, p->stream));
    CUDA(event_record(last, p->stream));
    CUDA(stream_wait(p->stream));
    CUDA(event_elapsed(&elapsed, first, last));
    CUDA(event_destroy(first));
    CUDA(event_destroy(last));
    return elapsed / REPLAYS;
}

static float timed(const attention *a, const program *p, work what)
{
    CUgraphExec exec = capture(a, p, what);
    const float elapsed = milliseconds(p, exec);
    CUDA(exec_destroy(exec));
    return elapsed;
}

/* Reuse layers need the lists of layers before them: theirs is what remains of a step. */
static void print_layers(const attention *a, const program *p, float step, float dense)
{
    const uint32_t further = anchor_count(p) - 1, reusing = p->layers - 1 - further;
    const float layer_0 = timed(a, p, LAYER_0) / (float)p->layers;
    const float anchor = further ? timed(a, p, ANCHOR) / (float)p->layers : 0;
    printf("a layer: dense %.4f ms, layer 0 %.4f", dense / (float)p->layers, layer_0);
    if (further)
        printf(", anchor %.4f", anchor);
    if (reusing)
        printf(", reuse %.4f", (step - layer_0 - (float)further * anchor) / (float)reusing);
    printf("\n");
}

static uint32_t number(int argc, char **argv, int i, uint32_t otherwise)
{
    return argc > i ? (uint32_t)strtoul(argv[i], NULL, 10) : otherwise;
}

int main(int argc, char **argv)
{
    program p = {.keys = number(argc, argv, 1, 4096), .batch = number(argc, argv, 2, 1),
                 .layers = number(argc, argv, 3, MOST_LAYERS)};
    attention a = {0};
    if (p.keys < 4 || p.batch < 1 || p.layers < 1 || p.layers > MOST_LAYERS) {
        fprintf(stderr, "usage: %s [keys [batch [layers]]]: 4 keys or more, up to %d layers\n", argv[0], MOST_LAYERS);
        return 2;
    }
    prepare(&p);
    if (!adopt(&a, &p))
        return SKIPPED;
    CUgraphExec exec = capture(&a, &p, STEP);
    const int same = check_growth(&a, &p, exec);
    const float step_ms = milliseconds(&p, exec), dense_ms = timed(&a, &p, DENSE);
    printf("%u layers, batch %u, %u keys: %.4f ms a step, %.4f ms with dense attention; replays and calls %s\n",
           p.layers, p.batch, p.keys, step_ms, dense_ms, same ? "agree" : "DIFFER");
    print_layers(&a, &p, step_ms, dense_ms);
    CUDA(exec_destroy(exec));
    let_go(&a, p.layers);
    clean_up(&p);
    return same ? 0 : 1;
}
