/* pool.cl - decode: stored logits and the splits' partial sums to pooled scores, KEYS_AN_ITEM keys an item. */
#define LANES 16u
#include "partials.clh"

#define ROWS (KAS_ITEMS / LANES) /* query rows whose log-sum-exp is found at a time */
#define KEYS_AN_ITEM (KAS_BLOCK_KEYS / KAS_ITEMS)

typedef struct pool_memory {
    partials_memory partials;
    float lse[ROWS];
} pool_memory;

/* Row `row` of the pooled heads is query token row % queries, of which the sequence may have fewer. */
static inline kas_bool is_pooled(const kas_work *w, kas_sequence s, kas_u32 row)
{
    return row % w->call.queries < s.queries;
}

/* The log-sum-exp of each of the rows from `row` on that is pooled. */
static inline void load_lse(const kas_work *w, __local pool_memory *m, kas_sequence s, kas_u64 first, kas_u32 row,
                            kas_u32 rows)
{
    kas_u32 n = KAS_U32(get_local_id(0)) / LANES;
    kas_softmax whole =
        merge_splits(w, &m->partials, first + row + n, row + n < rows && is_pooled(w, s, row + n));
    if (get_local_id(0) % LANES == 0u)
        m->lse[n] = kas_softmax_lse(whole);
    barrier(CLK_LOCAL_MEM_FENCE);
}

/* Adds a row's weights to the scores of the item's keys, which begin at j and lie KAS_ITEMS apart. */
static inline void add_row(const __global float *logits, float lse, kas_u32 j, kas_u32 candidates, float *scores)
{
    float values[KEYS_AN_ITEM]; /* all loaded before one is waited for */
#pragma unroll
    for (kas_u32 n = 0u; n < KEYS_AN_ITEM; n++)
        values[n] = j + n * KAS_ITEMS < candidates ? logits[j + n * KAS_ITEMS] : KAS_NEGATIVE_INFINITY;
#pragma unroll
    for (kas_u32 n = 0u; n < KEYS_AN_ITEM; n++)
        scores[n] += kas_softmax_weight(values[n], lse);
}

KAS_KERNEL(kas_pool, pool_memory)
{
    kas_u32 y = KAS_U32(get_group_id(1));
    kas_u32 pooled = w->session->pool_heads;
    kas_u32 rows = pooled * w->session->group * w->call.queries;
    kas_sequence s = kas_load_sequence(w);
    kas_u32 candidates = kas_tile_decode(s).candidates;
    kas_u64 first = kas_query_row(w, KAS_U32(get_num_groups(1)) * pooled, y * pooled, 0u);
    kas_u32 begin = KAS_U32(get_group_id(0)) * KAS_BLOCK_KEYS;
    kas_u32 j = begin + KAS_U32(get_local_id(0));
    __global float *target = kas_scores_of(w, KAS_U32(get_num_groups(1)), y, 0u);
    float scores[KEYS_AN_ITEM];
    for (kas_u32 n = 0u; n < KEYS_AN_ITEM; n++)
        scores[n] = 0.0f;
    if (begin >= candidates)
        rows = 0u;
    for (kas_u32 row = 0u; row < rows; row += ROWS) {
        load_lse(w, m, s, first, row, rows);
        for (kas_u32 n = 0u; n < ROWS && row + n < rows; n++)
            if (is_pooled(w, s, row + n))
                add_row(w->logits + (first + row + n) * w->call.score_stride, m->lse[n], j, candidates, scores);
    }
    for (kas_u32 n = 0u; n < KEYS_AN_ITEM; n++)
        if (j + n * KAS_ITEMS < candidates)
            target[j + n * KAS_ITEMS] = scores[n];
}
