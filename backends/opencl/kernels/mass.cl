/* mass.cl - the scores of a tile summed over the tile's list of every row, and over all candidates; a group a tile. */
#include "common.clh"

typedef struct mass_memory {
    float sums[KAS_ITEMS];
} mass_memory;

/* The sum over the items of the group, for every item. */
static inline float sum_items(__local mass_memory *m, float value)
{
    kas_u32 item = KAS_U32(get_local_id(0));
    m->sums[item] = value;
    for (kas_u32 half_count = KAS_ITEMS / 2u; half_count > 0u; half_count /= 2u) {
        barrier(CLK_LOCAL_MEM_FENCE);
        if (item < half_count)
            m->sums[item] += m->sums[item + half_count];
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    float sum = m->sums[0];
    barrier(CLK_LOCAL_MEM_FENCE);
    return sum;
}

/* This item's part of the sum over a list. Entries that name no candidate count as absent. */
static inline float sum_listed(const kas_work *w, kas_u32 entries, kas_u32 candidates, const __global float *scores,
                               const __global kas_i32 *list)
{
    float sum = 0.0f;
    for (kas_u32 n = KAS_U32(get_local_id(0)); n < entries; n += KAS_ITEMS) {
        kas_u32 position = KAS_U32(list[n]);
        if (position < candidates)
            sum += scores[position];
        else if (position != 0xffffffffu)
            kas_report(w, KAS_CHECK_LIST);
    }
    return sum;
}

static inline float sum_all(kas_u32 candidates, const __global float *scores)
{
    float sum = 0.0f;
    for (kas_u32 j = KAS_U32(get_local_id(0)); j < candidates; j += KAS_ITEMS)
        sum += scores[j];
    return sum;
}

KAS_KERNEL(kas_mass, mass_memory)
{
    kas_u32 y = KAS_U32(get_group_id(1));
    kas_u32 u = w->call.tile_begin + KAS_U32(get_group_id(0));
    kas_u32 rows = w->session->list_rows;
    kas_sequence s = kas_load_sequence(w);
    kas_tile t = kas_load_tile(w, s, u);
    kas_bool exists = kas_tile_exists(t);
    kas_u32 entries = !exists ? 0u : kas_has(w, KAS_CALL_PACKED) ? t.keep : w->call.list_width;
    const __global float *scores = kas_scores_of(w, KAS_U32(get_num_groups(1)), y, u);
    kas_u64 cell = (kas_z() * (kas_u64)get_num_groups(1) + y) * get_num_groups(0) + get_group_id(0);
    __global float *mass = w->part_ml + cell * (rows + 1u);
    for (kas_u32 row = 0u; row <= rows; row++) {
        float own = 0.0f;
        if (row < rows && exists)
            own = sum_listed(w, entries, t.candidates, scores, kas_list_of(w, s, t, u, row));
        else if (exists)
            own = sum_all(t.candidates, scores);
        float sum = sum_items(m, own);
        if (exists && get_local_id(0) == 0)
            mass[row] = sum;
    }
}
