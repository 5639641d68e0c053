#version 450
/*
 * select_split.comp - a selection that work groups share, each a split of a list's candidates, in two launches. The
 * first gathers the split's keys between the bounds that a sample of all candidates gives, the same for each split, and
 * counts those above. In the second every work group finds the least kept key from what all splits gathered, and writes
 * its split's part of the list; where the bounds did not hold, or too many keys lie between, each searches all
 * candidates.
 */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "tiles.glsl"
#include "select.glsl"

KAS_WRITE(KAS_SLOT_PART_ML, uint, left)
layout(set = 0, binding = KAS_SLOT_PART_ML, std430) buffer left_vector_block
{
    uvec4 left_vectors[];
};

const uint LOADS = 8u; /* words that an invocation has under way at a time */

/* Of the KAS_SELECT_WORDS that a split leaves, the first of the keys that it gathered. Before them: how many keys are
   above the bounds and how many within, and the bounds. */
const uint LEFT_KEYS = 4u;

/* A list's candidates, the work group's part of them, and where the words of the first split stand. */
struct split_range {
    candidate_range all;
    candidate_range own;
    uint left_at;
};

uint split_left_at(split_range range, uint split)
{
    return range.left_at + split * KAS_SELECT_WORDS;
}

void gather_split(split_range range, uint keep)
{
    key_bounds bounds = expected_bounds(range.all, keep);
    uint above = gather_keys(range.own, bounds);
    uint at = split_left_at(range, gl_WorkGroupID.x);
    for (uint n = lane(); n < kas_min2(gathered_count, GATHERED); n += INVOCATIONS)
        left[at + LEFT_KEYS + n] = gathered[n];
    if (lane() == 0u)
        left_vectors[at / 4u] = uvec4(above, gathered_count, bounds.low, bounds.high);
}

/* Keys above the bounds and within them, of all splits and of those before one. */
struct split_counts {
    uint above;
    uint inside;
    uint above_before;
    uint inside_before;
};

split_counts count_splits(split_range range, uint split)
{
    split_counts sum = split_counts(0u, 0u, 0u, 0u);
    for (uint s0 = 0u; s0 < call.splits; s0 += LOADS) {
        uvec4 held[LOADS];
        [[unroll]] for (uint i = 0u; i < LOADS; i++)
            held[i] = left_vectors[split_left_at(range, kas_min2(s0 + i, call.splits - 1u)) / 4u];
        [[unroll]] for (uint i = 0u; i < LOADS; i++) {
            sum.above += s0 + i < call.splits ? held[i].x : 0u;
            sum.inside += s0 + i < call.splits ? held[i].y : 0u;
            sum.above_before += s0 + i < split ? held[i].x : 0u;
            sum.inside_before += s0 + i < split ? held[i].y : 0u;
        }
    }
    return sum;
}

/* Brings what all splits gathered to shared memory, split after split, each by as many invocations. */
void collect_keys(split_range range)
{
    uint each = INVOCATIONS / call.splits;
    uint split = kas_min2(lane() / each, call.splits - 1u);
    uint first = lane() - split * each;
    uint at = split_left_at(range, split);
    uint place = count_splits(range, split).inside_before;
    uint count = first < each ? left[at + 1u] : 0u; /* invocations that are left over bring nothing */
    barrier();
    if (lane() == 0u)
        gathered_count = count_splits(range, call.splits).inside;
    for (uint n0 = first; n0 < count; n0 += LOADS * each) {
        uint held[LOADS];
        [[unroll]] for (uint i = 0u; i < LOADS; i++)
            held[i] = left[at + LEFT_KEYS + kas_min2(n0 + i * each, count - 1u)];
        [[unroll]] for (uint i = 0u; i < LOADS; i++)
            if (n0 + i * each < count)
                gathered[place + n0 + i * each] = held[i];
    }
    barrier();
}

/* Keys above the least kept one, and in the upper half of the word those equal to it, among the first `count` that were
   gathered: too few for either half to overflow. */
uint compare_gathered(uint count, uint least)
{
    uint own = 0u;
    uint total;
    for (uint n = lane(); n < count; n += INVOCATIONS)
        own += gathered[n] > least ? 1u : gathered[n] == least ? 0x10000u : 0u;
    sum_before(own, total);
    return total;
}

/* The same of the candidates before the split, two sums. */
uvec2 compare_scores(candidate_range range, uint least)
{
    uvec2 own = uvec2(0u);
    uvec2 total;
    for (uint first = range.begin; first < range.end; first += TURN) {
        uvec4 keys[VECTORS];
        load_turn(range, first, keys);
        [[unroll]] for (uint n = 0u; n < VECTORS; n++)
            [[unroll]] for (uint i = 0u; i < 4u; i++) {
                own.x += keys[n][i] > least && keys[n][i] != NO_KEY ? 1u : 0u;
                own.y += keys[n][i] == least ? 1u : 0u;
            }
    }
    sum_before(own.x, total.x);
    sum_before(own.y, total.y);
    return total;
}

void write_split(split_range range, uint keep, uint list)
{
    uvec4 state = left_vectors[split_left_at(range, gl_WorkGroupID.x) / 4u];
    key_bounds bounds = key_bounds(state.z, state.w);
    split_counts sum = count_splits(range, gl_WorkGroupID.x);
    search s = search_from(range.all, bounds, keep, sum.above, sum.inside);
    bool is_gathered = holds(keep, sum.above, sum.inside) && sum.inside <= GATHERED;
    if (is_gathered)
        collect_keys(range);
    threshold least = finish_search(range.all, keep, s, is_gathered);
    uvec2 before;
    if (is_gathered) {
        uint both = compare_gathered(sum.inside_before, least.key);
        before = uvec2(sum.above_before + (both & 0xffffu), both >> 16);
    } else {
        before = compare_scores(candidate_range(0u, range.own.begin, range.own.at), least.key);
    }
    write_kept(range.own, least, keep, list, before.x, before.y);
}

void main()
{
    kas_sequence s = load_sequence();
    kas_tile t = load_tile(s, 0u);
    if (t.query_begin == t.query_end)
        return;
    bool last = KAS_CALL_SELECT_STEP(call.flags) != 0u;
    uint list = list_begin(s, t, active_row(gl_WorkGroupID.y), 0u);
    uint row = gl_WorkGroupID.z * gl_NumWorkGroups.y + gl_WorkGroupID.y;
    uint at = row * call.score_stride;
    uint begin = kas_min2(t.candidates, gl_WorkGroupID.x * call.split_keys);
    uint end = kas_min2(t.candidates, begin + call.split_keys);
    split_range range = split_range(candidate_range(0u, t.candidates, at), candidate_range(begin, end, at),
                                    row * call.splits * KAS_SELECT_WORDS);
    if (kas_tile_is_dense(t)) {
        if (last)
            for (uint j = begin + lane(); j < end; j += INVOCATIONS)
                lists[list + j] = int(j);
    } else if (last) {
        write_split(range, t.keep, list);
    } else {
        gather_split(range, t.keep);
    }
    if (last && !has_flag(KAS_CALL_PACKED))
        for (uint n = t.keep + gl_WorkGroupID.x * INVOCATIONS + lane(); n < call.list_width;
             n += call.splits * INVOCATIONS)
            lists[list + n] = -1;
}
