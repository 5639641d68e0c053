/*
 * fuzz_tables.c - device data of any value on the CPU device: lengths, starts of packed rows, page tables and lists
 * come from the input as they are. Buffers are imported at their exact size, so that an address checker sees every
 * access past one; what is valid of the data agrees with the double-precision oracle, what is not is reported and left
 * out.
 */
#include "fuzz.h"

#include "input.h"
#include "oracle.h"

#include <math.h>
#include <string.h>

#define MOST_BATCH 3
#define POISON 0xff /* a NaN in every storage type */

typedef struct problem {
    oracle_rule rule;
    kas_dtype dtype;
    bool listed; /* kas_attend_lists, otherwise kas_attend */
    uint32_t batch, queries, keys;
    uint32_t page_size, page_count, table_stride; /* page_size 0: contiguous */
    uint32_t rows;                                /* of q and out with q_starts; 0: none are given */
    uint32_t tiles, width;
    uint64_t seed;
    int32_t q_lens[MOST_BATCH], kv_lens[MOST_BATCH], q_starts[MOST_BATCH];
    int32_t *pages, *lists;
    void *q, *k, *v, *out;
    float *lse;
} problem;

static void *take(size_t size)
{
    void *memory = malloc(size ? size : 1);
    FUZZ_CHECK(memory);
    return memory;
}

/* ---- The input's choices ----------------------------------------------------------------------------------------- */

/* Mostly from -1 to a little past `bound`, sometimes anything. */
static int32_t choose_integer(fuzz_input *input, uint32_t bound)
{
    uint32_t kind = input_byte(input);
    if (kind >= 240)
        return (int32_t)(uint32_t)input_number(input, 4);
    return (int32_t)(input_number(input, 2) % (bound + 3)) - 1;
}

/* Mostly valid, so that a batch has something to compute. */
static int32_t choose_length(fuzz_input *input, uint32_t bound)
{
    return input_byte(input) < 200 ? (int32_t)(input_number(input, 2) % (bound + 1)) : choose_integer(input, bound);
}

static void choose_shape(problem *p, fuzz_input *input)
{
    p->rule.phase = (kas_phase)(input_byte(input) % 2);
    p->dtype = (kas_dtype)(KAS_DTYPE_F32 + input_byte(input) % 3);
    p->rule.kv_heads = 1 + input_byte(input) % 2;
    p->rule.heads = p->rule.kv_heads * (1 + input_byte(input) % 3);
    p->rule.head_dim = 1 + input_byte(input) % 24;
    p->rule.tile = 16;
    p->rule.scale = 1.0 / sqrt(p->rule.head_dim);
    p->rule.topk = (kas_topk){0.1, 1, 1, KAS_TOPK_ROLLING};
    p->rule.all_heads = input_byte(input) % 4 == 0;
    p->listed = input_byte(input) % 4 != 0;
    p->batch = 1 + input_byte(input) % MOST_BATCH;
    p->queries = 1 + input_byte(input) % (p->rule.phase == KAS_PHASE_DECODE ? KAS_MAX_DECODE_QUERIES : 40);
    p->keys = p->queries + input_byte(input) % 100;
    p->page_size = input_byte(input) % 2 ? 1 + input_byte(input) % 17 : 0;
    p->rows = input_byte(input) % 2 ? p->queries + input_byte(input) % 64 : 0;
    p->seed = input_number(input, 8);
}

static void choose_tables(problem *p, fuzz_input *input)
{
    for (uint32_t b = 0; b < p->batch; b++) {
        p->kv_lens[b] = choose_length(input, p->keys);
        p->q_lens[b] = choose_length(
            input, p->kv_lens[b] > 0 && (uint32_t)p->kv_lens[b] < p->queries ? (uint32_t)p->kv_lens[b] : p->queries);
        p->q_starts[b] = choose_length(input, p->rows);
    }
    p->page_count = 1 + input_byte(input) % 24;
    p->table_stride = p->page_size ? (p->keys + p->page_size - 1) / p->page_size + input_byte(input) % 3 : 0;
    p->pages = take((size_t)p->batch * p->table_stride * sizeof(int32_t));
    for (uint32_t i = 0; i < p->batch * p->table_stride; i++)
        p->pages[i] = choose_integer(input, p->page_count - 1);
    uint32_t touched = (p->queries + p->rule.tile - 2) / p->rule.tile + 1, all = (p->keys - 1) / p->rule.tile + 1;
    p->tiles = p->rule.phase == KAS_PHASE_DECODE ? 1 : touched < all ? touched : all;
    p->width = 1 + input_byte(input) % 12;
    uint32_t list_rows = p->rule.all_heads ? 1 : p->rule.kv_heads;
    p->lists = take((size_t)p->batch * list_rows * p->tiles * p->width * sizeof(int32_t));
    for (uint32_t i = 0; i < p->batch * list_rows * p->tiles * p->width; i++)
        p->lists[i] = choose_integer(input, p->keys);
}

/* ---- Tensors ----------------------------------------------------------------------------------------------------- */

static size_t query_elements(const problem *p)
{
    return (size_t)(p->rows ? p->rows : p->batch * p->queries) * p->rule.heads * p->rule.head_dim;
}

static size_t cache_elements(const problem *p)
{
    size_t tokens = p->page_size ? (size_t)p->page_count * p->page_size : (size_t)p->batch * p->keys;
    return tokens * p->rule.kv_heads * p->rule.head_dim;
}

static void *draw(const problem *p, size_t count, storage_random *random)
{
    void *values = take(count * storage_size(p->dtype));
    for (size_t i = 0; i < count; i++)
        storage_put(p->dtype, values, i, (float)storage_random_normal(random));
    return values;
}

static void fill_tensors(problem *p)
{
    storage_random random = {p->seed};
    size_t out = query_elements(p) * storage_size(p->dtype);
    size_t lse = (size_t)p->batch * p->rule.heads * p->queries * sizeof(float);
    p->q = draw(p, query_elements(p), &random);
    p->k = draw(p, cache_elements(p), &random);
    p->v = draw(p, cache_elements(p), &random);
    p->out = take(out);
    p->lse = take(lse);
    memset(p->out, POISON, out);
    memset(p->lse, POISON, lse);
}

/* ---- The device -------------------------------------------------------------------------------------------------- */

typedef struct device {
    kas_context *context;
    kas_stream *stream;
} device;

static const device *the_device(void)
{
    static device d;
    kas_context_desc desc = {.struct_size = sizeof(desc), .device = "cpu", .threads = 2};
    if (!d.context) {
        FUZZ_CHECK(kas_context_create(&desc, &d.context) == KAS_OK);
        FUZZ_CHECK(kas_stream_create(d.context, &d.stream) == KAS_OK);
    }
    return &d;
}

#define IMPORTS 10

typedef struct imports {
    uint32_t count;
    kas_buffer *buffers[IMPORTS];
} imports;

static kas_buffer *import(imports *all, const void *memory, size_t size)
{
    kas_buffer **buffer = &all->buffers[all->count++];
    FUZZ_CHECK(kas_buffer_import(the_device()->context, (uintptr_t)memory, 0, size, buffer) == KAS_OK);
    return *buffer;
}

static kas_attention describe(const problem *p, imports *all)
{
    size_t q = query_elements(p) * storage_size(p->dtype), cache = cache_elements(p) * storage_size(p->dtype);
    size_t lens = p->batch * sizeof(int32_t);
    kas_attention args = {
        .struct_size = sizeof(args),
        .batch = p->batch,
        .queries = p->queries,
        .keys = p->keys,
        .q = {.buffer = import(all, p->q, q)},
        .k = {.buffer = import(all, p->k, cache)},
        .v = {.buffer = import(all, p->v, cache)},
        .out = {.buffer = import(all, p->out, q)},
        .lse = {.buffer = import(all, p->lse, (size_t)p->batch * p->rule.heads * p->queries * sizeof(float))},
        .q_lens = {.buffer = import(all, p->q_lens, lens)},
        .kv_lens = {.buffer = import(all, p->kv_lens, lens)},
        .page_table_stride = p->table_stride,
        .page_count = p->page_size ? p->page_count : 0,
    };
    if (p->rows) {
        /* Packed rows are one run, however many sequences lie in it. */
        uint32_t token = p->rule.heads * p->rule.head_dim;
        args.q_starts.buffer = import(all, p->q_starts, lens);
        args.q.stride[1] = args.out.stride[1] = token;
        args.q.stride[2] = args.out.stride[2] = p->rule.head_dim;
    }
    if (p->page_size)
        args.page_table.buffer = import(all, p->pages, (size_t)p->batch * p->table_stride * sizeof(int32_t));
    return args;
}

static uint32_t list_rows_of(const problem *p)
{
    return p->rule.all_heads ? 1 : p->rule.kv_heads;
}

static uint32_t run(const problem *p)
{
    const device *d = the_device();
    imports all = {0};
    kas_attention args = describe(p, &all);
    size_t entries = (size_t)p->batch * list_rows_of(p) * p->tiles * p->width;
    kas_lists lists = {
        .indices = {.buffer = import(&all, p->lists, entries * sizeof(int32_t))}, .tiles = p->tiles, .width = p->width};
    kas_session_desc desc = {.struct_size = sizeof(desc),
                             .heads = p->rule.heads,
                             .kv_heads = p->rule.kv_heads,
                             .head_dim = p->rule.head_dim,
                             .dtype = p->dtype,
                             .tile = p->rule.tile,
                             .topk = p->rule.topk,
                             .pooling = p->rule.all_heads ? KAS_POOLING_ALL_HEADS : KAS_POOLING_GROUP,
                             .max_batch = p->batch,
                             .max_queries = p->queries,
                             .max_decode_queries = p->rule.phase == KAS_PHASE_DECODE ? p->queries : 1,
                             .max_keys = p->keys,
                             .page_size = p->page_size};
    kas_session *session = NULL;
    uint32_t bits = 0;
    FUZZ_CHECK(kas_session_create(d->context, &desc, &session) == KAS_OK);
    kas_status status = p->listed ? kas_attend_lists(session, d->stream, p->rule.phase, &args, &lists)
                                  : kas_attend(session, d->stream, p->rule.phase, &args);
    if (status != KAS_OK)
        fprintf(stderr, "%s\n", kas_last_error());
    FUZZ_CHECK(status == KAS_OK);
    FUZZ_CHECK(kas_session_check(session, d->stream, &bits) == KAS_OK);
    kas_session_destroy(session);
    while (all.count > 0)
        kas_buffer_destroy(all.buffers[--all.count]);
    return bits;
}

/* ---- What must come of it ---------------------------------------------------------------------------------------- */

static bool is_valid(const problem *p, uint32_t b)
{
    int64_t queries = p->q_lens[b], keys = p->kv_lens[b], start = p->q_starts[b];
    if (queries < 0 || queries > p->queries || keys < 0 || keys > p->keys || (keys > 0 && keys < queries))
        return false;
    return p->rows == 0 || (start >= 0 && start + queries <= p->rows);
}

static uint32_t first_row(const problem *p, uint32_t b)
{
    return p->rows ? (uint32_t)p->q_starts[b] : b * p->queries;
}

/* Logical values of a sequence, for the oracle; its memory is for release_sequence. */
static oracle_sequence sequence_of(const problem *p, uint32_t b)
{
    size_t query = (size_t)p->rule.heads * p->rule.head_dim, key = (size_t)p->rule.kv_heads * p->rule.head_dim;
    uint32_t queries = (uint32_t)p->q_lens[b], keys = (uint32_t)p->kv_lens[b];
    float *q = take(queries * query * sizeof(float)), *k = take(keys * key * sizeof(float));
    float *v = take(keys * key * sizeof(float));
    bool *absent = take(keys);
    for (size_t i = 0; i < queries * query; i++)
        q[i] = storage_get(p->dtype, p->q, first_row(p, b) * query + i);
    for (uint32_t j = 0; j < keys; j++) {
        uint64_t token = (uint64_t)b * p->keys + j;
        absent[j] = false;
        if (p->page_size) {
            int32_t page = p->pages[(size_t)b * p->table_stride + j / p->page_size];
            absent[j] = page < 0 || (uint32_t)page >= p->page_count;
            token = (uint64_t)(absent[j] ? 0 : page) * p->page_size + j % p->page_size;
        }
        for (size_t i = 0; i < key; i++) {
            k[j * key + i] = storage_get(p->dtype, p->k, token * key + i);
            v[j * key + i] = storage_get(p->dtype, p->v, token * key + i);
        }
    }
    return (oracle_sequence){queries, keys, keys, q, k, v, absent};
}

static void release_sequence(oracle_sequence *s)
{
    free((void *)s->q);
    free((void *)s->k);
    free((void *)s->v);
    free((void *)s->absent);
}

/* The valid entries of a sequence's lists, in their order; `wrong` when there are others than -1. */
static oracle_lists lists_of(const problem *p, const oracle_sequence *s, uint32_t b, bool *wrong)
{
    uint32_t rows = list_rows_of(p), tiles = oracle_tile_count(&p->rule, s);
    oracle_lists lists = oracle_lists_make(rows, tiles, p->width);
    for (uint32_t row = 0; row < rows; row++) {
        for (uint32_t u = 0; u < tiles; u++) {
            uint32_t candidates = oracle_tile_at(&p->rule, s, u).candidates;
            const int32_t *given = p->lists + (((size_t)b * rows + row) * p->tiles + u) * p->width;
            for (uint32_t n = 0; n < p->width; n++) {
                if (given[n] >= 0 && (uint32_t)given[n] < candidates)
                    oracle_list(&lists, row, u)[lists.count[row * tiles + u]++] = given[n];
                else
                    *wrong |= given[n] != -1;
            }
        }
    }
    return lists;
}

/* A row that two sequences write holds what either wrote. */
static bool is_shared(const problem *p, uint32_t b, uint32_t row)
{
    for (uint32_t other = 0; other < p->batch; other++) {
        uint32_t first = first_row(p, other);
        if (other != b && is_valid(p, other) && row >= first && row - first < (uint32_t)p->q_lens[other])
            return true;
    }
    return false;
}

static void fail(const problem *p, uint32_t b, const char *what, double got, double expected)
{
    fprintf(stderr,
            "sequence %u: %s is %g, the oracle's %g; phase %d, dtype %d, heads %u, kv_heads %u, head_dim %u, batch %u, "
            "queries %u, keys %u, page_size %u, rows %u, width %u, seed %llu\n",
            b, what, got, expected, p->rule.phase, p->dtype, p->rule.heads, p->rule.kv_heads, p->rule.head_dim,
            p->batch, p->queries, p->keys, p->page_size, p->rows, p->width, (unsigned long long)p->seed);
    abort();
}

/* What single precision may take from a mean of values of about one where they cancel: all outputs of one query and one
   dimension may, and then tell nothing of the values that were added. */
#define MEAN_ERROR 1e-6

static void check_sequence(const problem *p, uint32_t b, const oracle_sequence *s, const oracle_output *expected)
{
    double out_bound = 2 * expected->out_error + 1e-5 * expected->out_most + MEAN_ERROR;
    double lse_bound = 2 * expected->lse_error + 1e-5 * fmax(1.0, expected->lse_most);
    uint32_t heads = p->rule.heads, dim = p->rule.head_dim;
    for (uint32_t i = 0; i < s->queries; i++) {
        uint32_t row = first_row(p, b) + i;
        for (uint32_t h = 0; h < heads; h++) {
            double lse = p->lse[((size_t)b * heads + h) * p->queries + i],
                   wanted = expected->lse[(size_t)i * heads + h];
            if (lse != wanted && !(fabs(lse - wanted) <= lse_bound))
                fail(p, b, "a log-sum-exp", lse, wanted);
            for (uint32_t d = 0; d < dim && !is_shared(p, b, row); d++) {
                double got = storage_get(p->dtype, p->out, ((uint64_t)row * heads + h) * dim + d);
                if (!(fabs(got - expected->out[((size_t)i * heads + h) * dim + d]) <= out_bound))
                    fail(p, b, "an output", got, expected->out[((size_t)i * heads + h) * dim + d]);
            }
        }
    }
}

/* Rows that belong to no sequence are as they were. */
static void check_rest(const problem *p)
{
    size_t row_bytes = (size_t)p->rule.heads * p->rule.head_dim * storage_size(p->dtype);
    for (uint32_t row = 0; row < query_elements(p) * storage_size(p->dtype) / row_bytes; row++)
        for (size_t i = 0; i < row_bytes && !is_shared(p, MOST_BATCH, row); i++)
            FUZZ_CHECK(((const uint8_t *)p->out)[row * row_bytes + i] == POISON);
}

static void check(const problem *p, uint32_t bits)
{
    static const uint32_t one_row[2];
    bool wrong_length = false, wrong_page = false, wrong_entry = false;
    for (uint32_t b = 0; b < p->batch; b++) {
        if (!is_valid(p, b)) {
            wrong_length = true;
            continue;
        }
        oracle_sequence s = sequence_of(p, b);
        oracle_lists lists = lists_of(p, &s, b, &wrong_entry);
        for (uint32_t j = 0; j < s.keys; j++)
            wrong_page |= s.absent[j];
        oracle_output expected =
            oracle_attend(&p->rule, &s, p->dtype, p->listed ? &lists : NULL, p->rule.all_heads ? one_row : NULL, NULL);
        check_sequence(p, b, &s, &expected);
        oracle_output_free(&expected);
        oracle_lists_free(&lists);
        release_sequence(&s);
    }
    check_rest(p);
    FUZZ_CHECK(!(bits & KAS_CHECK_LENGTH) == !wrong_length);
    FUZZ_CHECK(wrong_page || !(bits & KAS_CHECK_PAGE));
    FUZZ_CHECK(p->listed ? !(bits & KAS_CHECK_LIST) == !wrong_entry : !(bits & KAS_CHECK_LIST));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_input input = {data, size};
    problem p = {0};
    choose_shape(&p, &input);
    choose_tables(&p, &input);
    fill_tensors(&p);
    check(&p, run(&p));
    void *const memory[] = {p.pages, p.lists, p.q, p.k, p.v, p.out, p.lse};
    for (size_t i = 0; i < sizeof(memory) / sizeof(*memory); i++)
        free(memory[i]);
    return 0;
}
