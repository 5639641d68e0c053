/* mass.c - the scores of a tile summed over the tile's list of every row, and over all candidates. */
#include "sequence.h"

#include "../variants.h"

/* Entries that name no candidate count as absent; packed lists hold none. */
static double sum_listed(const cell *c, const kas_tile *tile, const float *scores, const int32_t *list)
{
    bool packed = (c->call->flags & KAS_CALL_PACKED) != 0;
    uint32_t entries = packed ? tile->keep : c->call->list_width;
    double sum = 0;
    for (uint32_t e = 0; e < entries; e++) {
        if ((uint32_t)list[e] < tile->candidates)
            sum += scores[list[e]];
        else if (list[e] != -1)
            raise_bits(c->job, KAS_CHECK_LIST);
    }
    return sum;
}

static double sum_all(const kas_tile *tile, const float *scores)
{
    double sum = 0;
    for (uint32_t j = 0; j < tile->candidates; j++)
        sum += scores[j];
    return sum;
}

static void run(const kas_cpu_job *job, uint32_t x, uint32_t y, uint32_t z, void *scratch)
{
    (void)scratch;
    cell c = cell_of(job, z);
    uint32_t u = c.call->flags & KAS_CALL_DECODE ? 0 : c.call->tile_begin + x;
    uint32_t rows = c.session->list_rows;
    kas_tile tile = tile_of(&c, u);
    if (tile.query_begin == tile.query_end)
        return;
    uint64_t row = ((uint64_t)z * job->rows + y) * c.call->tile_count + x;
    const float *scores = (const float *)job->slot[KAS_SLOT_SCORES] + row * c.call->score_stride;
    const int32_t *lists = job->slot[KAS_SLOT_LISTS];
    float *mass = (float *)job->slot[KAS_SLOT_PART_ML] + row * (rows + 1);
    for (uint32_t r = 0; r < rows; r++)
        mass[r] = (float)sum_listed(&c, &tile, scores, lists + list_entry(&c, r, u, &tile));
    mass[rows] = (float)sum_all(&tile, scores);
}

const kas_cpu_code kas_cpu_mass = {run};
