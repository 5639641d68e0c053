#version 450
/*
 * select_lanes.comp - select by subgroups: a radix search for the smallest key that is kept, 11 bits at a time from the
 * top, then one pass that writes what lies above it and, lowest positions first, as many of its equals as are left to
 * keep. Four candidates side by side to an invocation.
 */
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_shader_subgroup_arithmetic : require
#include "common.glsl"
#include "tiles.glsl"

/* Scores as bits: their order is an order of integers. */
KAS_READ(KAS_SLOT_SCORES, uint, scores)
layout(set = 0, binding = KAS_SLOT_SCORES, std430) readonly buffer score_vector_block
{
    uvec4 score_vectors[];
};
KAS_WRITE(KAS_SLOT_LISTS, int, lists)

layout(constant_id = KAS_CONSTANT_SUBGROUP) const uint SUBGROUP = 32;

const uint DIGIT_BITS = 11u;
const uint BINS = 1u << DIGIT_BITS;
const uint BINS_EACH = (BINS + INVOCATIONS - 1u) / INVOCATIONS;
const uint SUBGROUPS = INVOCATIONS / SUBGROUP;
const uint CHUNK = 4u * INVOCATIONS;  /* candidates in one vector of every invocation */
const uint BATCH = 4u;                /* vectors that an invocation loads at once */

shared uint histogram[BINS];
shared uvec4 subgroup_sums[SUBGROUPS];
shared uint chosen_digit;
shared uint chosen_above;

/* The sums of `value` over the invocations before this one; `whole` becomes those of all. */
uvec4 scan(uvec4 value, out uvec4 whole)
{
    uvec4 before = subgroupExclusiveAdd(value);
    if (gl_SubgroupInvocationID == SUBGROUP - 1u)
        subgroup_sums[gl_SubgroupID] = before + value;
    barrier();
    uvec4 earlier = uvec4(0u);
    whole = uvec4(0u);
    for (uint first = 0u; first < SUBGROUPS; first += SUBGROUP) {
        uint n = first + gl_SubgroupInvocationID;
        uvec4 sum = n < SUBGROUPS ? subgroup_sums[n] : uvec4(0u);
        earlier += subgroupAdd(n < gl_SubgroupID ? sum : uvec4(0u));
        whole += subgroupAdd(sum);
    }
    barrier();
    return earlier + before;
}

/*
 * Sort keys of candidates j .. j + 3; those past the end are not to be used. Lines of scores hold whole vectors where
 * their stride is one of vectors. Invocations take the same way whatever their candidates: operations of the subgroup
 * follow, in which all of them must meet.
 */
uvec4 load_keys(uint at, uint j, uint candidates)
{
    uvec4 bits;
    if ((call.score_stride & 3u) == 0u) {
        bits = score_vectors[(at + kas_min2(j, call.score_stride - 4u)) >> 2];
    } else {
        [[unroll]] for (uint i = 0u; i < 4u; i++)
            bits[i] = scores[at + kas_min2(j + i, candidates - 1u)];
    }
    return uvec4(kas_sort_key(bits.x), kas_sort_key(bits.y), kas_sort_key(bits.z), kas_sort_key(bits.w));
}

/* How many candidates have each digit at `shift`, among those whose higher bits equal `prefix`. */
void count_digits(uint at, uint candidates, uint prefix, uint mask, uint shift)
{
    for (uint i = lane(); i < BINS; i += INVOCATIONS)
        histogram[i] = 0u;
    barrier();
    for (uint j0 = 0u; j0 < candidates; j0 += BATCH * CHUNK) {
        uvec4 keys[BATCH];
        [[unroll]] for (uint n = 0u; n < BATCH; n++)
            keys[n] = load_keys(at, j0 + n * CHUNK + 4u * lane(), candidates);
        [[unroll]] for (uint n = 0u; n < BATCH; n++)
            [[unroll]] for (uint i = 0u; i < 4u; i++)
                if (j0 + n * CHUNK + 4u * lane() + i < candidates && (keys[n][i] & mask) == prefix)
                    atomicAdd(histogram[keys[n][i] >> shift & BINS - 1u], 1u);
    }
    barrier();
}

/* The digit at which the `wanted` largest end, and how many candidates lie above it. Digits are scanned downwards. */
void choose_digit(uint wanted)
{
    uint counts[BINS_EACH];
    uint sum = 0u;
    uint first = lane() * BINS_EACH;
    [[unroll]] for (uint i = 0u; i < BINS_EACH; i++) {
        counts[i] = first + i < BINS ? histogram[BINS - 1u - kas_min2(first + i, BINS - 1u)] : 0u;
        sum += counts[i];
    }
    uvec4 whole;
    uint above = scan(uvec4(sum, 0u, 0u, 0u), whole).x;
    [[unroll]] for (uint i = 0u; i < BINS_EACH; i++) {
        if (above < wanted && wanted <= above + counts[i]) {
            chosen_digit = BINS - 1u - first - i;
            chosen_above = above;
        }
        above += counts[i];
    }
    barrier();
}

/* Candidates j .. j + 3 above `threshold` in the lower half of the sum, those equal to it in the upper. */
uint count_kept(uvec4 keys, uint j, uint candidates, uint threshold)
{
    uint count = 0u;
    [[unroll]] for (uint i = 0u; i < 4u; i++) {
        uint one = keys[i] > threshold ? 1u : (keys[i] == threshold ? 0x10000u : 0u);
        count += j + i < candidates ? one : 0u;
    }
    return count;
}

/* Writes the candidates above `threshold` and the first `equals` of those equal to it. */
void write_kept(uint at, uint candidates, uint list, uint threshold, uint equals)
{
    uint above_before = 0u;
    uint equal_before = 0u;
    for (uint j0 = 0u; j0 < candidates; j0 += BATCH * CHUNK) {
        uvec4 keys[BATCH];
        uvec4 counts;
        uvec4 whole;
        [[unroll]] for (uint n = 0u; n < BATCH; n++)
            keys[n] = load_keys(at, j0 + n * CHUNK + 4u * lane(), candidates);
        [[unroll]] for (uint n = 0u; n < BATCH; n++)
            counts[n] = count_kept(keys[n], j0 + n * CHUNK + 4u * lane(), candidates, threshold);
        uvec4 before = scan(counts, whole);
        [[unroll]] for (uint n = 0u; n < BATCH; n++) {
            uint j = j0 + n * CHUNK + 4u * lane();
            uint above = above_before + (before[n] & 0xffffu);
            uint equal = equal_before + (before[n] >> 16);
            [[unroll]] for (uint i = 0u; i < 4u; i++) {
                bool greater = keys[n][i] > threshold;
                bool same = keys[n][i] == threshold;
                if (j + i < candidates && (greater || same && equal < equals))
                    lists[list + above + kas_min2(equal, equals)] = int(j + i);
                above += greater ? 1u : 0u;
                equal += same ? 1u : 0u;
            }
            above_before += whole[n] & 0xffffu;
            equal_before += whole[n] >> 16;
        }
    }
}

void select_best(uint at, uint candidates, uint keep, uint list)
{
    uint prefix = 0u;
    uint mask = 0u;
    uint wanted = keep;
    for (int shift = 21; shift >= -1; shift -= 11) {
        /* The lowest digit has 10 bits of its own and the last one of the digit above. */
        uint low = uint(max(shift, 0));
        count_digits(at, candidates, prefix, mask, low);
        choose_digit(wanted);
        mask |= BINS - 1u << low;
        prefix |= chosen_digit << low;
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
