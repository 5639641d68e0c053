#version 450
/*
 * select.comp - the `keep` candidates of largest score in ascending position: a radix search for the smallest key that
 * is kept, a byte at a time from the top, then one pass that writes what lies above it and, lowest positions first, as
 * many of its equals as are left to keep.
 */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "tiles.glsl"

/* Scores as bits: their order is an order of integers. */
KAS_READ(KAS_SLOT_SCORES, uint, scores)
KAS_WRITE(KAS_SLOT_LISTS, int, lists)

shared uint histogram[256];
shared uint chosen_digit;
shared uint chosen_above;
shared uint above_of[INVOCATIONS];
shared uint equal_of[INVOCATIONS];

/* How many candidates have each value of the byte at `shift`, among those whose higher bytes equal `prefix`. */
void count_digits(uint at, uint candidates, uint prefix, uint mask, uint shift)
{
    for (uint i = lane(); i < 256u; i += INVOCATIONS)
        histogram[i] = 0u;
    barrier();
    for (uint j = lane(); j < candidates; j += INVOCATIONS) {
        uint key = kas_sort_key(scores[at + j]);
        if ((key & mask) == prefix)
            atomicAdd(histogram[(key >> shift) & 0xffu], 1u);
    }
    barrier();
}

/* The byte value at which the `wanted` largest end, and how many candidates lie above it. */
void choose_digit(uint wanted)
{
    if (lane() == 0u) {
        uint above = 0u;
        uint digit = 255u;
        while (digit > 0u && above + histogram[digit] < wanted) {
            above += histogram[digit];
            digit--;
        }
        chosen_digit = digit;
        chosen_above = above;
    }
    barrier();
}

/* Running totals of above_of and equal_of over the work group, each invocation's own included. */
void scan_counts()
{
    for (uint step = 1u; step < INVOCATIONS; step *= 2u) {
        barrier();
        uint above = lane() >= step ? above_of[lane() - step] : 0u;
        uint equal = lane() >= step ? equal_of[lane() - step] : 0u;
        barrier();
        above_of[lane()] += above;
        equal_of[lane()] += equal;
    }
    barrier();
}

/* Writes the candidates above `threshold` and the first `equals` of those equal to it. */
void write_kept(uint at, uint candidates, uint list, uint threshold, uint equals)
{
    uint above_before = 0u;
    uint equal_before = 0u;
    for (uint j0 = 0u; j0 < candidates; j0 += INVOCATIONS) {
        uint j = j0 + lane();
        uint key = j < candidates ? kas_sort_key(scores[at + j]) : 0u;
        bool above = j < candidates && key > threshold;
        bool equal = j < candidates && key == threshold;
        above_of[lane()] = above ? 1u : 0u;
        equal_of[lane()] = equal ? 1u : 0u;
        scan_counts();
        uint above_rank = above_before + above_of[lane()];
        uint equal_rank = equal_before + equal_of[lane()];
        if (above)
            lists[list + above_rank - 1u + kas_min2(equal_rank, equals)] = int(j);
        else if (equal && equal_rank <= equals)
            lists[list + above_rank + equal_rank - 1u] = int(j);
        above_before += above_of[INVOCATIONS - 1u];
        equal_before += equal_of[INVOCATIONS - 1u];
        barrier();
    }
}

void select_best(uint at, uint candidates, uint keep, uint list)
{
    uint prefix = 0u;
    uint mask = 0u;
    uint wanted = keep;
    for (int shift = 24; shift >= 0; shift -= 8) {
        count_digits(at, candidates, prefix, mask, uint(shift));
        choose_digit(wanted);
        prefix |= chosen_digit << uint(shift);
        mask |= 0xffu << uint(shift);
        wanted -= chosen_above;
        barrier();
    }
    write_kept(at, candidates, list, prefix, wanted);
}

void main()
{
    kas_sequence s = load_sequence();
    uint u = gl_WorkGroupID.x;
    kas_tile t = load_tile(s, u);
    if (t.query_begin == t.query_end)
        return;
    uint list = list_begin(s, t, active_row(gl_WorkGroupID.y), u);
    uint row = gl_WorkGroupID.z * gl_NumWorkGroups.y + gl_WorkGroupID.y;
    uint at = (row * (has_flag(KAS_CALL_DECODE) ? 1u : call.tile_count) + u) * call.score_stride;
    if (kas_tile_is_dense(t)) {
        for (uint j = lane(); j < t.candidates; j += INVOCATIONS)
            lists[list + j] = int(j);
    } else {
        select_best(at, t.candidates, t.keep, list);
    }
    if (!has_flag(KAS_CALL_PACKED))
        for (uint j = t.keep + lane(); j < call.list_width; j += INVOCATIONS)
            lists[list + j] = -1;
}
