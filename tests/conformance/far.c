/*
 * far.c - elements beyond 2^32: the second sequence of a contiguous cache, or pages at the far end of a pool, lie more
 * than 4,294,967,296 elements from the tensor's beginning. Almost all of the buffer is never touched, and k and v share
 * it, so that the case takes 8.6 GB of address space and little time.
 */
#include "device_memory.h"
#include "memory.h"
#include "runner.h"

#include <math.h>
#include <string.h>

#define FAR_KEYS 1000
#define FAR_SEQUENCES 2

typedef struct far_case {
    const conformance_case *c;
    conformance_result *result;
    kas_context *context;
    kas_stream *stream;
    kas_session *session;
    kas_buffer *cache, *q, *out, *lists, *pages;
    oracle_rule rule;
    float *keys[FAR_SEQUENCES], *queries[FAR_SEQUENCES];
    uint32_t row;          /* elements of a token in the cache */
    uint32_t block;        /* tokens that lie together: a sequence's keys or a page */
    uint32_t block_stride; /* elements between blocks */
    uint32_t blocks;       /* of the cache */
    int32_t page_table[FAR_SEQUENCES][(FAR_KEYS + 15) / 16];
    uint32_t pages_each; /* entries of a sequence's page table */
    int32_t *entries;    /* the lists: every third key */
    uint32_t width;
} far_case;

static bool ok(const far_case *f, const char *what, kas_status status)
{
    return device_ok(f->result, what, status);
}

/* Sequence 0 lies at the beginning; sequence 1 straddles element 2^32 and goes on beyond it. */
static void place(far_case *f)
{
    f->row = f->c->kv_heads * f->c->head_dim;
    if (f->c->page_size == 0) {
        f->block = FAR_KEYS;
        f->blocks = FAR_SEQUENCES;
        f->block_stride = (uint32_t)(((uint64_t)1 << 32) - (uint64_t)f->row * (FAR_KEYS / 2));
        return;
    }
    f->block = f->c->page_size;
    f->block_stride = f->block * f->row;
    f->pages_each = (FAR_KEYS + f->block - 1) / f->block;
    uint32_t border = (uint32_t)(((uint64_t)1 << 32) / f->block_stride);
    f->blocks = border + f->pages_each;
    for (uint32_t n = 0; n < f->pages_each; n++) {
        f->page_table[0][n] = (int32_t)n;
        f->page_table[1][n] = (int32_t)(border - f->pages_each / 2 + n);
    }
}

static uint64_t token_at(const far_case *f, uint32_t b, uint32_t j)
{
    uint64_t block = f->c->page_size ? (uint64_t)f->page_table[b][j / f->block] : b;
    return block * f->block_stride + (uint64_t)(f->c->page_size ? j % f->block : j) * f->row;
}

static uint64_t cache_bytes(const far_case *f)
{
    uint64_t elements = (uint64_t)(f->blocks - 1) * f->block_stride + (uint64_t)f->block * f->row;
    return elements * storage_size(f->c->dtype);
}

static bool fits_device(far_case *f)
{
    kas_device_info info = {.struct_size = sizeof(info)};
    if (!ok(f, "kas_context_get_info", kas_context_get_info(f->context, &info)))
        return false;
    uint64_t needed = cache_bytes(f);
    if (info.max_allocation >= needed && info.max_binding >= needed && (info.memory == 0 || info.memory / 2 >= needed))
        return true;
    result_skip(f->result, "the cache takes %llu bytes; one allocation holds %llu, a binding %llu, the device %llu",
                (unsigned long long)needed, (unsigned long long)info.max_allocation,
                (unsigned long long)info.max_binding, (unsigned long long)info.memory);
    return false;
}

static bool make_buffer(far_case *f, const char *name, uint64_t size, kas_buffer **buffer)
{
    kas_status status = kas_buffer_create(f->context, size, buffer);
    if (status == KAS_ERROR_OUT_OF_DEVICE_MEMORY) {
        result_skip(f->result, "%s: %s", name, kas_last_error());
        return false;
    }
    return ok(f, name, status);
}

static bool write_values(far_case *f, kas_buffer *buffer, uint64_t at, const float *values, size_t count)
{
    size_t size = storage_size(f->c->dtype);
    uint8_t *bytes = memory_alloc(count, size);
    for (size_t i = 0; i < count; i++)
        storage_put(f->c->dtype, bytes, i, values[i]);
    bool written = ok(f, "kas_buffer_write", kas_buffer_write(f->stream, buffer, at * size, bytes, count * size));
    free(bytes);
    return written;
}

static float *draw(const far_case *f, size_t count, storage_random *random)
{
    float *values = memory_alloc(count, sizeof(float));
    for (size_t i = 0; i < count; i++)
        values[i] = storage_round(f->c->dtype, (float)storage_random_normal(random));
    return values;
}

static bool fill(far_case *f)
{
    storage_random random = {f->c->seed};
    size_t query = (size_t)f->rule.heads * f->c->head_dim;
    for (uint32_t b = 0; b < FAR_SEQUENCES; b++) {
        f->keys[b] = draw(f, (size_t)FAR_KEYS * f->row, &random);
        f->queries[b] = draw(f, query, &random);
        if (!write_values(f, f->q, b * query, f->queries[b], query))
            return false;
        for (uint32_t j = 0; j < FAR_KEYS; j++)
            if (!write_values(f, f->cache, token_at(f, b, j), f->keys[b] + (size_t)j * f->row, f->row))
                return false;
    }
    return true;
}

/* The same list for every sequence and kv head: each third key. */
static bool fill_lists(far_case *f)
{
    f->width = (FAR_KEYS + 2) / 3;
    f->entries = memory_alloc((size_t)FAR_SEQUENCES * f->c->kv_heads * f->width, sizeof(int32_t));
    for (uint32_t n = 0; n < FAR_SEQUENCES * f->c->kv_heads * f->width; n++)
        f->entries[n] = (int32_t)(3 * (n % f->width));
    uint64_t size = (uint64_t)FAR_SEQUENCES * f->c->kv_heads * f->width * sizeof(int32_t);
    return make_buffer(f, "lists", size, &f->lists) &&
           ok(f, "kas_buffer_write", kas_buffer_write(f->stream, f->lists, 0, f->entries, size));
}

static bool fill_pages(far_case *f)
{
    if (f->c->page_size == 0)
        return true;
    uint64_t row = f->pages_each * sizeof(int32_t);
    bool good = make_buffer(f, "page_table", FAR_SEQUENCES * row, &f->pages);
    for (uint32_t b = 0; b < FAR_SEQUENCES && good; b++)
        good = ok(f, "kas_buffer_write", kas_buffer_write(f->stream, f->pages, b * row, f->page_table[b], row));
    return good;
}

static bool make_session(far_case *f)
{
    const conformance_case *c = f->c;
    kas_session_desc desc = {
        .struct_size = sizeof(desc), .heads = f->rule.heads, .kv_heads = c->kv_heads, .head_dim = c->head_dim,
        .dtype = c->dtype, .tile = c->tile, .topk = c->topk, .max_batch = FAR_SEQUENCES, .max_keys = FAR_KEYS,
        .page_size = c->page_size,
    };
    return ok(f, "kas_session_create", kas_session_create(f->context, &desc, &f->session));
}

static bool attend(far_case *f)
{
    kas_tensor cache = {f->cache, 0, {f->block_stride, f->row, f->c->head_dim}};
    kas_attention args = {
        .struct_size = sizeof(args), .batch = FAR_SEQUENCES, .keys = FAR_KEYS, .q = {f->q}, .k = cache, .v = cache,
        .out = {f->out}, .page_table = {f->pages}, .page_table_stride = f->pages_each,
        .page_count = f->c->page_size ? f->blocks : 0,
    };
    kas_lists lists = {{f->lists}, 1, f->width};
    return ok(f, "kas_attend_lists",
              kas_attend_lists(f->session, f->stream, KAS_PHASE_DECODE, &args, &lists));
}

static void compare(far_case *f, uint32_t b, const uint8_t *bytes)
{
    const conformance_case *c = f->c;
    uint32_t rows[64] = {0};
    oracle_sequence s = {1, FAR_KEYS, FAR_KEYS, f->queries[b], f->keys[b], f->keys[b], NULL};
    oracle_lists lists = oracle_lists_make(1, 1, f->width);
    lists.count[0] = f->width;
    memcpy(lists.entries, f->entries, f->width * sizeof(int32_t));
    oracle_output expected = oracle_attend(&f->rule, &s, c->dtype, &lists, rows, NULL);
    size_t count = (size_t)f->rule.heads * c->head_dim;
    double worst = 0.0;
    for (size_t i = 0; i < count; i++) {
        double error = fabs(storage_get(c->dtype, bytes, b * count + i) - expected.out[i]);
        worst = error <= worst ? worst : error;
    }
    result_measure(f->result, "attend over lists", worst, 2.0 * expected.out_error + 1e-5 * expected.out_most);
    oracle_output_free(&expected);
    oracle_lists_free(&lists);
}

static void check(far_case *f)
{
    size_t size = (size_t)FAR_SEQUENCES * f->rule.heads * f->c->head_dim * storage_size(f->c->dtype);
    uint8_t *bytes = memory_alloc(size, 1);
    uint32_t bits = 0;
    if (ok(f, "kas_buffer_read", kas_buffer_read(f->stream, f->out, 0, bytes, size)))
        for (uint32_t b = 0; b < FAR_SEQUENCES; b++)
            compare(f, b, bytes);
    if (ok(f, "kas_session_check", kas_session_check(f->session, f->stream, &bits)) && bits != 0)
        result_fail(f->result, "kas_session_check found bits %u", bits);
    free(bytes);
}

static bool prepare(far_case *f)
{
    size_t size = (size_t)FAR_SEQUENCES * f->rule.heads * f->c->head_dim * storage_size(f->c->dtype);
    return fits_device(f) && make_buffer(f, "cache", cache_bytes(f), &f->cache) && make_buffer(f, "q", size, &f->q) &&
           make_buffer(f, "out", size, &f->out) && fill(f) && fill_lists(f) && fill_pages(f) && make_session(f) &&
           ok(f, "kas_buffer_fill", kas_buffer_fill(f->stream, f->out, 0, size, DATA_POISON));
}

static void release(far_case *f)
{
    kas_session_destroy(f->session);
    kas_stream_destroy(f->stream);
    kas_buffer *const buffers[] = {f->cache, f->q, f->out, f->lists, f->pages};
    for (size_t i = 0; i < sizeof(buffers) / sizeof(buffers[0]); i++)
        kas_buffer_destroy(buffers[i]);
    for (uint32_t b = 0; b < FAR_SEQUENCES; b++) {
        free(f->keys[b]);
        free(f->queries[b]);
    }
    free(f->entries);
}

void runner_run_far(kas_context *context, const conformance_case *c, runner_rows_fn rows, void *user,
                    conformance_result *result)
{
    far_case f = {.c = c, .result = result, .context = context};
    f.rule = (oracle_rule){c->kv_heads * c->group, c->kv_heads, c->head_dim, c->tile,
                           1.0 / sqrt((double)c->head_dim), c->topk, false, c->phase};
    place(&f);
    if (ok(&f, "kas_stream_create", kas_stream_create(context, &f.stream)) && prepare(&f)) {
        for (const char *const *operation = cases_operations(c); *operation; operation++)
            rows(user, *operation, kas_session_variant(f.session, *operation));
        if (attend(&f))
            check(&f);
    }
    release(&f);
}
