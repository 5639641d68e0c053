/* verify.c - the comparisons and their bounds. */
#include "verify.h"

#include "../conformance/memory.h"

#include <math.h>
#include <string.h>

/*
 * Lists are sets: a key may stand for another whose score differs by at most this part of the k-th score. Scores have
 * the same bound. A logit of D products in f32 is off by about sqrt(D) * 2^-24 * sum |q_d k_d| * scale, 2e-6 for
 * standard normal values at D = 256; the log-sum-exp that normalises it adds as much, the exponential 2^-21 for each
 * unit of its argument, and the sum over R * T query rows 2^-24 for each doubling or, added in a row, at most 1e-4 of
 * the worst and 1e-6 of the usual case: together well below the bound, which a kernel that rounds a logit or a weight to
 * 16 bits misses by a factor of ten.
 */
#define SCORE_RELATIVE 1e-4
#define SCORE_ABSOLUTE 1e-30

static void blank(uint8_t *bytes, uint64_t offset, uint64_t size, uint8_t poison)
{
    memset(bytes + offset, poison, size);
}

/* Twice what a plain computation in the same precision is off, and 1e-5 of the largest value. */
static double allowance(double ref_error, double most)
{
    return 2.0 * ref_error + 1e-5 * most;
}

static double worst_of(double worst, double got, double expected)
{
    double error = got == expected ? 0.0 : fabs(got - expected);
    return error > worst || isnan(error) ? (isnan(error) ? INFINITY : error) : worst;
}

void verify_attention(conformance_result *result, const char *what, const case_data *data, const data_call *call,
                      const oracle_output *const *outputs, uint8_t *bytes)
{
    const conformance_case *c = data->c;
    size_t size = storage_size(c->dtype);
    double worst = 0.0, ref_error = 0.0, largest = 0.0;
    for (uint32_t b = 0; b < c->batch; b++) {
        ref_error = fmax(ref_error, outputs[b]->out_error);
        largest = fmax(largest, outputs[b]->out_most);
        for (uint32_t i = 0; i < call->q_len[b]; i++) {
            for (uint32_t h = 0; h < data->rule.heads; h++) {
                uint64_t at = data_query_at(data, &data->out_layout, b, call->first + i, h);
                const double *expected = outputs[b]->out + ((size_t)i * data->rule.heads + h) * c->head_dim;
                bool dirty = data->dirty[b * c->kv_heads + h / c->group];
                for (uint32_t d = 0; d < c->head_dim && !dirty; d++)
                    worst = worst_of(worst, storage_get(c->dtype, bytes + data->out_image.base, at + d), expected[d]);
                blank(bytes, data->out_image.base + at * size, c->head_dim * size, DATA_POISON);
            }
        }
    }
    result_measure(result, what, worst, allowance(ref_error, largest));
}

/* A logit is off by a part of the products it sums, which may cancel: the bound counts from 1 upwards. */
void verify_lse(conformance_result *result, const char *what, const case_data *data, const data_call *call,
                const oracle_output *const *outputs, uint8_t *bytes)
{
    const conformance_case *c = data->c;
    double worst = 0.0, ref_error = 0.0, largest = 1.0;
    for (uint32_t b = 0; b < c->batch; b++) {
        ref_error = fmax(ref_error, outputs[b]->lse_error);
        largest = fmax(largest, outputs[b]->lse_most);
        for (uint32_t i = 0; i < call->q_len[b]; i++) {
            for (uint32_t h = 0; h < data->rule.heads; h++) {
                uint64_t at = data_lse_at(data, call, b, i, h);
                if (!data->dirty[b * c->kv_heads + h / c->group])
                    worst = worst_of(worst, storage_get(KAS_DTYPE_F32, bytes + data->lse_image.base, at),
                                     outputs[b]->lse[(size_t)i * data->rule.heads + h]);
                blank(bytes, data->lse_image.base + at * sizeof(float), sizeof(float), DATA_POISON);
            }
        }
    }
    result_measure(result, what, worst, allowance(ref_error, largest));
}

void verify_scores(conformance_result *result, const case_data *data, uint64_t at, const double *expected,
                   uint32_t candidates, uint8_t *bytes)
{
    double worst = 0.0;
    for (uint32_t j = 0; expected && j < candidates; j++) {
        double got = storage_get(KAS_DTYPE_F32, bytes + data->scores_image.base, at + j);
        worst = worst_of(worst, fabs(got - expected[j]) / (SCORE_RELATIVE * expected[j] + SCORE_ABSOLUTE), 0.0);
    }
    result_measure(result, "scores (relative)", worst * SCORE_RELATIVE, SCORE_RELATIVE);
    blank(bytes, data->scores_image.base + at * sizeof(float), candidates * sizeof(float), DATA_POISON);
}

static bool is_ascending(conformance_result *result, const char *what, const oracle_tile *tile, const int32_t *list)
{
    for (uint32_t n = 0; n < tile->keep; n++) {
        if (list[n] < 0 || (uint32_t)list[n] >= tile->candidates || (n > 0 && list[n] <= list[n - 1])) {
            result_fail(result, "%s: entry %u of a list of %u from %u candidates is %d after %d", what, n, tile->keep,
                        tile->candidates, list[n], n > 0 ? list[n - 1] : -1);
            return false;
        }
    }
    return true;
}

bool verify_list(conformance_result *result, const char *what, const oracle_tile *tile, const double *scores,
                 const int32_t *list)
{
    if (!is_ascending(result, what, tile, list))
        return false;
    if (!scores || tile->keep == 0 || tile->keep == tile->candidates)
        return true;
    int32_t *expected = memory_alloc(tile->keep, sizeof(int32_t));
    bool *member = memory_alloc(tile->candidates, sizeof(bool));
    oracle_select(scores, tile->candidates, tile->keep, expected);
    double kth = INFINITY, worst = 0.0;
    for (uint32_t n = 0; n < tile->keep; n++)
        kth = fmin(kth, scores[expected[n]]);
    for (uint32_t n = 0; n < tile->keep; n++)
        member[list[n]] = true;
    for (uint32_t n = 0; n < tile->keep; n++) {
        if (!member[expected[n]])
            worst = fmax(worst, fabs(scores[expected[n]] - kth));
        member[expected[n]] = false;
    }
    /* What is left of the members is in the device's list alone. */
    for (uint32_t j = 0; j < tile->candidates; j++)
        if (member[j])
            worst = fmax(worst, fabs(scores[j] - kth));
    result_measure(result, what, worst, SCORE_RELATIVE * kth + SCORE_ABSOLUTE);
    free(expected);
    free(member);
    return true;
}

void verify_exact_list(conformance_result *result, const case_data *data, uint64_t at, const int32_t *expected,
                       uint32_t keep, uint8_t *bytes)
{
    uint64_t offset = data->lists_image.base + at * sizeof(int32_t);
    for (uint32_t n = 0; n < data->list_width; n++) {
        int32_t got, wanted = n < keep ? expected[n] : -1;
        memcpy(&got, bytes + offset + n * sizeof(got), sizeof(got));
        if (got != wanted)
            result_fail(result, "select: entry %u of %u is %d, the oracle's is %d", n, keep, got, wanted);
    }
    blank(bytes, offset, data->list_width * sizeof(int32_t), DATA_POISON_INTEGER);
}

void verify_sum(conformance_result *result, const case_data *data, uint64_t at, const float *values,
                const int32_t *list, uint32_t count, uint8_t *bytes)
{
    double exact = 0.0, most = 0.0;
    float plain = 0.0f;
    for (uint32_t n = 0; n < count; n++) {
        exact += values[list[n]];
        most += fabs(values[list[n]]);
        plain += values[list[n]];
    }
    double got = storage_get(KAS_DTYPE_F32, bytes + data->mass_image.base, at);
    result_measure(result, "mass", worst_of(0.0, got, exact), allowance(fabs(plain - exact), most));
    blank(bytes, data->mass_image.base + at * sizeof(float), sizeof(float), DATA_POISON);
}

static void verify_range(conformance_result *result, const char *what, const data_image *image, const uint8_t *bytes,
                         uint64_t begin, uint64_t end)
{
    if (memcmp(bytes + begin, image->bytes + begin, end - begin) == 0)
        return;
    uint64_t at = begin;
    while (bytes[at] == image->bytes[at])
        at++;
    result_fail(result, "%s: byte %lld of the payload was written and belongs to nothing", what,
                (long long)at - (long long)image->base);
}

void verify_untouched(conformance_result *result, const char *what, const data_image *image, const uint8_t *bytes)
{
    verify_range(result, what, image, bytes, 0, image->size);
}

void verify_guards(conformance_result *result, const char *what, const data_image *image, const uint8_t *bytes,
                   uint64_t payload)
{
    verify_range(result, what, image, bytes, 0, image->base);
    verify_range(result, what, image, bytes, image->base + payload, image->size);
}
