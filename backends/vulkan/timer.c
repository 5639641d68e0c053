/* timer.c - timestamps that the device writes between pieces of work. */
#include "context.h"

#include <string.h>

struct kas_backend_timer {
    kas_backend_context *context;
    VkQueryPool pool;
    uint32_t marks;
    bool *stale; /* [marks]: to be reset before it is written */
};

/* A reset costs the work around it 14 us on NVIDIA's devices: mark 0 resets all, so that none lies between the marks. */
static void reset_marks(kas_backend_timer *timer, kas_backend_stream *stream, uint32_t index)
{
    uint32_t count = index == 0 ? timer->marks : 1;
    if (index != 0 && !timer->stale[index])
        return;
    stream->context->api.CmdResetQueryPool(stream->commands, timer->pool, index, count);
    memset(timer->stale + index, false, count * sizeof(*timer->stale));
}

static void release_timer(kas_backend_timer *timer)
{
    kas_release(timer->stale);
    kas_release(timer);
}

kas_status kas_vulkan_timer_create(kas_backend_context *context, uint32_t marks, kas_backend_timer **timer)
{
    KAS_TRY(kas_vulkan_usable(context));
    if (context->limits.timestamp_bits == 0)
        return kas_fail(KAS_ERROR_UNSUPPORTED, "queue family %u of the device has no timestamps",
                        context->limits.queue_family);
    kas_backend_timer *t = kas_alloc(1, sizeof(*t));
    bool *stale = kas_alloc(marks, sizeof(*stale));
    if (!t || !stale) {
        kas_release(stale);
        kas_release(t);
        return kas_fail_memory();
    }
    memset(stale, true, marks * sizeof(*stale));
    *t = (kas_backend_timer){.context = context, .marks = marks, .stale = stale};
    VkQueryPoolCreateInfo create = {.sType = VK_STRUCTURE_TYPE_QUERY_POOL_CREATE_INFO,
                                    .queryType = VK_QUERY_TYPE_TIMESTAMP,
                                    .queryCount = marks};
    VkResult result = context->api.CreateQueryPool(context->device, &create, NULL, &t->pool);
    if (result != VK_SUCCESS) {
        release_timer(t);
        return kas_vulkan_check(context, result, "vkCreateQueryPool");
    }
    *timer = t;
    return KAS_OK;
}

void kas_vulkan_timer_destroy(kas_backend_timer *timer)
{
    timer->context->api.DestroyQueryPool(timer->context->device, timer->pool, NULL);
    release_timer(timer);
}

kas_status kas_vulkan_timer_mark(kas_backend_timer *timer, kas_backend_stream *stream, uint32_t index)
{
    KAS_TRY(kas_vulkan_stream_record(stream));
    reset_marks(timer, stream, index);
    timer->stale[index] = true;
    stream->context->api.CmdWriteTimestamp(stream->commands, VK_PIPELINE_STAGE_BOTTOM_OF_PIPE_BIT, timer->pool, index);
    return KAS_OK;
}

static kas_status read_mark(kas_backend_timer *timer, uint32_t index, uint64_t *ticks)
{
    kas_backend_context *c = timer->context;
    VkResult result = c->api.GetQueryPoolResults(c->device, timer->pool, index, 1, sizeof(*ticks), ticks,
                                                 sizeof(*ticks), VK_QUERY_RESULT_64_BIT);
    if (result == VK_NOT_READY)
        return kas_fail(KAS_ERROR_STATE, "the device has not reached mark %u: wait for the stream first", index);
    return kas_vulkan_check(c, result, "vkGetQueryPoolResults");
}

kas_status kas_vulkan_timer_elapsed(kas_backend_timer *timer, uint32_t first, uint32_t second, double *milliseconds)
{
    const kas_vulkan_limits *limits = &timer->context->limits;
    uint64_t from = 0, to = 0;
    KAS_TRY(kas_vulkan_usable(timer->context));
    KAS_TRY(read_mark(timer, first, &from));
    KAS_TRY(read_mark(timer, second, &to));
    /* Counters narrower than 64 bits wrap. */
    uint64_t mask = limits->timestamp_bits >= 64 ? UINT64_MAX : (1ull << limits->timestamp_bits) - 1;
    *milliseconds = (double)((to - from) & mask) * limits->timestamp_period * 1e-6;
    return KAS_OK;
}
