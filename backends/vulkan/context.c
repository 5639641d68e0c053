/* context.c - opens a device of our own or adopts a caller's, and keeps what its streams and kernels share. */
#include "context.h"

#include <stdio.h>
#include <string.h>

kas_status kas_vulkan_check(kas_backend_context *context, VkResult result, const char *call)
{
    switch (result) {
    case VK_SUCCESS:
        return KAS_OK;
    case VK_ERROR_DEVICE_LOST:
        context->lost = 1;
        return kas_fail(KAS_ERROR_DEVICE_LOST, "the Vulkan device was lost (%s)", call);
    case VK_ERROR_OUT_OF_HOST_MEMORY:
        return kas_fail(KAS_ERROR_OUT_OF_MEMORY, "%s: host memory is exhausted", call);
    case VK_ERROR_OUT_OF_DEVICE_MEMORY:
    case VK_ERROR_TOO_MANY_OBJECTS:
    case VK_ERROR_OUT_OF_POOL_MEMORY:
    case VK_ERROR_FRAGMENTED_POOL:
        return kas_fail(KAS_ERROR_OUT_OF_DEVICE_MEMORY, "%s: device memory is exhausted", call);
    default:
        return kas_fail(KAS_ERROR_DRIVER, "%s answered %s", call, kas_vulkan_result_text(result));
    }
}

kas_status kas_vulkan_usable(kas_backend_context *context)
{
    return context->lost ? kas_fail(KAS_ERROR_DEVICE_LOST, "the Vulkan device was lost earlier") : KAS_OK;
}

/* ---- Opening ---------------------------------------------------------------------------------------------------- */

/* The features and extensions of a device of our own: those of context->features, and nothing else. */
static kas_status create_device(kas_backend_context *context)
{
    const uint64_t features = context->features;
    const char *extensions[3];
    uint32_t extension_count = 0;
    VkPhysicalDeviceCooperativeMatrix2FeaturesNV matrix2 = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_2_FEATURES_NV,
        .cooperativeMatrixWorkgroupScope = VK_TRUE,
        .cooperativeMatrixFlexibleDimensions = VK_TRUE,
        .cooperativeMatrixReductions = VK_TRUE,
        .cooperativeMatrixConversions = VK_TRUE,
        .cooperativeMatrixPerElementOperations = VK_TRUE,
        .cooperativeMatrixTensorAddressing = VK_TRUE,
        .cooperativeMatrixBlockLoads = VK_TRUE};
    VkPhysicalDeviceSubgroupSizeControlFeaturesEXT subgroups = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_FEATURES_EXT, .computeFullSubgroups = VK_TRUE};
    VkPhysicalDeviceCooperativeMatrixFeaturesKHR matrix = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_KHR,
        .pNext = &subgroups,
        .cooperativeMatrix = VK_TRUE};
    VkPhysicalDeviceVulkan12Features v12 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES,
                                            .shaderFloat16 = (features & KAS_FEATURE_F16) != 0,
                                            .bufferDeviceAddress = (features & KAS_FEATURE_ADDRESS) != 0,
                                            .vulkanMemoryModel = (features & KAS_FEATURE_COOPMAT) != 0,
                                            .vulkanMemoryModelDeviceScope = (features & KAS_FEATURE_COOPMAT) != 0};
    VkPhysicalDeviceVulkan11Features v11 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_FEATURES,
                                            .pNext = &v12,
                                            .storageBuffer16BitAccess = (features & KAS_FEATURE_STORAGE16) != 0};
    VkPhysicalDeviceFeatures2 base = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2,
                                      .pNext = &v11,
                                      .features.shaderInt64 = (features & KAS_FEATURE_INT64) != 0};
    if (features & KAS_FEATURE_COOPMAT) {
        v12.pNext = &matrix;
        extensions[extension_count++] = VK_KHR_COOPERATIVE_MATRIX_EXTENSION_NAME;
        extensions[extension_count++] = VK_EXT_SUBGROUP_SIZE_CONTROL_EXTENSION_NAME;
    }
    if (features & KAS_FEATURE_COOPMAT2) {
        subgroups.pNext = &matrix2;
        extensions[extension_count++] = VK_NV_COOPERATIVE_MATRIX_2_EXTENSION_NAME;
    }
    const float priority = 1.0f;
    VkDeviceQueueCreateInfo queue = {.sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO,
                                     .queueFamilyIndex = context->limits.queue_family,
                                     .queueCount = 1,
                                     .pQueuePriorities = &priority};
    VkDeviceCreateInfo create = {.sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO,
                                 .pNext = &base,
                                 .queueCreateInfoCount = 1,
                                 .pQueueCreateInfos = &queue,
                                 .enabledExtensionCount = extension_count,
                                 .ppEnabledExtensionNames = extensions};
    VkResult result = context->instance_api.CreateDevice(context->physical, &create, NULL, &context->device);
    return kas_vulkan_check(context, result, "vkCreateDevice");
}

static kas_status load_device_api(kas_backend_context *context)
{
    const char *missing = "";
    if (!kas_vulkan_load_device(context->instance_api.GetDeviceProcAddr, context->device, &context->api, &missing))
        return kas_fail(KAS_ERROR_DRIVER, "the Vulkan device lacks %s", missing);
    return KAS_OK;
}

/* Features that others rest on go with them. */
static uint64_t consistent_features(uint64_t features)
{
    const uint64_t matrix_needs = KAS_FEATURE_F16 | KAS_FEATURE_STORAGE16;
    if ((features & matrix_needs) != matrix_needs)
        features &= ~KAS_FEATURE_COOPMAT;
    if (!(features & KAS_FEATURE_COOPMAT))
        features &= ~KAS_FEATURE_COOPMAT2;
    return features;
}

/* On failure context->device may exist: the caller closes the context. */
static kas_status open_own(kas_backend_context *context, uint32_t index, kas_device_info *info)
{
    const kas_vulkan_process *process = kas_vulkan_get_process();
    kas_device_info found = {0};
    char reason[256];
    context->instance_api = process->api;
    context->instance = process->instance;
    context->physical = process->devices[index];
    kas_status described =
        kas_vulkan_describe(&process->api, context->physical, &found, &context->limits, reason, sizeof(reason));
    if (described != KAS_OK)
        return kas_fail(described, "%s", reason);
    info->features = consistent_features(info->features);
    context->features = info->features;
    context->owns_device = true;
    KAS_TRY(create_device(context));
    KAS_TRY(load_device_api(context));
    context->api.GetDeviceQueue(context->device, context->limits.queue_family, 0, &context->queue);
    return KAS_OK;
}

static kas_status check_import(const kas_vulkan_import *import)
{
    if (import->struct_size != sizeof(*import))
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "kas_vulkan_import.struct_size is %u, must be %zu",
                        import->struct_size, sizeof(*import));
    if (!import->instance || !import->physical_device || !import->device || !import->queue)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT,
                        "kas_vulkan_import needs instance, physical_device, device and queue");
    if (!import->lock != !import->unlock)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "kas_vulkan_import.lock and unlock go together");
    return KAS_OK;
}

static kas_status open_import(kas_backend_context *context, const kas_context_desc *desc, kas_device_info *info)
{
    const kas_vulkan_import *import = desc->import;
    KAS_TRY(check_import(import));
    PFN_vkGetInstanceProcAddr get = import->get_instance_proc_addr
                                        ? (PFN_vkGetInstanceProcAddr)import->get_instance_proc_addr
                                        : kas_vulkan_loader();
    if (!get)
        return kas_fail(KAS_ERROR_NO_DEVICE, "libvulkan.so.1 cannot be loaded and kas_vulkan_import has no "
                                             "get_instance_proc_addr");
    const char *missing = "";
    context->instance = import->instance;
    context->physical = import->physical_device;
    context->queue = import->queue;
    context->import = *import;
    if (!kas_vulkan_load_instance(get, context->instance, &context->instance_api, &missing))
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "kas_vulkan_import.instance lacks %s", missing);
    char reason[256];
    kas_status described =
        kas_vulkan_describe(&context->instance_api, context->physical, info, &context->limits, reason, sizeof(reason));
    if (described != KAS_OK)
        return kas_fail(described, "%s", reason);
    info->features = consistent_features(info->features & import->features & ~desc->disable_features);
    context->features = info->features;
    context->limits.queue_family = import->queue_family;
    context->device = import->device;
    return load_device_api(context);
}

/* The buffer that stands in slots a launch leaves out. */
static kas_status create_empty(kas_backend_context *context)
{
    return kas_vulkan_buffer_create(context, 64, &context->empty);
}

/* Also of a context whose opening failed half-way. */
static void destroy_context(kas_backend_context *context)
{
    if (context->api.DestroyDevice) {
        kas_vulkan_kernels_destroy(context);
        kas_vulkan_cache_close(context);
        kas_vulkan_spare_streams_destroy(context);
        kas_vulkan_release_buried(context);
        if (context->empty)
            kas_vulkan_buffer_destroy(context, context->empty);
        kas_vulkan_blocks_destroy(context);
        if (context->owns_device)
            context->api.DestroyDevice(context->device, NULL);
    }
    kas_mutex_destroy(context->queue_lock);
    kas_mutex_destroy(context->lock);
    kas_release(context);
}

static kas_status open_new(uint32_t index, const kas_context_desc *desc, kas_device_info *info,
                           kas_backend_context **context)
{
    kas_backend_context *c = kas_alloc(1, sizeof(*c));
    if (!c)
        return kas_fail_memory();
    kas_device_info opened = *info;
    kas_status status = KAS_OK;
    c->uses = 1;
    c->lock = kas_mutex_create();
    c->queue_lock = kas_mutex_create();
    if (!c->lock || !c->queue_lock)
        status = kas_fail_memory();
    if (status == KAS_OK)
        status = desc->import ? open_import(c, desc, &opened) : open_own(c, index, &opened);
    if (status == KAS_OK) {
        c->instance_api.GetPhysicalDeviceMemoryProperties(c->physical, &c->memory);
        status = create_empty(c);
    }
    if (status != KAS_OK) {
        destroy_context(c);
        return status;
    }
    kas_vulkan_cache_open(c, &desc->cache);
    *info = opened;
    *context = c;
    return KAS_OK;
}

/* ---- Sharing: contexts on the same device with the same features are one VkDevice and one set of kernels ---------- */

static bool same_hooks(const kas_cache *a, const kas_cache *b)
{
    return a->user == b->user && a->load == b->load && a->store == b->store;
}

/* An open context of our own that serves as well; the caller holds the lock of the process. */
static kas_backend_context *find_open(const kas_vulkan_process *process, uint32_t index, uint64_t features,
                                      const kas_cache *hooks)
{
    for (kas_backend_context *c = process->contexts; c; c = c->next)
        if (c->physical == process->devices[index] && c->features == features && same_hooks(&c->cache_hooks, hooks) &&
            !c->lost)
            return c;
    return NULL;
}

static void lock_process(kas_vulkan_process *process)
{
    while (atomic_flag_test_and_set(&process->lock))
        ;
}

static void unlock_process(kas_vulkan_process *process)
{
    atomic_flag_clear(&process->lock);
}

kas_status kas_vulkan_open(uint32_t index, const kas_context_desc *desc, kas_device_info *info,
                           kas_backend_context **context)
{
    if (desc->import)
        return open_new(index, desc, info, context);
    kas_vulkan_process *process = kas_vulkan_get_process();
    uint64_t features = consistent_features(info->features);
    lock_process(process);
    kas_backend_context *c = find_open(process, index, features, &desc->cache);
    if (c)
        c->uses++;
    unlock_process(process);
    if (!c) {
        KAS_TRY(open_new(index, desc, info, &c));
        lock_process(process);
        c->next = process->contexts;
        process->contexts = c;
        unlock_process(process);
    }
    info->features = features;
    *context = c;
    return KAS_OK;
}

/* One user less; true when that was the last, and the context has left the list. */
static bool leave_process(kas_vulkan_process *process, kas_backend_context *context)
{
    lock_process(process);
    bool last = --context->uses == 0;
    kas_backend_context **at = &process->contexts;
    while (last && *at != context)
        at = &(*at)->next;
    if (last)
        *at = context->next;
    unlock_process(process);
    return last;
}

void kas_vulkan_close(kas_backend_context *context)
{
    if (!context->owns_device || leave_process(kas_vulkan_get_process(), context))
        destroy_context(context);
}
