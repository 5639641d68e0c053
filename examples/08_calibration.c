/*
 * 08_calibration.c - from a model's own queries and keys to an anchor plan: each layer of two prompts is fed to a
 * calibrator, which says how well every layer's lists serve the layers behind it; the plan is saved and loaded again.
 *
 * The model is a stand-in: layers 0 to 3 look for the same keys, and so do layers 4 and 5.
 */
#include "check.h"

enum { LAYERS = 6, HEADS = 4, KV_HEADS = 2, DIM = 32, HIDDEN = 64, TOKENS = 512, ANCHORS = 2 };

static float *host(kas_buffer *buffer)
{
    return kas_buffer_host(buffer);
}

static void draw(float *values, int count, float size)
{
    for (int i = 0; i < count; i++)
        values[i] = size * ((float)rand() / (float)RAND_MAX - 0.5f);
}

/* Attention that reads the prompt would stand here: it leaves q, k and the hidden states around it. */
static void run_layer(int layer, kas_buffer *q, kas_buffer *k, kas_buffer *before, kas_buffer *after)
{
    if (layer == 0 || layer == 4) {
        draw(host(q), TOKENS * HEADS * DIM, 4);
        draw(host(k), TOKENS * KV_HEADS * DIM, 4);
    }
    draw(host(before), TOKENS * HIDDEN, 1);
    for (int i = 0; i < TOKENS * HIDDEN; i++)
        host(after)[i] = host(before)[i] + 0.1f * ((float)rand() / (float)RAND_MAX - 0.5f);
}

int main(void)
{
    kas_context *context;
    kas_stream *stream;
    kas_calibrator *calibrator;
    kas_buffer *q, *k, *before, *after;
    CHECK(kas_context_create(&(kas_context_desc){.struct_size = sizeof(kas_context_desc), .device = "cpu"}, &context));
    CHECK(kas_stream_create(context, &stream));
    CHECK(kas_buffer_create(context, sizeof(float) * TOKENS * HEADS * DIM, &q));
    CHECK(kas_buffer_create(context, sizeof(float) * TOKENS * KV_HEADS * DIM, &k));
    CHECK(kas_buffer_create(context, sizeof(float) * TOKENS * HIDDEN, &before));
    CHECK(kas_buffer_create(context, sizeof(float) * TOKENS * HIDDEN, &after));
    CHECK(kas_calibrator_create(context,
                                &(kas_calibrator_desc){.struct_size = sizeof(kas_calibrator_desc),
                                                       .layers = LAYERS,
                                                       .heads = HEADS,
                                                       .kv_heads = KV_HEADS,
                                                       .head_dim = DIM,
                                                       .hidden = HIDDEN,
                                                       .max_tokens = TOKENS,
                                                       .dtype = KAS_DTYPE_F32},
                                &calibrator));
    for (int prompt = 0; prompt < 2; prompt++)
        for (int layer = 0; layer < LAYERS; layer++) {
            run_layer(layer, q, k, before, after);
            CHECK(kas_calibrator_feed(calibrator, stream,
                                      &(kas_calibration_layer){.struct_size = sizeof(kas_calibration_layer),
                                                               .layer = (uint32_t)layer,
                                                               .tokens = TOKENS,
                                                               .q = {.buffer = q},
                                                               .k = {.buffer = k},
                                                               .before = {.buffer = before},
                                                               .after = {.buffer = after}}));
        }

    kas_calibration found = {.struct_size = sizeof(found)};
    kas_plan *plan;
    double objective;
    CHECK(kas_calibrator_finish(calibrator, &found));
    CHECK(kas_calibration_plan(&found,
                               &(kas_plan_desc){.struct_size = sizeof(kas_plan_desc),
                                                .model = "stand-in",
                                                .source = "examples/08_calibration.c",
                                                .layers = LAYERS,
                                                .heads = HEADS,
                                                .kv_heads = KV_HEADS,
                                                .anchor_count = ANCHORS},
                               &plan, &objective));
    kas_plan_desc made = {.struct_size = sizeof(made)};
    CHECK(kas_plan_get_desc(plan, &made));
    printf("anchors %u and %u, objective %.4f; head 0 of layer 5 reads row %u\n", made.anchors[0], made.anchors[1],
           objective, made.head_map[5 * KV_HEADS]);
    const int right = made.anchors[1] == 4;

    CHECK(kas_plan_save(plan, "calibration_example.json"));
    kas_plan_destroy(plan);
    CHECK(kas_plan_load("calibration_example.json", &plan));
    remove("calibration_example.json");

    kas_plan_destroy(plan);
    kas_calibrator_destroy(calibrator);
    kas_buffer_destroy(q);
    kas_buffer_destroy(k);
    kas_buffer_destroy(before);
    kas_buffer_destroy(after);
    kas_stream_destroy(stream);
    kas_context_destroy(context);
    if (!right)
        fprintf(stderr, "layer 4 is where attention changes, but it was not chosen\n");
    return right ? 0 : 1;
}
