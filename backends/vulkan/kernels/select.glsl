/*
 * select.glsl - what the kernels of selection share: the search for the least kept key of a list, and the pass over
 * candidates that marks those that are kept, a bit each, and writes their positions. Nothing here asks for subgroups:
 * invocations meet in shared memory alone. After tiles.glsl.
 *
 * A sample of the scores tells between which sort keys the least kept one lies but for bad luck. One pass over the
 * scores counts what is above and gathers what lies between in shared memory, where histograms find it. Where luck was
 * bad, or the keys between are too many to gather, histograms of all scores narrow the bounds first.
 */

/* Scores as bits: their order is an order of integers. */
KAS_READ(KAS_SLOT_SCORES, uint, scores)
layout(set = 0, binding = KAS_SLOT_SCORES, std430) readonly buffer score_vector_block
{
    uvec4 score_vectors[];
};
KAS_WRITE(KAS_SLOT_LISTS, int, lists)

const uint BIN_BITS = 11u;
const uint BINS = 1u << BIN_BITS;
const uint BINS_EACH = BINS / INVOCATIONS;
const uint VECTORS = 2u;                      /* of four scores, that an invocation has under way at a time */
const uint TURN = 4u * VECTORS * INVOCATIONS; /* candidates that the work group takes at a time, */
const uint CHUNK = 32u * INVOCATIONS;         /* and that it marks before it writes: whole turns */
/* Keys that there is room to gather. At 1,024 invocations, the most for which bins have room for marks, shared memory
   is 32 KiB. */
const uint GATHERED = INVOCATIONS < 512u ? 2048u : 4032u;
const uint GREATEST_KEY = 0xff800000u; /* of a score: that of infinity */
const uint NO_KEY = 0xffffffffu;       /* of a candidate that does not exist */

const uint SAMPLED = 16u; /* candidates of the sample that an invocation looks at, at most */
const uint SHARE = 8u;    /* one of so many candidates is in the sample */
const uint STAGGER = 7u;  /* candidates of the sample are not at equal distances */
const uint SLOTS = 8u;    /* in which invocations meet for a least and a greatest key */
/* Standard deviations of a rank in the sample that bounds keep from it, and the share of the room that the keys between
   them may be expected to take. */
const float MARGIN = 4.5;
const float EXPECTED = 0.75;

/* Candidates begin .. end - 1; `begin` is a multiple of four. */
struct candidate_range {
    uint begin;
    uint end;
    uint at; /* score of candidate 0 */
};

/* The least kept key, and how many equal to it are kept. */
struct threshold {
    uint key;
    uint equal;
};

/* Sort keys low .. high. */
struct key_bounds {
    uint low;
    uint high;
};

/* What is known of the least kept key. */
struct search {
    key_bounds bounds;
    uint rank;   /* of the least kept key among those within the bounds, from 1 for the greatest */
    uint inside; /* keys within the bounds */
};

/* The bin of a histogram in which a key of given rank lies. */
struct found_bin {
    uint bin;
    uint greater; /* keys in greater bins */
    uint inside;  /* keys in this one */
};

shared uint bins[BINS];
shared uint sums[2u * INVOCATIONS];
shared found_bin found;
shared uint gathered[GATHERED];
shared uint gathered_count; /* of all that should be there, also where the room ended */
shared uint least_of[SLOTS];
shared uint greatest_of[SLOTS];

/* When the least kept key is known, marks of the chunk's keys take the place of the bins: of those above it, and of
   those equal to it. */
#define above_marks(word) bins[word]
#define equal_marks(word) bins[INVOCATIONS + (word)]

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

/* ---- Passes over scores ------------------------------------------------------------------------------------------ */

/* The candidates of this invocation's vector n of the turn at `first`: this one and the next three. */
uint turn_candidate(uint first, uint n)
{
    return first + 4u * (n * INVOCATIONS + lane());
}

/* Keys of the turn at `first`, all loaded before one is waited for; NO_KEY past the end of the range. */
void load_turn(candidate_range range, uint first, out uvec4 keys[VECTORS])
{
    bool is_whole = first + TURN <= range.end;
    if (is_whole && (call.score_stride & 3u) == 0u) {
        [[unroll]] for (uint n = 0u; n < VECTORS; n++)
            keys[n] = score_vectors[(range.at + turn_candidate(first, n)) >> 2];
    } else {
        [[unroll]] for (uint n = 0u; n < VECTORS; n++)
            [[unroll]] for (uint i = 0u; i < 4u; i++)
                keys[n][i] = scores[range.at + kas_min2(turn_candidate(first, n) + i, range.end - 1u)];
    }
    [[unroll]] for (uint n = 0u; n < VECTORS; n++)
        [[unroll]] for (uint i = 0u; i < 4u; i++) {
            uint key = kas_sort_key(keys[n][i]);
            keys[n][i] = is_whole || turn_candidate(first, n) + i < range.end ? key : NO_KEY;
        }
}

bool is_within(uint key, key_bounds bounds)
{
    return key - bounds.low <= bounds.high - bounds.low;
}

/* Those of an invocation's keys that are within the bounds, as far as there is room. */
void store_gathered(uvec4 keys[VECTORS], key_bounds bounds)
{
    uint count = 0u;
    [[unroll]] for (uint n = 0u; n < VECTORS; n++)
        [[unroll]] for (uint i = 0u; i < 4u; i++)
            count += is_within(keys[n][i], bounds) ? 1u : 0u;
    if (count == 0u)
        return;
    uint slot = atomicAdd(gathered_count, count);
    [[unroll]] for (uint n = 0u; n < VECTORS; n++)
        [[unroll]] for (uint i = 0u; i < 4u; i++)
            if (is_within(keys[n][i], bounds)) {
                if (slot < GATHERED)
                    gathered[slot] = keys[n][i];
                slot++;
            }
}

/* Gathers the keys within the bounds; the number of keys above them. */
uint gather_keys(candidate_range range, key_bounds bounds)
{
    uint above = 0u;
    barrier();
    if (lane() == 0u)
        gathered_count = 0u;
    barrier();
    for (uint first = range.begin; first < range.end; first += TURN) {
        uvec4 keys[VECTORS];
        load_turn(range, first, keys);
        [[unroll]] for (uint n = 0u; n < VECTORS; n++)
            [[unroll]] for (uint i = 0u; i < 4u; i++)
                above += keys[n][i] > bounds.high && keys[n][i] != NO_KEY ? 1u : 0u;
        store_gathered(keys, bounds);
    }
    uint total;
    sum_before(above, total);
    return total;
}

/* ---- Histograms -------------------------------------------------------------------------------------------------- */

/* Bin b counts low + b 2^shift and the keys after it. */
uint bin_shift(key_bounds bounds)
{
    uint bits = uint(findMSB(bounds.high - bounds.low) + 1);
    return bits > BIN_BITS ? bits - BIN_BITS : 0u;
}

void clear_bins()
{
    barrier();
    for (uint bin = lane(); bin < BINS; bin += INVOCATIONS)
        bins[bin] = 0u;
    barrier();
}

void count_key(uint key, key_bounds bounds, uint shift)
{
    if (is_within(key, bounds))
        atomicAdd(bins[(key - bounds.low) >> shift], 1u);
}

void count_gathered(key_bounds bounds, uint shift)
{
    for (uint n = lane(); n < gathered_count; n += INVOCATIONS)
        count_key(gathered[n], bounds, shift);
}

void count_scores(candidate_range range, key_bounds bounds, uint shift)
{
    for (uint first = range.begin; first < range.end; first += TURN) {
        uvec4 keys[VECTORS];
        load_turn(range, first, keys);
        [[unroll]] for (uint n = 0u; n < VECTORS; n++)
            [[unroll]] for (uint i = 0u; i < 4u; i++)
                count_key(keys[n][i], bounds, shift);
    }
}

/* The bin of the key of `rank`, counted from 1 for the greatest. Invocations count from the greatest bin down. */
found_bin find_bin(uint rank)
{
    uint lowest = BINS - BINS_EACH * (lane() + 1u);
    uint own = 0u;
    uint total;
    barrier();
    for (uint n = 0u; n < BINS_EACH; n++)
        own += bins[lowest + n];
    uint greater = sum_before(own, total);
    for (uint n = BINS_EACH; n > 0u; n--) {
        uint count = bins[lowest + n - 1u];
        if (greater < rank && greater + count >= rank)
            found = found_bin(lowest + n - 1u, greater, count);
        greater += count;
    }
    barrier();
    return found;
}

/* ---- The sample -------------------------------------------------------------------------------------------------- */

/* The least and the greatest of all invocations' keys. */
key_bounds meet_bounds(uint least, uint greatest)
{
    barrier();
    if (lane() < SLOTS) {
        least_of[lane()] = NO_KEY;
        greatest_of[lane()] = 0u;
    }
    barrier();
    atomicMin(least_of[lane() % SLOTS], least);
    atomicMax(greatest_of[lane() % SLOTS], greatest);
    barrier();
    key_bounds all = key_bounds(NO_KEY, 0u);
    [[unroll]] for (uint n = 0u; n < SLOTS; n++)
        all = key_bounds(kas_min2(all.low, least_of[n]), kas_max2(all.high, greatest_of[n]));
    return all;
}

/* Bounds of the key at `rank` of a sample with the keys `all`, which is `share` of the candidates; the bins count its
   `count` keys. */
key_bounds bounds_of_rank(key_bounds all, uint shift, float count, float share, float rank)
{
    key_bounds bounds = key_bounds(0u, GREATEST_KEY);
    float margin = 1.0 + min(MARGIN * sqrt(rank * (1.0 - rank / count)), 0.5 * EXPECTED * float(GATHERED) * share);
    if (rank > margin + 1.0)
        bounds.high = all.low + ((find_bin(uint(rank - margin)).bin + 1u) << shift) - 1u;
    if (rank + margin < count)
        bounds.low = all.low + (find_bin(uint(rank + margin)).bin << shift);
    return bounds;
}

/* Where the least kept key of candidates 0 .. range.end - 1 is to be expected. */
key_bounds sample_bounds(candidate_range range, uint keep)
{
    uint own = kas_max2(1u, kas_min2(SAMPLED, range.end / (SHARE * INVOCATIONS)));
    uint count = own * INVOCATIONS;
    uint distance = range.end / count;
    uint keys[SAMPLED];
    [[unroll]] for (uint n = 0u; n < SAMPLED; n++)
        if (n < own) {
            uint i = n * INVOCATIONS + lane();
            keys[n] = scores[range.at + i * distance + i * STAGGER % distance];
        }
    uint least = NO_KEY;
    uint greatest = 0u;
    [[unroll]] for (uint n = 0u; n < SAMPLED; n++)
        if (n < own) {
            keys[n] = kas_sort_key(keys[n]);
            least = kas_min2(least, keys[n]);
            greatest = kas_max2(greatest, keys[n]);
        }
    key_bounds all = meet_bounds(least, greatest);
    uint shift = bin_shift(all);
    clear_bins();
    [[unroll]] for (uint n = 0u; n < SAMPLED; n++)
        if (n < own)
            count_key(keys[n], all, shift);
    float share = float(count) / float(range.end);
    return bounds_of_rank(all, shift, float(count), share, share * float(keep));
}

/* Few candidates are gathered whatever they are. */
key_bounds expected_bounds(candidate_range range, uint keep)
{
    if (range.end <= GATHERED)
        return key_bounds(0u, GREATEST_KEY);
    return sample_bounds(range, keep);
}

/* ---- The search -------------------------------------------------------------------------------------------------- */

/* Whether the least kept key lies within bounds above which there are `above` keys, inside of which `inside`. */
bool holds(uint keep, uint above, uint inside)
{
    return keep > above && keep <= above + inside;
}

/* What the counts of keys above bounds and inside of them tell, whether or not they hold. */
search search_from(candidate_range range, key_bounds bounds, uint keep, uint above, uint inside)
{
    if (keep <= above)
        return search(key_bounds(bounds.high + 1u, GREATEST_KEY), keep, above);
    if (keep > above + inside)
        return search(key_bounds(0u, bounds.low - 1u), keep - above - inside, range.end - above - inside);
    return search(bounds, keep - above, inside);
}

/* Narrows the bounds by a histogram of what is within them. */
search narrow(candidate_range range, search s, bool is_gathered)
{
    uint shift = bin_shift(s.bounds);
    clear_bins();
    if (is_gathered)
        count_gathered(s.bounds, shift);
    else
        count_scores(range, s.bounds, shift);
    found_bin next = find_bin(s.rank);
    uint low = s.bounds.low + (next.bin << shift);
    uint high = kas_min2(s.bounds.high, low + ((1u << shift) - 1u));
    return search(key_bounds(low, high), s.rank - next.greater, next.inside);
}

/* The least kept key of candidates 0 .. range.end - 1. With `is_gathered` the keys within the bounds are gathered; a
   rank of 0 is not known yet. */
threshold finish_search(candidate_range range, uint keep, search s, bool is_gathered)
{
    while (s.rank == 0u || s.bounds.low < s.bounds.high) {
        if (is_gathered || s.inside > GATHERED) {
            s = narrow(range, s, is_gathered);
            continue;
        }
        uint above = gather_keys(range, s.bounds);
        uint inside = gathered_count;
        is_gathered = holds(keep, above, inside) && inside <= GATHERED;
        s = search_from(range, s.bounds, keep, above, inside);
    }
    return threshold(s.bounds.low, s.rank);
}

threshold find_threshold(candidate_range range, uint keep)
{
    return finish_search(range, keep, search(expected_bounds(range, keep), 0u, 0u), false);
}

/* ---- Writing ----------------------------------------------------------------------------------------------------- */

/* Marks the keys of the chunk at `begin`: bit j % 32 of word j / 32 stands for begin + j. */
void mark_keys(candidate_range range, uint begin, uint least)
{
    barrier();
    above_marks(lane()) = 0u;
    equal_marks(lane()) = 0u;
    barrier();
    for (uint first = begin; first < begin + CHUNK && first < range.end; first += TURN) {
        uvec4 keys[VECTORS];
        load_turn(range, first, keys);
        [[unroll]] for (uint n = 0u; n < VECTORS; n++) {
            uint above = 0u;
            uint equal = 0u;
            [[unroll]] for (uint i = 0u; i < 4u; i++) {
                above |= keys[n][i] > least && keys[n][i] != NO_KEY ? 1u << i : 0u;
                equal |= keys[n][i] == least ? 1u << i : 0u;
            }
            uint at = turn_candidate(first, n) - begin;
            if (above != 0u)
                atomicOr(above_marks(at / 32u), above << at % 32u);
            if (equal != 0u)
                atomicOr(equal_marks(at / 32u), equal << at % 32u);
        }
    }
    barrier();
}

/* Writes what is kept of the range to its places in the list at `list`; of the candidates before it, `greater` are
   above the least kept key and `same` equal to it. */
void write_kept(candidate_range range, threshold least, uint keep, uint list, uint greater, uint same)
{
    for (uint begin = range.begin; begin < range.end && greater + kas_min2(same, least.equal) < keep; begin += CHUNK) {
        mark_keys(range, begin, least.key);
        uint above = above_marks(lane());
        uint equal = equal_marks(lane());
        /* A chunk has too few keys for either half of the word to overflow. */
        uint total;
        uint earlier = sum_before(bitCount(above) | bitCount(equal) << 16, total);
        uint greater_before = greater + (earlier & 0xffffu);
        uint same_before = same + (earlier >> 16);
        for (uint marks = above | equal; marks != 0u; marks &= marks - 1u) {
            uint bit = uint(findLSB(marks));
            uint is_above = (above >> bit) & 1u;
            if (is_above != 0u || same_before < least.equal)
                lists[list + greater_before + kas_min2(same_before, least.equal)] = int(begin + lane() * 32u + bit);
            greater_before += is_above;
            same_before += 1u - is_above;
        }
        greater += total & 0xffffu;
        same += total >> 16;
    }
}
