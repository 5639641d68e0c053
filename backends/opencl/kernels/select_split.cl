/*
 * select_split.cl - one step of a selection that work groups share, each a split of a list's candidates: core/kernel/
 * blocks.h says what the steps leave each other (KAS_SELECT_DIGITS).
 */
/* As the bins, of the splits before this one; and the sum of those above the digit. */
#define OWN_MEMORY                                                                                                     \
    kas_u32 before[BINS];                                                                                              \
    kas_u32 greater_before;
#include "select.clh"

/* The candidates of a work group, and the counts of its list's splits. */
typedef struct split_range {
    kas_u32 begin, end;
    __global kas_u32 *counts; /* of the first split */
    kas_u32 split;
} split_range;

/* What is known after some digits. */
typedef struct selection {
    threshold least; /* its key with zeros for the digits to come; `equal` are kept of those that begin like it */
    kas_u32 greater; /* keys of the splits before this one that begin with more, */
    kas_u32 equal;   /* and those that begin like it */
} selection;

/* Where a split's state and then its counts of a digit stand. */
static inline kas_u32 state_at(kas_u32 split, kas_u32 digit)
{
    return split * KAS_SELECT_WORDS + (digit & 1u) * (KAS_SELECT_STATE + BINS);
}

static inline kas_u32 counts_at(kas_u32 split, kas_u32 digit)
{
    return state_at(split, digit) + KAS_SELECT_STATE;
}

static inline void sum_counts(__local select_memory *m, const split_range *range, kas_u32 splits, kas_u32 digit)
{
    for (kas_u32 n = item_index(); n < BINS / 4u; n += KAS_ITEMS) {
        uint4 all = (uint4)(0u), before = (uint4)(0u);
#pragma unroll 8
        for (kas_u32 split = 0u; split < splits; split++) {
            uint4 counts = ((const __global uint4 *)(range->counts + counts_at(split, digit)))[n];
            all += counts;
            before += split < range->split ? counts : (uint4)(0u);
        }
        vstore4(all, n, m->bins);
        vstore4(before, n, m->before);
    }
}

/* Adds what the splits counted of `digit`. */
static inline void add_digit(__local select_memory *m, const split_range *range, kas_u32 splits, kas_u32 digit,
                             selection *known)
{
    kas_u32 greater = 0u;
    if (item_index() == 0u)
        m->greater_before = 0u;
    sum_counts(m, range, splits, digit);
    find_digit(m, known->least.equal);
    for (kas_u32 bin = m->digit + 1u + item_index(); bin < BINS; bin += KAS_ITEMS)
        greater += m->before[bin];
    atomic_add(&m->greater_before, greater);
    barrier(CLK_LOCAL_MEM_FENCE);
    known->least.key |= m->digit << kas_digit_shift(digit);
    known->least.equal -= m->greater;
    known->greater += m->greater_before;
    known->equal = m->before[m->digit];
    barrier(CLK_LOCAL_MEM_FENCE);
}

/* Counts `digit` of the split's keys that begin like the least kept one, and leaves what is known to the next step. */
static inline void count_digit(__local select_memory *m, const split_range *range, const __global float *scores,
                               kas_u32 digit, const selection *known)
{
    kas_u32 shift = kas_digit_shift(digit), known_from = digit == 0u ? 32u : kas_digit_shift(digit - 1u);
    __global kas_u32 *state = range->counts + state_at(range->split, digit);
    clear_bins(m);
    for (kas_u32 first = range->begin + item_index(); first < range->end; first += KAS_ITEMS * LOADS) {
        kas_u32 keys[LOADS];
        load_keys(scores, range->end, first, 0u, keys);
#pragma unroll
        for (kas_u32 n = 0u; n < LOADS; n++)
            if (first + n * KAS_ITEMS < range->end && kas_begins_with(keys[n], known->least.key, known_from))
                atomic_inc(&m->bins[keys[n] >> shift & (BINS - 1u)]);
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    for (kas_u32 bin = item_index(); bin < BINS; bin += KAS_ITEMS)
        range->counts[counts_at(range->split, digit) + bin] = m->bins[bin];
    if (item_index() == 0u) {
        state[0] = known->least.key;
        state[1] = known->least.equal;
        state[2] = known->greater;
    }
}

/* What the split knew when it counted `digit`. */
static inline selection load_known(const split_range *range, kas_u32 digit)
{
    const __global kas_u32 *state = range->counts + state_at(range->split, digit);
    selection known;
    known.least.key = state[0];
    known.least.equal = state[1];
    known.greater = state[2];
    known.equal = 0u;
    return known;
}

KAS_KERNEL(kas_select_split, select_memory)
{
    kas_u32 y = KAS_U32(get_group_id(1)), rows = KAS_U32(get_num_groups(1)), step = KAS_CALL_SELECT_STEP(w->call.flags);
    kas_sequence s = kas_load_sequence(w);
    kas_tile t = kas_load_tile(w, s, 0u);
    kas_bool exists = kas_tile_exists(t), dense = kas_tile_is_dense(t), last = step == KAS_SELECT_STEPS - 1u;
    const __global float *scores = kas_scores_of(w, rows, y, 0u);
    __global kas_i32 *list = kas_list_of(w, s, t, 0u, kas_active_row(w, y));
    split_range range;
    range.split = KAS_U32(get_group_id(0));
    range.begin = kas_min2(t.candidates, range.split * w->call.split_keys);
    range.end = kas_min2(t.candidates, range.begin + w->call.split_keys);
    range.counts = (__global kas_u32 *)w->part_ml + (kas_u64)(kas_z() * rows + y) * w->call.splits * KAS_SELECT_WORDS;
    if (exists && !dense) {
        selection known = {{0u, t.keep}, 0u, 0u};
        if (step > 0u) {
            known = load_known(&range, step - 1u);
            add_digit(m, &range, w->call.splits, step - 1u, &known);
        }
        if (last)
            write_kept(m, scores, range.begin, range.end, t.keep, &known.least, known.greater, known.equal,
                       list);
        else
            count_digit(m, &range, scores, step, &known);
    }
    if (exists && dense && last)
        for (kas_u32 j = range.begin + item_index(); j < range.end; j += KAS_ITEMS)
            list[j] = KAS_I32(j);
    if (exists && last && !kas_has(w, KAS_CALL_PACKED))
        for (kas_u32 n = t.keep + range.split * KAS_ITEMS + item_index(); n < w->call.list_width;
             n += w->call.splits * KAS_ITEMS)
            list[n] = -1;
}
