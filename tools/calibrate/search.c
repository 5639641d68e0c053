/* search.c - see search.h. */
#include "search.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Sets of anchors of one count that grow into those of the next: the best may be two layers away from the best there. */
#define PARENTS 3
/* A head map row is exchanged for a gain that is more than noise. */
#define LEAST_MAP_GAIN 2e-4

/* A set of anchors that has been read, so that it is not read again. */
typedef struct trial {
    uint32_t count;
    uint32_t *anchors;
    double loss;       /* on the short texts */
    bool final;        /* whether it has read the long ones */
    double final_loss;
} trial;

struct search {
    search_desc desc;
    uint32_t layers, kv_heads;
    uint32_t count;    /* anchors of the best set so far */
    uint32_t *anchors; /* [layers] */
    uint32_t *trying;  /* [layers] */
    trial *trials;
    uint32_t trial_count, room;
};

kas_status search_begin(const search_desc *desc, search **made)
{
    search *s = calloc(1, sizeof(*s));
    if (!s)
        return tool_fail_memory();
    s->desc = *desc;
    s->layers = desc->wish.layers;
    s->kv_heads = desc->wish.kv_heads;
    s->anchors = calloc(s->layers, sizeof(*s->anchors));
    s->trying = calloc(s->layers, sizeof(*s->trying));
    if (!s->anchors || !s->trying) {
        search_end(s);
        return tool_fail_memory();
    }
    *made = s;
    return KAS_OK;
}

void search_end(search *made)
{
    if (!made)
        return;
    for (uint32_t i = 0; i < made->trial_count; i++)
        free(made->trials[i].anchors);
    free(made->trials);
    free(made->anchors);
    free(made->trying);
    free(made);
}

double search_cost(const search_desc *desc, uint32_t count)
{
    const double layers = desc->wish.layers, parents = count > 2 ? PARENTS : 1;
    const double added = parents * (layers - count + 1), moved = 2.0 * (count - 1);
    const double rows = 2 * (layers - count);
    const double finals = desc->finals ? (desc->finalists + 1) * quality_texts_cost(desc->finals) : 0;
    return (count == 1 ? 1 : added + 1 + moved + rows) * quality_texts_cost(desc->texts) + finals;
}

/* ---- Reading ---------------------------------------------------------------------------------------------------- */

static kas_status make_plan(const search *s, const uint32_t *anchors, uint32_t count, const uint32_t *head_map,
                            double fraction, kas_plan **plan)
{
    kas_plan_desc wish = s->desc.wish;
    wish.topk.fraction = fraction;
    wish.anchors = anchors;
    wish.anchor_count = count;
    wish.head_map = head_map;
    TOOL_TRY_LIBRARY(kas_calibration_plan(s->desc.maps, &wish, plan, NULL));
    return KAS_OK;
}

static kas_status read_plan(const search *s, const quality_texts *texts, const kas_plan *plan, double *loss)
{
    quality found;
    TOOL_TRY(quality_measure(texts, plan, &found));
    *loss = quality_loss(texts, &found);
    if (isnan(*loss)) /* worse than any that is a number */
        *loss = INFINITY;
    if (s->desc.progress)
        s->desc.progress(s->desc.progress_user, quality_texts_cost(texts));
    return KAS_OK;
}

/* Where a plan forgets on the long texts, it does on the short ones with a fraction as much smaller as they are. */
static double short_fraction(const search *s)
{
    const double fraction = s->desc.wish.topk.fraction;
    return s->desc.finals ? fraction * s->desc.texts->length / s->desc.finals->length : fraction;
}

static kas_status read_anchors(const search *s, const quality_texts *texts, const uint32_t *anchors, uint32_t count,
                               double *loss)
{
    const double fraction = texts == s->desc.texts ? short_fraction(s) : s->desc.wish.topk.fraction;
    kas_plan *plan;
    TOOL_TRY(make_plan(s, anchors, count, NULL, fraction, &plan));
    kas_status status = read_plan(s, texts, plan, loss);
    kas_plan_destroy(plan);
    return status;
}

static const trial *find_trial(const search *s, const uint32_t *anchors, uint32_t count)
{
    for (uint32_t i = 0; i < s->trial_count; i++)
        if (s->trials[i].count == count && memcmp(s->trials[i].anchors, anchors, count * sizeof(*anchors)) == 0)
            return &s->trials[i];
    return NULL;
}

static kas_status keep_trial(search *s, const uint32_t *anchors, uint32_t count, double loss)
{
    if (s->trial_count == s->room) {
        uint32_t room = s->room ? 2 * s->room : 64;
        trial *larger = realloc(s->trials, room * sizeof(*larger));
        if (!larger)
            return tool_fail_memory();
        s->trials = larger;
        s->room = room;
    }
    trial *kept = &s->trials[s->trial_count];
    *kept = (trial){.count = count, .anchors = malloc(count * sizeof(*anchors)), .loss = loss};
    if (!kept->anchors)
        return tool_fail_memory();
    memcpy(kept->anchors, anchors, count * sizeof(*anchors));
    s->trial_count++;
    return KAS_OK;
}

static kas_status try_anchors(search *s, const uint32_t *anchors, uint32_t count, double *loss)
{
    const trial *known = find_trial(s, anchors, count);
    if (known) {
        *loss = known->loss;
        return KAS_OK;
    }
    TOOL_TRY(read_anchors(s, s->desc.texts, anchors, count, loss));
    return keep_trial(s, anchors, count, *loss);
}

/* ---- Anchors ---------------------------------------------------------------------------------------------------- */

typedef struct best_set {
    uint32_t *anchors; /* [layers] */
    double loss;
} best_set;

static kas_status consider(search *s, const uint32_t *anchors, uint32_t count, best_set *best)
{
    double loss;
    TOOL_TRY(try_anchors(s, anchors, count, &loss));
    if (loss < best->loss) {
        best->loss = loss;
        memcpy(best->anchors, anchors, count * sizeof(*anchors));
    }
    return KAS_OK;
}

/* The `count` anchors of `set` and `layer`; false when it is one of them already. */
static bool with_layer(const uint32_t *set, uint32_t count, uint32_t layer, uint32_t *anchors)
{
    uint32_t at = 0, used = 0;
    for (; at < count && set[at] < layer; at++)
        anchors[used++] = set[at];
    if (at < count && set[at] == layer)
        return false;
    anchors[used++] = layer;
    for (; at < count; at++)
        anchors[used++] = set[at];
    return true;
}

/* Every layer added to a set of the last count. */
static kas_status grow(search *s, const uint32_t *set, best_set *best)
{
    for (uint32_t layer = 1; layer < s->layers; layer++)
        if (with_layer(set, s->count, layer, s->trying))
            TOOL_TRY(consider(s, s->trying, s->count + 1, best));
    return KAS_OK;
}

static kas_status consider_similar(search *s, uint32_t count, best_set *best)
{
    kas_plan_desc wish = s->desc.wish, made = {.struct_size = sizeof(made)};
    kas_plan *plan;
    wish.anchors = NULL;
    wish.anchor_count = count;
    TOOL_TRY_LIBRARY(kas_calibration_plan(s->desc.anchors, &wish, &plan, NULL));
    kas_plan_get_desc(plan, &made);
    kas_status status = consider(s, made.anchors, count, best);
    kas_plan_destroy(plan);
    return status;
}

/* Moves of one anchor by one layer, for as long as they help. */
static kas_status move_anchors(search *s, uint32_t count, best_set *best)
{
    for (bool moved = true; moved;) {
        const double before = best->loss;
        memcpy(s->anchors, best->anchors, count * sizeof(*s->anchors));
        for (uint32_t i = 1; i < count; i++) {
            const uint32_t low = s->anchors[i - 1], high = i + 1 < count ? s->anchors[i + 1] : s->layers;
            for (int step = -1; step <= 1; step += 2) {
                const uint32_t layer = s->anchors[i] + (uint32_t)step;
                if (layer <= low || layer >= high)
                    continue;
                memcpy(s->trying, s->anchors, count * sizeof(*s->trying));
                s->trying[i] = layer;
                TOOL_TRY(consider(s, s->trying, count, best));
            }
        }
        moved = best->loss < before;
    }
    return KAS_OK;
}

/* Whether a set did better: on the long texts where both have read them, which those do that are good on the short. */
static bool is_better(const trial *a, const trial *b)
{
    if (a->final != b->final)
        return a->final;
    return a->final ? a->final_loss < b->final_loss : a->loss < b->loss;
}

/* The best set of `count` anchors that is worse than `than` (NULL: of all); NULL: there is none. */
static const trial *next_best(const search *s, uint32_t count, const trial *than)
{
    const trial *best = NULL;
    for (uint32_t i = 0; i < s->trial_count; i++) {
        const trial *of = &s->trials[i];
        if (of->count == count && of != than && (!than || is_better(than, of)) && (!best || is_better(of, best)))
            best = of;
    }
    return best;
}

/* Trying a set may move the trials: a parent is found anew by its rank. */
static kas_status grow_parents(search *s, best_set *best)
{
    for (uint32_t rank = 0; rank < PARENTS; rank++) {
        const trial *parent = next_best(s, s->count, NULL);
        for (uint32_t i = 0; parent && i < rank; i++)
            parent = next_best(s, s->count, parent);
        if (!parent)
            break;
        TOOL_TRY(grow(s, parent->anchors, best));
    }
    return KAS_OK;
}

static kas_status find_anchors(search *s, best_set *best)
{
    const uint32_t count = s->count + 1;
    if (s->count == 0) {
        s->trying[0] = 0;
        TOOL_TRY(consider(s, s->trying, 1, best));
    }
    TOOL_TRY(grow_parents(s, best));
    TOOL_TRY(consider_similar(s, count, best));
    return isinf(best->loss) ? KAS_OK : move_anchors(s, count, best);
}

/* The trial of `count` anchors with the least loss among those that have not read the long texts; NULL: none is left. */
static trial *next_finalist(search *s, uint32_t count)
{
    trial *best = NULL;
    for (uint32_t i = 0; i < s->trial_count; i++) {
        trial *of = &s->trials[i];
        if (of->count == count && !of->final && (!best || of->loss < best->loss))
            best = of;
    }
    return best;
}

/* The set that loses least on the long texts takes the place of the one that does on the short texts. */
static kas_status find_final(search *s, uint32_t count, best_set *best)
{
    best->loss = INFINITY;
    for (uint32_t i = 0; i < s->desc.finalists; i++) {
        trial *of = next_finalist(s, count);
        if (!of)
            break;
        of->final = true;
        TOOL_TRY(read_anchors(s, s->desc.finals, of->anchors, count, &of->final_loss));
        if (of->final_loss < best->loss) {
            best->loss = of->final_loss;
            memcpy(best->anchors, of->anchors, count * sizeof(*best->anchors));
        }
    }
    return KAS_OK;
}

/* ---- Head maps --------------------------------------------------------------------------------------------------- */

static bool is_anchor(const search *s, uint32_t layer)
{
    for (uint32_t i = 0; i < s->count; i++)
        if (s->anchors[i] == layer)
            return true;
    return false;
}

/* Reads with `row` in place of a layer's row of the map, and keeps it where that helps. */
static kas_status try_row(search *s, uint32_t *map, uint32_t layer, const uint32_t *row, double *loss)
{
    uint32_t *own = map + (size_t)layer * s->kv_heads, old[1024];
    const size_t bytes = s->kv_heads * sizeof(*row);
    if (memcmp(own, row, bytes) == 0)
        return KAS_OK;
    memcpy(old, own, bytes);
    memcpy(own, row, bytes);
    kas_plan *plan;
    double found;
    TOOL_TRY(make_plan(s, s->anchors, s->count, map, short_fraction(s), &plan));
    kas_status status = read_plan(s, s->desc.texts, plan, &found);
    kas_plan_destroy(plan);
    if (status == KAS_OK && found < *loss - LEAST_MAP_GAIN)
        *loss = found;
    else
        memcpy(own, old, bytes);
    return status;
}

static kas_status refine_rows(search *s, uint32_t *map, const uint32_t *other, double *loss)
{
    uint32_t identity[1024];
    for (uint32_t y = 0; y < s->kv_heads; y++)
        identity[y] = y;
    for (uint32_t layer = 0; layer < s->layers; layer++) {
        if (is_anchor(s, layer))
            continue;
        TOOL_TRY(try_row(s, map, layer, other + (size_t)layer * s->kv_heads, loss));
        TOOL_TRY(try_row(s, map, layer, identity, loss));
    }
    return KAS_OK;
}

/* The plan of s->anchors, its rows tried against those of the other calibration and the identity. */
static kas_status refine_map(search *s, kas_plan **plan, double *loss)
{
    const size_t entries = (size_t)s->layers * s->kv_heads;
    kas_plan_desc wish = s->desc.wish, ours = {.struct_size = sizeof(ours)}, theirs = {.struct_size = sizeof(theirs)};
    kas_plan *own, *other;
    wish.anchors = s->anchors;
    wish.anchor_count = s->count;
    TOOL_TRY_LIBRARY(kas_calibration_plan(s->desc.maps, &wish, &own, NULL));
    kas_status status = kas_calibration_plan(s->desc.anchors, &wish, &other, NULL);
    if (status != KAS_OK) {
        kas_plan_destroy(own);
        return tool_fail_library(status);
    }
    kas_plan_get_desc(own, &ours);
    kas_plan_get_desc(other, &theirs);
    uint32_t *map = malloc(entries * sizeof(*map));
    status = map ? KAS_OK : tool_fail_memory();
    if (map)
        memcpy(map, ours.head_map, entries * sizeof(*map));
    if (status == KAS_OK)
        status = refine_rows(s, map, theirs.head_map, loss);
    if (status == KAS_OK)
        status = make_plan(s, s->anchors, s->count, map, s->desc.wish.topk.fraction, plan);
    free(map);
    kas_plan_destroy(own);
    kas_plan_destroy(other);
    return status;
}

/* The refined map where the long texts bear out what the short ones promised of it; `loss` is that of the plain map. */
static kas_status choose_map(search *s, kas_plan **plan, double *loss)
{
    const double plain = find_trial(s, s->anchors, s->count)->loss;
    double refined = plain, final;
    kas_plan *made;
    TOOL_TRY(refine_map(s, &made, &refined));
    kas_status status = KAS_OK;
    if (!s->desc.finals) {
        *loss = refined;
    } else if (refined < plain) {
        status = read_plan(s, s->desc.finals, made, &final);
        if (status == KAS_OK && final <= *loss) {
            *loss = final;
        } else {
            kas_plan_destroy(made);
            return status == KAS_OK ? make_plan(s, s->anchors, s->count, NULL, s->desc.wish.topk.fraction, plan)
                                    : status;
        }
    }
    *plan = made;
    return status;
}

static kas_status choose_anchors(search *s, best_set *best)
{
    const uint32_t count = s->count + 1;
    TOOL_TRY(find_anchors(s, best));
    if (s->desc.finals)
        TOOL_TRY(find_final(s, count, best));
    if (isinf(best->loss))
        return tool_fail(KAS_ERROR_FORMAT, "no plan of %u anchors has a loss that is a number", count);
    s->count = count;
    memcpy(s->anchors, best->anchors, count * sizeof(*s->anchors));
    return KAS_OK;
}

kas_status search_next(search *made, kas_plan **plan, double *loss)
{
    if (made->count == made->layers)
        return tool_fail(KAS_ERROR_STATE, "every layer is an anchor");
    best_set best = {.anchors = malloc(made->layers * sizeof(*best.anchors)), .loss = INFINITY};
    if (!best.anchors)
        return tool_fail_memory();
    kas_status status = choose_anchors(made, &best);
    if (status == KAS_OK) {
        *loss = best.loss;
        status = choose_map(made, plan, loss);
    }
    free(best.anchors);
    return status;
}
