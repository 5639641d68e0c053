/*
 * select.cl - the `keep` candidates of largest score, in ascending position. A radix select over the sortable keys
 * finds the least kept key, eight bits a pass; a last pass over the candidates writes those above it and as many equal
 * to it as there is room for.
 */
#include "common.clh"

#if KAS_ITEMS != 256
#error "an item sums up one of 256 bins"
#endif

#define ENTRIES_AN_ITEM 8u

typedef struct select_memory {
    kas_u32 bins[KAS_ITEMS]; /* by digit: counts, then sums from a bin to the last one */
    kas_u32 sums[KAS_ITEMS];
    kas_u32 digit;
    kas_u32 above; /* keys in bins above the digit's */
} select_memory;

/* The least kept key, and how many equal to it are kept. */
typedef struct threshold {
    kas_u32 key;
    kas_u32 equal;
} threshold;

/* Counts the candidates whose key agrees with `found` in the bits of `known`, by the digit at `shift`. */
static inline void count_digits(__local select_memory *m, const __global float *scores, kas_u32 candidates,
                                kas_u32 found, kas_u32 known, kas_u32 shift)
{
    m->bins[get_local_id(0)] = 0u;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (kas_u32 first = get_local_id(0); first < candidates; first += KAS_ITEMS * ENTRIES_AN_ITEM) {
        float values[ENTRIES_AN_ITEM]; /* all loaded before one is counted */
#pragma unroll
        for (kas_u32 n = 0u; n < ENTRIES_AN_ITEM; n++)
            values[n] = scores[kas_min2(first + n * KAS_ITEMS, candidates - 1u)];
#pragma unroll
        for (kas_u32 n = 0u; n < ENTRIES_AN_ITEM; n++) {
            kas_u32 key = kas_sort_key(as_uint(values[n]));
            if (first + n * KAS_ITEMS < candidates && (key & known) == found)
                atomic_inc(&m->bins[(key >> shift) & 0xffu]);
        }
    }
    barrier(CLK_LOCAL_MEM_FENCE);
}

/* bins[i] becomes the sum of bins i .. 255. */
static inline void sum_bins(__local select_memory *m)
{
    kas_u32 bin = KAS_U32(get_local_id(0));
    for (kas_u32 distance = 1u; distance < KAS_ITEMS; distance *= 2u) {
        kas_u32 other = bin + distance < KAS_ITEMS ? m->bins[bin + distance] : 0u;
        barrier(CLK_LOCAL_MEM_FENCE);
        m->bins[bin] += other;
        barrier(CLK_LOCAL_MEM_FENCE);
    }
}

/* The bin in which the `wanted`-th largest key lies, and the keys in bins above it. */
static inline void find_digit(__local select_memory *m, kas_u32 wanted)
{
    kas_u32 bin = KAS_U32(get_local_id(0));
    kas_u32 above = bin + 1u < KAS_ITEMS ? m->bins[bin + 1u] : 0u;
    if (m->bins[bin] >= wanted && above < wanted) {
        m->digit = bin;
        m->above = above;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
}

static inline threshold find_threshold(__local select_memory *m, const __global float *scores, kas_u32 candidates,
                                       kas_u32 keep)
{
    threshold found;
    found.key = 0u;
    found.equal = keep;
    for (kas_u32 shift = 32u; shift > 0u;) {
        kas_u32 known = shift == 32u ? 0u : 0xffffffffu << shift;
        shift -= 8u;
        count_digits(m, scores, candidates, found.key, known, shift);
        sum_bins(m);
        find_digit(m, found.equal);
        found.key |= m->digit << shift;
        found.equal -= m->above;
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    return found;
}

/* The sum of `value` over the items before this one; `total` over all. */
static inline kas_u32 sum_before(__local select_memory *m, kas_u32 value, kas_u32 *total)
{
    kas_u32 item = KAS_U32(get_local_id(0));
    kas_u32 sum = value;
    m->sums[item] = sum;
    for (kas_u32 distance = 1u; distance < KAS_ITEMS; distance *= 2u) {
        barrier(CLK_LOCAL_MEM_FENCE);
        kas_u32 other = item >= distance ? m->sums[item - distance] : 0u;
        barrier(CLK_LOCAL_MEM_FENCE);
        sum += other;
        m->sums[item] = sum;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    *total = m->sums[KAS_ITEMS - 1u];
    barrier(CLK_LOCAL_MEM_FENCE);
    return sum - value;
}

/* Keys above the threshold count in the low half of a word, equal ones in the high half: a chunk has too few of either
   to overflow. */
static inline kas_u32 rank_of(kas_u32 key, kas_u32 least)
{
    return (key > least ? 1u : 0u) | (key == least ? 0x10000u : 0u);
}

static inline void write_kept(__local select_memory *m, const __global float *scores, kas_u32 candidates,
                              threshold least, __global kas_i32 *list)
{
    kas_u32 greater = 0u, equal = 0u; /* met in the chunks before */
    for (kas_u32 chunk = 0u; chunk < candidates; chunk += KAS_ITEMS * ENTRIES_AN_ITEM) {
        kas_u32 begin = chunk + KAS_U32(get_local_id(0)) * ENTRIES_AN_ITEM;
        kas_u32 ranks[ENTRIES_AN_ITEM];
        kas_u32 own = 0u, total;
        for (kas_u32 n = 0u; n < ENTRIES_AN_ITEM; n++) {
            ranks[n] = begin + n < candidates ? rank_of(kas_sort_key(as_uint(scores[begin + n])), least.key) : 0u;
            own += ranks[n];
        }
        kas_u32 before = sum_before(m, own, &total);
        kas_u32 greater_before = greater + (before & 0xffffu);
        kas_u32 equal_before = equal + (before >> 16);
        for (kas_u32 n = 0u; n < ENTRIES_AN_ITEM; n++) {
            kas_bool kept = (ranks[n] & 0xffffu) != 0u || (ranks[n] != 0u && equal_before < least.equal);
            if (kept)
                list[greater_before + kas_min2(equal_before, least.equal)] = KAS_I32(begin + n);
            greater_before += ranks[n] & 0xffffu;
            equal_before += ranks[n] >> 16;
        }
        greater += total & 0xffffu;
        equal += total >> 16;
    }
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
    if (get_local_id(0) == 0) {
        m->digit = 0u; /* found anew where something competes */
        m->above = 0u;
    }
    write_kept(m, scores, competing, find_threshold(m, scores, competing, t.keep), list);
    if (exists && competing == 0u)
        for (kas_u32 j = get_local_id(0); j < t.keep; j += KAS_ITEMS)
            list[j] = KAS_I32(j);
    if (exists && !kas_has(w, KAS_CALL_PACKED))
        for (kas_u32 n = t.keep + KAS_U32(get_local_id(0)); n < w->call.list_width; n += KAS_ITEMS)
            list[n] = -1;
}
