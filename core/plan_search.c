/* plan_search.c - choosing anchors by dynamic programming and maps by greatest similarity. */
#include "plan_search.h"

#include "plan.h"

#include <math.h>

/* The similarities of head y of layer b to the heads x of layer a. */
static const float *heads_of(const kas_calibration *calibration, uint32_t a, uint32_t b, uint32_t y)
{
    const size_t pair = (size_t)a * calibration->layers + b;
    return calibration->similarity + (pair * calibration->kv_heads + y) * calibration->kv_heads;
}

static uint32_t best_head(const float *similarity, uint32_t count)
{
    uint32_t best = 0;
    for (uint32_t x = 1; x < count; x++)
        if (similarity[x] > similarity[best])
            best = x;
    return best;
}

void kas_layer_similarity(const kas_calibration *calibration, double *layer_similarity)
{
    const uint32_t layers = calibration->layers, kv_heads = calibration->kv_heads;
    for (uint32_t a = 0; a < layers; a++) {
        for (uint32_t b = 0; b < layers; b++) {
            double sum = 0;
            for (uint32_t y = 0; b >= a && y < kv_heads; y++) {
                const float *similarity = heads_of(calibration, a, b, y);
                sum += similarity[best_head(similarity, kv_heads)];
            }
            layer_similarity[(size_t)a * layers + b] = calibration->importance[b] * (sum / kv_heads);
        }
    }
}

/* For each head of `layer`, the head of `anchor` that serves it best. */
static void map_row(const kas_calibration *calibration, uint32_t anchor, uint32_t layer, uint32_t *row)
{
    for (uint32_t y = 0; y < calibration->kv_heads; y++)
        row[y] = best_head(heads_of(calibration, anchor, layer, y), calibration->kv_heads);
}

void kas_search_head_map(const kas_calibration *calibration, const uint32_t *anchors, uint32_t anchor_count,
                         uint32_t *head_map)
{
    const uint32_t kv_heads = calibration->kv_heads;
    uint32_t segment = 0;
    for (uint32_t layer = 0; layer < calibration->layers; layer++) {
        while (segment + 1 < anchor_count && anchors[segment + 1] <= layer)
            segment++;
        uint32_t *row = head_map + (size_t)layer * kv_heads;
        if (layer != anchors[segment]) {
            map_row(calibration, anchors[segment], layer, row);
            continue;
        }
        for (uint32_t y = 0; y < kv_heads; y++)
            row[y] = y;
    }
}

void kas_search_normalizer_map(const kas_calibration *calibration, const uint32_t *anchors, uint32_t anchor_count,
                               uint32_t *normalizer_map)
{
    for (uint32_t i = 1; i < anchor_count; i++)
        map_row(calibration, anchors[i - 1], anchors[i], normalizer_map + (size_t)(i - 1) * calibration->kv_heads);
}

/* ---- Anchors --------------------------------------------------------------------------------------------------- */

/*
 * best[k * layers + a]: the greatest sum over layers a..layers-1 with k + 1 anchors, the first of them at a;
 * next[k * layers + a]: its second anchor. Working from the last layer backwards, and taking of equal sums the
 * smallest next anchor, gives the lexicographically smallest choice.
 */
typedef struct anchor_table {
    uint32_t layers;
    uint32_t count;
    double *best;
    double *prefix; /* [layers + 1]: sums from layer a of the row being worked on */
    uint32_t *next;
} anchor_table;

static void fill_cell(anchor_table *table, uint32_t k, uint32_t a)
{
    const uint32_t layers = table->layers;
    const double *shorter = table->best + (size_t)(k - 1) * layers;
    double best = -INFINITY;
    uint32_t next = 0;
    /* k anchors follow: the first of them leaves room for the others. */
    for (uint32_t second = a + 1; second + k <= layers; second++) {
        double sum = table->prefix[second] + shorter[second];
        if (sum > best) {
            best = sum;
            next = second;
        }
    }
    table->best[(size_t)k * layers + a] = best;
    table->next[(size_t)k * layers + a] = next;
}

static void fill_table(anchor_table *table, const double *layer_similarity)
{
    const uint32_t layers = table->layers;
    for (uint32_t a = layers; a-- > 0;) {
        const double *row = layer_similarity + (size_t)a * layers;
        table->prefix[a] = 0;
        for (uint32_t b = a; b < layers; b++)
            table->prefix[b + 1] = table->prefix[b] + row[b];
        table->best[a] = table->prefix[layers];
        for (uint32_t k = 1; k < table->count && a + k < layers; k++)
            fill_cell(table, k, a);
    }
}

static kas_status check_search(const double *layer_similarity, uint32_t layers, uint32_t count)
{
    if (layers < 1 || layers > KAS_PLAN_MAX_LAYERS)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "anchor search: layers is %u: it must be from 1 to %u", layers,
                        KAS_PLAN_MAX_LAYERS);
    if (count < 1 || count > layers)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "anchor search: count is %u: it must be from 1 to layers = %u",
                        count, layers);
    for (uint32_t a = 0; a < layers; a++)
        for (uint32_t b = a; b < layers; b++)
            if (!isfinite(layer_similarity[(size_t)a * layers + b]))
                return kas_fail(KAS_ERROR_INVALID_ARGUMENT,
                                "anchor search: the similarity of anchor %u for layer %u is %g: it must be finite", a,
                                b, layer_similarity[(size_t)a * layers + b]);
    return KAS_OK;
}

kas_status kas_search_anchors(const double *layer_similarity, uint32_t layers, uint32_t count, uint32_t *anchors,
                              double *objective)
{
    KAS_TRY(check_search(layer_similarity, layers, count));
    const size_t cells = (size_t)count * layers;
    anchor_table table = {.layers = layers, .count = count};
    table.best = kas_alloc(cells, sizeof(double));
    table.prefix = kas_alloc((size_t)layers + 1, sizeof(double));
    table.next = kas_alloc(cells, sizeof(uint32_t));
    const bool allocated = table.best && table.prefix && table.next;
    if (allocated) {
        fill_table(&table, layer_similarity);
        anchors[0] = 0;
        for (uint32_t i = 1; i < count; i++)
            anchors[i] = table.next[(size_t)(count - i) * layers + anchors[i - 1]];
        if (objective)
            *objective = table.best[cells - layers];
    }
    kas_release(table.best);
    kas_release(table.prefix);
    kas_release(table.next);
    return allocated ? KAS_OK : kas_fail_memory();
}
