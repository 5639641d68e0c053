/* plan_variant.c - see plan_variant.h. */
#include "plan_variant.h"

#include <stdlib.h>

static void apply(const lm_plan_overrides *overrides, kas_plan_desc *desc)
{
    if (overrides->fraction > 0)
        desc->topk.fraction = overrides->fraction;
    if (overrides->min > 0)
        desc->topk.min = overrides->min;
    if (overrides->round > 0)
        desc->topk.round = overrides->round;
    if (overrides->tile > 0)
        desc->tile = overrides->tile;
}

/* Every layer that the plan does not keep dense becomes an anchor, with room for all of them in `anchors`. */
static void make_all_anchors(kas_plan_desc *desc, uint32_t *anchors)
{
    uint32_t dense = 0;
    desc->anchor_count = 0;
    for (uint32_t layer = 0; layer < desc->layers; layer++) {
        if (dense < desc->dense_layer_count && desc->dense_layers[dense] == layer)
            dense++;
        else
            anchors[desc->anchor_count++] = layer;
    }
    desc->anchors = anchors;
    desc->head_map = NULL;
    /* The maps of an estimated normaliser are for the plan's own anchors. */
    desc->normalizer = KAS_NORMALIZER_EXACT;
    desc->normalizer_map = NULL;
}

kas_status lm_plan_make_variant(const kas_plan *base, lm_plan_variant variant, const lm_plan_overrides *overrides,
                                kas_plan **plan)
{
    kas_plan_desc desc = {.struct_size = sizeof(desc)};
    TOOL_TRY_LIBRARY(kas_plan_get_desc(base, &desc));
    apply(overrides, &desc);
    uint32_t *anchors = malloc(desc.layers * sizeof(*anchors));
    if (!anchors)
        return tool_fail_memory();
    if (variant == LM_PLAN_OWN_TOPK)
        make_all_anchors(&desc, anchors);
    else if (variant == LM_PLAN_IDENTITY_MAP)
        desc.head_map = NULL;
    kas_status status = kas_plan_create(&desc, plan);
    free(anchors);
    return status == KAS_OK ? KAS_OK : tool_fail_library(status);
}
