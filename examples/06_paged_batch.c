/*
 * 06_paged_batch.c - continuous batching over a paged KV cache: sequences join with a prompt and leave when they are
 * done, each step prefills the newcomers as one packed ragged batch and decodes all others together.
 *
 * The model is a stand-in that projects to random numbers. Memory is one pool of pages a layer; a sequence owns a list
 * of pages that hold its keys in order, and the same page numbers serve every layer.
 */
#include "check.h"

#include <string.h>

enum {
    LAYERS = 4,
    HEADS = 8,
    KV_HEADS = 2,
    DIM = 64,
    PAGE = 16,   /* tokens in a page */
    PAGES = 192, /* of the pool */
    SLOTS = 4,   /* sequences served at a time */
    MAX_PROMPT = 400,
    MAX_KEYS = 512,
    TABLE = MAX_KEYS / PAGE,
    REQUESTS = 10
};

typedef struct sequence {
    int32_t pages[TABLE];
    int32_t length;  /* keys in the cache, those of this step included */
    int32_t queries; /* tokens of this step: the prompt when it joins, 1 afterwards, 0: the slot is free */
    int left;        /* tokens still to decode */
} sequence;

typedef struct engine {
    kas_context *context;
    kas_stream *stream;
    kas_session *session;
    kas_buffer *k[LAYERS], *v[LAYERS]; /* [PAGES, PAGE, KV_HEADS, DIM] */
    kas_buffer *q, *out;               /* rows of all sequences of a call, packed */
    kas_buffer *q_lens, *kv_lens, *q_starts, *table;
    int32_t free_pages[PAGES];
    int free_count;
    sequence slots[SLOTS];
} engine;

static kas_buffer *buffer(engine *e, uint64_t size)
{
    kas_buffer *made;
    CHECK(kas_buffer_create(e->context, size, &made));
    return made;
}

static void open_engine(engine *e)
{
    memset(e, 0, sizeof(*e));
    CHECK(
        kas_context_create(&(kas_context_desc){.struct_size = sizeof(kas_context_desc), .device = "cpu"}, &e->context));
    CHECK(kas_stream_create(e->context, &e->stream));
    kas_plan *plan;
    CHECK(kas_plan_create(&(kas_plan_desc){.struct_size = sizeof(kas_plan_desc),
                                           .layers = LAYERS,
                                           .heads = HEADS,
                                           .kv_heads = KV_HEADS,
                                           .anchors = (uint32_t[]){0, 2},
                                           .anchor_count = 2},
                          &plan));
    CHECK(kas_session_create(e->context,
                             &(kas_session_desc){.struct_size = sizeof(kas_session_desc),
                                                 .plan = plan,
                                                 .head_dim = DIM,
                                                 .dtype = KAS_DTYPE_F32,
                                                 .max_batch = SLOTS,
                                                 .max_queries = MAX_PROMPT,
                                                 .max_keys = MAX_KEYS,
                                                 .page_size = PAGE},
                             &e->session));
    kas_plan_destroy(plan); /* the session has taken what it needs */
    for (int layer = 0; layer < LAYERS; layer++) {
        e->k[layer] = buffer(e, sizeof(float) * PAGES * PAGE * KV_HEADS * DIM);
        e->v[layer] = buffer(e, sizeof(float) * PAGES * PAGE * KV_HEADS * DIM);
    }
    e->q = buffer(e, sizeof(float) * SLOTS * MAX_PROMPT * HEADS * DIM);
    e->out = buffer(e, sizeof(float) * SLOTS * MAX_PROMPT * HEADS * DIM);
    e->q_lens = buffer(e, sizeof(int32_t) * SLOTS);
    e->kv_lens = buffer(e, sizeof(int32_t) * SLOTS);
    e->q_starts = buffer(e, sizeof(int32_t) * SLOTS);
    e->table = buffer(e, sizeof(int32_t) * SLOTS * TABLE);
    for (e->free_count = 0; e->free_count < PAGES; e->free_count++)
        e->free_pages[e->free_count] = e->free_count;
}

static void close_engine(engine *e)
{
    kas_buffer *owned[] = {e->q, e->out, e->q_lens, e->kv_lens, e->q_starts, e->table};
    for (int i = 0; i < 6; i++)
        kas_buffer_destroy(owned[i]);
    for (int layer = 0; layer < LAYERS; layer++) {
        kas_buffer_destroy(e->k[layer]);
        kas_buffer_destroy(e->v[layer]);
    }
    kas_session_destroy(e->session);
    kas_stream_destroy(e->stream);
    kas_context_destroy(e->context);
}

static void project(float *values, int count)
{
    for (int i = 0; i < count; i++)
        values[i] = (float)rand() / (float)RAND_MAX - 0.5f;
}

/* Makes room for `queries` more keys of a sequence; 0 when the pool has no page left. */
static int grow(engine *e, sequence *s, int queries)
{
    int owned = (s->length + PAGE - 1) / PAGE, needed = (s->length + queries + PAGE - 1) / PAGE;
    if (needed - owned > e->free_count)
        return 0;
    while (owned < needed)
        s->pages[owned++] = e->free_pages[--e->free_count];
    s->length += queries;
    s->queries = queries;
    return 1;
}

static void leave(engine *e, sequence *s)
{
    for (int page = 0; page < (s->length + PAGE - 1) / PAGE; page++)
        e->free_pages[e->free_count++] = s->pages[page];
    memset(s, 0, sizeof(*s));
}

/* Keys and values of a sequence's new tokens go to where its pages say. */
static void append(engine *e, const sequence *s, int layer)
{
    for (int position = s->length - s->queries; position < s->length; position++) {
        int row = (s->pages[position / PAGE] * PAGE + position % PAGE) * KV_HEADS * DIM;
        project((float *)kas_buffer_host(e->k[layer]) + row, KV_HEADS * DIM);
        project((float *)kas_buffer_host(e->v[layer]) + row, KV_HEADS * DIM);
    }
}

/* One pass over the layers for the sequences that bring a prompt, or for those that bring one token. */
static int run(engine *e, kas_phase phase)
{
    int32_t q_lens[SLOTS], kv_lens[SLOTS], q_starts[SLOTS], table[SLOTS * TABLE];
    sequence *members[SLOTS];
    int batch = 0, rows = 0, most_queries = 0, most_keys = 0;
    for (int i = 0; i < SLOTS; i++) {
        sequence *s = &e->slots[i];
        if (s->queries == 0 || (s->queries > 1) != (phase == KAS_PHASE_PREFILL))
            continue;
        members[batch] = s;
        q_lens[batch] = s->queries;
        kv_lens[batch] = s->length;
        q_starts[batch] = rows;
        memcpy(table + batch * TABLE, s->pages, sizeof(s->pages));
        rows += s->queries;
        most_queries = s->queries > most_queries ? s->queries : most_queries;
        most_keys = s->length > most_keys ? s->length : most_keys;
        batch++;
    }
    if (batch == 0)
        return 0;
    CHECK(kas_buffer_write(e->stream, e->q_lens, 0, q_lens, sizeof(int32_t) * (size_t)batch));
    CHECK(kas_buffer_write(e->stream, e->kv_lens, 0, kv_lens, sizeof(int32_t) * (size_t)batch));
    CHECK(kas_buffer_write(e->stream, e->q_starts, 0, q_starts, sizeof(int32_t) * (size_t)batch));
    CHECK(kas_buffer_write(e->stream, e->table, 0, table, sizeof(int32_t) * (size_t)batch * TABLE));
    for (int layer = 0; layer < LAYERS; layer++) {
        project(kas_buffer_host(e->q), rows * HEADS * DIM);
        for (int i = 0; i < batch; i++)
            append(e, members[i], layer);
        kas_attention args = {.struct_size = sizeof(args),
                              .layer = (uint32_t)layer,
                              .batch = (uint32_t)batch,
                              .queries = (uint32_t)most_queries,
                              .keys = (uint32_t)most_keys,
                              .q = {.buffer = e->q},
                              .k = {.buffer = e->k[layer]},
                              .v = {.buffer = e->v[layer]},
                              .out = {.buffer = e->out},
                              .q_lens = {.buffer = e->q_lens},
                              .kv_lens = {.buffer = e->kv_lens},
                              .q_starts = {.buffer = e->q_starts},
                              .page_table = {.buffer = e->table},
                              .page_table_stride = TABLE,
                              .page_count = PAGES};
        CHECK(phase == KAS_PHASE_PREFILL ? kas_prefill(e->session, e->stream, &args)
                                         : kas_decode(e->session, e->stream, &args));
        CHECK(kas_stream_wait(e->stream)); /* the next layer's projections need this one's output */
    }
    return batch;
}

int main(void)
{
    static engine e;
    open_engine(&e);
    int waiting = REQUESTS, served = 0, steps = 0;
    for (; served < REQUESTS; steps++) {
        for (int i = 0; i < SLOTS; i++) {
            sequence *s = &e.slots[i];
            if (s->length > 0 && s->left-- == 0) {
                leave(&e, s);
                served++;
            } else if (s->length > 0 && !grow(&e, s, 1)) {
                s->queries = 0; /* waits for a page: a step without this sequence */
                s->left++;
            }
            if (s->length == 0 && waiting > 0 && grow(&e, s, 50 + rand() % (MAX_PROMPT - 50))) {
                s->left = 5 + rand() % 40;
                waiting--;
            }
        }
        run(&e, KAS_PHASE_PREFILL);
        run(&e, KAS_PHASE_DECODE);
    }
    uint32_t found;
    CHECK(kas_session_check(e.session, e.stream, &found));
    printf("%d sequences served in %d steps, %d of %d pages free, check bits %u\n", served, steps, e.free_count, PAGES,
           found);
    close_engine(&e);
    return found != 0 || e.free_count != PAGES;
}
