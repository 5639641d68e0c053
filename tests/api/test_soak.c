/*
 * test_soak.c [STEPS [DEVICE [SEED]]] - a server's life in small: sequences join with a prompt, decode one to four
 * tokens a step out of a paged cache and leave at random. At random steps a random sequence is checked against the
 * double-precision oracle in every layer: outputs and published lists. After the session exists no call may allocate
 * host memory, and at the end all of it has been given back.
 */
#include "../conformance/oracle.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    LAYERS = 4,
    HEADS = 6,
    KV_HEADS = 2,
    DIM = 40,
    ROW = KV_HEADS * DIM, /* values of a token in k or v */
    PAGE = 16,
    SLOTS = 6,
    MAX_PROMPT = 300,
    MAX_DECODE = 4,
    MAX_KEYS = 512,
    TABLE = MAX_KEYS / PAGE,
    PAGES = 128, /* fewer than SLOTS full sequences need, so that sequences wait for pages */
    TILE = 32,
    CHECK_ONE_IN = 16
};

static const kas_dtype dtype = KAS_DTYPE_F16;
static const kas_topk topk = {0.1, 16, 8, KAS_TOPK_ROLLING};

/* Layer 0 is dense and published through row 0 alone, 2 is an anchor, 1 and 3 reuse through these maps. */
static const uint32_t anchors[] = {0, 2}, head_map[LAYERS * KV_HEADS] = {0, 1, 0, 0, 0, 1, 1, 0};

typedef struct sequence {
    int32_t pages[TABLE];
    uint32_t length;  /* keys, those of this step included */
    uint32_t queries; /* tokens of this step, 0: none */
    bool joining;     /* the step is its prompt */
    uint32_t left;    /* steps until it leaves */
} sequence;

/* The pool of one layer's keys or values: the device's and the host's copy. */
typedef struct pool {
    kas_buffer *buffer;
    unsigned char bytes[PAGES * PAGE * ROW * 2];
} pool;

typedef struct server {
    storage_random random;
    kas_context *context;
    kas_stream *stream;
    kas_session *session;
    pool k[LAYERS], v[LAYERS];
    kas_buffer *q, *out, *q_lens, *kv_lens, *q_starts, *table;
    unsigned char queries[SLOTS * MAX_PROMPT * HEADS * DIM * 2];
    int32_t free_pages[PAGES];
    uint32_t free_count;
    sequence slots[SLOTS];
    uint64_t joined, checked, decoded;
} server;

/* The sequences of one call. */
typedef struct batch {
    kas_phase phase;
    uint32_t count, rows, most_queries, most_keys;
    int32_t q_lens[SLOTS], kv_lens[SLOTS], q_starts[SLOTS], table[SLOTS * TABLE];
    sequence *members[SLOTS];
} batch;

static atomic_llong held, allocations;

static void *count_allocate(void *user, size_t size, size_t alignment)
{
    (void)user;
    void *memory = aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
    if (!memory)
        return NULL;
    atomic_fetch_add(&held, (long long)size);
    atomic_fetch_add(&allocations, 1);
    return memory;
}

static void count_release(void *user, void *pointer, size_t size)
{
    (void)user;
    if (pointer)
        atomic_fetch_sub(&held, (long long)size);
    free(pointer);
}

static void fail(const char *what, const char *detail)
{
    fprintf(stderr, "%s: %s\n", what, detail);
    exit(1);
}

static void check(kas_status status, const char *what)
{
    if (status != KAS_OK)
        fail(what, kas_last_error());
}

static kas_buffer *make_buffer(server *s, uint64_t size)
{
    kas_buffer *buffer = NULL;
    check(kas_buffer_create(s->context, size, &buffer), "kas_buffer_create");
    return buffer;
}

static void make_session(server *s)
{
    kas_plan *plan = NULL;
    kas_plan_desc plan_desc = {.struct_size = sizeof(plan_desc),
                               .layers = LAYERS,
                               .heads = HEADS,
                               .kv_heads = KV_HEADS,
                               .tile = TILE,
                               .topk = topk,
                               .anchors = anchors,
                               .anchor_count = 2,
                               .head_map = head_map};
    check(kas_plan_create(&plan_desc, &plan), "kas_plan_create");
    kas_session_desc desc = {.struct_size = sizeof(desc),
                             .plan = plan,
                             .head_dim = DIM,
                             .dtype = dtype,
                             .max_batch = SLOTS,
                             .max_queries = MAX_PROMPT,
                             .max_decode_queries = MAX_DECODE,
                             .max_keys = MAX_KEYS,
                             .page_size = PAGE};
    check(kas_session_create(s->context, &desc, &s->session), "kas_session_create");
    kas_plan_destroy(plan);
}

static void open_server(server *s, const char *device, uint64_t seed)
{
    memset(s, 0, sizeof(*s));
    s->random.state = seed;
    kas_context_desc desc = {.struct_size = sizeof(desc), .device = device};
    kas_status status = kas_context_create(&desc, &s->context);
    if (status == KAS_ERROR_NO_DEVICE) {
        printf("skipped: %s\n", kas_last_error());
        exit(77);
    }
    check(status, "kas_context_create");
    check(kas_stream_create(s->context, &s->stream), "kas_stream_create");
    make_session(s);
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        s->k[layer].buffer = make_buffer(s, sizeof(s->k[layer].bytes));
        s->v[layer].buffer = make_buffer(s, sizeof(s->v[layer].bytes));
    }
    s->q = make_buffer(s, sizeof(s->queries));
    s->out = make_buffer(s, sizeof(s->queries));
    s->q_lens = make_buffer(s, sizeof(int32_t) * SLOTS);
    s->kv_lens = make_buffer(s, sizeof(int32_t) * SLOTS);
    s->q_starts = make_buffer(s, sizeof(int32_t) * SLOTS);
    s->table = make_buffer(s, sizeof(int32_t) * SLOTS * TABLE);
    while (s->free_count < PAGES) {
        s->free_pages[s->free_count] = (int32_t)s->free_count;
        s->free_count++;
    }
}

static void close_server(server *s)
{
    kas_buffer *owned[] = {s->q, s->out, s->q_lens, s->kv_lens, s->q_starts, s->table};
    for (size_t i = 0; i < sizeof(owned) / sizeof(*owned); i++)
        kas_buffer_destroy(owned[i]);
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        kas_buffer_destroy(s->k[layer].buffer);
        kas_buffer_destroy(s->v[layer].buffer);
    }
    kas_session_destroy(s->session);
    kas_stream_destroy(s->stream);
    kas_context_destroy(s->context);
}

/* ---- Sequences --------------------------------------------------------------------------------------------------- */

static uint32_t pages_of(uint32_t length)
{
    return (length + PAGE - 1) / PAGE;
}

/* Makes room for `queries` more keys; false when the pool or the sequence has none, and nothing is changed. */
static bool grow(server *s, sequence *q, uint32_t queries)
{
    uint32_t owned = pages_of(q->length), needed = pages_of(q->length + queries);
    q->queries = 0;
    if (q->length + queries > MAX_KEYS || needed - owned > s->free_count)
        return false;
    while (owned < needed)
        q->pages[owned++] = s->free_pages[--s->free_count];
    q->length += queries;
    q->queries = queries;
    return true;
}

static void leave(server *s, sequence *q)
{
    for (uint32_t page = 0; page < pages_of(q->length); page++)
        s->free_pages[s->free_count++] = q->pages[page];
    memset(q, 0, sizeof(*q));
}

/* A free slot may be joined; a sequence decodes, leaves when its time is over, and waits a step when pages are out. */
static void advance(server *s, sequence *q)
{
    q->joining = false;
    if (q->length == 0) {
        if (storage_random_below(&s->random, 4) == 0 && grow(s, q, 1 + storage_random_below(&s->random, MAX_PROMPT))) {
            q->joining = true;
            q->left = 1 + storage_random_below(&s->random, 60);
            s->joined++;
        }
    } else if (q->left-- == 0 || (!grow(s, q, 1 + storage_random_below(&s->random, MAX_DECODE)) && s->free_count)) {
        leave(s, q);
    }
}

static batch gather(server *s, kas_phase phase)
{
    batch b = {.phase = phase};
    for (uint32_t i = 0; i < SLOTS; i++) {
        sequence *q = &s->slots[i];
        if (q->queries == 0 || q->joining != (phase == KAS_PHASE_PREFILL))
            continue;
        b.members[b.count] = q;
        b.q_lens[b.count] = (int32_t)q->queries;
        b.kv_lens[b.count] = (int32_t)q->length;
        b.q_starts[b.count] = (int32_t)b.rows;
        memcpy(b.table + b.count * TABLE, q->pages, sizeof(q->pages));
        b.rows += q->queries;
        b.most_queries = q->queries > b.most_queries ? q->queries : b.most_queries;
        b.most_keys = q->length > b.most_keys ? q->length : b.most_keys;
        b.count++;
    }
    return b;
}

/* ---- One layer --------------------------------------------------------------------------------------------------- */

static void write(server *s, kas_buffer *buffer, uint64_t offset, const void *data, uint64_t size)
{
    check(kas_buffer_write(s->stream, buffer, offset, data, size), "kas_buffer_write");
}

static size_t row_of(const sequence *q, uint32_t position)
{
    return ((size_t)q->pages[position / PAGE] * PAGE + position % PAGE) * ROW;
}

/* A write for each page: devices wait for every one. */
static void append(server *s, const sequence *q, pool *p)
{
    for (uint32_t position = q->length - q->queries; position < q->length;) {
        uint32_t page_end = (position / PAGE + 1) * PAGE, end = page_end < q->length ? page_end : q->length;
        size_t row = row_of(q, position), count = (size_t)(end - position) * ROW;
        for (size_t i = 0; i < count; i++)
            storage_put(dtype, p->bytes, row + i, (float)storage_random_normal(&s->random));
        write(s, p->buffer, row * 2, p->bytes + row * 2, count * 2);
        position = end;
    }
}

static void run_layer(server *s, const batch *b, uint32_t layer)
{
    for (uint32_t i = 0; i < b->rows * HEADS * DIM; i++)
        storage_put(dtype, s->queries, i, (float)storage_random_normal(&s->random));
    write(s, s->q, 0, s->queries, (uint64_t)b->rows * HEADS * DIM * 2);
    for (uint32_t i = 0; i < b->count; i++) {
        append(s, b->members[i], &s->k[layer]);
        append(s, b->members[i], &s->v[layer]);
    }
    kas_attention args = {.struct_size = sizeof(args),
                          .layer = layer,
                          .batch = b->count,
                          .queries = b->most_queries,
                          .keys = b->most_keys,
                          .q = {.buffer = s->q},
                          .k = {.buffer = s->k[layer].buffer},
                          .v = {.buffer = s->v[layer].buffer},
                          .out = {.buffer = s->out},
                          .q_lens = {.buffer = s->q_lens},
                          .kv_lens = {.buffer = s->kv_lens},
                          .q_starts = {.buffer = s->q_starts},
                          .page_table = {.buffer = s->table},
                          .page_table_stride = TABLE,
                          .page_count = PAGES};
    if (b->phase == KAS_PHASE_PREFILL)
        check(kas_prefill(s->session, s->stream, &args), "kas_prefill");
    else
        check(kas_decode(s->session, s->stream, &args), "kas_decode");
}

/* ---- Against the oracle ------------------------------------------------------------------------------------------ */

typedef struct reference {
    oracle_rule rule;
    oracle_sequence sequence;
    float *q, *k, *v;
} reference;

static float *read_rows(const unsigned char *bytes, const sequence *q, uint32_t rows)
{
    float *values = malloc(sizeof(float) * rows * ROW);
    for (uint32_t position = 0; position < rows; position++)
        for (uint32_t i = 0; i < ROW; i++)
            values[position * ROW + i] = storage_get(dtype, bytes, row_of(q, position) + i);
    return values;
}

static reference reference_make(const server *s, const batch *b, uint32_t member, uint32_t layer)
{
    const sequence *q = b->members[member];
    reference r = {{HEADS, KV_HEADS, DIM, TILE, 1 / sqrt(DIM), topk, false, b->phase}, {0}, NULL, NULL, NULL};
    r.q = malloc(sizeof(float) * q->queries * HEADS * DIM);
    for (uint32_t i = 0; i < q->queries * HEADS * DIM; i++)
        r.q[i] = storage_get(dtype, s->queries, (size_t)b->q_starts[member] * HEADS * DIM + i);
    r.k = read_rows(s->k[layer].bytes, q, q->length);
    r.v = read_rows(s->v[layer].bytes, q, q->length);
    r.sequence = (oracle_sequence){q->queries, q->length, q->length, r.q, r.k, r.v, NULL};
    return r;
}

static void reference_free(reference *r)
{
    free(r->q);
    free(r->k);
    free(r->v);
}

/* A list holds ascending candidates none of which the oracle's worst kept score beats by more than rounding. */
static void check_list(const oracle_tile *tile, const double *scores, const int32_t *list)
{
    int32_t best[MAX_KEYS];
    double least = INFINITY;
    oracle_select(scores, tile->candidates, tile->keep, best);
    for (uint32_t i = 0; i < tile->keep; i++)
        least = scores[best[i]] < least ? scores[best[i]] : least;
    for (uint32_t i = 0; i < tile->keep; i++) {
        if (list[i] < 0 || (uint32_t)list[i] >= tile->candidates || (i && list[i] <= list[i - 1]))
            fail("list", "an entry is no candidate or out of order");
        if (scores[list[i]] < least * (1 - 1e-4) - 1e-30)
            fail("list", "a key of a lower score was kept");
    }
}

/* Reads and checks the lists that the layer published for a sequence; `rows` of them are made. */
static oracle_lists published_lists(server *s, const batch *b, uint32_t member, const reference *r, uint32_t rows)
{
    static int32_t entries[1 << 20];
    kas_published_lists published = {.struct_size = sizeof(published)};
    check(kas_session_get_lists(s->session, b->phase, &published), "kas_session_get_lists");
    uint64_t size = published.row_capacity * sizeof(int32_t);
    if (!published.live || size > sizeof(entries))
        fail("kas_session_get_lists", "no lists, or more than the test has room for");
    uint32_t tiles = oracle_tile_count(&r->rule, &r->sequence);
    oracle_lists lists = oracle_lists_make(KV_HEADS, tiles, MAX_KEYS);
    oracle_output dense = oracle_attend(&r->rule, &r->sequence, dtype, NULL, NULL, NULL);
    double scores[MAX_KEYS];
    for (uint32_t row = 0; row < rows; row++) {
        uint64_t begin = (member * published.rows + row) * published.row_capacity * sizeof(int32_t);
        check(kas_buffer_read(s->stream, published.indices.buffer, published.indices.offset + begin, entries, size),
              "kas_buffer_read");
        for (uint32_t u = 0; u < tiles; u++) {
            oracle_tile tile = oracle_tile_at(&r->rule, &r->sequence, u);
            const int32_t *list = entries + (published.tile_offset ? published.tile_offset[u] : 0);
            oracle_pool(&r->rule, &r->sequence, &tile, row, dense.lse, false, scores);
            check_list(&tile, scores, list);
            memcpy(oracle_list(&lists, row, u), list, tile.keep * sizeof(*list));
            lists.count[row * tiles + u] = tile.keep;
        }
    }
    oracle_output_free(&dense);
    return lists;
}

static void check_output(server *s, const batch *b, uint32_t member, const oracle_output *expected)
{
    static unsigned char bytes[MAX_PROMPT * HEADS * DIM * 2];
    uint64_t count = (uint64_t)b->q_lens[member] * HEADS * DIM;
    check(kas_buffer_read(s->stream, s->out, (uint64_t)b->q_starts[member] * HEADS * DIM * 2, bytes, count * 2),
          "kas_buffer_read");
    double bound = 2 * expected->out_error + 1e-5 * expected->out_most;
    for (uint64_t i = 0; i < count; i++) {
        float value = storage_get(dtype, bytes, i);
        if (!(fabs(value - expected->out[i]) <= bound)) {
            char detail[160];
            snprintf(detail, sizeof(detail), "element %llu is %g, the oracle's %g, bound %g", (unsigned long long)i,
                     value, expected->out[i], bound);
            fail("output", detail);
        }
    }
}

/* Checks the layer that has just run; `lists` are those of the newest publishing layer. */
static void check_layer(server *s, const batch *b, uint32_t member, uint32_t layer, oracle_lists *lists)
{
    reference r = reference_make(s, b, member, layer);
    if (layer == 0 || layer == 2) {
        if (layer)
            oracle_lists_free(lists);
        *lists = published_lists(s, b, member, &r, layer ? KV_HEADS : 1);
    }
    oracle_output expected =
        oracle_attend(&r.rule, &r.sequence, dtype, layer ? lists : NULL, head_map + (size_t)layer * KV_HEADS, NULL);
    check_output(s, b, member, &expected);
    oracle_output_free(&expected);
    reference_free(&r);
}

static void run_call(server *s, kas_phase phase)
{
    batch b = gather(s, phase);
    if (b.count == 0)
        return;
    write(s, s->q_lens, 0, b.q_lens, sizeof(int32_t) * b.count);
    write(s, s->kv_lens, 0, b.kv_lens, sizeof(int32_t) * b.count);
    write(s, s->q_starts, 0, b.q_starts, sizeof(int32_t) * b.count);
    write(s, s->table, 0, b.table, sizeof(int32_t) * TABLE * b.count);
    bool checked = storage_random_below(&s->random, CHECK_ONE_IN) == 0;
    uint32_t member = storage_random_below(&s->random, b.count);
    oracle_lists lists = {0};
    for (uint32_t layer = 0; layer < LAYERS; layer++) {
        run_layer(s, &b, layer);
        if (checked)
            check_layer(s, &b, member, layer, &lists);
    }
    if (checked)
        oracle_lists_free(&lists);
    s->checked += checked;
    s->decoded += phase == KAS_PHASE_DECODE ? b.rows : 0;
}

static void run_steps(server *s, uint64_t steps)
{
    long long before = atomic_load(&allocations);
    for (uint64_t step = 0; step < steps; step++) {
        for (uint32_t i = 0; i < SLOTS; i++)
            advance(s, &s->slots[i]);
        run_call(s, KAS_PHASE_PREFILL);
        run_call(s, KAS_PHASE_DECODE);
    }
    uint32_t bits = 0;
    check(kas_session_check(s->session, s->stream, &bits), "kas_session_check");
    if (bits)
        fail("kas_session_check", "valid device data was called invalid");
    if (atomic_load(&allocations) != before)
        fail("allocations", "a call after the session's creation took host memory");
    if (s->checked == 0 || s->decoded == 0)
        fail("steps", "too few: nothing was checked");
}

int main(int count, char **arguments)
{
    static server s;
    uint64_t steps = count > 1 ? strtoull(arguments[1], NULL, 10) : 300;
    const char *device = count > 2 ? arguments[2] : "cpu";
    uint64_t seed = count > 3 ? strtoull(arguments[3], NULL, 10) : 1;
    printf("%llu steps on %s, seed %llu\n", (unsigned long long)steps, device, (unsigned long long)seed);
    fflush(stdout);
    kas_set_allocator(&(kas_allocator){NULL, count_allocate, count_release});
    open_server(&s, device, seed);
    run_steps(&s, steps);
    close_server(&s);
    printf("%llu sequences, %llu tokens decoded, %llu calls checked\n", (unsigned long long)s.joined,
           (unsigned long long)s.decoded, (unsigned long long)s.checked);
    if (atomic_load(&held) != 0)
        fail("memory", "not all of it was given back");
    return 0;
}
