/*
 * oracle.c - the plain computations. Loops are kept as the definition reads, not as a machine would like them; only the
 * rows of a large piece of work are shared between the processors.
 */
#define _POSIX_C_SOURCE 200809L

#include "oracle.h"

#include "memory.h"

#include <math.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

/* Several sums side by side, so that compilers can keep them in vector registers. */
#define LANES 8

static double dot_exact(const float *a, const float *b, uint32_t n)
{
    double sums[LANES] = {0}, sum = 0.0;
    uint32_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (uint32_t lane = 0; lane < LANES; lane++)
            sums[lane] += (double)a[i + lane] * b[i + lane];
    for (; i < n; i++)
        sum += (double)a[i] * b[i];
    for (uint32_t lane = 0; lane < LANES; lane++)
        sum += sums[lane];
    return sum;
}

static float dot_plain(const float *a, const float *b, uint32_t n)
{
    float sums[LANES] = {0}, sum = 0.0f;
    uint32_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (uint32_t lane = 0; lane < LANES; lane++)
            sums[lane] += a[i + lane] * b[i + lane];
    for (; i < n; i++)
        sum += a[i] * b[i];
    for (uint32_t lane = 0; lane < LANES; lane++)
        sum += sums[lane];
    return sum;
}

uint32_t oracle_topk(const kas_topk *topk, uint32_t n, uint32_t final_len)
{
    if (topk->fraction >= 1.0)
        return n;
    uint64_t factor = (uint64_t)ceil(topk->fraction * 4294967296.0);
    uint64_t length = topk->mode == KAS_TOPK_FIXED ? final_len : n;
    uint64_t k = length * factor >> 32;
    if (k < topk->min)
        k = topk->min;
    k = (k + topk->round - 1) / topk->round * topk->round;
    return k < n ? (uint32_t)k : n;
}

uint32_t oracle_offset(const oracle_sequence *sequence)
{
    return sequence->keys ? sequence->keys - sequence->queries : 0;
}

uint32_t oracle_tile_of(const oracle_rule *rule, const oracle_sequence *sequence, uint32_t query)
{
    if (rule->phase == KAS_PHASE_DECODE)
        return 0;
    uint32_t offset = oracle_offset(sequence);
    return (offset + query) / rule->tile - offset / rule->tile;
}

uint32_t oracle_tile_count(const oracle_rule *rule, const oracle_sequence *sequence)
{
    return sequence->queries ? oracle_tile_of(rule, sequence, sequence->queries - 1) + 1 : 0;
}

oracle_tile oracle_tile_at(const oracle_rule *rule, const oracle_sequence *sequence, uint32_t u)
{
    oracle_tile tile = {0, sequence->queries, 0, 0, 0};
    uint32_t offset = oracle_offset(sequence);
    if (rule->phase == KAS_PHASE_DECODE) {
        tile.start = sequence->queries == 1 ? sequence->keys : offset;
    } else {
        while (oracle_tile_of(rule, sequence, tile.begin) < u)
            tile.begin++;
        while (oracle_tile_of(rule, sequence, tile.end - 1) > u)
            tile.end--;
        tile.start = (offset + tile.begin) / rule->tile * rule->tile;
    }
    tile.candidates = sequence->keys ? tile.start : 0;
    tile.keep = oracle_topk(&rule->topk, tile.candidates, sequence->final_len);
    return tile;
}

oracle_lists oracle_lists_make(uint32_t rows, uint32_t tiles, uint32_t width)
{
    oracle_lists lists = {rows, tiles, width, NULL, NULL};
    lists.count = memory_alloc((size_t)rows * tiles, sizeof(uint32_t));
    lists.entries = memory_alloc((size_t)rows * tiles * width, sizeof(int32_t));
    return lists;
}

void oracle_lists_free(oracle_lists *lists)
{
    free(lists->count);
    free(lists->entries);
    lists->count = NULL;
    lists->entries = NULL;
}

int32_t *oracle_list(const oracle_lists *lists, uint32_t row, uint32_t tile)
{
    return lists->entries + ((size_t)row * lists->tiles + tile) * lists->width;
}

/* Everything that the computation of one query row needs. */
typedef struct query_row {
    const oracle_rule *rule;
    const oracle_sequence *sequence;
    kas_dtype dtype;
    uint32_t query, head;
    uint32_t *keys; /* positions it attends to */
    uint32_t count;
    double *weights;      /* [count] */
    float *plain_weights; /* [count] */
    double *out;          /* [head_dim]; NULL without v */
    float *plain_out;     /* [head_dim] */
} query_row;

static const float *query_of(const oracle_rule *rule, const oracle_sequence *sequence, uint32_t i, uint32_t h)
{
    return sequence->q + ((size_t)i * rule->heads + h) * rule->head_dim;
}

static const float *row_of(const oracle_rule *rule, const float *kv, uint32_t j, uint32_t g)
{
    return kv + ((size_t)j * rule->kv_heads + g) * rule->head_dim;
}

static void add_key(query_row *row, uint32_t j)
{
    if (!row->sequence->absent || !row->sequence->absent[j])
        row->keys[row->count++] = j;
}

/* The set that the row attends to: all causal keys, or list `list_row` of the query's tile and the tile's own keys. */
static void gather_keys(query_row *row, const oracle_lists *lists, uint32_t list_row)
{
    const oracle_sequence *s = row->sequence;
    uint32_t end = s->keys ? oracle_offset(s) + row->query + 1 : 0;
    uint32_t own = 0;
    row->count = 0;
    if (lists) {
        uint32_t u = oracle_tile_of(row->rule, s, row->query);
        const int32_t *list = oracle_list(lists, list_row, u);
        for (uint32_t n = 0; n < lists->count[(size_t)list_row * lists->tiles + u]; n++)
            add_key(row, (uint32_t)list[n]);
        own = oracle_tile_at(row->rule, s, u).start;
    }
    for (uint32_t j = own; j < end; j++)
        add_key(row, j);
}

/* The mean of the keys' v by the row's weights, whose sum is given. */
static void average_exact(query_row *row, uint32_t g, double sum)
{
    uint32_t dim = row->rule->head_dim;
    memset(row->out, 0, dim * sizeof(double));
    for (uint32_t n = 0; n < row->count; n++) {
        const float *v = row_of(row->rule, row->sequence->v, row->keys[n], g);
        for (uint32_t d = 0; d < dim; d++)
            row->out[d] += row->weights[n] * v[d];
    }
    for (uint32_t d = 0; d < dim && row->count > 0; d++)
        row->out[d] /= sum;
}

static double attend_exact(query_row *row)
{
    const oracle_rule *rule = row->rule;
    uint32_t g = row->head / (rule->heads / rule->kv_heads);
    const float *q = query_of(rule, row->sequence, row->query, row->head);
    double most = -INFINITY, sum = 0.0;
    for (uint32_t n = 0; n < row->count; n++) {
        row->weights[n] = rule->scale * dot_exact(q, row_of(rule, row->sequence->k, row->keys[n], g), rule->head_dim);
        most = fmax(most, row->weights[n]);
    }
    for (uint32_t n = 0; n < row->count; n++) {
        row->weights[n] = exp(row->weights[n] - most);
        sum += row->weights[n];
    }
    if (row->out)
        average_exact(row, g, sum);
    return row->count > 0 ? most + log(sum) : -INFINITY;
}

static void average_plain(query_row *row, uint32_t g, float sum)
{
    uint32_t dim = row->rule->head_dim;
    memset(row->plain_out, 0, dim * sizeof(float));
    for (uint32_t n = 0; n < row->count; n++) {
        const float *v = row_of(row->rule, row->sequence->v, row->keys[n], g);
        for (uint32_t d = 0; d < dim; d++)
            row->plain_out[d] += row->plain_weights[n] * v[d];
    }
    for (uint32_t d = 0; d < dim && row->count > 0; d++)
        row->plain_out[d] = storage_round(row->dtype, row->plain_out[d] / sum);
}

static float attend_plain(query_row *row)
{
    const oracle_rule *rule = row->rule;
    uint32_t g = row->head / (rule->heads / rule->kv_heads);
    const float *q = query_of(rule, row->sequence, row->query, row->head);
    float most = -INFINITY, sum = 0.0f;
    for (uint32_t n = 0; n < row->count; n++) {
        const float *k = row_of(rule, row->sequence->k, row->keys[n], g);
        row->plain_weights[n] = (float)rule->scale * dot_plain(q, k, rule->head_dim);
        most = fmaxf(most, row->plain_weights[n]);
    }
    for (uint32_t n = 0; n < row->count; n++) {
        float weight = expf(row->plain_weights[n] - most);
        row->plain_weights[n] = storage_round(row->dtype, weight);
        sum += weight;
    }
    if (row->out)
        average_plain(row, g, sum);
    return row->count > 0 ? most + logf(sum) : -INFINITY;
}

/* Keeps the larger; a NaN is never kept. */
static void raise_to(double *most, double value)
{
    if (value > *most)
        *most = value;
}

static void measure(oracle_output *output, const query_row *row, double lse, float plain_lse)
{
    for (uint32_t d = 0; d < row->rule->head_dim && row->out; d++) {
        raise_to(&output->out_error, fabs(row->plain_out[d] - row->out[d]));
        raise_to(&output->out_most, fabs(row->out[d]));
    }
    if (row->count > 0) {
        raise_to(&output->lse_error, fabs(plain_lse - lse));
        raise_to(&output->lse_most, fabs(lse));
    }
}

/* ---- Rows on all processors ------------------------------------------------------------------------------------ */

#define MOST_THREADS 16
#define LEAST_WORK 4e6 /* products that are worth a thread */

/* Items first, first + step, ... of a piece of work. */
typedef struct share {
    void (*body)(void *user, uint32_t item);
    void *user;
    uint32_t first, step, end;
} share;

static void *run_share(void *argument)
{
    const share *own = argument;
    for (uint32_t item = own->first; item < own->end; item += own->step)
        own->body(own->user, item);
    return NULL;
}

static uint32_t threads_for(double work)
{
    double processors = (double)sysconf(_SC_NPROCESSORS_ONLN);
    double threads = fmin(fmin(processors, MOST_THREADS), work / LEAST_WORK);
    return threads > 1 ? (uint32_t)threads : 1;
}

/* Calls body(user, item) for items 0 .. count - 1; users[t] is for thread t. A thread that does not start is run here. */
static void run_items(void (*body)(void *user, uint32_t item), void *const *users, uint32_t threads, uint32_t count)
{
    share shares[MOST_THREADS] = {0};
    pthread_t started[MOST_THREADS];
    bool joinable[MOST_THREADS] = {false};
    for (uint32_t t = 0; t < threads; t++)
        shares[t] = (share){body, users[t], t, threads, count};
    for (uint32_t t = 1; t < threads; t++)
        joinable[t] = pthread_create(&started[t], NULL, run_share, &shares[t]) == 0;
    run_share(&shares[0]);
    for (uint32_t t = 1; t < threads; t++) {
        if (joinable[t])
            pthread_join(started[t], NULL);
        else
            run_share(&shares[t]);
    }
}

/* ---- Attention ------------------------------------------------------------------------------------------------- */

/* A thread's part of oracle_attend; `output` shares out and lse with the others. */
typedef struct attend_part {
    query_row row;
    oracle_output output;
    const oracle_lists *lists;
    const uint32_t *list_rows;
    const bool *dirty;
} attend_part;

static void attend_query(void *user, uint32_t query)
{
    attend_part *part = user;
    query_row *row = &part->row;
    const oracle_rule *rule = row->rule;
    row->query = query;
    for (row->head = 0; row->head < rule->heads; row->head++) {
        uint32_t g = row->head / (rule->heads / rule->kv_heads);
        if (part->dirty && part->dirty[g])
            continue;
        size_t at = (size_t)query * rule->heads + row->head;
        row->out = part->output.out ? part->output.out + at * rule->head_dim : NULL;
        gather_keys(row, part->lists, part->list_rows ? part->list_rows[g] : g);
        part->output.lse[at] = attend_exact(row);
        measure(&part->output, row, part->output.lse[at], attend_plain(row));
    }
}

static void take_part(oracle_output *output, const attend_part *part)
{
    raise_to(&output->out_error, part->output.out_error);
    raise_to(&output->out_most, part->output.out_most);
    raise_to(&output->lse_error, part->output.lse_error);
    raise_to(&output->lse_most, part->output.lse_most);
    free(part->row.keys);
    free(part->row.weights);
    free(part->row.plain_weights);
    free(part->row.plain_out);
}

oracle_output oracle_attend(const oracle_rule *rule, const oracle_sequence *sequence, kas_dtype dtype,
                            const oracle_lists *lists, const uint32_t *list_rows, const bool *dirty)
{
    oracle_output output = {0};
    attend_part parts[MOST_THREADS] = {0};
    void *users[MOST_THREADS] = {NULL};
    size_t rows = (size_t)sequence->queries * rule->heads;
    uint32_t threads = threads_for((double)rows * sequence->keys * rule->head_dim);
    output.out = sequence->v ? memory_alloc(rows * rule->head_dim, sizeof(double)) : NULL;
    output.lse = memory_alloc(rows, sizeof(double));
    size_t most = (size_t)sequence->keys + (lists ? lists->width : 0);
    for (uint32_t t = 0; t < threads; t++) {
        query_row *row = &parts[t].row;
        parts[t] = (attend_part){.output = output, .lists = lists, .list_rows = list_rows, .dirty = dirty};
        *row = (query_row){.rule = rule, .sequence = sequence, .dtype = dtype};
        row->keys = memory_alloc(most, sizeof(uint32_t));
        row->weights = memory_alloc(most, sizeof(double));
        row->plain_weights = memory_alloc(most, sizeof(float));
        row->plain_out = memory_alloc(rule->head_dim, sizeof(float));
        users[t] = &parts[t];
    }
    run_items(attend_query, users, threads, sequence->queries);
    for (uint32_t t = 0; t < threads; t++)
        take_part(&output, &parts[t]);
    return output;
}

void oracle_output_free(oracle_output *output)
{
    free(output->out);
    free(output->lse);
    output->out = NULL;
    output->lse = NULL;
}

typedef struct pool_work {
    const oracle_rule *rule;
    const oracle_sequence *sequence;
    const oracle_tile *tile;
    uint32_t first, end; /* heads */
    const double *lse;
    bool clamped;
    double *scores;
} pool_work;

static void pool_key(void *user, uint32_t j)
{
    const pool_work *work = user;
    const oracle_rule *rule = work->rule;
    const oracle_sequence *sequence = work->sequence;
    uint32_t group = rule->heads / rule->kv_heads, offset = oracle_offset(sequence);
    double *score = &work->scores[j];
    *score = 0.0;
    if (sequence->absent && sequence->absent[j])
        return;
    for (uint32_t i = work->tile->begin; i < work->tile->end; i++) {
        for (uint32_t h = work->first; h < work->end && j <= offset + i; h++) {
            double normaliser = work->lse[(size_t)i * rule->heads + h];
            const float *k = row_of(rule, sequence->k, j, h / group);
            double logit = rule->scale * dot_exact(query_of(rule, sequence, i, h), k, rule->head_dim);
            double weight = normaliser == -INFINITY ? 0.0 : exp(logit - normaliser);
            *score += work->clamped ? fmin(4.0, weight) : weight;
        }
    }
}

void oracle_pool(const oracle_rule *rule, const oracle_sequence *sequence, const oracle_tile *tile, uint32_t row,
                 const double *lse, bool clamped, double *scores)
{
    uint32_t group = rule->heads / rule->kv_heads;
    uint32_t first = rule->all_heads ? 0 : row * group;
    uint32_t end = rule->all_heads ? rule->heads : first + group;
    pool_work work = {rule, sequence, tile, first, end, lse, clamped, scores};
    double products = (double)(tile->end - tile->begin) * (end - first) * tile->candidates * rule->head_dim;
    void *users[MOST_THREADS] = {NULL};
    for (uint32_t t = 0; t < MOST_THREADS; t++)
        users[t] = &work;
    run_items(pool_key, users, threads_for(products), tile->candidates);
}

bool oracle_before(double a, uint32_t i, double b, uint32_t j)
{
    if (isnan(a) != isnan(b))
        return isnan(b);
    if (isnan(a) || a == b)
        return i < j;
    return a > b;
}

typedef struct ranked {
    double score;
    uint32_t position;
} ranked;

static int compare_ranks(const void *a, const void *b)
{
    const ranked *x = a, *y = b;
    if (x->position == y->position)
        return 0;
    return oracle_before(x->score, x->position, y->score, y->position) ? -1 : 1;
}

static int compare_positions(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

void oracle_select(const double *scores, uint32_t n, uint32_t keep, int32_t *selected)
{
    ranked *ranks = memory_alloc(n, sizeof(ranked));
    for (uint32_t j = 0; j < n; j++)
        ranks[j] = (ranked){scores[j], j};
    qsort(ranks, n, sizeof(ranked), compare_ranks);
    for (uint32_t j = 0; j < keep; j++)
        selected[j] = (int32_t)ranks[j].position;
    qsort(selected, keep, sizeof(int32_t), compare_positions);
    free(ranks);
}
