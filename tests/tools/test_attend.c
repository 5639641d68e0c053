/*
 * test_attend.c - `kascade attend` over .npy files against the definition written out in double precision: outputs,
 * lists and scores of every phase and role, and no file left behind when something is wrong.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "half.h"
#include "npy.h"
#include "run.h"
#include "scratch.h"

#include <math.h>
#include <stdbool.h>

enum { TOPK_MIN = 16, TOPK_ROUND = 8, LIST = 24 }; /* LIST: entries of a caller's list */

typedef struct shape {
    bool decode, half;
    uint32_t batch, keys, queries, heads, kv_heads, dim, tile;
} shape;

typedef struct problem {
    shape s;
    scratch files;
    double *q, *k, *v; /* [B, Lq, H, D], [B, L, G, D] as stored */
    int32_t *lists;    /* [B, G, tiles, LIST] of a caller */
    uint32_t tiles, first_tile;
} problem;

static uint32_t random_state;

static double random_value(void)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (double)(random_state >> 8) / (1 << 23) - 1.0;
}

static double *make_tensor(problem *p, const char *name, const uint64_t *dims, uint32_t count)
{
    uint64_t size = 1;
    for (uint32_t i = 0; i < count; i++)
        size *= dims[i];
    double *values = malloc(size * sizeof(double));
    float *plain = malloc(size * sizeof(float));
    uint16_t *halves = malloc(size * sizeof(uint16_t));
    for (uint64_t i = 0; i < size; i++) {
        plain[i] = (float)(2.0 * random_value());
        halves[i] = half_from_float(plain[i]);
        values[i] = p->s.half ? half_to_float(halves[i]) : plain[i];
    }
    const void *stored = p->s.half ? (const void *)halves : (const void *)plain;
    assert_int_equal(npy_save(scratch_path(&p->files, name), p->s.half ? NPY_F2 : NPY_F4, dims, count, stored), KAS_OK);
    free(plain);
    free(halves);
    return values;
}

/* Candidates of tile u, which are also the keys before its own. */
static uint32_t candidates_of(const problem *p, uint32_t u)
{
    return p->s.decode ? p->s.keys : (p->first_tile + u) * p->s.tile;
}

static uint32_t kept_of(uint32_t candidates)
{
    uint32_t kept = candidates / 10 > TOPK_MIN ? candidates / 10 : TOPK_MIN;
    kept = (kept + TOPK_ROUND - 1) / TOPK_ROUND * TOPK_ROUND;
    return kept < candidates ? kept : candidates;
}

/* Every third, fifth, ... candidate, as many as there are up to LIST. */
static void make_lists(problem *p)
{
    const shape *s = &p->s;
    p->lists = malloc(sizeof(int32_t) * s->batch * s->kv_heads * p->tiles * LIST);
    for (uint32_t row = 0; row < s->batch * s->kv_heads; row++)
        for (uint32_t u = 0; u < p->tiles; u++)
            for (uint32_t n = 0; n < LIST; n++) {
                uint32_t key = n * (2 * (row % 3) + 3) + row % 5;
                p->lists[(row * p->tiles + u) * LIST + n] = key < candidates_of(p, u) ? (int32_t)key : -1;
            }
    const uint64_t prefill[] = {s->batch, s->kv_heads, p->tiles, LIST}, decode[] = {s->batch, s->kv_heads, LIST};
    assert_int_equal(npy_save(scratch_path(&p->files, "lists.npy"), NPY_I4, s->decode ? decode : prefill,
                              s->decode ? 3 : 4, p->lists),
                     KAS_OK);
}

static void open_problem(problem *p, const shape *s)
{
    *p = (problem){.s = *s};
    random_state = 7;
    assert_int_equal(scratch_open(&p->files), 0);
    p->first_tile = s->decode ? 0 : (s->keys - s->queries) / s->tile;
    p->tiles = s->decode ? 1 : (s->keys - 1) / s->tile - p->first_tile + 1;
    const uint64_t q[] = {s->batch, s->queries, s->heads, s->dim}, decode_q[] = {s->batch, s->heads, s->dim};
    const uint64_t kv[] = {s->batch, s->keys, s->kv_heads, s->dim};
    p->q = make_tensor(p, "q.npy", s->decode ? decode_q : q, s->decode ? 3 : 4);
    p->k = make_tensor(p, "k.npy", kv, 4);
    p->v = make_tensor(p, "v.npy", kv, 4);
    make_lists(p);
}

static void close_problem(problem *p)
{
    free(p->q);
    free(p->k);
    free(p->v);
    free(p->lists);
    scratch_close(&p->files);
}

static void run_role(problem *p, const char *role, const char *more)
{
    const shape *s = &p->s;
    const char *f = p->files.folder;
    const command_result *result = run_command(
        "attend --phase %s --role %s --q %s/q.npy --k %s/k.npy --v %s/v.npy --topk 0.1 --topk-min %d --topk-round %d "
        "--tile %u --out %s/out.npy %s",
        s->decode ? "decode" : "prefill", role, f, f, f, TOPK_MIN, TOPK_ROUND, s->tile, f, more);
    if (result->code != 0)
        fail_msg("%s ended with %d: %s", role, result->code, result->output);
}

static double logit(const problem *p, uint32_t b, uint32_t i, uint32_t h, uint32_t j)
{
    const shape *s = &p->s;
    const double *q = p->q + (((uint64_t)b * s->queries + i) * s->heads + h) * s->dim;
    const double *k = p->k + (((uint64_t)b * s->keys + j) * s->kv_heads + h / (s->heads / s->kv_heads)) * s->dim;
    double sum = 0;
    for (uint32_t d = 0; d < s->dim; d++)
        sum += q[d] * k[d];
    return sum / sqrt(s->dim);
}

/* Largest difference of a query row's output from attention over the given keys. */
static double row_error(const problem *p, const npy_array *out, uint32_t b, uint32_t i, uint32_t h,
                        const uint32_t *keys, uint32_t count)
{
    const shape *s = &p->s;
    double most = -INFINITY, sum = 0, worst = 0;
    for (uint32_t n = 0; n < count; n++)
        most = fmax(most, logit(p, b, i, h, keys[n]));
    for (uint32_t n = 0; n < count; n++)
        sum += exp(logit(p, b, i, h, keys[n]) - most);
    for (uint32_t d = 0; d < s->dim; d++) {
        double wanted = 0;
        for (uint32_t n = 0; n < count; n++)
            wanted +=
                exp(logit(p, b, i, h, keys[n]) - most) / sum *
                p->v[(((uint64_t)b * s->keys + keys[n]) * s->kv_heads + h / (s->heads / s->kv_heads)) * s->dim + d];
        uint64_t at = (((uint64_t)b * s->queries + i) * s->heads + h) * s->dim + d;
        double got = s->half ? half_to_float(((const uint16_t *)out->data)[at]) : ((const float *)out->data)[at];
        worst = fmax(worst, fabs(got - wanted));
    }
    return worst;
}

/* Outputs against the lists in `lists` (width entries a tile, row `map[g]` for kv head g); dense when lists is NULL. */
static void check_output(problem *p, const int32_t *lists, uint32_t width, const uint32_t *map)
{
    const shape *s = &p->s;
    npy_array out;
    assert_int_equal(npy_open(scratch_path(&p->files, "out.npy"), &out), KAS_OK);
    assert_int_equal(out.dtype, s->half ? NPY_F2 : NPY_F4);
    assert_int_equal(out.count, (uint64_t)s->batch * s->queries * s->heads * s->dim);
    uint32_t *keys = malloc(sizeof(uint32_t) * (s->keys + width));
    double worst = 0;
    for (uint32_t b = 0; b < s->batch; b++)
        for (uint32_t i = 0; i < s->queries; i++)
            for (uint32_t h = 0; h < s->heads; h++) {
                uint32_t position = s->keys - s->queries + i, count = 0;
                uint32_t u = s->decode ? 0 : position / s->tile - p->first_tile;
                uint32_t g = map ? map[h / (s->heads / s->kv_heads)] : h / (s->heads / s->kv_heads);
                const int32_t *list = lists ? lists + ((uint64_t)(b * s->kv_heads + g) * p->tiles + u) * width : NULL;
                for (uint32_t n = 0; list && n < width; n++)
                    if (list[n] >= 0)
                        keys[count++] = (uint32_t)list[n];
                for (uint32_t j = list ? candidates_of(p, u) : 0; j <= position; j++)
                    keys[count++] = j;
                worst = fmax(worst, row_error(p, &out, b, i, h, keys, count));
            }
    free(keys);
    npy_close(&out);
    if (!(worst <= (s->half ? 4e-3 : 2e-5)))
        fail_msg("output is off by %g", worst);
}

static double pooled_score(const problem *p, uint32_t b, uint32_t g, uint32_t u, uint32_t j)
{
    const shape *s = &p->s;
    uint32_t group = s->heads / s->kv_heads;
    double sum = 0;
    for (uint32_t i = 0; i < s->queries; i++) {
        uint32_t position = s->keys - s->queries + i;
        if (!s->decode && position / s->tile - p->first_tile != u)
            continue;
        for (uint32_t h = g * group; h < (g + 1) * group; h++) {
            double all = 0;
            for (uint32_t n = 0; n <= position; n++)
                all += exp(logit(p, b, i, h, n));
            sum += exp(logit(p, b, i, h, j)) / all;
        }
    }
    return sum;
}

/* Published scores against the definition, at every candidate of the last tile and some of the others. */
static void check_scores(problem *p, const float *scores)
{
    const shape *s = &p->s;
    for (uint32_t row = 0; row < s->batch * s->kv_heads; row++)
        for (uint32_t u = 0; u < p->tiles; u++)
            for (uint32_t j = 0; j < s->keys; j++) {
                double got = scores[((uint64_t)row * p->tiles + u) * s->keys + j];
                if (j >= candidates_of(p, u)) {
                    assert_true(isnan(got));
                } else if (u + 1 == p->tiles || j % 17 == 0) {
                    double wanted = pooled_score(p, row / s->kv_heads, row % s->kv_heads, u, j);
                    if (!(fabs(got - wanted) <= 1e-4 * wanted + 1e-7))
                        fail_msg("score of row %u, tile %u, key %u is %g, not %g", row, u, j, got, wanted);
                }
            }
}

/* A list holds the best of the published scores, ascending, lower keys first on ties. */
static void check_list(const int32_t *list, uint32_t width, const float *scores, uint32_t candidates)
{
    uint32_t kept = kept_of(candidates);
    for (uint32_t n = 0; n < width; n++)
        assert_true(n < kept ? list[n] >= 0 && (n == 0 || list[n] > list[n - 1]) : list[n] == -1);
    for (uint32_t n = 0; n < kept; n++) {
        uint32_t better = 0, key = (uint32_t)list[n];
        for (uint32_t j = 0; j < candidates; j++)
            better += scores[j] > scores[key] || (scores[j] == scores[key] && j < key);
        assert_in_range(better, 0, kept - 1);
    }
}

static void check_published(problem *p, bool sparse)
{
    const shape *s = &p->s;
    npy_array lists, scores;
    char path[512];
    snprintf(path, sizeof(path), "%s/indices.npy", p->files.folder);
    assert_int_equal(npy_open(path, &lists), KAS_OK);
    assert_int_equal(npy_open(scratch_path(&p->files, "scores.npy"), &scores), KAS_OK);
    assert_int_equal(lists.dtype, NPY_I4);
    assert_int_equal(lists.dims, s->decode ? 3 : 4);
    assert_int_equal(scores.count, (uint64_t)s->batch * s->kv_heads * p->tiles * s->keys);
    uint32_t width = (uint32_t)lists.shape[lists.dims - 1];
    check_scores(p, scores.data);
    for (uint32_t row = 0; row < s->batch * s->kv_heads; row++)
        for (uint32_t u = 0; u < p->tiles; u++)
            check_list((const int32_t *)lists.data + ((uint64_t)row * p->tiles + u) * width, width,
                       (const float *)scores.data + ((uint64_t)row * p->tiles + u) * s->keys, candidates_of(p, u));
    check_output(p, sparse ? lists.data : NULL, sparse ? width : 0, NULL);
    npy_close(&lists);
    npy_close(&scores);
}

static const shape shapes[] = {
    {false, false, 2, 147, 147, 6, 2, 37, 32}, /* odd head dimension, group of 3, last tile cut */
    {false, true, 1, 205, 70, 8, 1, 64, 16},   /* a chunk behind other keys */
    {false, false, 1, 33, 1, 2, 2, 8, 32},     /* one query */
    {false, false, 1, 1, 1, 4, 2, 16, 32},     /* one key */
    {true, false, 3, 129, 1, 6, 2, 96, 32},    {true, true, 1, 400, 1, 16, 2, 128, 32},
    {true, false, 2, 1, 1, 4, 2, 32, 32},
};

static void round_trips(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
        problem p;
        char more[1024];
        open_problem(&p, &shapes[i]);
        const char *f = p.files.folder;
        snprintf(more, sizeof(more), "--out-indices %s/indices.npy --out-scores %s/scores.npy", f, f);
        run_role(&p, "dense", more);
        check_published(&p, false);
        run_role(&p, "anchor", more);
        check_published(&p, true);
        snprintf(more, sizeof(more), "--indices %s/lists.npy", f);
        run_role(&p, "reuse", more);
        check_output(&p, p.lists, LIST, NULL);
        if (shapes[i].kv_heads == 2) {
            snprintf(more, sizeof(more), "--indices %s/lists.npy --head-map 1,0", f);
            run_role(&p, "reuse", more);
            check_output(&p, p.lists, LIST, (const uint32_t[]){1, 0});
        }
        close_problem(&p);
    }
}

/* Whatever is wrong: a status, a word of what it was, and no file that was not there before. */
static void refused(problem *p, int code, const char *said, const char *arguments)
{
    int files = scratch_count(&p->files, 0);
    const command_result *result = run_command("%s", arguments);
    if (result->code != code || !strstr(result->output, said))
        fail_msg("'%s' ended with %d and not %d, or without '%s': %s", arguments, result->code, code, said,
                 result->output);
    assert_int_equal(scratch_count(&p->files, 0), files);
}

static void bad_input(void **state)
{
    (void)state;
    problem p;
    char line[4096], tensors[1024];
    open_problem(&p, &shapes[0]);
    const char *f = p.files.folder;
    snprintf(tensors, sizeof(tensors), "--q %s/q.npy --k %s/k.npy --v %s/v.npy", f, f, f);
#define refuse(code, said, ...)                                                                                        \
    do {                                                                                                               \
        snprintf(line, sizeof(line), __VA_ARGS__);                                                                     \
        refused(&p, code, said, line);                                                                                 \
    } while (0)
    refuse(2, "indices", "attend --phase prefill --role reuse %s --out %s/o.npy", tensors, f);
    refuse(3, "absent.npy",
           "attend --phase prefill --role dense --q %s/absent.npy --k %s/k.npy --v %s/v.npy --out %s/o.npy", f, f, f,
           f);
    refuse(3, "q.npy", "attend --phase decode --role dense %s --out %s/o.npy", tensors, f);
    refuse(3, "nowhere", "attend --phase prefill --role dense %s --out %s/nowhere/o.npy", tensors, f);
    refuse(2, "head-map", "attend --phase prefill --role reuse %s --indices %s/lists.npy --head-map 0,2 --out %s/o.npy",
           tensors, f, f);
    refuse(2, "head-map", "attend --phase prefill --role reuse %s --indices %s/lists.npy --head-map 0 --out %s/o.npy",
           tensors, f, f);
    refuse(3, "q.npy", "attend --phase prefill --role dense --q %s/q.npy --k %s/q.npy --v %s/v.npy --out %s/o.npy", f,
           f, f, f);
    refuse(4, "teapot", "attend --phase prefill --role dense %s --device teapot --out %s/o.npy", tensors, f);
    char command[1024];
    snprintf(command, sizeof(command), "head -c 200 %s/k.npy >%s/short.npy", f, f);
    assert_int_equal(system(command), 0);
    refuse(3, "short.npy",
           "attend --phase prefill --role dense --q %s/q.npy --k %s/short.npy --v %s/v.npy --out %s/o.npy", f, f, f, f);
    close_problem(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(round_trips), cmocka_unit_test(bad_input)};
    return cmocka_run_group_tests_name("tools.attend", tests, NULL, NULL);
}
