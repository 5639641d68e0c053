/*
 * select.h - the `keep` best scores of a tile, in ascending key order: a radix search for the key of the last one kept,
 * then one pass that takes everything above it and the first of its equals.
 */

#define DIGITS 2048u /* of a pass */
#define PARTS 4u     /* histograms side by side, so that equal neighbours do not wait for each other */

#define MOST_MATCHES 262144u

typedef struct select_space {
    uint32_t histogram[PARTS][DIGITS];
    uint32_t matches[MOST_MATCHES];
} select_space;

/* Integers that grow with the scores; kas_sort_key for LANES of them. */
INLINE vector_words sort_keys(const uint32_t *scores)
{
    vector_words bits = *(const vector_words *)scores;
    vector_words magnitude = bits & 0x7fffffffu;
    vector_words negative = (vector_words)((vector_bits)bits >> 31);
    vector_words key = (bits ^ negative) | (~negative & 0x80000000u);
    vector_words zero = (vector_words)(magnitude == 0), nan = (vector_words)(magnitude > 0x7f800000u);
    return (((key & ~zero) | (zero & 0x80000000u))) & ~nan;
}

/* Counts the digits at `shift` of all scores. */
static void count_digits(const uint32_t *scores, uint32_t count, uint32_t shift, uint32_t digits, select_space *space)
{
    uint32_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        uint32_t digit[LANES];
        *(vector_words *)digit = sort_keys(scores + i) >> shift;
        for (uint32_t j = 0; j < LANES; j++)
            space->histogram[j % PARTS][digit[j] & (digits - 1)]++;
    }
    for (; i < count; i++)
        space->histogram[0][kas_sort_key(scores[i]) >> shift & (digits - 1)]++;
}

/* Counts the digits at `shift` of scores whose key begins with the prefix. */
static void count_matching(const uint32_t *scores, uint32_t count, uint32_t mask, uint32_t prefix, uint32_t shift,
                           uint32_t digits, select_space *space)
{
    for (uint32_t i = 0; i < count; i++) {
        uint32_t key = kas_sort_key(scores[i]);
        if ((key & mask) == prefix)
            space->histogram[i % PARTS][key >> shift & (digits - 1)]++;
    }
}

static inline uint32_t digit_count(const select_space *space, uint32_t digit)
{
    uint32_t sum = 0;
    for (uint32_t part = 0; part < PARTS; part++)
        sum += space->histogram[part][digit];
    return sum;
}

/* The scores whose key begins with the prefix. `scores` may hold no more of them than there is room for. */
static uint32_t gather_matches(const uint32_t *scores, uint32_t count, uint32_t mask, uint32_t prefix,
                               uint32_t *matches)
{
    uint32_t found = 0, i = 0;
#if VECTOR_BYTES == 64
    for (; i + LANES <= count; i += LANES) {
        vector_bits equal = (sort_keys(scores + i) & mask) == prefix;
        __mmask16 which = _mm512_movepi32_mask((__m512i)equal);
        uint32_t matching = (uint32_t)__builtin_popcount(which);
        __m512i packed = _mm512_maskz_compress_epi32(which, _mm512_loadu_si512(scores + i));
        _mm512_mask_storeu_epi32(matches + found, (__mmask16)((1u << matching) - 1), packed);
        found += matching;
    }
#endif
    for (; i < count; i++)
        if ((kas_sort_key(scores[i]) & mask) == prefix)
            matches[found++] = scores[i];
    return found;
}

/* The sort key of the `keep`-th best score, and how many scores with just that key are kept. */
static uint32_t find_threshold(const uint32_t *scores, uint32_t count, uint32_t keep, select_space *space,
                               uint32_t *equal_kept)
{
    static const uint32_t shifts[] = {21, 10, 0};
    static const uint32_t widths[] = {11, 11, 10};
    uint32_t prefix = 0, mask = 0, wanted = keep;
    for (int pass = 0; pass < 3; pass++) {
        uint32_t digits = 1u << widths[pass];
        memset(space->histogram, 0, sizeof(space->histogram));
        if (pass == 0)
            count_digits(scores, count, shifts[pass], digits, space);
        else
            count_matching(scores, count, mask, prefix, shifts[pass], digits, space);
        uint32_t digit = digits - 1, held;
        while ((held = digit_count(space, digit)) < wanted) {
            wanted -= held;
            digit--;
        }
        prefix |= digit << shifts[pass];
        mask |= (digits - 1) << shifts[pass];
        if (pass == 0 && held <= MOST_MATCHES) {
            count = gather_matches(scores, count, mask, prefix, space->matches);
            scores = space->matches;
        }
    }
    *equal_kept = wanted;
    return prefix;
}

/* What is left of the search while the list is written. */
typedef struct taking {
    uint32_t threshold, equal_kept, kept;
    int32_t *list;
} taking;

static inline void take_one(taking *to, const uint32_t *scores, uint32_t i)
{
    uint32_t key = kas_sort_key(scores[i]);
    bool equal = key == to->threshold && to->equal_kept != 0;
    to->list[to->kept] = (int32_t)i;
    to->kept += key > to->threshold || equal;
    to->equal_kept -= equal;
}

#if VECTOR_BYTES == 64
static inline void take_lanes(taking *to, const uint32_t *scores, uint32_t i)
{
    const __m512i lanes = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    vector_words keys = sort_keys(scores + i);
    uint32_t above = _mm512_movepi32_mask((__m512i)(keys > to->threshold));
    uint32_t equal = _mm512_movepi32_mask((__m512i)(keys == to->threshold));
    while ((uint32_t)__builtin_popcount(equal) > to->equal_kept)
        equal &= ~(0x80000000u >> __builtin_clz(equal)); /* the last one gives way */
    uint32_t taken = (uint32_t)__builtin_popcount(above | equal);
    __m512i packed = _mm512_maskz_compress_epi32((__mmask16)(above | equal),
                                                 _mm512_add_epi32(lanes, _mm512_set1_epi32((int)i)));
    _mm512_mask_storeu_epi32(to->list + to->kept, (__mmask16)((1u << taken) - 1), packed);
    to->equal_kept -= (uint32_t)__builtin_popcount(equal);
    to->kept += taken;
}
#endif

static void select_best(const uint32_t *scores, const kas_tile *tile, select_space *space, int32_t *list)
{
    taking to = {.list = list};
    to.threshold = find_threshold(scores, tile->candidates, tile->keep, space, &to.equal_kept);
    uint32_t i = 0;
#if VECTOR_BYTES == 64
    for (; i + LANES <= tile->candidates && to.kept < tile->keep; i += LANES)
        take_lanes(&to, scores, i);
#endif
    while (to.kept < tile->keep)
        take_one(&to, scores, i++);
}

static void select_keys(const kas_cpu_job *job, uint32_t x, uint32_t y, uint32_t z, void *scratch)
{
    cell c = cell_of(job, z);
    uint32_t u = c.call->flags & KAS_CALL_DECODE ? 0 : c.call->tile_begin + x;
    kas_tile tile = tile_of(&c, u);
    if (tile.query_begin == tile.query_end)
        return;
    int32_t *list = (int32_t *)job->slot[KAS_SLOT_LISTS] + list_entry(&c, active_row(&c, y), u, &tile);
    uint64_t row = ((uint64_t)z * job->rows + y) * c.call->tile_count + x;
    const uint32_t *scores = (const uint32_t *)job->slot[KAS_SLOT_SCORES] + row * c.call->score_stride;
    if (!kas_tile_is_dense(tile))
        select_best(scores, &tile, scratch, list);
    else
        for (uint32_t i = 0; i < tile.candidates; i++)
            list[i] = (int32_t)i;
    if (!(c.call->flags & KAS_CALL_PACKED))
        for (uint32_t i = tile.keep; i < c.call->list_width; i++)
            list[i] = -1;
}
