/* plan.c - anchor plans: the rules a plan must keep, making one from a descriptor, and questions about it. */
#include "plan.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define DEFAULT_TILE 32u
#define DEFAULT_FRACTION 0.10
#define DEFAULT_TOPK_MIN 128u
#define DEFAULT_TOPK_ROUND 128u

kas_status kas_plan_reject(const kas_plan_origin *origin, const char *format, ...)
{
    char sentence[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(sentence, sizeof(sentence), format, arguments);
    va_end(arguments);
    return kas_fail(origin->status, "%s: %s", origin->name, sentence);
}

/* ---- Rules ----------------------------------------------------------------------------------------------------- */

/* One line a rule; `origin` is the name of the parameter in every function that checks. */
#define RULE(holds, ...)                                                                                               \
    do {                                                                                                               \
        if (!(holds))                                                                                                  \
            return kas_plan_reject(origin, __VA_ARGS__);                                                               \
    } while (0)

static bool in_range(uint32_t value, uint32_t least, uint32_t most)
{
    return value >= least && value <= most;
}

kas_status kas_plan_check_shape(const kas_plan_origin *origin, const kas_plan_desc *desc)
{
    const uint32_t layers = desc->layers, heads = desc->heads, kv_heads = desc->kv_heads;
    RULE(in_range(layers, 1, KAS_PLAN_MAX_LAYERS), "layers is %u: it must be from 1 to %u", layers,
         KAS_PLAN_MAX_LAYERS);
    RULE(in_range(heads, 1, KAS_PLAN_MAX_HEADS), "heads is %u: it must be from 1 to %u", heads, KAS_PLAN_MAX_HEADS);
    RULE(in_range(kv_heads, 1, heads), "kv_heads is %u: it must be from 1 to heads = %u", kv_heads, heads);
    RULE(heads % kv_heads == 0, "heads is %u: it must be a multiple of kv_heads = %u", heads, kv_heads);
    RULE(layers * kv_heads <= KAS_PLAN_MAX_MAP_ENTRIES, "layers * kv_heads is %u: it must be at most %u",
         layers * kv_heads, KAS_PLAN_MAX_MAP_ENTRIES);
    return KAS_OK;
}

static kas_status check_text(const kas_plan_origin *origin, const char *field, const char *text)
{
    const size_t size = text ? strlen(text) : 0;
    RULE(size <= KAS_PLAN_MAX_TEXT, "%s is %zu bytes long: it must be at most %u", field, size, KAS_PLAN_MAX_TEXT);
    RULE(size == 0 || kas_utf8_prefix(text, size) == size, "%s must be UTF-8: its byte %zu is 0x%02x", field,
         kas_utf8_prefix(text, size), (unsigned char)text[kas_utf8_prefix(text, size)]);
    return KAS_OK;
}

kas_status kas_plan_check_rule(const kas_plan_origin *origin, uint32_t tile, const kas_topk *topk, kas_pooling pooling)
{
    RULE(tile == 0 || tile == 16 || tile == 32 || tile == 64 || tile == 128,
         "tile is %u: it must be 16, 32, 64 or 128", tile);
    RULE(isfinite(topk->fraction) && topk->fraction >= 0,
         "topk.fraction is %g: it must be finite and not negative (0: the default)", topk->fraction);
    RULE(topk->min <= KAS_PLAN_MAX_TOPK, "topk.min is %u: it must be at most %u (0: the default)", topk->min,
         KAS_PLAN_MAX_TOPK);
    RULE(topk->round <= KAS_PLAN_MAX_TOPK, "topk.round is %u: it must be at most %u (0: the default)", topk->round,
         KAS_PLAN_MAX_TOPK);
    RULE(topk->mode == KAS_TOPK_ROLLING || topk->mode == KAS_TOPK_FIXED,
         "topk.mode is %d: it must be 0 (rolling) or 1 (fixed)", (int)topk->mode);
    RULE(pooling == KAS_POOLING_GROUP || pooling == KAS_POOLING_ALL_HEADS,
         "pooling is %d: it must be 0 (group) or 1 (all_heads)", (int)pooling);
    return KAS_OK;
}

void kas_plan_complete_rule(uint32_t *tile, kas_topk *topk)
{
    *tile = *tile ? *tile : DEFAULT_TILE;
    topk->fraction = topk->fraction != 0 ? topk->fraction : DEFAULT_FRACTION;
    topk->min = topk->min ? topk->min : DEFAULT_TOPK_MIN;
    topk->round = topk->round ? topk->round : DEFAULT_TOPK_ROUND;
}

static kas_status check_normalizer(const kas_plan_origin *origin, const kas_plan_desc *desc)
{
    RULE(desc->normalizer == KAS_NORMALIZER_EXACT || desc->normalizer == KAS_NORMALIZER_ESTIMATED,
         "normalizer is %d: it must be 0 (exact) or 1 (estimated)", (int)desc->normalizer);
    return KAS_OK;
}

kas_status kas_plan_check_anchors(const kas_plan_origin *origin, const kas_plan_desc *desc)
{
    const uint32_t *anchors = desc->anchors;
    RULE(anchors && desc->anchor_count > 0, "anchors is empty: layer 0 must be an anchor");
    RULE(desc->anchor_count <= desc->layers, "anchors has %u entries: there are %u layers", desc->anchor_count,
         desc->layers);
    RULE(anchors[0] == 0, "anchors[0] is %u: the first anchor must be layer 0", anchors[0]);
    for (uint32_t i = 1; i < desc->anchor_count; i++) {
        RULE(anchors[i] < desc->layers, "anchors[%u] is %u: it must be below layers = %u", i, anchors[i],
             desc->layers);
        RULE(anchors[i] > anchors[i - 1], "anchors[%u] is %u: it must be above the anchor before it, %u", i,
             anchors[i], anchors[i - 1]);
    }
    return KAS_OK;
}

static bool is_anchor(const kas_plan_desc *desc, uint32_t layer)
{
    for (uint32_t i = 0; i < desc->anchor_count && desc->anchors[i] <= layer; i++)
        if (desc->anchors[i] == layer)
            return true;
    return false;
}

static kas_status check_dense_layers(const kas_plan_origin *origin, const kas_plan_desc *desc)
{
    const uint32_t *dense = desc->dense_layers;
    RULE(dense || desc->dense_layer_count == 0, "dense_layers is NULL: dense_layer_count = %u entries are needed",
         desc->dense_layer_count);
    RULE(desc->dense_layer_count <= desc->layers, "dense_layers has %u entries: there are %u layers",
         desc->dense_layer_count, desc->layers);
    for (uint32_t i = 0; i < desc->dense_layer_count; i++) {
        RULE(dense[i] < desc->layers, "dense_layers[%u] is %u: it must be below layers = %u", i, dense[i],
             desc->layers);
        RULE(i == 0 || dense[i] > dense[i - 1], "dense_layers[%u] is %u: it must be above the one before it, %u", i,
             dense[i], dense[i - 1]);
        RULE(!is_anchor(desc, dense[i]), "dense_layers[%u] is %u: this layer is an anchor", i, dense[i]);
    }
    return KAS_OK;
}

static kas_status check_maps(const kas_plan_origin *origin, const kas_plan_desc *desc)
{
    const uint32_t kv_heads = desc->kv_heads, followers = desc->anchor_count - 1;
    for (uint32_t i = 0; desc->head_map && i < desc->layers * kv_heads; i++)
        RULE(desc->head_map[i] < kv_heads, "head_map[%u][%u] is %u: it must be below kv_heads = %u", i / kv_heads,
             i % kv_heads, desc->head_map[i], kv_heads);
    for (uint32_t i = 0; desc->normalizer_map && i < followers * kv_heads; i++)
        RULE(desc->normalizer_map[i] < kv_heads, "normalizer_map of anchor %u, entry %u is %u: it must be below "
             "kv_heads = %u", desc->anchors[1 + i / kv_heads], i % kv_heads, desc->normalizer_map[i], kv_heads);
    RULE(desc->normalizer != KAS_NORMALIZER_ESTIMATED || followers == 0 || desc->normalizer_map,
         "normalizer is estimated: it needs a normalizer_map");
    return KAS_OK;
}

static kas_status check(const kas_plan_origin *origin, const kas_plan_desc *desc)
{
    RULE(desc->struct_size == sizeof(*desc), "struct_size is %u: it must be sizeof(kas_plan_desc) = %zu",
         desc->struct_size, sizeof(*desc));
    KAS_TRY(kas_plan_check_shape(origin, desc));
    KAS_TRY(check_text(origin, "model", desc->model));
    KAS_TRY(check_text(origin, "source", desc->source));
    KAS_TRY(kas_plan_check_rule(origin, desc->tile, &desc->topk, desc->pooling));
    KAS_TRY(check_normalizer(origin, desc));
    KAS_TRY(kas_plan_check_anchors(origin, desc));
    KAS_TRY(check_dense_layers(origin, desc));
    return check_maps(origin, desc);
}

/* The length of the UTF-8 sequence at `bytes`, 0 when there is none: RFC 3629, no surrogates, no overlong forms. */
static size_t utf8_sequence(const unsigned char *bytes, size_t left)
{
    const unsigned char lead = bytes[0];
    if (lead < 0x80)
        return 1;
    const size_t length = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
    if (lead < 0xc2 || lead > 0xf4 || length > left)
        return 0;
    for (size_t i = 1; i < length; i++)
        if ((bytes[i] & 0xc0) != 0x80)
            return 0;
    const bool overlong = (lead == 0xe0 && bytes[1] < 0xa0) || (lead == 0xf0 && bytes[1] < 0x90);
    const bool outside = (lead == 0xed && bytes[1] > 0x9f) || (lead == 0xf4 && bytes[1] > 0x8f);
    return overlong || outside ? 0 : length;
}

size_t kas_utf8_prefix(const char *text, size_t size)
{
    size_t at = 0;
    while (at < size) {
        size_t length = utf8_sequence((const unsigned char *)text + at, size - at);
        if (length == 0)
            break;
        at += length;
    }
    return at;
}

/* ---- Making a plan --------------------------------------------------------------------------------------------- */

static size_t text_size(const char *text)
{
    return text ? strlen(text) + 1 : 1;
}

/* The checked bounds keep every product and the sum far below 2^32. */
static size_t size_behind(const kas_plan_desc *desc)
{
    const size_t normalizer_entries = desc->normalizer_map ? (size_t)(desc->anchor_count - 1) * desc->kv_heads : 0;
    const size_t words =
        desc->anchor_count + (size_t)desc->layers * desc->kv_heads + normalizer_entries + desc->dense_layer_count;
    return words * sizeof(uint32_t) + desc->layers + desc->kv_heads + text_size(desc->model) + text_size(desc->source);
}

static void *carve(unsigned char **next, const void *source, size_t size)
{
    void *part = *next;
    if (source && size > 0)
        memcpy(part, source, size);
    *next += size;
    return part;
}

/* Words first, then bytes: everything lies aligned. */
static void copy_arrays(kas_plan *plan, const kas_plan_desc *desc)
{
    unsigned char *next = (unsigned char *)(plan + 1);
    const size_t row = (size_t)desc->kv_heads * sizeof(uint32_t);
    plan->anchors = carve(&next, desc->anchors, desc->anchor_count * sizeof(uint32_t));
    plan->head_map = carve(&next, desc->head_map, desc->layers * row);
    plan->dense_layers = carve(&next, desc->dense_layers, desc->dense_layer_count * sizeof(uint32_t));
    if (desc->normalizer_map && desc->anchor_count > 1)
        plan->normalizer_map = carve(&next, desc->normalizer_map, (desc->anchor_count - 1) * row);
    plan->roles = carve(&next, NULL, desc->layers);
    plan->first_rows_read = carve(&next, NULL, desc->kv_heads);
    plan->model = carve(&next, desc->model, text_size(desc->model));
    plan->source = carve(&next, desc->source, text_size(desc->source));
}

static void copy_values(kas_plan *plan, const kas_plan_desc *desc)
{
    plan->layers = desc->layers;
    plan->heads = desc->heads;
    plan->kv_heads = desc->kv_heads;
    plan->tile = desc->tile;
    plan->topk = desc->topk;
    kas_plan_complete_rule(&plan->tile, &plan->topk);
    plan->pooling = desc->pooling;
    plan->normalizer = desc->normalizer;
    plan->anchor_count = desc->anchor_count;
    plan->dense_layer_count = desc->dense_layer_count;
}

static void assign_roles(kas_plan *plan)
{
    memset(plan->roles, KAS_ROLE_REUSE, plan->layers);
    for (uint32_t i = 0; i < plan->dense_layer_count; i++)
        plan->roles[plan->dense_layers[i]] = KAS_ROLE_DENSE;
    for (uint32_t i = 0; i < plan->anchor_count; i++)
        plan->roles[plan->anchors[i]] = KAS_ROLE_ANCHOR;
    plan->roles[0] = KAS_ROLE_DENSE_SELECT;
}

static void map_to_itself(kas_plan *plan, uint32_t layer)
{
    for (uint32_t head = 0; head < plan->kv_heads; head++)
        plan->head_map[(size_t)layer * plan->kv_heads + head] = head;
}

/* A layer that publishes reads its own rows whatever the descriptor's map says of it. */
static void complete_head_map(kas_plan *plan, bool given)
{
    for (uint32_t layer = 0; layer < plan->layers; layer++)
        if (!given || plan->roles[layer] == KAS_ROLE_DENSE_SELECT || plan->roles[layer] == KAS_ROLE_ANCHOR)
            map_to_itself(plan, layer);
}

static void find_first_rows_read(kas_plan *plan)
{
    const bool pooled = plan->pooling == KAS_POOLING_ALL_HEADS;
    const uint32_t end = plan->anchor_count > 1 ? plan->anchors[1] : plan->layers;
    for (uint32_t layer = 1; layer < end; layer++)
        for (uint32_t head = 0; plan->roles[layer] == KAS_ROLE_REUSE && head < plan->kv_heads; head++)
            plan->first_rows_read[kas_plan_list_row(plan, layer, head)] = 1;
    if (plan->normalizer != KAS_NORMALIZER_ESTIMATED || !plan->normalizer_map)
        return;
    for (uint32_t head = 0; head < plan->kv_heads; head++)
        plan->first_rows_read[pooled ? 0 : plan->normalizer_map[head]] = 1;
}

kas_status kas_plan_make(const kas_plan_origin *origin, const kas_plan_desc *desc, kas_plan **plan)
{
    KAS_TRY(check(origin, desc));
    kas_plan *made = kas_alloc(1, sizeof(*made) + size_behind(desc));
    if (!made)
        return kas_fail_memory();
    copy_values(made, desc);
    copy_arrays(made, desc);
    assign_roles(made);
    complete_head_map(made, desc->head_map != NULL);
    find_first_rows_read(made);
    *plan = made;
    return KAS_OK;
}

kas_status kas_plan_create(const kas_plan_desc *desc, kas_plan **plan)
{
    static const kas_plan_origin origin = {KAS_ERROR_INVALID_ARGUMENT, "kas_plan_desc"};
    KAS_TRY(kas_require("desc", desc));
    KAS_TRY(kas_require("plan", plan));
    return kas_plan_make(&origin, desc, plan);
}

void kas_plan_destroy(kas_plan *plan)
{
    kas_release(plan);
}

/* ---- Questions ------------------------------------------------------------------------------------------------- */

kas_status kas_plan_get_desc(const kas_plan *plan, kas_plan_desc *desc)
{
    KAS_TRY(kas_require("plan", plan));
    KAS_TRY(kas_require_struct("desc", desc, sizeof(*desc)));
    *desc = (kas_plan_desc){
        .struct_size = sizeof(*desc),
        .model = plan->model,
        .source = plan->source,
        .layers = plan->layers,
        .heads = plan->heads,
        .kv_heads = plan->kv_heads,
        .tile = plan->tile,
        .topk = plan->topk,
        .pooling = plan->pooling,
        .normalizer = plan->normalizer,
        .anchors = plan->anchors,
        .anchor_count = plan->anchor_count,
        .head_map = plan->head_map,
        .normalizer_map = plan->normalizer_map,
        .dense_layers = plan->dense_layer_count ? plan->dense_layers : NULL,
        .dense_layer_count = plan->dense_layer_count,
    };
    return KAS_OK;
}

kas_role kas_plan_role(const kas_plan *plan, uint32_t layer)
{
    return plan && layer < plan->layers ? (kas_role)plan->roles[layer] : KAS_ROLE_DENSE;
}

bool kas_plan_row_is_read(const kas_plan *plan, uint32_t layer, uint32_t row)
{
    if (row >= kas_plan_row_count(plan))
        return false;
    kas_role role = kas_plan_role(plan, layer);
    return role == KAS_ROLE_ANCHOR || (role == KAS_ROLE_DENSE_SELECT && plan->first_rows_read[row]);
}
