/*
 * select.cl - the `keep` candidates of largest score, in ascending position. Histograms narrow the range of sort keys in
 * which the least kept one lies: the first spreads its bins over the keys that there are, so that scores that resemble
 * each other do not meet in one bin; the few keys of the bin that it finds are gathered in local memory, where the
 * others follow. A last pass over the candidates marks those that are kept, a bit each, and writes their positions.
 */
#include "common.clh"

#define BINS 2048u
#define BIN_BITS 11u
#define BINS_AN_ITEM (BINS / KAS_ITEMS)
#define GATHERED 4096u /* keys of a bin that are gathered */
#define LOADS 8u       /* scores that an item has under way at a time */
#define CHUNK (32u * KAS_ITEMS)

#if KAS_ITEMS % 32 != 0 || 2048 % KAS_ITEMS != 0
#error "32 items fill a word of marks, and each has as many bins as the others"
#endif

typedef struct select_memory {
    kas_u32 bins[BINS];
    kas_u32 keys[GATHERED];
    kas_u32 sums[2u * KAS_ITEMS];
    kas_u32 above[KAS_ITEMS]; /* marks of the chunk's keys above the least kept one, and of those equal to it */
    kas_u32 same[KAS_ITEMS];
    kas_u32 least; /* of all keys */
    kas_u32 greatest;
    kas_u32 digit;
    kas_u32 greater;  /* keys in greater bins than the digit's */
    kas_u32 inside;   /* keys in the digit's */
    kas_u32 gathered; /* keys that stand in `keys` */
} select_memory;

/* The least kept key, and how many equal to it are kept. */
typedef struct threshold {
    kas_u32 key;
    kas_u32 equal;
} threshold;

static inline kas_u32 item_index(void)
{
    return KAS_U32(get_local_id(0));
}

/* The sum of `value` over the items before this one; `total` over all. */
static inline kas_u32 sum_before(__local select_memory *m, kas_u32 value, kas_u32 *total)
{
    kas_u32 item = item_index(), sum = value, from = 0u;
    m->sums[item] = sum;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (kas_u32 distance = 1u; distance < KAS_ITEMS; distance *= 2u) {
        sum += item >= distance ? m->sums[from + item - distance] : 0u;
        from = KAS_ITEMS - from;
        m->sums[from + item] = sum;
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    *total = m->sums[from + KAS_ITEMS - 1u];
    barrier(CLK_LOCAL_MEM_FENCE);
    return sum - value;
}

/* The keys of an item's turn in a pass over the candidates: those of the scores at first, first + KAS_ITEMS and so on,
   all loaded before one is waited for; past the end, `missing`. */
static inline void load_keys(const __global float *scores, kas_u32 candidates, kas_u32 first, kas_u32 missing,
                             kas_u32 *keys)
{
    const __global float *own = scores + first;
    float values[LOADS];
    if (first + (LOADS - 1u) * KAS_ITEMS < candidates) {
#pragma unroll
        for (kas_u32 n = 0u; n < LOADS; n++)
            values[n] = own[n * KAS_ITEMS];
#pragma unroll
        for (kas_u32 n = 0u; n < LOADS; n++)
            keys[n] = kas_sort_key(as_uint(values[n]));
    } else {
        for (kas_u32 n = 0u; n < LOADS; n++)
            keys[n] = first + n * KAS_ITEMS < candidates ? kas_sort_key(as_uint(own[n * KAS_ITEMS])) : missing;
    }
}

static inline void find_range(__local select_memory *m, const __global float *scores, kas_u32 candidates)
{
    kas_u32 least = 0xffffffffu, greatest = 0u;
    if (item_index() == 0u) {
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

/* Counts the keys low .. high: bin b those from low + b 2^shift on. */
static inline void count_keys(__local select_memory *m, const __global float *scores, kas_u32 candidates, kas_u32 low,
                              kas_u32 high, kas_u32 shift)
{
    for (kas_u32 first = item_index(); first < candidates; first += KAS_ITEMS * LOADS) {
        kas_u32 keys[LOADS];
        load_keys(scores, candidates, first, NO_KEY, keys);
#pragma unroll
        for (kas_u32 n = 0u; n < LOADS; n++)
            if (is_within(keys[n], low, high))
                atomic_inc(&m->bins[(keys[n] - low) >> shift]);
    }
}

/* The same of the gathered keys. */
static inline void count_gathered(__local select_memory *m, kas_u32 low, kas_u32 high, kas_u32 shift)
{
    for (kas_u32 n = item_index(); n < m->gathered; n += KAS_ITEMS)
        if (is_within(m->keys[n], low, high))
            atomic_inc(&m->bins[(m->keys[n] - low) >> shift]);
}

/* The bin in which the `wanted`-th largest of the counted keys lies. Items count from the greatest bin down. */
static inline void find_digit(__local select_memory *m, kas_u32 wanted)
{
    kas_u32 lowest = BINS - BINS_AN_ITEM * (item_index() + 1u), own = 0u, total;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (kas_u32 n = 0u; n < BINS_AN_ITEM; n++)
        own += m->bins[lowest + n];
    kas_u32 greater = sum_before(m, own, &total);
    for (kas_u32 n = BINS_AN_ITEM; n > 0u; n--) {
        kas_u32 count = m->bins[lowest + n - 1u];
        if (greater < wanted && greater + count >= wanted) {
            m->digit = lowest + n - 1u;
            m->greater = greater;
            m->inside = count;
        }
        greater += count;
    }
    barrier(CLK_LOCAL_MEM_FENCE);
}

/* Brings the keys low .. high, of which there are at most GATHERED, to local memory. */
static inline void gather_keys(__local select_memory *m, const __global float *scores, kas_u32 candidates, kas_u32 low,
                               kas_u32 high)
{
    for (kas_u32 first = item_index(); first < candidates; first += KAS_ITEMS * LOADS) {
        kas_u32 keys[LOADS];
        load_keys(scores, candidates, first, NO_KEY, keys);
#pragma unroll
        for (kas_u32 n = 0u; n < LOADS; n++)
            if (is_within(keys[n], low, high))
                m->keys[atomic_inc(&m->gathered)] = keys[n];
    }
}

static inline threshold find_threshold(__local select_memory *m, const __global float *scores, kas_u32 candidates,
                                       kas_u32 keep)
{
    find_range(m, scores, candidates);
    kas_u32 low = m->least, high = m->greatest;
    kas_bool gathered = 0;
    threshold found;
    found.equal = keep;
    if (item_index() == 0u)
        m->gathered = 0u;
    while (low < high) { /* nothing competes: low lies above high */
        kas_u32 bits = 32u - clz(high - low);
        kas_u32 shift = bits > BIN_BITS ? bits - BIN_BITS : 0u;
        for (kas_u32 bin = item_index(); bin < BINS; bin += KAS_ITEMS)
            m->bins[bin] = 0u;
        barrier(CLK_LOCAL_MEM_FENCE);
        if (gathered)
            count_gathered(m, low, high, shift);
        else
            count_keys(m, scores, candidates, low, high, shift);
        find_digit(m, found.equal);
        found.equal -= m->greater;
        low += m->digit << shift;
        high = kas_min2(high, low + ((1u << shift) - 1u));
        if (!gathered && low < high && m->inside <= GATHERED) {
            gather_keys(m, scores, candidates, low, high);
            gathered = 1;
        }
        barrier(CLK_LOCAL_MEM_FENCE);
    }
    found.key = low;
    return found;
}

/* Marks the keys of the chunk at `begin`: bit j % 32 of word j / 32 stands for begin + j. Where NaN is the least kept
   key, what lies past the end counts as equal to it, behind as many as are kept. */
static inline void mark_keys(__local select_memory *m, const __global float *scores, kas_u32 candidates, kas_u32 begin,
                             kas_u32 least)
{
    kas_u32 item = item_index(), bit = 1u << item % 32u;
    m->above[item] = 0u;
    m->same[item] = 0u;
    barrier(CLK_LOCAL_MEM_FENCE);
    for (kas_u32 offset = item; offset < CHUNK && begin + offset < candidates; offset += KAS_ITEMS * LOADS) {
        kas_u32 keys[LOADS];
        load_keys(scores, candidates, begin + offset, 0u, keys);
#pragma unroll
        for (kas_u32 n = 0u; n < LOADS; n++) {
            kas_u32 word = (offset + n * KAS_ITEMS) / 32u;
            if (keys[n] >= least)
                atomic_or(keys[n] > least ? &m->above[word] : &m->same[word], bit);
        }
    }
    barrier(CLK_LOCAL_MEM_FENCE);
}

static inline void write_kept(__local select_memory *m, const __global float *scores, kas_u32 candidates, kas_u32 keep,
                              threshold least, __global kas_i32 *list)
{
    kas_u32 greater = 0u, equal = 0u; /* in the chunks before */
    for (kas_u32 begin = 0u; begin < candidates && greater + kas_min2(equal, least.equal) < keep; begin += CHUNK) {
        kas_u32 total;
        mark_keys(m, scores, candidates, begin, least.key);
        kas_u32 above = m->above[item_index()], same = m->same[item_index()];
        /* A chunk has too few keys for either half of the word to overflow. */
        kas_u32 before = sum_before(m, popcount(above) | popcount(same) << 16, &total);
        kas_u32 greater_before = greater + (before & 0xffffu), equal_before = equal + (before >> 16);
        for (kas_u32 marks = above | same; marks != 0u; marks &= marks - 1u) {
            kas_u32 bit = 31u - clz(marks & (0u - marks));
            kas_u32 is_above = above >> bit & 1u;
            if (is_above != 0u || equal_before < least.equal)
                list[greater_before + kas_min2(equal_before, least.equal)] =
                    KAS_I32(begin + item_index() * 32u + bit);
            greater_before += is_above;
            equal_before += 1u - is_above;
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
    write_kept(m, scores, competing, t.keep, find_threshold(m, scores, competing, t.keep), list);
    if (exists && competing == 0u)
        for (kas_u32 j = item_index(); j < t.keep; j += KAS_ITEMS)
            list[j] = KAS_I32(j);
    if (exists && !kas_has(w, KAS_CALL_PACKED))
        for (kas_u32 n = t.keep + item_index(); n < w->call.list_width; n += KAS_ITEMS)
            list[n] = -1;
}
