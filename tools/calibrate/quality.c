/* quality.c - see quality.h. */
#include "quality.h"

#include "byte_model.h"

#include <math.h>
#include <stdlib.h>

#define CHUNK 2048u

static kas_status read_texts(const quality_texts *set, lm_attention attention, const kas_plan *plan, quality *found)
{
    const lm_sequence_desc desc = {
        .model = set->model,
        .context = set->context,
        .plan = plan,
        .attention = attention,
        .dtype = set->dtype,
        .chunk = CHUNK,
    };
    lm_tally tally = {0};
    for (uint32_t i = 0; i < set->count; i++)
        TOOL_TRY(lm_evaluate_forced(&desc, &set->texts[i], &tally));
    const lm_score score = lm_tally_score(&tally, set->count, set->model->config.layers);
    *found = (quality){
        .bits_per_byte = score.bits_per_byte,
        .digit_bits = tally.digit_bits / ((double)tally.values * LM_VALUE_DIGITS),
        .recall = score.recall,
        .keys_share = score.keys_attended_share,
    };
    return KAS_OK;
}

uint64_t quality_texts_bytes(const lm_model *model, uint32_t count, uint32_t length, uint32_t values)
{
    return count * lm_recall_text_bytes(byte_model_start(model), length, values);
}

kas_status quality_texts_make(quality_texts *set, const unsigned char *bytes, uint32_t values, uint64_t seed,
                              const kas_plan *shape)
{
    const int64_t start = byte_model_start(set->model);
    const uint64_t size = lm_recall_text_bytes(start, set->length, values);
    set->texts = calloc(set->count, sizeof(*set->texts));
    if (!set->texts)
        return tool_fail_memory();
    for (uint32_t i = 0; i < set->count; i++)
        TOOL_TRY(lm_recall_text_make(bytes + i * size, size, start, set->length, values, seed << 32 | i,
                                     &set->texts[i]));
    return read_texts(set, LM_ATTENTION_DENSE, shape, &set->dense);
}

void quality_texts_release(quality_texts *set)
{
    for (uint32_t i = 0; set->texts && i < set->count; i++)
        lm_recall_text_release(&set->texts[i]);
    free(set->texts);
    set->texts = NULL;
}

double quality_texts_cost(const quality_texts *set)
{
    return set->count * pow(set->length, 1.5);
}

kas_status quality_measure(const quality_texts *set, const kas_plan *plan, quality *found)
{
    return read_texts(set, LM_ATTENTION_PLAN, plan, found);
}

double quality_change(const quality_texts *set, const quality *found)
{
    return found->bits_per_byte / set->dense.bits_per_byte - 1;
}

double quality_loss(const quality_texts *set, const quality *found)
{
    const double forgotten = (found->digit_bits - set->dense.digit_bits) / log2(10.0);
    return quality_change(set, found) + (forgotten > 0 ? forgotten : 0);
}
