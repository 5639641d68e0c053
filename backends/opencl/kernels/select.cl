/*
 * select.cl - the `keep` candidates of largest score, in ascending position. Histograms narrow the range of sort keys
 * in which the least kept one lies: the first spreads its bins over the keys that there are, so that scores that
 * resemble each other do not meet in one bin; the few keys of the bin that it finds are gathered in local memory, where
 * the others follow.
 */
#define BIN_BITS 11u
#define GATHERED 4096u /* keys of a bin that are gathered */

/* Gathered keys, and of all keys the least and the greatest. */
#define OWN_MEMORY                                                                                                     \
    kas_u32 keys[GATHERED];                                                                                            \
    kas_u32 gathered;                                                                                                  \
    kas_u32 least;                                                                                                     \
    kas_u32 greatest;
#include "select.clh"

static inline void find_range(__local select_memory *m, const __global float *scores, kas_u32 candidates)
{
    kas_u32 least = 0xffffffffu, greatest = 0u;
    if (item_index() == 0u) {
        m->gathered = 0u;
        m->inside = candidates;
        m->least = 0xffffffffu;
        m->greatest = 0u;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (kas_u32 first = item_index(); first < candidates; first += KAS_ITEMS * LOADS) {
        kas_u32 keys[LOADS];
        load_keys(scores, candidates, first, kas_sort_key(as_uint(scores[first])), keys);
#pragma unroll
        for (kas_u32 n = 0u; n < LOADS; n++) {
            least = kas_min2(least, keys[n]);
            greatest = kas_max2(greatest, keys[n]);
        }
    }
    atomic_min(&m->least, least);
    atomic_max(&m->greatest, greatest);
    barrier(CLK_LOCAL_MEM_FENCE);
}

static inline kas_bool is_within(kas_u32 key, kas_u32 low, kas_u32 high)
{
    return key - low <= high - low;
}

/* A key of no score, above all that scores have. */
#define NO_KEY 0xffffffffu

/* Counts the keys low .. high, bin b those from low + b 2^shift on; or, with `gather`, brings them to local memory,
   which has room for GATHERED. */
static inline void take_keys(__local select_memory *m, const __global float *scores, kas_u32 candidates, kas_u32 low,
                             kas_u32 high, kas_u32 shift, kas_bool gather)
{
    for (kas_u32 first = item_index(); first < candidates; first += KAS_ITEMS * LOADS) {
        kas_u32 keys[LOADS];
        load_keys(scores, candidates, first, NO_KEY, keys);
#pragma unroll
        for (kas_u32 n = 0u; n < LOADS; n++) {
            if (is_within(keys[n], low, high)) {
                if (gather)
                    m->keys[atomic_inc(&m->gathered)] = keys[n];
                else
                    atomic_inc(&m->bins[(keys[n] - low) >> shift]);
            }
        }
    }
}

/* Counts the gathered ones of them. */
static inline void count_gathered(__local select_memory *m, kas_u32 low, kas_u32 high, kas_u32 shift)
{
    for (kas_u32 n = item_index(); n < m->gathered; n += KAS_ITEMS)
        if (is_within(m->keys[n], low, high))
            atomic_inc(&m->bins[(m->keys[n] - low) >> shift]);
}

static inline threshold find_threshold(__local select_memory *m, const __global float *scores, kas_u32 candidates,
                                       kas_u32 keep)
{
    find_range(m, scores, candidates);
    kas_u32 low = m->least, high = m->greatest;
    kas_bool gathered = 0;
    threshold found;
    found.equal = keep;
    /* Whether a pass gathers is no constant to take_keys: PoCL 3.1 dies of it while inlining. */
    while (low < high) { /* nothing competes: low lies above high */
        kas_u32 bits = 32u - clz(high - low);
        kas_u32 shift = bits > BIN_BITS ? bits - BIN_BITS : 0u;
        kas_bool gather = !gathered && m->inside <= GATHERED;
        clear_bins(m);
        if (!gathered)
            take_keys(m, scores, candidates, low, high, shift, gather);
        gathered = gathered || gather;
        barrier(CLK_LOCAL_MEM_FENCE);
        if (gathered)
            count_gathered(m, low, high, shift);
        find_digit(m, found.equal);
        found.equal -= m->greater;
        low += m->digit << shift;
        high = kas_min2(high, low + ((1u << shift) - 1u));
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    found.key = low;
    return found;
}

KAS_KERNEL(kas_select, select_memory)
{
    kas_u32 y = KAS_U32(get_group_id(1));
    kas_u32 u = w->call.tile_begin + KAS_U32(get_group_id(0));
    kas_sequence s = kas_load_sequence(w);
    kas_tile t = kas_load_tile(w, s, u);
    kas_bool exists = kas_tile_exists(t);
    __global kas_i32 *list = w->lists;
    if (exists)
        list = kas_list_of(w, s, t, u, kas_active_row(w, y));
    const __global float *scores = kas_scores_of(w, KAS_U32(get_num_groups(1)), y, u);
    kas_u32 competing = exists && !kas_tile_is_dense(t) ? t.candidates : 0u;
    const threshold least = find_threshold(m, scores, competing, t.keep);
    write_kept(m, scores, 0u, competing, t.keep, &least, 0u, 0u, list);
    if (exists && competing == 0u)
        for (kas_u32 j = item_index(); j < t.keep; j += KAS_ITEMS)
            list[j] = KAS_I32(j);
    if (exists && !kas_has(w, KAS_CALL_PACKED))
        for (kas_u32 n = t.keep + item_index(); n < w->call.list_width; n += KAS_ITEMS)
            list[n] = -1;
}
