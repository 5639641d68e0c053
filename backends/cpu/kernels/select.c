/*
 * select.c - the `keep` best scores of a tile, in ascending key order: a radix search for the key of the last one kept,
 * then one pass that takes everything above it and the first of its equals.
 */
#include "sequence.h"

#include "../variants.h"


/* The sort key of the `keep`-th best score, and how many scores with just that key are kept. */
static uint32_t find_threshold(const uint32_t *scores, uint32_t count, uint32_t keep, uint32_t *histogram,
                               uint32_t *equal_kept)
{
    uint32_t prefix = 0, mask = 0, wanted = keep;
    static const uint32_t shifts[] = {21, 10, 0};
    static const uint32_t widths[] = {11, 11, 10};
    for (int pass = 0; pass < 3; pass++) {
        uint32_t digits = 1u << widths[pass];
        memset(histogram, 0, digits * sizeof(*histogram));
        for (uint32_t i = 0; i < count; i++) {
            uint32_t key = kas_sort_key(scores[i]);
            if ((key & mask) == prefix)
                histogram[key >> shifts[pass] & (digits - 1)]++;
        }
        uint32_t digit = digits - 1;
        while (histogram[digit] < wanted)
            wanted -= histogram[digit--];
        prefix |= digit << shifts[pass];
        mask |= (digits - 1) << shifts[pass];
    }
    *equal_kept = wanted;
    return prefix;
}

static void select_best(const uint32_t *scores, const kas_tile *tile, uint32_t *histogram, int32_t *list)
{
    uint32_t equal_kept;
    uint32_t threshold = find_threshold(scores, tile->candidates, tile->keep, histogram, &equal_kept);
    for (uint32_t i = 0; i < tile->candidates; i++) {
        uint32_t key = kas_sort_key(scores[i]);
        if (key < threshold || (key == threshold && equal_kept == 0))
            continue;
        equal_kept -= key == threshold;
        *list++ = (int32_t)i;
    }
}

static void run(const kas_cpu_job *job, uint32_t x, uint32_t y, uint32_t z, void *scratch)
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

const kas_cpu_code kas_cpu_select = {run};
