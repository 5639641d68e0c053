/* measure.c - see measure.h. */
#include "measure.h"

#include <stdlib.h>

struct measurement {
    kas_calibrator *calibrators[MEASURE_MAX_LISTENERS];
    kas_calibration found[MEASURE_MAX_LISTENERS];
};

typedef struct reader {
    const measure_desc *desc;
    measurement *made;
    kas_buffer *before, *after; /* [length, hidden], f32 */
    uint32_t *tokens;
    uint32_t prompts_done;
} reader;

static kas_status create_calibrator(const measure_desc *desc, const measure_listener *listener,
                                    kas_calibrator **calibrator)
{
    const lm_config *config = &desc->model->config;
    const kas_calibrator_desc wanted = {
        .struct_size = sizeof(wanted),
        .layers = config->layers,
        .heads = config->heads,
        .kv_heads = config->kv_heads,
        .head_dim = config->head_dim,
        .hidden = config->hidden,
        .max_tokens = desc->length,
        .dtype = desc->dtype,
        .hidden_dtype = KAS_DTYPE_F32,
        .tile = desc->tile,
        .list_keys = listener->list_keys,
        .reduce = listener->reduce,
    };
    TOOL_TRY_LIBRARY(kas_calibrator_create(desc->context, &wanted, calibrator));
    return KAS_OK;
}

/* A layer of a prompt on its way to every calibrator. */
static kas_status feed(void *user, const lm_observation *observation)
{
    reader *from = user;
    const measure_desc *desc = from->desc;
    const uint64_t bytes = (uint64_t)observation->rows * desc->model->config.hidden * sizeof(float);
    TOOL_TRY_LIBRARY(kas_buffer_write(observation->stream, from->before, 0, observation->before, bytes));
    TOOL_TRY_LIBRARY(kas_buffer_write(observation->stream, from->after, 0, observation->after, bytes));
    const kas_calibration_layer layer = {
        .struct_size = sizeof(layer),
        .layer = observation->layer,
        .tokens = observation->rows,
        .q = {.buffer = observation->q},
        .k = {.buffer = observation->k},
        .before = {.buffer = from->before},
        .after = {.buffer = from->after},
    };
    for (uint32_t i = 0; i < desc->listener_count; i++)
        TOOL_TRY_LIBRARY(kas_calibrator_feed(from->made->calibrators[i], observation->stream, &layer));
    const double layers = desc->model->config.layers;
    if (desc->progress)
        desc->progress(desc->progress_user,
                       (from->prompts_done + (observation->layer + 1) / layers) / desc->prompts);
    return KAS_OK;
}

/* A reading needs a plan for its shape; dense attention looks at nothing else of it. */
static kas_status create_plan(const measure_desc *desc, kas_plan **plan)
{
    const lm_config *config = &desc->model->config;
    const uint32_t first = 0;
    const kas_plan_desc shape = {
        .struct_size = sizeof(shape),
        .layers = config->layers,
        .heads = config->heads,
        .kv_heads = config->kv_heads,
        .tile = desc->tile,
        .anchors = &first,
        .anchor_count = 1,
    };
    TOOL_TRY_LIBRARY(kas_plan_create(&shape, plan));
    return KAS_OK;
}

/* Each prompt is one prefill call, so that its tiles are those of the whole prompt. */
static kas_status read_prompts(reader *from, const kas_plan *plan)
{
    const measure_desc *desc = from->desc;
    const lm_sequence_desc sequence_desc = {
        .model = desc->model,
        .context = desc->context,
        .plan = plan,
        .attention = LM_ATTENTION_DENSE,
        .dtype = desc->dtype,
        .max_tokens = desc->length,
        .chunk = (desc->length + 127) / 128 * 128,
        .observe = feed,
        .observe_user = from,
    };
    lm_sequence *sequence;
    TOOL_TRY(lm_sequence_create(&sequence_desc, &sequence));
    kas_status status = KAS_OK;
    for (uint32_t i = 0; status == KAS_OK && i < desc->prompts; i++) {
        for (uint32_t j = 0; j < desc->length; j++)
            from->tokens[j] = desc->text[(size_t)i * desc->length + j];
        lm_sequence_truncate(sequence, 0);
        status = lm_sequence_prefill(sequence, from->tokens, desc->length, NULL, NULL);
        from->prompts_done++;
    }
    lm_sequence_destroy(sequence);
    return status;
}

static kas_status run(reader *from)
{
    const measure_desc *desc = from->desc;
    const uint64_t hidden = (uint64_t)desc->length * desc->model->config.hidden * sizeof(float);
    for (uint32_t i = 0; i < desc->listener_count; i++)
        TOOL_TRY(create_calibrator(desc, &desc->listeners[i], &from->made->calibrators[i]));
    TOOL_TRY_LIBRARY(kas_buffer_create(desc->context, hidden, &from->before));
    TOOL_TRY_LIBRARY(kas_buffer_create(desc->context, hidden, &from->after));
    from->tokens = malloc(desc->length * sizeof(*from->tokens));
    if (!from->tokens)
        return tool_fail_memory();
    kas_plan *plan;
    TOOL_TRY(create_plan(desc, &plan));
    kas_status status = read_prompts(from, plan);
    kas_plan_destroy(plan);
    if (status != KAS_OK)
        return status;
    for (uint32_t i = 0; i < desc->listener_count; i++) {
        from->made->found[i].struct_size = sizeof(kas_calibration);
        TOOL_TRY_LIBRARY(kas_calibrator_finish(from->made->calibrators[i], &from->made->found[i]));
    }
    return KAS_OK;
}

kas_status measure(const measure_desc *desc, measurement **made)
{
    reader from = {.desc = desc, .made = calloc(1, sizeof(*from.made))};
    if (!from.made)
        return tool_fail_memory();
    kas_status status = run(&from);
    kas_buffer_destroy(from.before);
    kas_buffer_destroy(from.after);
    free(from.tokens);
    if (status != KAS_OK) {
        measurement_destroy(from.made);
        return status;
    }
    *made = from.made;
    return KAS_OK;
}

void measurement_destroy(measurement *made)
{
    for (uint32_t i = 0; made && i < MEASURE_MAX_LISTENERS; i++)
        kas_calibrator_destroy(made->calibrators[i]);
    free(made);
}

const kas_calibration *measurement_of(const measurement *made, uint32_t index)
{
    return &made->found[index];
}
