/*
 * tiling.h - how work is cut: tiles, kv splits, query chunks and the scratch they need. Pure integer functions of the
 * session's shape and the call's maxima; nothing here reads a length on a device.
 */
#ifndef KAS_TILING_H
#define KAS_TILING_H

#include "base.h"

/* The part of a session that decides how work is cut. */
typedef struct kas_shape {
    uint32_t heads, kv_heads, group, head_dim;
    uint32_t tile;
    uint32_t list_rows, pool_heads;
    uint32_t max_batch, max_queries, max_decode_queries, max_keys;
    uint32_t split_groups;  /* work groups of a decode launch besides the splits: kv heads of its sequences */
    uint64_t section_limit; /* greatest part of a buffer that a kernel can address */
    uint32_t group_limit[3];
    uint32_t enough_groups; /* work groups that keep the whole device busy */
    uint32_t enough_score_groups; /* of logits */
    bool waves;                   /* these are what the device runs at once */
    uint32_t team, team_keys;     /* see kas_variant; 0: no teams */
    uint32_t select_groups;       /* work groups of select_split that keep the device busy; 0: it is not used */
    uint32_t select_keys;         /* fewer keys than this are not split */
} kas_shape;

/* Tiles that a call's sequences can touch. ragged: lengths lie on the device, so any offset is possible. */
uint32_t kas_call_tiles(uint32_t queries, uint32_t keys, uint32_t tile, bool ragged);

/* How a range of keys is split between work groups. */
typedef struct kas_splits {
    uint32_t splits;
    uint32_t split_keys;
} kas_splits;

/*
 * `groups`: work groups that exist besides the split (kv heads times sequences). `enough`: that keep the device busy;
 * with `waves` it runs so many at once, and splits are chosen that leave little of it idle at the end. Fewer keys never
 * make more splits.
 */
kas_splits kas_plan_splits(uint32_t keys, uint32_t groups, uint32_t enough, bool waves);

/* Splits of the logits of `rows` list rows, which are fewer work groups than a launch over all kv heads. */
kas_splits kas_plan_score_splits(const kas_shape *shape, uint32_t keys, uint32_t rows);

/* Splits that hold the partial sums of any number of list rows up to the shape's, when there are so many for all. */
uint32_t kas_most_score_splits(const kas_shape *shape);

/* Splits of the teams that make `rows` lists of each sequence: a power of two. */
kas_splits kas_plan_team(const kas_shape *shape, uint32_t keys, uint32_t rows);

/*
 * Splits of the selection from `keys` keys; one where select does it. Every step of select_split is a launch of its own
 * and reads the keys once, so that it gains where work groups would be fewer than the device runs, and lists long.
 */
kas_splits kas_plan_select_splits(const kas_shape *shape, uint32_t keys);

/* Scratch of a chain: sections by byte offset, and how many sequences and tiles a launch may take to fit. */
typedef struct kas_scratch_plan {
    uint32_t sequences;                            /* of a launch */
    uint32_t tiles;                                /* of a launch; 1 in decode */
    uint64_t lse, scores, logits, part_o, part_ml; /* offsets */
    uint64_t lse_size, scores_size, logits_size, part_o_size, part_ml_size;
    uint64_t total;
} kas_scratch_plan;

/* Floats between the rows of scores or logits of `keys` keys. */
uint32_t kas_score_stride(uint32_t keys);

/*
 * Prefill of `batch` sequences with `rows` list rows. lse: the chain needs a section for it; rows 0: no scores.
 * False when one tile of one sequence does not fit `capacity`; `plan->total` is then what it takes.
 */
bool kas_plan_prefill(const kas_shape *shape, uint32_t batch, uint32_t queries, uint32_t keys, uint32_t tiles,
                      uint32_t rows, bool lse, uint64_t capacity, kas_scratch_plan *plan);

/*
 * Decode likewise: partial results of `attend` splits (0: none) and, with rows, logits of `score` splits in rows of
 * `stride` floats. scores: the chain needs a section for them. select: splits of a list; one work group alone leaves no
 * counts.
 */
bool kas_plan_decode(const kas_shape *shape, uint32_t batch, uint32_t queries, uint32_t stride, uint32_t rows,
                     bool scores, uint32_t attend_splits, uint32_t score_splits, uint32_t select_splits,
                     uint64_t capacity, kas_scratch_plan *plan);

#endif
