#version 450
/*
 * select_split.comp - one step of a selection that work groups share, each a split of a list's candidates: core/kernel/
 * blocks.h says what the steps leave each other (KAS_SELECT_DIGITS).
 */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "tiles.glsl"

/* Scores as bits: their order is an order of integers. */
KAS_READ(KAS_SLOT_SCORES, uint, scores)
KAS_WRITE(KAS_SLOT_LISTS, int, lists)
KAS_WRITE(KAS_SLOT_PART_ML, uint, counts)
layout(set = 0, binding = KAS_SLOT_PART_ML, std430) buffer count_vector_block
{
    uvec4 count_vectors[];
};

const uint BINS = KAS_SELECT_BINS;
const uint LOADS = 8u;                 /* scores that an invocation has under way at a time */
const uint CHUNK = 32u * INVOCATIONS; /* candidates that are marked at a time */

shared uint bins[BINS];
shared uint before[BINS]; /* as the bins, of the splits before this one */
shared uint sums[2u * INVOCATIONS];
shared uint above_marks[INVOCATIONS]; /* a bit for each of the chunk's keys above the least kept one, */
shared uint equal_marks[INVOCATIONS]; /* and for each equal to it */
shared uint chosen_digit;
shared uint chosen_greater;
shared uint greater_before;

/* What is known after some digits. */
struct selection {
    uint least;   /* the least kept key, with zeros for the digits to come */
    uint equal;   /* how many are kept of the keys that begin like it */
    uint greater; /* keys of the splits before this one that begin with more, */
    uint same;    /* and those that begin like it */
};

/* The work group's candidates. */
struct split_range {
    uint begin;
    uint end;
    uint scores_at; /* score of candidate 0 */
    uint counts_at; /* words of the list's first split */
};

/* Where a split's state and then its counts of a digit stand. */
uint state_at(split_range range, uint split, uint digit)
{
    return range.counts_at + split * KAS_SELECT_WORDS + (digit & 1u) * (KAS_SELECT_STATE + BINS);
}

uint bins_at(split_range range, uint split, uint digit)
{
    return state_at(range, split, digit) + KAS_SELECT_STATE;
}

/* The sum of `value` over the invocations before this one; `total` over all. */
uint sum_before(uint value, out uint total)
{
    uint sum = value;
    uint from = 0u;
    barrier();
    sums[lane()] = sum;
    barrier();
    for (uint step = 1u; step < INVOCATIONS; step *= 2u) {
        sum += lane() >= step ? sums[from + lane() - step] : 0u;
        from = INVOCATIONS - from;
        sums[from + lane()] = sum;
        barrier();
    }
    total = sums[from + INVOCATIONS - 1u];
    return sum - value;
}

void sum_counts(split_range range, uint digit)
{
    for (uint n = lane(); n < BINS / 4u; n += INVOCATIONS) {
        uvec4 all = uvec4(0u);
        uvec4 earlier = uvec4(0u);
        for (uint s0 = 0u; s0 < call.splits; s0 += LOADS) {
            uvec4 held[LOADS];
            [[unroll]] for (uint i = 0u; i < LOADS; i++)
                held[i] = count_vectors[bins_at(range, kas_min2(s0 + i, call.splits - 1u), digit) / 4u + n];
            [[unroll]] for (uint i = 0u; i < LOADS; i++) {
                all += s0 + i < call.splits ? held[i] : uvec4(0u);
                earlier += s0 + i < gl_WorkGroupID.x ? held[i] : uvec4(0u);
            }
        }
        [[unroll]] for (uint i = 0u; i < 4u; i++) {
            bins[4u * n + i] = all[i];
            before[4u * n + i] = earlier[i];
        }
    }
    barrier();
}

/* The bin in which the `wanted`-th largest of the counted keys lies. Invocations count from the greatest bin down. */
void find_digit(uint wanted)
{
    const uint each = BINS / INVOCATIONS;
    uint lowest = BINS - each * (lane() + 1u);
    uint own = 0u;
    uint total;
    for (uint n = 0u; n < each; n++)
        own += bins[lowest + n];
    uint greater = sum_before(own, total);
    for (uint n = each; n > 0u; n--) {
        uint count = bins[lowest + n - 1u];
        if (greater < wanted && greater + count >= wanted) {
            chosen_digit = lowest + n - 1u;
            chosen_greater = greater;
        }
        greater += count;
    }
    barrier();
}

/* Adds what the splits counted of `digit`. */
selection add_digit(split_range range, uint digit, selection known)
{
    if (lane() == 0u)
        greater_before = 0u;
    sum_counts(range, digit);
    find_digit(known.equal);
    uint greater = 0u;
    for (uint bin = chosen_digit + 1u + lane(); bin < BINS; bin += INVOCATIONS)
        greater += before[bin];
    if (greater != 0u)
        atomicAdd(greater_before, greater);
    barrier();
    known.least |= chosen_digit << kas_digit_shift(digit);
    known.equal -= chosen_greater;
    known.greater += greater_before;
    known.same = before[chosen_digit];
    return known;
}

/* The keys of candidates first, first + INVOCATIONS and so on, all loaded before one is waited for. */
void load_keys(split_range range, uint first, out uint keys[LOADS])
{
    [[unroll]] for (uint n = 0u; n < LOADS; n++)
        keys[n] = scores[range.scores_at + kas_min2(first + n * INVOCATIONS, range.end - 1u)];
    [[unroll]] for (uint n = 0u; n < LOADS; n++)
        keys[n] = kas_sort_key(keys[n]);
}

/* Counts `digit` of the split's keys that begin like the least kept one, and leaves what is known to the next step. */
void count_digit(split_range range, uint digit, selection known)
{
    uint shift = kas_digit_shift(digit);
    uint known_from = digit == 0u ? 32u : kas_digit_shift(digit - 1u);
    barrier();
    for (uint bin = lane(); bin < BINS; bin += INVOCATIONS)
        bins[bin] = 0u;
    barrier();
    for (uint first = range.begin + lane(); first < range.end; first += LOADS * INVOCATIONS) {
        uint keys[LOADS];
        load_keys(range, first, keys);
        [[unroll]] for (uint n = 0u; n < LOADS; n++)
            if (first + n * INVOCATIONS < range.end && kas_begins_with(keys[n], known.least, known_from))
                atomicAdd(bins[(keys[n] >> shift) & (BINS - 1u)], 1u);
    }
    barrier();
    uint own = bins_at(range, gl_WorkGroupID.x, digit);
    for (uint bin = lane(); bin < BINS; bin += INVOCATIONS)
        counts[own + bin] = bins[bin];
    if (lane() == 0u) {
        uint state = state_at(range, gl_WorkGroupID.x, digit);
        counts[state] = known.least;
        counts[state + 1u] = known.equal;
        counts[state + 2u] = known.greater;
    }
}

/* Marks the keys of the chunk at `begin`: bit j % 32 of word j / 32 stands for begin + j. */
void mark_keys(split_range range, uint begin, uint least)
{
    barrier();
    above_marks[lane()] = 0u;
    equal_marks[lane()] = 0u;
    barrier();
    for (uint offset = lane(); offset < CHUNK && begin + offset < range.end; offset += LOADS * INVOCATIONS) {
        uint keys[LOADS];
        load_keys(range, begin + offset, keys);
        [[unroll]] for (uint n = 0u; n < LOADS; n++) {
            uint at = offset + n * INVOCATIONS;
            if (begin + at >= range.end)
                continue;
            if (keys[n] > least)
                atomicOr(above_marks[at / 32u], 1u << (at % 32u));
            else if (keys[n] == least)
                atomicOr(equal_marks[at / 32u], 1u << (at % 32u));
        }
    }
    barrier();
}

/* Writes what is kept of the split's candidates to its places in the list at `list`. */
void write_kept(split_range range, selection known, uint keep, uint list)
{
    for (uint begin = range.begin;
         begin < range.end && known.greater + kas_min2(known.same, known.equal) < keep; begin += CHUNK) {
        mark_keys(range, begin, known.least);
        uint above = above_marks[lane()];
        uint equal = equal_marks[lane()];
        /* A chunk has too few keys for either half of the word to overflow. */
        uint total;
        uint earlier = sum_before(bitCount(above) | bitCount(equal) << 16, total);
        uint greater = known.greater + (earlier & 0xffffu);
        uint same = known.same + (earlier >> 16);
        for (uint marks = above | equal; marks != 0u; marks &= marks - 1u) {
            uint bit = uint(findLSB(marks));
            uint is_above = (above >> bit) & 1u;
            if (is_above != 0u || same < known.equal)
                lists[list + greater + kas_min2(same, known.equal)] = int(begin + lane() * 32u + bit);
            greater += is_above;
            same += 1u - is_above;
        }
        known.greater += total & 0xffffu;
        known.same += total >> 16;
    }
}

void select_step(split_range range, uint step, uint keep, uint list)
{
    selection known = selection(0u, keep, 0u, 0u);
    if (step > 0u) {
        uint state = state_at(range, gl_WorkGroupID.x, step - 1u);
        known = selection(counts[state], counts[state + 1u], counts[state + 2u], 0u);
        known = add_digit(range, step - 1u, known);
    }
    if (step < KAS_SELECT_DIGITS)
        count_digit(range, step, known);
    else
        write_kept(range, known, keep, list);
}

void main()
{
    kas_sequence s = load_sequence();
    kas_tile t = load_tile(s, 0u);
    if (t.query_begin == t.query_end)
        return;
    uint step = KAS_CALL_SELECT_STEP(call.flags);
    uint list = list_begin(s, t, active_row(gl_WorkGroupID.y), 0u);
    uint row = gl_WorkGroupID.z * gl_NumWorkGroups.y + gl_WorkGroupID.y;
    uint begin = kas_min2(t.candidates, gl_WorkGroupID.x * call.split_keys);
    split_range range = split_range(begin, kas_min2(t.candidates, begin + call.split_keys), row * call.score_stride,
                                    row * call.splits * KAS_SELECT_WORDS);
    bool last = step == KAS_SELECT_STEPS - 1u;
    if (!kas_tile_is_dense(t))
        select_step(range, step, t.keep, list);
    else if (last)
        for (uint j = range.begin + lane(); j < range.end; j += INVOCATIONS)
            lists[list + j] = int(j);
    if (last && !has_flag(KAS_CALL_PACKED))
        for (uint n = t.keep + gl_WorkGroupID.x * INVOCATIONS + lane(); n < call.list_width;
             n += call.splits * INVOCATIONS)
            lists[list + n] = -1;
}
