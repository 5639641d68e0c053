/* ceiling.c - see ceiling.h. */
#define _POSIX_C_SOURCE 200809L
#include "ceiling.h"

#include <cblas.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define GEMM_SIZE 2048
#define READ_BYTES (512u << 20) /* larger than any cache */
#define COPY_BYTES (256u << 20)
/* OpenBLAS's threads look for more work for a while after a product: longer than this they do not disturb. */
#define SETTLE_NANOSECONDS 60000000

struct bench_ceiling {
    bool host, products;
    uint32_t threads;
    kas_buffer *source, *target; /* on the host `source` alone */
    float *memory;               /* source as the host sees it: READ_BYTES, or the three matrices */
};

/* One thread's part of a read. */
typedef struct reader {
    pthread_t thread;
    const uint64_t *words;
    size_t count;
    uint64_t sum;
} reader;

static size_t host_bytes(const bench_ceiling *ceiling)
{
    return ceiling->products ? 3 * sizeof(float) * GEMM_SIZE * GEMM_SIZE : READ_BYTES;
}

/* In a buffer of the device, so that it is the same kind of memory that K and V lie in. */
static kas_status create_host(bench_ceiling *ceiling, kas_context *context)
{
    size_t size = host_bytes(ceiling);
    TOOL_TRY_LIBRARY(kas_buffer_create(context, size, &ceiling->source));
    ceiling->memory = kas_buffer_host(ceiling->source);
    for (size_t i = 0; i < size / sizeof(float); i++)
        ceiling->memory[i] = (float)(i % 251) * 0.0078125f;
    if (ceiling->products)
        openblas_set_num_threads((int)ceiling->threads);
    return KAS_OK;
}

static kas_status create_device(bench_ceiling *ceiling, kas_context *context)
{
    TOOL_TRY_LIBRARY(kas_buffer_create(context, COPY_BYTES, &ceiling->source));
    TOOL_TRY_LIBRARY(kas_buffer_create(context, COPY_BYTES, &ceiling->target));
    return KAS_OK;
}

kas_status bench_ceiling_create(kas_context *context, bool host, bool products, uint32_t threads,
                                bench_ceiling **ceiling)
{
    bench_ceiling *made = calloc(1, sizeof(*made));
    if (!made)
        return tool_fail_memory();
    *made = (bench_ceiling){.host = host, .products = host && products, .threads = threads};
    kas_status status = host ? create_host(made, context) : create_device(made, context);
    if (status != KAS_OK) {
        bench_ceiling_destroy(made);
        return status;
    }
    *ceiling = made;
    return KAS_OK;
}

void bench_ceiling_destroy(bench_ceiling *ceiling)
{
    if (!ceiling)
        return;
    kas_buffer_destroy(ceiling->source);
    kas_buffer_destroy(ceiling->target);
    free(ceiling);
}

const char *bench_ceiling_name(const bench_ceiling *ceiling)
{
    return !ceiling->host ? "copy" : ceiling->products ? "sgemm" : "read";
}

double bench_ceiling_work(const bench_ceiling *ceiling)
{
    if (!ceiling->host)
        return 2.0 * COPY_BYTES; /* read and written */
    return ceiling->products ? 2.0 * GEMM_SIZE * GEMM_SIZE * GEMM_SIZE : READ_BYTES;
}

static double now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec * 1e3 + (double)now.tv_nsec * 1e-6;
}

static void multiply(bench_ceiling *ceiling)
{
    const size_t size = (size_t)GEMM_SIZE * GEMM_SIZE;
    const float *a = ceiling->memory, *b = a + size;
    cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, GEMM_SIZE, GEMM_SIZE, GEMM_SIZE, 1.0f, a, GEMM_SIZE, b,
                GEMM_SIZE, 0.0f, ceiling->memory + 2 * size, GEMM_SIZE);
}

/* Several sums, so that the adder's latency does not bound the reading. */
static void *read_part(void *argument)
{
    reader *part = argument;
    uint64_t sums[16] = {0};
    for (size_t i = 0; i + 16 <= part->count; i += 16)
        for (int j = 0; j < 16; j++)
            sums[j] += part->words[i + (size_t)j];
    for (int j = 0; j < 16; j++)
        part->sum += sums[j];
    return NULL;
}

static kas_status read_memory(bench_ceiling *ceiling)
{
    reader *parts = calloc(ceiling->threads, sizeof(*parts));
    if (!parts)
        return tool_fail_memory();
    size_t words = READ_BYTES / sizeof(uint64_t) / ceiling->threads;
    uint32_t started = 0;
    for (uint32_t i = 0; i < ceiling->threads; i++) {
        parts[i].words = (const uint64_t *)(const void *)ceiling->memory + i * words;
        parts[i].count = words;
    }
    while (started + 1 < ceiling->threads &&
           pthread_create(&parts[started + 1].thread, NULL, read_part, &parts[started + 1]) == 0)
        started++;
    read_part(&parts[0]);
    for (uint32_t i = 1; i <= started; i++)
        pthread_join(parts[i].thread, NULL);
    volatile uint64_t sum = 0; /* the reading must not be optimised away */
    for (uint32_t i = 0; i < ceiling->threads; i++)
        sum += parts[i].sum;
    free(parts);
    return started + 1 == ceiling->threads ? KAS_OK : tool_fail_memory();
}

kas_status bench_ceiling_run_host(bench_ceiling *ceiling, double *milliseconds)
{
    double began = now_ms();
    if (ceiling->products)
        multiply(ceiling);
    else
        TOOL_TRY(read_memory(ceiling));
    *milliseconds = now_ms() - began;
    if (ceiling->products) {
        const struct timespec pause = {0, SETTLE_NANOSECONDS};
        nanosleep(&pause, NULL);
    }
    return KAS_OK;
}

kas_status bench_ceiling_enqueue(bench_ceiling *ceiling, kas_stream *stream)
{
    TOOL_TRY_LIBRARY(kas_buffer_copy(stream, ceiling->target, 0, ceiling->source, 0, COPY_BYTES));
    return KAS_OK;
}
