/*
 * plan.h - anchor plans as core sees them: which layers publish key lists, which rows of those lists each kv head of
 * the other layers reads, and the rule that sizes the lists. Immutable once made.
 */
#ifndef KAS_PLAN_H
#define KAS_PLAN_H

#include "base.h"

/* Most keys of a sequence, and so entries of a list and floats between rows of scores. Lengths are signed 32-bit on
   devices, and a key count is rounded up in 32 bits. */
#define KAS_MOST_KEYS (1u << 30)

/* Bounds of a plan's fields; docs/plan-format.md repeats them for people who write plans. */
#define KAS_PLAN_MAX_LAYERS 4096u
#define KAS_PLAN_MAX_HEADS 1024u
#define KAS_PLAN_MAX_MAP_ENTRIES (1u << 18) /* layers * kv_heads */
#define KAS_PLAN_MAX_TOPK KAS_MOST_KEYS     /* topk.min and topk.round: sums of two stay below 2^32 */
#define KAS_PLAN_MAX_TEXT 4096u             /* bytes of model and of source */
#define KAS_PLAN_MAX_FILE (4u << 20)        /* holds the largest plan in the saved form */

/* One allocation: the arrays and strings lie behind the struct. */
struct kas_plan {
    const char *model;
    const char *source;
    uint32_t layers, heads, kv_heads;
    uint32_t tile;
    kas_topk topk; /* defaults filled in */
    kas_pooling pooling;
    kas_normalizer normalizer;
    uint32_t anchor_count;
    uint32_t dense_layer_count;
    uint32_t *anchors;        /* [anchor_count] */
    uint32_t *head_map;       /* [layers, kv_heads]; the identity for layers that publish */
    uint32_t *normalizer_map; /* [anchor_count - 1, kv_heads], or NULL */
    uint32_t *dense_layers;   /* [dense_layer_count] */
    uint8_t *roles;           /* [layers], kas_role */
    uint8_t *first_rows_read; /* [kv_heads]: 1 when a layer reads this row of layer 0's lists */
};

/* Where a plan comes from: how its faults are reported. */
typedef struct kas_plan_origin {
    kas_status status; /* of a broken rule */
    const char *name;  /* what the sentence begins with */
} kas_plan_origin;

/* "NAME: sentence", with the origin's status. */
kas_status kas_plan_reject(const kas_plan_origin *origin, const char *format, ...) KAS_PRINTF(2, 3);

/* The rules for layers, heads and kv_heads alone, then for anchors, so that a reader can size its arrays by them. */
kas_status kas_plan_check_shape(const kas_plan_origin *origin, const kas_plan_desc *desc);
kas_status kas_plan_check_anchors(const kas_plan_origin *origin, const kas_plan_desc *desc);

/* The rule that sizes lists, of plans and of sessions: what it must keep, and its defaults in place of zeros. */
kas_status kas_plan_check_rule(const kas_plan_origin *origin, uint32_t tile, const kas_topk *topk, kas_pooling pooling);
void kas_plan_complete_rule(uint32_t *tile, kas_topk *topk);

/* kas_plan_create with faults reported by `origin`. */
kas_status kas_plan_make(const kas_plan_origin *origin, const kas_plan_desc *desc, kas_plan **plan);

/* The saved form, for kas_release; `size` leaves out the zero byte at its end. Errors: OUT_OF_MEMORY. */
kas_status kas_plan_format(const kas_plan *plan, char **text, size_t *size);

/* Bytes of `text` before the first that is not UTF-8; `size` when all are. */
size_t kas_utf8_prefix(const char *text, size_t size);

/* Rows of the lists that a layer publishes: one a kv head, or one for all. */
static inline uint32_t kas_plan_row_count(const kas_plan *plan)
{
    return plan->pooling == KAS_POOLING_ALL_HEADS ? 1 : plan->kv_heads;
}

/* The row that a kv head of a layer reads; head_map and normalizer_map do not count where all heads are pooled. */
static inline uint32_t kas_plan_list_row(const kas_plan *plan, uint32_t layer, uint32_t kv_head)
{
    return plan->pooling == KAS_POOLING_ALL_HEADS ? 0 : plan->head_map[(size_t)layer * plan->kv_heads + kv_head];
}

/*
 * Whether anything reads row `row` of the lists that `layer` publishes. An anchor reads all of its own. Layer 0 does
 * not: of its lists only the rows count that the reuse layers before the next anchor name and, with the estimated
 * normaliser, those that the next anchor's normaliser map names. False for layers that publish nothing.
 */
bool kas_plan_row_is_read(const kas_plan *plan, uint32_t layer, uint32_t row);

#endif
