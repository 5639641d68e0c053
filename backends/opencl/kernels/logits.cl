/* logits.cl - decode: a split's logits for the rows of a kv head, and their greatest and sum of exponentials. */
#include "rows.clh"

/* The chunk's logits, `keys` of them, to the launch's matrix. */
static inline void store_logits(const kas_work *w, __local rows_memory *m, kas_sequence s, query_rows rows, kas_u32 row,
                                kas_u32 begin, kas_u32 keys)
{
    for (kas_u32 lane = 0u; lane < ROWS; lane++) {
        if (!row_exists(rows, s, row + lane))
            continue;
        kas_u64 query_row = kas_query_row(w, KAS_U32(get_num_groups(1)), KAS_U32(get_group_id(1)), row + lane);
        if (get_local_id(0) < keys)
            w->logits[query_row * w->call.score_stride + begin + get_local_id(0)] =
                ((__local float *)m->p)[get_local_id(0) * ROWS + lane];
    }
    barrier(CLK_LOCAL_MEM_FENCE);
}

KAS_KERNEL(kas_logits, rows_memory)
{
    kas_sequence s = kas_load_sequence(w);
    kas_u32 pooled = w->session->pool_heads;
    kas_u32 g = kas_active_row(w, KAS_U32(get_group_id(1)) / pooled) + KAS_U32(get_group_id(1)) % pooled;
    query_rows rows = rows_of(g * w->session->group, w->session->group, 0u, w->call.queries);
    kas_keys keys = kas_keys_all(s.keys);
    kas_u32 begin = kas_min2(KAS_U32(get_group_id(0)) * w->call.split_keys, keys.total);
    kas_u32 end = kas_min2(begin + w->call.split_keys, keys.total);
    for (kas_u32 row = 0u; row < rows.count; row += ROWS) {
        load_rows(w, m, s, rows, row);
        for (kas_u32 entry = begin; entry < end; entry += CHUNK) {
            load_logits(w, m, g, &keys, entry, end);
            if (kas_has(w, KAS_CALL_STORE_LOGITS))
                store_logits(w, m, s, rows, row, entry, kas_min2(end - entry, CHUNK));
            weigh_logits(m);
        }
        store_partial_sums(w, m, rows, row);
    }
}
