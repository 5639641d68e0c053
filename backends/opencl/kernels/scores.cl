/*
 * scores.cl - pooled scores of a block of a tile's candidates, a key an item: over the row's heads and the tile's
 * queries, the sum of exp(scale * q.k - lse).
 */
#include "rows.clh"

/* lse of 16 rows, as floats of m->greatest. A row that sees no key, or none at all, adds nothing: exp(s - inf). */
static inline void load_lse(const kas_work *w, __local rows_memory *m, kas_sequence s, query_rows rows, kas_u32 row)
{
    kas_u32 lane = KAS_U32(get_local_id(0));
    if (lane < ROWS) {
        float lse = -KAS_NEGATIVE_INFINITY;
        if (row_exists(rows, s, row + lane))
            lse = *kas_lse_of(w, row_token(rows, row + lane), row_head(rows, row + lane));
        m->greatest[lane] = lse == KAS_NEGATIVE_INFINITY ? -KAS_NEGATIVE_INFINITY : lse;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
}

/* An estimated normaliser may be too small by any factor; no term counts more than 4. NaN passes. */
static inline float16 limit_terms(float16 terms)
{
    return select(terms, (float16)(4.0f), terms > 4.0f);
}

static inline float sum_lanes(float16 x)
{
    float8 a = x.lo + x.hi;
    float4 b = a.lo + a.hi;
    return b.x + b.y + (b.z + b.w);
}

/* The terms of the tile's queries and the heads of kv head g for the item's key. */
static inline float sum_terms(const kas_work *w, __local rows_memory *m, kas_sequence s, kas_tile t, kas_u32 g,
                              kas_place place)
{
    query_rows rows = rows_of(g * w->session->group, w->session->group, t.query_begin, t.query_end - t.query_begin);
    kas_bool present = place.page != KAS_ABSENT;
    float sum = 0.0f;
    for (kas_u32 row = 0u; row < rows.count; row += ROWS) {
        load_rows(w, m, s, rows, row);
        load_lse(w, m, s, rows, row);
        if (present) {
            float16 terms = exp(dot_rows(m, w->k + kas_k_at(w, place, g)) * w->session->scale - vload16(0, m->greatest));
            sum += sum_lanes(kas_has(w, KAS_CALL_ESTIMATED) ? limit_terms(terms) : terms);
        }
    }
    return sum;
}

KAS_KERNEL(kas_scores, rows_memory)
{
    kas_u32 y = KAS_U32(get_group_id(1));
    kas_u32 u = w->call.tile_begin + KAS_U32(get_group_id(0)) % w->call.tile_count;
    kas_u32 begin = KAS_U32(get_group_id(0)) / w->call.tile_count * KAS_BLOCK_KEYS;
    kas_u32 j = begin + KAS_U32(get_local_id(0));
    kas_sequence s = kas_load_sequence(w);
    kas_tile t = kas_load_tile(w, s, u);
    kas_bool skipped = kas_has(w, KAS_CALL_SKIP_DENSE) && kas_tile_is_dense(t);
    kas_u32 heads = kas_tile_exists(t) && !skipped && begin < t.candidates ? w->session->pool_heads : 0u;
    kas_place place = kas_key_place(w, heads != 0u && j < t.candidates ? j : KAS_ABSENT);
    kas_u32 g = kas_active_row(w, y);
    float score = 0.0f;
    for (kas_u32 n = 0u; n < heads; n++)
        score += sum_terms(w, m, s, t, g + n, place);
    if (heads != 0u && j < t.candidates)
        kas_scores_of(w, KAS_U32(get_num_groups(1)), y, u)[j] = score;
}
