/* plan_variant.h - the anchor plans that a reading compares, made from one plan. */
#ifndef LM_PLAN_VARIANT_H
#define LM_PLAN_VARIANT_H

#include "../fail.h"

typedef enum lm_plan_variant {
    LM_PLAN_AS_IS,
    LM_PLAN_OWN_TOPK,    /* every layer selects for itself */
    LM_PLAN_IDENTITY_MAP /* kv head g reads row g everywhere */
} lm_plan_variant;

/* What replaces the plan's own values; zero: the plan's. */
typedef struct lm_plan_overrides {
    double fraction;
    uint32_t min, round, tile;
} lm_plan_overrides;

/* Errors: as kas_plan_create. */
kas_status lm_plan_make_variant(const kas_plan *base, lm_plan_variant variant, const lm_plan_overrides *overrides,
                                kas_plan **plan);

#endif
