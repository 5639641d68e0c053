/* tiling.c - tiles, kv splits, query chunks and scratch sections as pure integer functions. */
#include "tiling.h"

#include "kernel/blocks.h"
#include "session.h"

/* Shorter splits spend more time on partial results than they gain in parallel work. */
#define LEAST_SPLIT_KEYS 256u
#define SPLIT_KEYS_MULTIPLE 64u
#define MOST_SPLITS 256u
/* Every split reads the counts of all. */
#define MOST_SELECT_SPLITS 16u
#define LEAST_SELECT_SPLIT_KEYS 8192u
/* So many times what the device holds, so that some teams read keys while others choose among theirs. */
#define TEAM_ROUNDS 4u

uint32_t kas_call_tiles(uint32_t queries, uint32_t keys, uint32_t tile, bool ragged)
{
    if (!ragged)
        return (keys - 1) / tile - (keys - queries) / tile + 1;
    uint32_t most = (uint32_t)(((uint64_t)queries + tile - 2) / tile + 1);
    return kas_min_u32(most, (keys - 1) / tile + 1);
}

/* The share, in 1/1024, of the device that is busy while `groups` work groups run, `enough` at once. */
static uint64_t busy_share(uint64_t groups, uint64_t enough)
{
    return 1024 * groups / (enough * kas_div_up(groups, enough));
}

/* The first number of splits from `least` on that keeps nine tenths of the device busy, or the best up to four times as
   many. */
static uint64_t fill_waves(uint64_t least, uint32_t groups, uint32_t enough)
{
    uint64_t best = least;
    for (uint64_t splits = least; splits <= 4 * least; splits++) {
        if (busy_share(groups * splits, enough) > busy_share(groups * best, enough))
            best = splits;
        if (busy_share(groups * best, enough) >= 922)
            break;
    }
    return best;
}

kas_splits kas_plan_splits(uint32_t keys, uint32_t groups, uint32_t enough, bool waves)
{
    uint64_t wanted = waves ? fill_waves(kas_max_u32(enough / groups, 1), groups, enough) : kas_div_up(enough, groups);
    uint64_t most = kas_div_up(keys, LEAST_SPLIT_KEYS);
    uint64_t splits = wanted < most ? wanted : most;
    splits = splits < MOST_SPLITS ? splits : MOST_SPLITS;
    if (splits <= 1)
        return (kas_splits){1, keys};
    uint32_t split_keys = (uint32_t)kas_round_up(kas_div_up(keys, splits), SPLIT_KEYS_MULTIPLE);
    return (kas_splits){(uint32_t)kas_div_up(keys, split_keys), split_keys};
}

kas_splits kas_plan_score_splits(const kas_shape *shape, uint32_t keys, uint32_t rows)
{
    return kas_plan_splits(keys, shape->split_groups / shape->list_rows * kas_max_u32(rows, 1),
                           shape->enough_score_groups, shape->waves);
}

uint32_t kas_most_score_splits(const kas_shape *shape)
{
    uint64_t most = 0;
    for (uint32_t rows = 1; rows <= shape->list_rows; rows++) {
        uint64_t sums = (uint64_t)rows * kas_plan_score_splits(shape, shape->max_keys, rows).splits;
        most = sums > most ? sums : most;
    }
    return (uint32_t)kas_div_up(most, shape->list_rows);
}

kas_splits kas_plan_team(const kas_shape *shape, uint32_t keys, uint32_t rows)
{
    uint64_t groups = (uint64_t)shape->split_groups / shape->list_rows * kas_max_u32(rows, 1);
    uint64_t enough = (uint64_t)shape->enough_groups * TEAM_ROUNDS;
    uint32_t splits = 1;
    while (splits < shape->team && ((uint64_t)splits * shape->team_keys < keys ||
                                    (splits * groups < enough && (uint64_t)splits * LEAST_SPLIT_KEYS < keys)))
        splits *= 2;
    return (kas_splits){splits, (uint32_t)kas_round_up(kas_div_up(keys, splits), SPLIT_KEYS_MULTIPLE)};
}

kas_splits kas_plan_select_splits(const kas_shape *shape, uint32_t keys)
{
    uint32_t lists = shape->split_groups / shape->kv_heads * shape->list_rows;
    /* Shorter splits are for tests alone, which ask for this operation whatever the length. */
    uint32_t least = kas_min_u32(LEAST_SELECT_SPLIT_KEYS, kas_max_u32(shape->select_keys, SPLIT_KEYS_MULTIPLE));
    uint32_t splits = kas_min_u32(shape->select_groups / lists, kas_min_u32(MOST_SELECT_SPLITS, keys / least));
    if (splits < 2 || keys < shape->select_keys)
        return (kas_splits){1, keys};
    uint32_t split_keys = (uint32_t)kas_round_up(kas_div_up(keys, splits), SPLIT_KEYS_MULTIPLE);
    return (kas_splits){(uint32_t)kas_div_up(keys, split_keys), split_keys};
}

uint32_t kas_score_stride(uint32_t keys)
{
    return (uint32_t)kas_round_up(keys, 64);
}

/* Appends a section to the plan and returns its offset. */
static uint64_t add_section(kas_scratch_plan *plan, uint64_t size)
{
    uint64_t offset = plan->total;
    plan->total += kas_round_up(size, KAS_SECTION_ALIGNMENT);
    return offset;
}

static uint32_t fit(uint64_t available, uint64_t unit, uint32_t most)
{
    if (unit == 0 || available / unit >= most)
        return most;
    return (uint32_t)(available / unit);
}

static uint64_t less(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

bool kas_plan_prefill(const kas_shape *shape, uint32_t batch, uint32_t queries, uint32_t keys, uint32_t tiles,
                      uint32_t rows, bool lse, uint64_t capacity, kas_scratch_plan *plan)
{
    *plan = (kas_scratch_plan){.sequences = kas_min_u32(batch, shape->group_limit[2]),
                               .tiles = kas_min_u32(tiles, shape->group_limit[0])};
    if (lse) {
        plan->lse_size = (uint64_t)batch * shape->heads * queries * sizeof(float);
        plan->lse = add_section(plan, plan->lse_size);
    }
    if (rows == 0)
        return plan->total <= capacity && plan->lse_size <= shape->section_limit;
    uint64_t tile_bytes = (uint64_t)rows * kas_score_stride(keys) * sizeof(float);
    uint64_t available = plan->total <= capacity ? less(capacity - plan->total, shape->section_limit) : 0;
    available -= available % KAS_SECTION_ALIGNMENT;
    /* Whole sequences of tiles when they fit; otherwise one sequence at a time, cut into chunks of tiles. */
    uint32_t chunk = fit(available, tile_bytes, plan->tiles);
    plan->sequences = chunk == tiles ? fit(available, tile_bytes * tiles, plan->sequences) : 1;
    plan->tiles = kas_max_u32(chunk, 1);
    plan->scores_size = tile_bytes * plan->tiles * plan->sequences;
    plan->scores = add_section(plan, plan->scores_size);
    return plan->total <= capacity && plan->scores_size <= shape->section_limit &&
           plan->lse_size <= shape->section_limit;
}

bool kas_plan_decode(const kas_shape *shape, uint32_t batch, uint32_t queries, uint32_t stride, uint32_t rows,
                     bool scores, uint32_t attend_splits, uint32_t score_splits, uint32_t select_splits,
                     uint64_t capacity, kas_scratch_plan *plan)
{
    uint64_t query_rows = (uint64_t)shape->heads * queries;
    uint64_t scored_rows = (uint64_t)rows * shape->pool_heads * shape->group * queries;
    uint64_t partial_rows = query_rows * attend_splits, sum_rows = scored_rows * score_splits;
    /* Counts of select_split lie where the sums of its scores were. */
    uint64_t sums = 2 * sizeof(float) * (partial_rows > sum_rows ? partial_rows : sum_rows);
    uint64_t counts = select_splits > 1 ? (uint64_t)rows * select_splits * KAS_SELECT_WORDS * sizeof(uint32_t) : 0;
    uint64_t sizes[4] = {
        scores ? (uint64_t)rows * stride * sizeof(float) : 0,
        scored_rows * stride * sizeof(float),
        partial_rows * shape->head_dim * sizeof(float),
        sums > counts ? sums : counts,
    };
    uint32_t sequences = kas_min_u32(batch, shape->group_limit[2]);
    uint64_t sum = 0;
    for (int i = 0; i < 4; i++) {
        sum += sizes[i];
        sequences = kas_max_u32(1, fit(shape->section_limit, sizes[i], sequences));
    }
    /* Fewer sequences a launch when all do not fit, in pieces of like size: a small last one would leave the device
       idle. */
    uint64_t padded = 0, padding = 4 * KAS_SECTION_ALIGNMENT;
    for (int i = 0; i < 4; i++)
        padded += kas_round_up(sizes[i] * sequences, KAS_SECTION_ALIGNMENT);
    if (padded > capacity)
        sequences = kas_max_u32(1, fit(capacity > padding ? capacity - padding : 0, sum, sequences));
    sequences = (uint32_t)kas_div_up(batch, kas_div_up(batch, sequences));
    *plan = (kas_scratch_plan){.sequences = sequences, .tiles = 1};
    plan->scores_size = sizes[0] * sequences;
    plan->logits_size = sizes[1] * sequences;
    plan->part_o_size = sizes[2] * sequences;
    plan->part_ml_size = sizes[3] * sequences;
    plan->scores = add_section(plan, plan->scores_size);
    plan->logits = add_section(plan, plan->logits_size);
    plan->part_o = add_section(plan, plan->part_o_size);
    plan->part_ml = add_section(plan, plan->part_ml_size);
    uint64_t greatest = 0;
    for (int i = 0; i < 4; i++)
        greatest = sizes[i] > greatest ? sizes[i] : greatest;
    return plan->total <= capacity && greatest <= shape->section_limit;
}
