/* pool.cl - decode: stored logits and the splits' partial sums to pooled scores, a key an item. */
#include "common.clh"

typedef struct pool_memory {
    float lse[KAS_ITEMS];
} pool_memory;

static inline float merged_lse(const kas_work *w, kas_u64 query_row)
{
    kas_softmax whole = kas_softmax_none();
    for (kas_u32 split = 0u; split < w->call.splits; split++) {
        kas_softmax partial;
        partial.greatest = w->part_ml[(query_row * w->call.splits + split) * 2u];
        partial.sum = w->part_ml[(query_row * w->call.splits + split) * 2u + 1u];
        whole = kas_softmax_merge(whole, partial);
    }
    return kas_softmax_lse(whole);
}

/* Row `row` of the pooled heads is query token row % queries, of which the sequence may have fewer. */
static inline kas_bool is_pooled(const kas_work *w, kas_sequence s, kas_u32 row)
{
    return row % w->call.queries < s.queries;
}

/* The log-sum-exp of each row of the block that is pooled. */
static inline void load_lse(const kas_work *w, __local pool_memory *m, kas_sequence s, kas_u64 first, kas_u32 row,
                            kas_u32 rows)
{
    kas_u32 item = KAS_U32(get_local_id(0));
    barrier(CLK_LOCAL_MEM_FENCE);
    if (row + item < rows && is_pooled(w, s, row + item))
        m->lse[item] = merged_lse(w, first + row + item);
    barrier(CLK_LOCAL_MEM_FENCE);
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
    float score = 0.0f;
    if (begin >= candidates)
        rows = 0u;
    for (kas_u32 row = 0u; row < rows; row += KAS_ITEMS) {
        load_lse(w, m, s, first, row, rows);
        for (kas_u32 n = 0u; n < KAS_ITEMS && row + n < rows; n++)
            if (j < candidates && is_pooled(w, s, row + n))
                score += kas_softmax_weight(w->logits[(first + row + n) * w->call.score_stride + j], m->lse[n]);
    }
    if (j < candidates)
        kas_scores_of(w, KAS_U32(get_num_groups(1)), y, 0u)[j] = score;
}
