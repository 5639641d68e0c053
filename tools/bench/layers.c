/* layers.c - see layers.h. */
#include "layers.h"

#include <stdlib.h>

const char *const bench_kind_titles[BENCH_KINDS] = {"dense", "layer 0", "anchor", "reuse"};

/* The published plan for Llama-3.1-8B. */
#define PUBLISHED_LAYERS 32u
static const uint32_t published_anchors[] = {0, 2, 8, 13, 14};
#define PUBLISHED_ANCHORS (sizeof(published_anchors) / sizeof(published_anchors[0]))

/* Rows of layer 0 that a plan without a map of normalisers is given: the one that layer 1 reads and three more. */
#define LAYER0_ROWS 4u

/*
 * Layer 1 reads one list, as in the published plan, which is why layer 0 makes only that one. The maps of the other
 * layers are no identities, but their own values do not matter for time.
 */
static uint32_t *published_map(uint32_t kv_heads)
{
    uint32_t *map = malloc(sizeof(*map) * PUBLISHED_LAYERS * kv_heads);
    for (uint32_t i = 0; map && i < PUBLISHED_LAYERS * kv_heads; i++)
        map[i] = i / kv_heads <= 1 ? 0 : (i % kv_heads + i / kv_heads) % kv_heads;
    for (size_t a = 0; map && a < PUBLISHED_ANCHORS; a++)
        for (uint32_t g = 0; g < kv_heads; g++)
            map[published_anchors[a] * kv_heads + g] = g;
    return map;
}

/* The second anchor names few rows, since layer 0 makes lists only for those that are named; later anchors make all. */
static uint32_t *default_normalizers(uint32_t followers, uint32_t kv_heads)
{
    uint32_t *map = malloc(sizeof(*map) * ((size_t)followers * kv_heads + 1));
    for (uint32_t i = 0; map && i < followers * kv_heads; i++)
        map[i] = i < kv_heads ? i % LAYER0_ROWS % kv_heads : i % kv_heads;
    return map;
}

/* The plan that `desc` describes with the options' changes. */
static kas_status create_changed(const bench_plan_options *options, kas_plan_desc desc, kas_plan **plan)
{
    uint32_t *normalizers = NULL;
    if (options->tile)
        desc.tile = options->tile;
    if (options->topk > 0)
        desc.topk.fraction = options->topk;
    if (options->normalizer >= 0)
        desc.normalizer = (kas_normalizer)options->normalizer;
    if (desc.normalizer == KAS_NORMALIZER_ESTIMATED && !desc.normalizer_map) {
        normalizers = default_normalizers(desc.anchor_count - 1, desc.kv_heads);
        if (!normalizers)
            return tool_fail_memory();
        desc.normalizer_map = normalizers;
    }
    kas_status status = kas_plan_create(&desc, plan);
    free(normalizers);
    return status == KAS_OK ? KAS_OK : tool_fail_library(status);
}

static kas_status create_published(const bench_plan_options *options, kas_plan **plan)
{
    kas_plan_desc desc = {
        .struct_size = sizeof(desc),
        .layers = PUBLISHED_LAYERS,
        .heads = options->heads ? options->heads : 32,
        .kv_heads = options->kv_heads ? options->kv_heads : 8,
        .anchors = published_anchors,
        .anchor_count = PUBLISHED_ANCHORS,
    };
    uint32_t *map = published_map(desc.kv_heads);
    if (!map)
        return tool_fail_memory();
    desc.head_map = map;
    kas_status status = create_changed(options, desc, plan);
    free(map);
    return status;
}

static kas_status check_heads(const bench_plan_options *options, const kas_plan_desc *desc)
{
    if ((options->heads && options->heads != desc->heads) || (options->kv_heads && options->kv_heads != desc->kv_heads))
        return tool_fail(KAS_ERROR_INVALID_ARGUMENT, "--heads and --kv-heads: the plan has %u and %u", desc->heads,
                         desc->kv_heads);
    return KAS_OK;
}

kas_status bench_plan_create(const bench_plan_options *options, kas_plan **plan)
{
    if (!options->path)
        return create_published(options, plan);
    kas_plan *file;
    kas_plan_desc desc = {.struct_size = sizeof(desc)};
    TOOL_TRY_LIBRARY(kas_plan_load(options->path, &file));
    kas_status status = kas_plan_get_desc(file, &desc);
    status = status == KAS_OK ? check_heads(options, &desc) : tool_fail_library(status);
    if (status == KAS_OK)
        status = create_changed(options, desc, plan);
    kas_plan_destroy(file);
    return status;
}

static bench_kind kind_of(kas_role role)
{
    switch (role) {
    case KAS_ROLE_DENSE_SELECT:
        return BENCH_LAYER0;
    case KAS_ROLE_ANCHOR:
        return BENCH_ANCHOR;
    case KAS_ROLE_REUSE:
        return BENCH_REUSE;
    default:
        return BENCH_DENSE;
    }
}

/* Lists of layer 0 that the layers up to the next anchor name, or that anchor's normaliser. */
static uint32_t layer0_rows(const kas_plan *plan, const kas_plan_desc *desc)
{
    uint32_t rows = 0, end = desc->anchor_count > 1 ? desc->anchors[1] : desc->layers;
    if (desc->pooling == KAS_POOLING_ALL_HEADS)
        return desc->kv_heads;
    for (uint32_t row = 0; row < desc->kv_heads; row++) {
        bool read = false;
        for (uint32_t i = 0; i < desc->kv_heads; i++) {
            for (uint32_t layer = 1; layer < end; layer++)
                read |= kas_plan_role(plan, layer) == KAS_ROLE_REUSE && desc->head_map[layer * desc->kv_heads + i] == row;
            read |= desc->normalizer == KAS_NORMALIZER_ESTIMATED && end < desc->layers && desc->normalizer_map[i] == row;
        }
        rows += read;
    }
    return rows;
}

/* A reuse layer behind an anchor is preferred to one behind layer 0, and the anchor before it to other anchors. */
bench_layers bench_layers_of(const kas_plan *plan)
{
    kas_plan_desc desc = {.struct_size = sizeof(desc)};
    bench_layers found = {0};
    if (kas_plan_get_desc(plan, &desc) != KAS_OK)
        return found;
    found.layer0_rows = layer0_rows(plan, &desc);
    bool paired = false;
    uint32_t publisher = 0;
    for (uint32_t layer = 0; layer < desc.layers; layer++) {
        bench_kind kind = kind_of(kas_plan_role(plan, layer));
        if (kind == BENCH_ANCHOR || kind == BENCH_LAYER0)
            publisher = layer;
        bool pairs = kind == BENCH_REUSE && publisher != 0 && !paired;
        if (found.count[kind]++ == 0 || pairs)
            found.layer[kind] = layer;
        if (pairs)
            found.layer[BENCH_ANCHOR] = publisher;
        paired |= pairs;
    }
    return found;
}
