/*
 * stream.c - recording and submitting work: the ring of batches of a stream of our own, the caller's command buffer of
 * an imported one, barriers, and the launch of a kernel.
 */
#include "context.h"

#include <string.h>

/* ---- Making and releasing --------------------------------------------------------------------------------------- */

static kas_status create_pool(kas_backend_context *context, uint32_t sets, VkDescriptorPool *pool)
{
    VkDescriptorPoolSize size = {.type = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER, .descriptorCount = sets * KAS_SLOT_COUNT};
    VkDescriptorPoolCreateInfo create = {.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_POOL_CREATE_INFO,
                                         .maxSets = sets,
                                         .poolSizeCount = 1,
                                         .pPoolSizes = &size};
    KAS_VULKAN_TRY(context, CreateDescriptorPool, context->device, &create, NULL, pool);
    return KAS_OK;
}

static kas_status add_pool(kas_backend_stream *stream)
{
    kas_vulkan_pool *pool = kas_alloc(1, sizeof(*pool));
    if (!pool)
        return kas_fail_memory();
    kas_status status = create_pool(stream->context, KAS_VULKAN_POOL_SETS, &pool->descriptors);
    if (status != KAS_OK) {
        kas_release(pool);
        return status;
    }
    pool->next = stream->pools;
    stream->pools = pool;
    return KAS_OK;
}

/* On failure stream_destroy releases what was made. */
static kas_status create_batches(kas_backend_stream *stream)
{
    kas_backend_context *c = stream->context;
    VkCommandPoolCreateInfo create = {.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO,
                                      .flags = VK_COMMAND_POOL_CREATE_RESET_COMMAND_BUFFER_BIT,
                                      .queueFamilyIndex = c->limits.queue_family};
    KAS_VULKAN_TRY(c, CreateCommandPool, c->device, &create, NULL, &stream->pool);
    VkCommandBuffer commands[KAS_VULKAN_BATCHES];
    VkCommandBufferAllocateInfo allocate = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO,
                                            .commandPool = stream->pool,
                                            .level = VK_COMMAND_BUFFER_LEVEL_PRIMARY,
                                            .commandBufferCount = KAS_VULKAN_BATCHES};
    KAS_VULKAN_TRY(c, AllocateCommandBuffers, c->device, &allocate, commands);
    for (uint32_t i = 0; i < KAS_VULKAN_BATCHES; i++) {
        kas_vulkan_batch *batch = &stream->batches[i];
        VkFenceCreateInfo fence = {.sType = VK_STRUCTURE_TYPE_FENCE_CREATE_INFO};
        batch->commands = commands[i];
        KAS_VULKAN_TRY(c, CreateFence, c->device, &fence, NULL, &batch->fence);
        KAS_TRY(create_pool(c, KAS_VULKAN_BATCH_WORK, &batch->descriptors));
    }
    return KAS_OK;
}

static kas_backend_stream *take_spare(kas_backend_context *context)
{
    kas_mutex_lock(context->lock);
    kas_backend_stream *stream = context->spare_streams;
    if (stream) {
        context->spare_streams = stream->next;
        context->spare_count--;
    }
    kas_mutex_unlock(context->lock);
    return stream;
}

kas_status kas_vulkan_stream_create(kas_backend_context *context, bool imported, uint64_t handle,
                                    kas_backend_stream **stream)
{
    KAS_TRY(kas_vulkan_usable(context));
    if (imported && handle == 0)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "the VkCommandBuffer to import is NULL");
    kas_backend_stream *s = imported ? NULL : take_spare(context);
    if (s) {
        *stream = s;
        return KAS_OK;
    }
    s = kas_alloc(1, sizeof(*s));
    if (!s)
        return kas_fail_memory();
    s->context = context;
    s->imported = imported;
    if (imported)
        s->commands = (VkCommandBuffer)(uintptr_t)handle;
    kas_status status = imported ? add_pool(s) : create_batches(s);
    if (status != KAS_OK) {
        kas_vulkan_stream_destroy(s);
        return status;
    }
    *stream = s;
    return KAS_OK;
}

static void become_busy(kas_backend_stream *stream)
{
    if (stream->busy)
        return;
    kas_backend_context *c = stream->context;
    stream->busy = true;
    kas_mutex_lock(c->lock);
    stream->busy_since = ++c->events;
    stream->next = c->busy_streams;
    c->busy_streams = stream;
    kas_mutex_unlock(c->lock);
}

static void become_idle(kas_backend_stream *stream)
{
    kas_backend_context *c = stream->context;
    if (!stream->busy)
        return;
    stream->busy = false;
    kas_mutex_lock(c->lock);
    kas_backend_stream **link = &c->busy_streams;
    while (*link != stream)
        link = &(*link)->next;
    *link = stream->next;
    kas_vulkan_release_buried(c);
    kas_mutex_unlock(c->lock);
}

static void release_own(kas_backend_stream *stream)
{
    kas_backend_context *c = stream->context;
    for (uint32_t i = 0; i < KAS_VULKAN_BATCHES; i++) {
        c->api.DestroyFence(c->device, stream->batches[i].fence, NULL);
        c->api.DestroyDescriptorPool(c->device, stream->batches[i].descriptors, NULL);
    }
    c->api.DestroyCommandPool(c->device, stream->pool, NULL);
    if (stream->staging.handle)
        kas_vulkan_staging_destroy(c, &stream->staging);
    kas_release(stream);
}

/* Drivers take milliseconds to make and to release what a stream consists of: a few are kept. */
static bool keep_spare(kas_backend_stream *stream)
{
    kas_backend_context *c = stream->context;
    kas_mutex_lock(c->lock);
    bool kept = c->spare_count < KAS_VULKAN_SPARE_STREAMS;
    if (kept) {
        stream->next = c->spare_streams;
        c->spare_streams = stream;
        c->spare_count++;
    }
    kas_mutex_unlock(c->lock);
    return kept;
}

static void destroy_own(kas_backend_stream *stream)
{
    /* Whatever went wrong, the device is done with the stream after this: it has finished, or is lost. */
    bool finished = kas_vulkan_stream_wait(stream) == KAS_OK;
    become_idle(stream);
    bool is_whole = stream->batches[KAS_VULKAN_BATCHES - 1].descriptors != VK_NULL_HANDLE; /* the last that is made */
    if (!finished || !is_whole || !keep_spare(stream))
        release_own(stream);
}

void kas_vulkan_spare_streams_destroy(kas_backend_context *context)
{
    while (context->spare_streams) {
        kas_backend_stream *stream = context->spare_streams;
        context->spare_streams = stream->next;
        release_own(stream);
    }
}

static void destroy_imported(kas_backend_stream *stream)
{
    kas_backend_context *c = stream->context;
    while (stream->pools) {
        kas_vulkan_pool *pool = stream->pools;
        stream->pools = pool->next;
        c->api.DestroyDescriptorPool(c->device, pool->descriptors, NULL);
        kas_release(pool);
    }
    kas_release(stream);
}

void kas_vulkan_stream_destroy(kas_backend_stream *stream)
{
    if (stream->imported)
        destroy_imported(stream);
    else
        destroy_own(stream);
}

/* ---- Recording and submitting ----------------------------------------------------------------------------------- */

static kas_vulkan_batch *current_batch(kas_backend_stream *stream)
{
    return &stream->batches[stream->serial % KAS_VULKAN_BATCHES];
}

kas_status kas_vulkan_stream_record(kas_backend_stream *stream)
{
    kas_backend_context *c = stream->context;
    KAS_TRY(kas_vulkan_usable(c));
    if (stream->commands)
        return KAS_OK;
    kas_vulkan_batch *batch = current_batch(stream);
    if (batch->submitted)
        KAS_TRY(kas_vulkan_stream_wait_serial(stream, stream->serial - KAS_VULKAN_BATCHES + 1));
    KAS_VULKAN_TRY(c, ResetFences, c->device, 1, &batch->fence);
    KAS_VULKAN_TRY(c, ResetDescriptorPool, c->device, batch->descriptors, 0);
    VkCommandBufferBeginInfo begin = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO,
                                      .flags = VK_COMMAND_BUFFER_USAGE_ONE_TIME_SUBMIT_BIT};
    KAS_VULKAN_TRY(c, BeginCommandBuffer, batch->commands, &begin);
    stream->commands = batch->commands;
    stream->work = 0;
    become_busy(stream);
    return KAS_OK;
}

void kas_vulkan_stream_order(kas_backend_stream *stream)
{
    const VkPipelineStageFlags stages = VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT | VK_PIPELINE_STAGE_TRANSFER_BIT;
    const VkAccessFlags writes = VK_ACCESS_SHADER_WRITE_BIT | VK_ACCESS_TRANSFER_WRITE_BIT;
    VkMemoryBarrier barrier = {.sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER,
                               .srcAccessMask = writes,
                               .dstAccessMask = writes | VK_ACCESS_SHADER_READ_BIT | VK_ACCESS_TRANSFER_READ_BIT};
    stream->context->api.CmdPipelineBarrier(stream->commands, stages, stages, 0, 1, &barrier, 0, NULL, 0, NULL);
}

static kas_status submit_batch(kas_backend_context *c, const kas_vulkan_batch *batch)
{
    VkSubmitInfo submit = {.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO,
                           .commandBufferCount = 1,
                           .pCommandBuffers = &batch->commands};
    kas_mutex_lock(c->queue_lock);
    if (c->import.lock)
        c->import.lock(c->import.lock_user);
    VkResult result = c->api.QueueSubmit(c->queue, 1, &submit, batch->fence);
    if (c->import.unlock)
        c->import.unlock(c->import.lock_user);
    kas_mutex_unlock(c->queue_lock);
    return kas_vulkan_check(c, result, "vkQueueSubmit");
}

/* A batch that cannot be submitted is lost, and its place in the ring taken by the next. */
kas_status kas_vulkan_stream_submit(kas_backend_stream *stream)
{
    kas_backend_context *c = stream->context;
    if (!stream->commands)
        return KAS_OK;
    kas_vulkan_batch *batch = current_batch(stream);
    stream->commands = VK_NULL_HANDLE;
    KAS_VULKAN_TRY(c, EndCommandBuffer, batch->commands);
    KAS_TRY(submit_batch(c, batch));
    batch->submitted = true;
    stream->serial++;
    return KAS_OK;
}

kas_status kas_vulkan_stream_next(kas_backend_stream *stream)
{
    if (!stream->imported && stream->work >= KAS_VULKAN_BATCH_WORK)
        KAS_TRY(kas_vulkan_stream_submit(stream));
    KAS_TRY(kas_vulkan_stream_record(stream));
    stream->work++;
    return KAS_OK;
}

kas_status kas_vulkan_stream_wait_serial(kas_backend_stream *stream, uint64_t serial)
{
    kas_backend_context *c = stream->context;
    uint64_t first = stream->serial < KAS_VULKAN_BATCHES ? 0 : stream->serial - KAS_VULKAN_BATCHES;
    for (uint64_t s = first; s < serial; s++) {
        kas_vulkan_batch *batch = &stream->batches[s % KAS_VULKAN_BATCHES];
        if (!batch->submitted)
            continue;
        KAS_VULKAN_TRY(c, WaitForFences, c->device, 1, &batch->fence, VK_TRUE, UINT64_MAX);
        batch->submitted = false;
    }
    return KAS_OK;
}

kas_status kas_vulkan_stream_wait(kas_backend_stream *stream)
{
    KAS_TRY(kas_vulkan_usable(stream->context));
    if (stream->imported)
        return kas_fail(KAS_ERROR_UNSUPPORTED, "an imported VkCommandBuffer cannot be waited for: its owner submits it");
    KAS_TRY(kas_vulkan_stream_submit(stream));
    KAS_TRY(kas_vulkan_stream_wait_serial(stream, stream->serial));
    become_idle(stream);
    return KAS_OK;
}

/* ---- Launching -------------------------------------------------------------------------------------------------- */

static kas_status find_pool(kas_backend_stream *stream, VkDescriptorPool *pool)
{
    if (!stream->imported) {
        *pool = current_batch(stream)->descriptors;
        return KAS_OK;
    }
    if (stream->pools->used == KAS_VULKAN_POOL_SETS)
        KAS_TRY(add_pool(stream));
    stream->pools->used++;
    *pool = stream->pools->descriptors;
    return KAS_OK;
}

static VkDescriptorBufferInfo describe_binding(const kas_backend_context *context, const kas_binding *binding)
{
    if (!binding->buffer)
        return (VkDescriptorBufferInfo){.buffer = context->empty->handle, .range = context->empty->size};
    const kas_backend_buffer *buffer = binding->buffer;
    /* Whole vectors where the buffer has them: kernels that load 16 bytes at a time may touch the last one. */
    uint64_t range = kas_round_up(binding->size, 16);
    if (range > buffer->size - binding->offset)
        range = buffer->size - binding->offset;
    if (range > context->limits.storage_range)
        range = context->limits.storage_range;
    return (VkDescriptorBufferInfo){
        .buffer = buffer->handle, .offset = buffer->offset + binding->offset, .range = range};
}

static void write_set(const kas_backend_context *context, const kas_launch *launch, VkDescriptorSet set)
{
    VkDescriptorBufferInfo buffers[KAS_SLOT_COUNT];
    VkWriteDescriptorSet writes[KAS_SLOT_COUNT];
    uint32_t count = 0;
    for (uint32_t slot = 0; slot < KAS_SLOT_COUNT; slot++) {
        if (!(launch->kernel->slots & (1u << slot)))
            continue;
        buffers[count] = describe_binding(context, &launch->bindings[slot]);
        writes[count] = (VkWriteDescriptorSet){.sType = VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET,
                                               .dstSet = set,
                                               .dstBinding = slot,
                                               .descriptorCount = 1,
                                               .descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER,
                                               .pBufferInfo = &buffers[count]};
        count++;
    }
    context->api.UpdateDescriptorSets(context->device, count, writes, 0, NULL);
}

/* At most so many turns of loops do block.glsl and online.glsl take for 16 query rows: keys in blocks of 32, and of
   each of them head dimensions in slices of 32 by eight at once, the rest one by one, and values by four. */
static uint64_t turns_of(uint32_t keys, uint32_t head_dim)
{
    uint64_t slices = kas_div_up(head_dim, 32), singly = head_dim % 8 ? slices + 8 : 0;
    return kas_div_up(keys, 32) * (12 + 6 * slices + singly);
}

/* Turns of all loops of an invocation: in prefill over the keys for its block of rows, in decode over those of a split
   for one block of the kv head's rows after the other. 0: too few to count. */
static uint64_t launch_turns(const kas_launch *launch)
{
    const kas_kernel_spec *spec = &launch->kernel->spec;
    if (!launch->kernel->code->by_blocks)
        return 0;
    switch (launch->variant->op) {
    case KAS_OP_ATTEND:
    case KAS_OP_LSE:
        return turns_of(launch->call.keys, spec->head_dim);
    case KAS_OP_ATTEND_SPLIT:
    case KAS_OP_SPARSE_SPLIT:
    case KAS_OP_LOGITS:
        return kas_div_up((uint64_t)spec->group * launch->call.queries, 16) *
               turns_of(launch->call.split_keys, spec->head_dim);
    default:
        return 0;
    }
}

/* Where the driver would end loops before the last key, without a word, the answer is a sentence. */
static kas_status check_turns(const kas_backend_context *context, const kas_launch *launch)
{
    uint32_t most = context->limits.loop_turns;
    uint64_t turns = most ? launch_turns(launch) : 0;
    if (turns <= most)
        return KAS_OK;
    return kas_fail(KAS_ERROR_LIMIT,
                    "%s of %u keys, %u queries and head_dim %u takes %llu turns of loops, llvmpipe ends them after %u",
                    kas_op_name(launch->variant->op), launch->call.keys, launch->call.queries,
                    launch->kernel->spec.head_dim, (unsigned long long)turns, most);
}

kas_status kas_vulkan_launch(kas_backend_stream *stream, const kas_launch *launch)
{
    kas_backend_context *c = stream->context;
    const kas_backend_kernel *kernel = launch->kernel;
    VkDescriptorSetAllocateInfo allocate = {.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_ALLOCATE_INFO,
                                            .descriptorSetCount = 1,
                                            .pSetLayouts = &kernel->set_layout};
    VkDescriptorSet set;
    KAS_TRY(check_turns(c, launch));
    KAS_TRY(kas_vulkan_stream_next(stream));
    KAS_TRY(find_pool(stream, &allocate.descriptorPool));
    KAS_VULKAN_TRY(c, AllocateDescriptorSets, c->device, &allocate, &set);
    write_set(c, launch, set);
    kas_vulkan_stream_order(stream);
    c->api.CmdBindPipeline(stream->commands, VK_PIPELINE_BIND_POINT_COMPUTE, kernel->pipeline);
    c->api.CmdBindDescriptorSets(stream->commands, VK_PIPELINE_BIND_POINT_COMPUTE, kernel->layout, 0, 1, &set, 0, NULL);
    c->api.CmdPushConstants(stream->commands, kernel->layout, VK_SHADER_STAGE_COMPUTE_BIT, 0, sizeof(launch->call),
                            &launch->call);
    c->api.CmdDispatch(stream->commands, launch->grid[0], launch->grid[1], launch->grid[2]);
    return KAS_OK;
}
