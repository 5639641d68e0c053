/* pipeline.c - SPIR-V to specialised pipelines, kept by the context; the pipeline cache that outlives the process. */
#include "context.h"
#include "kernels/constants.h"

#include <stdio.h>
#include <string.h>

/* ---- The pipeline cache ----------------------------------------------------------------------------------------- */

/* What every driver puts in front of its cache data. */
typedef struct cache_header {
    uint32_t size;
    uint32_t version;
    uint32_t vendor;
    uint32_t device;
    uint8_t uuid[VK_UUID_SIZE];
} cache_header;

typedef struct cache_key {
    char text[64];
} cache_key;

static cache_key make_cache_key(const kas_vulkan_limits *limits)
{
    cache_key key;
    int used = snprintf(key.text, sizeof(key.text), "vulkan-%04x-%04x-", limits->vendor & 0xffffu,
                        limits->device & 0xffffu);
    for (uint32_t i = 0; i < VK_UUID_SIZE; i++)
        used += snprintf(key.text + used, sizeof(key.text) - (size_t)used, "%02x", limits->cache_uuid[i]);
    return key;
}

/* Whether the data is this driver's: drivers need not survive data that is not. */
static bool belongs_here(const kas_vulkan_limits *limits, const void *data, size_t size)
{
    cache_header header;
    if (size < sizeof(header))
        return false;
    memcpy(&header, data, sizeof(header));
    return header.size == sizeof(header) && header.version == VK_PIPELINE_CACHE_HEADER_VERSION_ONE &&
           header.vendor == limits->vendor && header.device == limits->device &&
           memcmp(header.uuid, limits->cache_uuid, VK_UUID_SIZE) == 0;
}

/* The stored data in memory for kas_release, or NULL. */
static void *load_stored(const kas_vulkan_limits *limits, const kas_cache *hooks, size_t *size)
{
    cache_key key = make_cache_key(limits);
    size_t whole = hooks->load ? hooks->load(hooks->user, key.text, NULL, 0) : 0;
    void *data = whole ? kas_alloc(whole, 1) : NULL;
    if (!data)
        return NULL;
    if (hooks->load(hooks->user, key.text, data, whole) == whole && belongs_here(limits, data, whole)) {
        *size = whole;
        return data;
    }
    kas_release(data);
    return NULL;
}

/* A cache that cannot be made only costs time. */
void kas_vulkan_cache_open(kas_backend_context *context, const kas_cache *hooks)
{
    size_t size = 0;
    void *data = load_stored(&context->limits, hooks, &size);
    VkPipelineCacheCreateInfo create = {
        .sType = VK_STRUCTURE_TYPE_PIPELINE_CACHE_CREATE_INFO, .initialDataSize = size, .pInitialData = data};
    context->cache_hooks = *hooks;
    if (context->api.CreatePipelineCache(context->device, &create, NULL, &context->cache) != VK_SUCCESS)
        context->cache = VK_NULL_HANDLE;
    kas_release(data);
}

static void store_cache(kas_backend_context *context)
{
    size_t size = 0;
    if (context->api.GetPipelineCacheData(context->device, context->cache, &size, NULL) != VK_SUCCESS)
        return;
    void *data = kas_alloc(size, 1);
    if (data && context->api.GetPipelineCacheData(context->device, context->cache, &size, data) == VK_SUCCESS) {
        cache_key key = make_cache_key(&context->limits);
        context->cache_hooks.store(context->cache_hooks.user, key.text, data, size);
    }
    kas_release(data);
}

void kas_vulkan_cache_close(kas_backend_context *context)
{
    if (!context->cache)
        return;
    if (context->cache_changed && context->cache_hooks.store && !context->lost)
        store_cache(context);
    context->api.DestroyPipelineCache(context->device, context->cache, NULL);
}

/* ---- Kernels ---------------------------------------------------------------------------------------------------- */

/*
 * The slots a kernel declares, read from its SPIR-V (OpDecorate target Binding number), so that a set holds no more
 * buffers than the kernel uses: devices may allow few.
 */
static uint32_t find_slots(const unsigned char *spirv, size_t size)
{
    const uint32_t header_words = 5, op_decorate = 71, decoration_binding = 33;
    uint32_t slots = 0;
    uint32_t words[4];
    for (size_t at = header_words * 4; at + sizeof(words) <= size;) {
        memcpy(words, spirv + at, sizeof(words));
        uint32_t count = words[0] >> 16;
        if ((words[0] & 0xffffu) == op_decorate && words[2] == decoration_binding && words[3] < KAS_SLOT_COUNT)
            slots |= 1u << words[3];
        at += count == 0 ? size : (size_t)count * 4;
    }
    return slots;
}

static kas_status create_layouts(kas_backend_context *context, kas_backend_kernel *kernel)
{
    VkDescriptorSetLayoutBinding bindings[KAS_SLOT_COUNT];
    uint32_t count = 0;
    for (uint32_t slot = 0; slot < KAS_SLOT_COUNT; slot++)
        if (kernel->slots & (1u << slot))
            bindings[count++] = (VkDescriptorSetLayoutBinding){.binding = slot,
                                                               .descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER,
                                                               .descriptorCount = 1,
                                                               .stageFlags = VK_SHADER_STAGE_COMPUTE_BIT};
    VkDescriptorSetLayoutCreateInfo set = {.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_LAYOUT_CREATE_INFO,
                                           .bindingCount = count,
                                           .pBindings = bindings};
    KAS_VULKAN_TRY(context, CreateDescriptorSetLayout, context->device, &set, NULL, &kernel->set_layout);
    VkPushConstantRange call = {.stageFlags = VK_SHADER_STAGE_COMPUTE_BIT, .size = sizeof(kas_call)};
    VkPipelineLayoutCreateInfo layout = {.sType = VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO,
                                         .setLayoutCount = 1,
                                         .pSetLayouts = &kernel->set_layout,
                                         .pushConstantRangeCount = 1,
                                         .pPushConstantRanges = &call};
    KAS_VULKAN_TRY(context, CreatePipelineLayout, context->device, &layout, NULL, &kernel->layout);
    return KAS_OK;
}

/* ---- Work groups of rows on matrices, as matrix.glsl lays them out ----------------------------------------------- */

typedef struct matrix_group {
    uint32_t invocations;
    uint64_t shared; /* bytes of shared memory */
} matrix_group;

/* A work group of 16 rows a subgroup stages blocks of 64 keys and values; the driver takes shared memory of its own to
   reduce and convert matrices, 1.25 KiB a subgroup with NVIDIA's 580. */
static matrix_group plan_reduced_group(const kas_vulkan_limits *limits, const kas_vulkan_code *code, uint32_t head_dim)
{
    const uint32_t small = 2048;
    uint32_t stride = (head_dim / 8) | 1, subgroups = code->invocations / limits->subgroup_size;
    uint32_t vectors = kas_max_u32(2 * 64 * stride, subgroups * 16 * 5);
    return (matrix_group){code->invocations, 16 * (uint64_t)vectors + 1280 * subgroups + small};
}

/* Without values a work group stages 128 rows, of queries or of keys, and strips hold one matrix of sums. */
static matrix_group plan_logits_group(const kas_vulkan_limits *limits, const kas_vulkan_code *code, uint32_t head_dim)
{
    const uint32_t small = 2048; /* positions and the like */
    const uint32_t *side = limits->matrix;
    uint32_t subgroups = kas_min_u32(128 / side[0], code->invocations / limits->subgroup_size);
    uint64_t vectors = 128 * ((head_dim / 8) | 1) + subgroups * side[0] * (kas_max_u32(side[1], side[2]) / 4 | 1);
    return (matrix_group){subgroups * limits->subgroup_size, 16 * vectors + small};
}

/*
 * In prefill a work group takes 128 rows and stages blocks of keys and values; in decode its subgroups stage
 * 64 keys and values together, half of that where a matrix has 32 rows.
 */
static matrix_group plan_matrix_group(const kas_vulkan_limits *limits, const kas_vulkan_code *code, uint32_t head_dim)
{
    if (code->matrix == KAS_VULKAN_MATRIX_REDUCED)
        return plan_reduced_group(limits, code, head_dim);
    if (code->matrix == KAS_VULKAN_MATRIX_LOGITS)
        return plan_logits_group(limits, code, head_dim);
    const uint32_t *side = limits->matrix;
    const uint32_t small = 2048; /* softmaxes, positions and the like */
    bool block = code->matrix == KAS_VULKAN_MATRIX_BLOCK;
    uint32_t keys = 8 * limits->subgroup_size / side[0];
    uint32_t stride = (head_dim / 8) | 1, strip_stride, subgroups, staged;
    keys = kas_max_u32(block ? kas_max_u32(keys, 32) : keys, kas_max_u32(side[1], side[2]));
    if (block) {
        subgroups = kas_min_u32(128 / side[0], code->invocations / limits->subgroup_size);
        staged = 2 * keys;
        strip_stride = (keys / 4) | 1;
    } else {
        uint32_t together = side[0] > 16 ? 32 : 64;
        subgroups = keys < together ? together / keys : 1;
        staged = 2 * subgroups * keys + side[0];
        strip_stride = (keys / 4 + keys / 8) | 1;
    }
    uint64_t vectors = (uint64_t)staged * stride + (uint64_t)subgroups * side[0] * strip_stride;
    return (matrix_group){subgroups * limits->subgroup_size, 16 * vectors + small};
}

static uint32_t work_group_size(const kas_vulkan_limits *limits, const kas_backend_kernel *kernel)
{
    if (kernel->code->matrix == KAS_VULKAN_NO_MATRIX)
        return kernel->code->invocations;
    return plan_matrix_group(limits, kernel->code, kernel->spec.head_dim).invocations;
}

static kas_status check_shared_memory(const kas_vulkan_limits *limits, const kas_variant *variant, uint64_t needed)
{
    if (needed <= limits->shared_memory)
        return KAS_OK;
    return kas_fail(KAS_ERROR_UNSUPPORTED, "%s %s needs %llu bytes of shared memory, the device has %u",
                    kas_op_name(variant->op), variant->name, (unsigned long long)needed, limits->shared_memory);
}

/* Why a row on matrices cannot serve: a shape that it does not take or that does not divide the head dimension, or too
   little shared memory. */
static kas_status check_matrix_row(const kas_vulkan_limits *limits, const kas_variant *variant, uint32_t head_dim)
{
    const kas_vulkan_code *code = variant->code;
    const uint32_t *side = limits->matrix;
    if (code->matrix == KAS_VULKAN_NO_MATRIX)
        return KAS_OK;
    bool is_cube = side[0] == 16 && side[1] == 16 && side[2] == 16;
    if (code->matrix == KAS_VULKAN_MATRIX_REDUCED && !is_cube)
        return kas_fail(KAS_ERROR_UNSUPPORTED, "%s %s needs matrices of 16 x 16 x 16, the device has %u x %u x %u",
                        kas_op_name(variant->op), variant->name, side[0], side[1], side[2]);
    if (head_dim % kas_max_u32(side[1], side[2]) != 0)
        return kas_fail(KAS_ERROR_UNSUPPORTED, "%s %s: matrices of %u x %u x %u do not divide head dimension %u",
                        kas_op_name(variant->op), variant->name, side[0], side[1], side[2], head_dim);
    uint64_t shared = plan_matrix_group(limits, code, head_dim).shared;
    return check_shared_memory(limits, variant, shared);
}

static kas_status create_pipeline(kas_backend_context *context, kas_backend_kernel *kernel, VkShaderModule module)
{
    const uint32_t values[KAS_CONSTANT_COUNT] = {
        [KAS_CONSTANT_INVOCATIONS] = work_group_size(&context->limits, kernel),
        [KAS_CONSTANT_HEAD_DIM] = kernel->spec.head_dim,
        [KAS_CONSTANT_GROUP] = kernel->spec.group,
        [KAS_CONSTANT_TILE] = kernel->spec.tile,
        [KAS_CONSTANT_PAGE_SIZE] = kernel->spec.page_size,
        [KAS_CONSTANT_SUBGROUP] = context->limits.subgroup_size,
        [KAS_CONSTANT_MATRIX_M] = context->limits.matrix[0],
        [KAS_CONSTANT_MATRIX_N] = context->limits.matrix[1],
        [KAS_CONSTANT_MATRIX_K] = context->limits.matrix[2],
    };
    VkSpecializationMapEntry entries[KAS_CONSTANT_COUNT];
    for (uint32_t i = 0; i < KAS_CONSTANT_COUNT; i++)
        entries[i] = (VkSpecializationMapEntry){i, i * (uint32_t)sizeof(values[0]), sizeof(values[0])};
    VkSpecializationInfo constants = {.mapEntryCount = KAS_CONSTANT_COUNT,
                                      .pMapEntries = entries,
                                      .dataSize = sizeof(values),
                                      .pData = values};
    /* What matrices ask for in SPIR-V before 1.6, which in turn would ask for a feature to state the group's size. */
    VkPipelineShaderStageCreateFlags full = kernel->code->matrix == KAS_VULKAN_NO_MATRIX
                                                ? 0
                                                : VK_PIPELINE_SHADER_STAGE_CREATE_REQUIRE_FULL_SUBGROUPS_BIT_EXT;
    VkComputePipelineCreateInfo create = {.sType = VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO,
                                          .stage = {.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO,
                                                    .flags = full,
                                                    .stage = VK_SHADER_STAGE_COMPUTE_BIT,
                                                    .module = module,
                                                    .pName = "main",
                                                    .pSpecializationInfo = &constants},
                                          .layout = kernel->layout};
    KAS_VULKAN_TRY(context, CreateComputePipelines, context->device, context->cache, 1, &create, NULL,
                   &kernel->pipeline);
    return KAS_OK;
}

static void destroy_kernel(kas_backend_context *context, kas_backend_kernel *kernel)
{
    context->api.DestroyPipeline(context->device, kernel->pipeline, NULL);
    context->api.DestroyPipelineLayout(context->device, kernel->layout, NULL);
    context->api.DestroyDescriptorSetLayout(context->device, kernel->set_layout, NULL);
    kas_release(kernel);
}

static kas_status build_kernel(kas_backend_context *context, kas_backend_kernel *kernel)
{
    const unsigned char *spirv = kernel->code->spirv[kernel->spec.dtype];
    size_t size = *kernel->code->size[kernel->spec.dtype];
    kernel->slots = find_slots(spirv, size);
    KAS_TRY(create_layouts(context, kernel));
    VkShaderModuleCreateInfo create = {
        .sType = VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO, .codeSize = size, .pCode = (const uint32_t *)spirv};
    VkShaderModule module;
    KAS_VULKAN_TRY(context, CreateShaderModule, context->device, &create, NULL, &module);
    kas_status status = create_pipeline(context, kernel, module);
    context->api.DestroyShaderModule(context->device, module, NULL);
    return status;
}

static kas_status make_kernel(kas_backend_context *context, const kas_vulkan_code *code, const kas_kernel_spec *spec,
                              kas_backend_kernel **kernel)
{
    kas_backend_kernel *k = kas_alloc(1, sizeof(*k));
    if (!k)
        return kas_fail_memory();
    k->code = code;
    k->spec = *spec;
    kas_status status = build_kernel(context, k);
    if (status != KAS_OK) {
        destroy_kernel(context, k);
        return status;
    }
    *kernel = k;
    return KAS_OK;
}

static bool same_spec(const kas_kernel_spec *a, const kas_kernel_spec *b)
{
    return a->dtype == b->dtype && a->head_dim == b->head_dim && a->group == b->group && a->tile == b->tile &&
           a->page_size == b->page_size;
}

static kas_backend_kernel *find_kernel(const kas_backend_context *context, const kas_vulkan_code *code,
                                       const kas_kernel_spec *spec)
{
    for (kas_backend_kernel *k = context->kernels; k; k = k->next)
        if (k->code == code && same_spec(&k->spec, spec))
            return k;
    return NULL;
}

static kas_backend_kernel *find_locked(kas_backend_context *context, const kas_vulkan_code *code,
                                       const kas_kernel_spec *spec)
{
    kas_mutex_lock(context->lock);
    kas_backend_kernel *found = find_kernel(context, code, spec);
    kas_mutex_unlock(context->lock);
    return found;
}

/* Kernels are compiled without the lock, several at a time: of two alike the one that was kept first serves. */
static kas_backend_kernel *keep_kernel(kas_backend_context *context, kas_backend_kernel *made)
{
    kas_mutex_lock(context->lock);
    kas_backend_kernel *found = find_kernel(context, made->code, &made->spec);
    if (!found) {
        made->next = context->kernels;
        context->kernels = made;
        context->cache_changed = true;
    }
    kas_mutex_unlock(context->lock);
    if (!found)
        return made;
    destroy_kernel(context, made);
    return found;
}

kas_status kas_vulkan_kernel_load(kas_backend_context *context, const kas_variant *variant, const kas_kernel_spec *spec,
                                  kas_backend_kernel **kernel)
{
    const kas_vulkan_code *code = variant->code;
    KAS_TRY(kas_vulkan_usable(context));
    if (code->invocations > context->limits.group_invocations)
        return kas_fail(KAS_ERROR_UNSUPPORTED, "%s %s needs work groups of %u, the device has %u",
                        kas_op_name(variant->op), variant->name, code->invocations, context->limits.group_invocations);
    KAS_TRY(check_shared_memory(&context->limits, variant, code->shared));
    KAS_TRY(check_matrix_row(&context->limits, variant, spec->head_dim));
    kas_backend_kernel *found = find_locked(context, code, spec);
    if (!found) {
        KAS_TRY(make_kernel(context, code, spec, &found));
        found = keep_kernel(context, found);
    }
    *kernel = found;
    return KAS_OK;
}

void kas_vulkan_kernel_unload(kas_backend_context *context, kas_backend_kernel *kernel)
{
    (void)context;
    (void)kernel;
}

void kas_vulkan_kernels_destroy(kas_backend_context *context)
{
    while (context->kernels) {
        kas_backend_kernel *kernel = context->kernels;
        context->kernels = kernel->next;
        destroy_kernel(context, kernel);
    }
}
