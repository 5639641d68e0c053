/* device.c - finds the physical devices and says what each of them can do. */
#include "context.h"

#include <stdio.h>
#include <string.h>

/* sparse_split binds all slots but SCORES and LOGITS. */
#define STORAGE_BUFFERS_NEEDED (KAS_SLOT_COUNT - 2)
#define INVOCATIONS_NEEDED 128
/* attend at head dimension 256. */
#define SHARED_MEMORY_NEEDED 24576
/* Vector loads are 16 bytes wide. */
#define LEAST_ALIGNMENT 16
/* Of llvmpipe: LP_MAX_TGSI_LOOP_ITERATIONS of Mesa, which no query tells. */
#define LLVMPIPE_LOOP_TURNS 65535u

static kas_vulkan_process process = {.lock = ATOMIC_FLAG_INIT};

kas_vulkan_process *kas_vulkan_get_process(void)
{
    return &process;
}

/* ---- Probing ---------------------------------------------------------------------------------------------------- */

static bool fail_probe(char *reason, size_t size, const char *text)
{
    snprintf(reason, size, "%s", text);
    return false;
}

static bool create_instance(PFN_vkGetInstanceProcAddr get, char *reason, size_t size)
{
    kas_vulkan_global_api global;
    const char *missing = "";
    if (!kas_vulkan_load_global(get, &global, &missing)) {
        snprintf(reason, size, "libvulkan.so.1 lacks %s", missing);
        return false;
    }
    uint32_t version = 0;
    if (global.EnumerateInstanceVersion(&version) != VK_SUCCESS || version < VK_API_VERSION_1_2) {
        snprintf(reason, size, "the Vulkan loader has version %u.%u, 1.2 is needed", VK_API_VERSION_MAJOR(version),
                 VK_API_VERSION_MINOR(version));
        return false;
    }
    VkApplicationInfo application = {.sType = VK_STRUCTURE_TYPE_APPLICATION_INFO,
                                     .pEngineName = "libkascade",
                                     .apiVersion = version >= VK_API_VERSION_1_3 ? VK_API_VERSION_1_3
                                                                                 : VK_API_VERSION_1_2};
    VkInstanceCreateInfo create = {.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO, .pApplicationInfo = &application};
    VkResult result = global.CreateInstance(&create, NULL, &process.instance);
    if (result != VK_SUCCESS) {
        snprintf(reason, size, "vkCreateInstance answered %s: no Vulkan driver is installed",
                 kas_vulkan_result_text(result));
        return false;
    }
    if (kas_vulkan_load_instance(get, process.instance, &process.api, &missing))
        return true;
    snprintf(reason, size, "the Vulkan instance lacks %s", missing);
    return false;
}

static void find_devices(char *reason, size_t size)
{
    VkPhysicalDevice all[KAS_COUNT(process.devices)];
    uint32_t count = KAS_COUNT(all);
    VkResult result = process.api.EnumeratePhysicalDevices(process.instance, &count, all);
    if (result != VK_SUCCESS && result != VK_INCOMPLETE) {
        snprintf(reason, size, "vkEnumeratePhysicalDevices answered %s", kas_vulkan_result_text(result));
        return;
    }
    snprintf(reason, size, "the Vulkan loader shows no device");
    for (uint32_t i = 0; i < count; i++) {
        kas_device_info info = {0};
        kas_vulkan_limits limits;
        if (kas_vulkan_describe(&process.api, all[i], &info, &limits, reason, size) != KAS_ERROR_NO_DEVICE)
            process.devices[process.device_count++] = all[i];
        else
            kas_log(KAS_LOG_INFO, "Vulkan device %u is left out: %s", i, reason);
    }
}

uint32_t kas_vulkan_probe(char *reason, size_t reason_size)
{
    PFN_vkGetInstanceProcAddr get = kas_vulkan_loader();
    if (!get) {
        fail_probe(reason, reason_size, "libvulkan.so.1 cannot be loaded: no Vulkan loader is installed");
        return 0;
    }
    if (!create_instance(get, reason, reason_size))
        return 0;
    find_devices(reason, reason_size);
    return process.device_count;
}

kas_status kas_vulkan_device_info(uint32_t index, kas_device_info *info)
{
    char reason[256];
    kas_vulkan_limits limits;
    kas_status status =
        kas_vulkan_describe(&process.api, process.devices[index], info, &limits, reason, sizeof(reason));
    return status == KAS_OK ? KAS_OK : kas_fail(status, "%s", reason);
}

/* ---- Describing ------------------------------------------------------------------------------------------------- */

typedef struct extension_list {
    VkExtensionProperties *names;
    uint32_t count;
} extension_list;

/* False when memory is exhausted: without the list, features would go missing unnoticed. */
static bool list_extensions(const kas_vulkan_instance_api *api, VkPhysicalDevice physical, extension_list *list)
{
    uint32_t count = 0;
    if (api->EnumerateDeviceExtensionProperties(physical, NULL, &count, NULL) != VK_SUCCESS)
        return true;
    list->names = kas_alloc(count, sizeof(*list->names));
    if (!list->names)
        return false;
    VkResult result = api->EnumerateDeviceExtensionProperties(physical, NULL, &count, list->names);
    list->count = result == VK_SUCCESS || result == VK_INCOMPLETE ? count : 0;
    return true;
}

static bool has_extension(const extension_list *list, const char *name)
{
    for (uint32_t i = 0; i < list->count; i++)
        if (strcmp(list->names[i].extensionName, name) == 0)
            return true;
    return false;
}

static void find_queue_family(const kas_vulkan_instance_api *api, VkPhysicalDevice physical, kas_vulkan_limits *limits)
{
    VkQueueFamilyProperties families[32];
    uint32_t count = KAS_COUNT(families);
    api->GetPhysicalDeviceQueueFamilyProperties(physical, &count, families);
    limits->queue_family = UINT32_MAX;
    for (uint32_t i = 0; i < count; i++) {
        if (!(families[i].queueFlags & VK_QUEUE_COMPUTE_BIT))
            continue;
        limits->queue_family = i;
        limits->timestamp_bits = families[i].timestampValidBits;
        return;
    }
}

/* Whether kernels can use matrices of a shape: f16 x f16 + f32 in subgroups with an invocation for each row and key. */
static bool is_usable_shape(const VkCooperativeMatrixPropertiesKHR *s, uint32_t subgroup_size)
{
    const uint32_t sides[3] = {s->MSize, s->NSize, s->KSize};
    for (int i = 0; i < 3; i++)
        if ((sides[i] != 8 && sides[i] != 16 && sides[i] != 32) || sides[i] > subgroup_size)
            return false;
    return s->AType == VK_COMPONENT_TYPE_FLOAT16_KHR && s->BType == VK_COMPONENT_TYPE_FLOAT16_KHR &&
           s->CType == VK_COMPONENT_TYPE_FLOAT32_KHR && s->ResultType == VK_COMPONENT_TYPE_FLOAT32_KHR &&
           s->scope == VK_SCOPE_SUBGROUP_KHR;
}

/* Of the shapes that kernels can use 16 x 16 x 16 where the device has it, otherwise the first. */
static void find_matrix_shape(const kas_vulkan_instance_api *api, VkPhysicalDevice physical, uint32_t subgroup_size,
                              uint32_t sides[3])
{
    VkCooperativeMatrixPropertiesKHR shapes[64];
    uint32_t count = KAS_COUNT(shapes);
    for (uint32_t i = 0; i < count; i++)
        shapes[i] = (VkCooperativeMatrixPropertiesKHR){.sType = VK_STRUCTURE_TYPE_COOPERATIVE_MATRIX_PROPERTIES_KHR};
    VkResult result = api->GetPhysicalDeviceCooperativeMatrixPropertiesKHR(physical, &count, shapes);
    if (result != VK_SUCCESS && result != VK_INCOMPLETE)
        return;
    for (uint32_t i = 0; i < count; i++) {
        const VkCooperativeMatrixPropertiesKHR *s = &shapes[i];
        bool preferred = s->MSize == 16 && s->NSize == 16 && s->KSize == 16;
        if (is_usable_shape(s, subgroup_size) && (preferred || sides[0] == 0)) {
            sides[0] = s->MSize;
            sides[1] = s->NSize;
            sides[2] = s->KSize;
        }
    }
}

static bool has_matrix2(const VkPhysicalDeviceCooperativeMatrix2FeaturesNV *f)
{
    return f->cooperativeMatrixWorkgroupScope && f->cooperativeMatrixFlexibleDimensions &&
           f->cooperativeMatrixReductions && f->cooperativeMatrixConversions &&
           f->cooperativeMatrixPerElementOperations && f->cooperativeMatrixTensorAddressing &&
           f->cooperativeMatrixBlockLoads;
}

static uint64_t find_features(const kas_vulkan_instance_api *api, VkPhysicalDevice physical,
                              const extension_list *extensions, kas_vulkan_limits *limits)
{
    VkPhysicalDeviceCooperativeMatrix2FeaturesNV matrix2 = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_2_FEATURES_NV};
    VkPhysicalDeviceSubgroupSizeControlFeaturesEXT subgroups = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SUBGROUP_SIZE_CONTROL_FEATURES_EXT};
    VkPhysicalDeviceCooperativeMatrixFeaturesKHR matrix = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_KHR, .pNext = &subgroups};
    VkPhysicalDeviceVulkan12Features v12 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES};
    VkPhysicalDeviceVulkan11Features v11 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_FEATURES,
                                            .pNext = &v12};
    VkPhysicalDeviceFeatures2 base = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2, .pNext = &v11};
    if (api->GetPhysicalDeviceCooperativeMatrixPropertiesKHR &&
        has_extension(extensions, VK_KHR_COOPERATIVE_MATRIX_EXTENSION_NAME) &&
        has_extension(extensions, VK_EXT_SUBGROUP_SIZE_CONTROL_EXTENSION_NAME))
        v12.pNext = &matrix;
    if (v12.pNext && has_extension(extensions, VK_NV_COOPERATIVE_MATRIX_2_EXTENSION_NAME))
        subgroups.pNext = &matrix2;
    api->GetPhysicalDeviceFeatures2(physical, &base);

    uint64_t features = 0;
    if (v12.shaderFloat16)
        features |= KAS_FEATURE_F16;
    if (v11.storageBuffer16BitAccess)
        features |= KAS_FEATURE_STORAGE16;
    if (base.features.shaderInt64)
        features |= KAS_FEATURE_INT64;
    if (v12.bufferDeviceAddress)
        features |= KAS_FEATURE_ADDRESS;
    if (matrix.cooperativeMatrix && subgroups.computeFullSubgroups && v12.vulkanMemoryModel &&
        v12.vulkanMemoryModelDeviceScope && v12.shaderFloat16 && v11.storageBuffer16BitAccess)
        find_matrix_shape(api, physical, limits->subgroup_size, limits->matrix);
    if (limits->matrix[0] != 0)
        features |= KAS_FEATURE_COOPMAT;
    /* Its kernels are SPIR-V 1.6. */
    if ((features & KAS_FEATURE_COOPMAT) && has_matrix2(&matrix2) && limits->api_version >= VK_API_VERSION_1_3)
        features |= KAS_FEATURE_COOPMAT2;
    return features;
}

/* Multiprocessors are no core property; without the vendors' extensions the kind of device gives an estimate. */
static uint32_t compute_units(VkPhysicalDeviceType type, uint32_t sm_count, uint32_t active_units)
{
    if (sm_count != 0 || active_units != 0)
        return sm_count != 0 ? sm_count : active_units;
    switch (type) {
    case VK_PHYSICAL_DEVICE_TYPE_CPU:
        return kas_processor_count();
    case VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU:
        return 64;
    default:
        return 16;
    }
}

static bool covers_subgroups(const VkPhysicalDeviceVulkan11Properties *p)
{
    const VkSubgroupFeatureFlags needed = VK_SUBGROUP_FEATURE_BASIC_BIT | VK_SUBGROUP_FEATURE_VOTE_BIT |
                                          VK_SUBGROUP_FEATURE_ARITHMETIC_BIT | VK_SUBGROUP_FEATURE_BALLOT_BIT |
                                          VK_SUBGROUP_FEATURE_SHUFFLE_BIT;
    return (p->subgroupSupportedStages & VK_SHADER_STAGE_COMPUTE_BIT) &&
           (p->subgroupSupportedOperations & needed) == needed && p->subgroupSize >= 4 && p->subgroupSize <= 128;
}

static void find_memory(const kas_vulkan_instance_api *api, VkPhysicalDevice physical, uint64_t max_allocation,
                        kas_device_info *info)
{
    VkPhysicalDeviceMemoryProperties memory;
    api->GetPhysicalDeviceMemoryProperties(physical, &memory);
    for (uint32_t i = 0; i < memory.memoryHeapCount; i++)
        if ((memory.memoryHeaps[i].flags & VK_MEMORY_HEAP_DEVICE_LOCAL_BIT) && memory.memoryHeaps[i].size > info->memory)
            info->memory = memory.memoryHeaps[i].size;
    info->max_allocation = max_allocation < info->memory ? max_allocation : info->memory;
}

static void fill_info(const VkPhysicalDeviceProperties *p, const VkPhysicalDeviceVulkan12Properties *v12,
                      kas_device_info *info)
{
    snprintf(info->description, sizeof(info->description), "%.127s", p->deviceName);
    snprintf(info->driver, sizeof(info->driver), "%.40s %.40s, Vulkan %u.%u.%u", v12->driverName, v12->driverInfo,
             VK_API_VERSION_MAJOR(p->apiVersion), VK_API_VERSION_MINOR(p->apiVersion),
             VK_API_VERSION_PATCH(p->apiVersion));
    info->max_binding = p->limits.maxStorageBufferRange;
    info->slice_alignment = (uint32_t)p->limits.minStorageBufferOffsetAlignment;
    if (info->slice_alignment < LEAST_ALIGNMENT)
        info->slice_alignment = LEAST_ALIGNMENT;
    memcpy(info->max_group_count, p->limits.maxComputeWorkGroupCount, sizeof(info->max_group_count));
    info->shared_memory = p->limits.maxComputeSharedMemorySize;
    info->host_memory = 0;
}

static void fill_limits(const VkPhysicalDeviceProperties *p, kas_vulkan_limits *limits)
{
    limits->api_version = p->apiVersion;
    limits->vendor = p->vendorID;
    limits->device = p->deviceID;
    memcpy(limits->cache_uuid, p->pipelineCacheUUID, VK_UUID_SIZE);
    limits->storage_buffers = p->limits.maxPerStageDescriptorStorageBuffers;
    limits->storage_range = p->limits.maxStorageBufferRange;
    limits->group_invocations = p->limits.maxComputeWorkGroupInvocations;
    limits->shared_memory = p->limits.maxComputeSharedMemorySize;
    limits->timestamp_period = p->limits.timestampPeriod;
    limits->non_coherent_atom = p->limits.nonCoherentAtomSize;
}

static bool check_limits(const VkPhysicalDeviceProperties *p, const kas_vulkan_limits *limits, char *reason,
                         size_t size)
{
    if (limits->queue_family == UINT32_MAX) {
        snprintf(reason, size, "%s has no queue that computes", p->deviceName);
        return false;
    }
    if (limits->storage_buffers < STORAGE_BUFFERS_NEEDED) {
        snprintf(reason, size, "%s binds %u storage buffers to a kernel, %d are needed", p->deviceName,
                 limits->storage_buffers, STORAGE_BUFFERS_NEEDED);
        return false;
    }
    if (limits->group_invocations < INVOCATIONS_NEEDED || p->limits.maxComputeSharedMemorySize < SHARED_MEMORY_NEEDED) {
        snprintf(reason, size, "%s runs %u invocations with %u bytes of shared memory in a work group, %d and %d are needed",
                 p->deviceName, limits->group_invocations, p->limits.maxComputeSharedMemorySize, INVOCATIONS_NEEDED,
                 SHARED_MEMORY_NEEDED);
        return false;
    }
    return true;
}

kas_status kas_vulkan_describe(const kas_vulkan_instance_api *api, VkPhysicalDevice physical, kas_device_info *info,
                               kas_vulkan_limits *limits, char *reason, size_t reason_size)
{
    uint32_t struct_size = info->struct_size;
    char name[sizeof(info->name)];
    memcpy(name, info->name, sizeof(name));
    memset(info, 0, sizeof(*info));
    info->struct_size = struct_size;
    memcpy(info->name, name, sizeof(name));
    memset(limits, 0, sizeof(*limits));

    VkPhysicalDeviceShaderSMBuiltinsPropertiesNV sm = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_SM_BUILTINS_PROPERTIES_NV};
    VkPhysicalDeviceShaderCoreProperties2AMD core = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_SHADER_CORE_PROPERTIES_2_AMD};
    VkPhysicalDeviceVulkan12Properties v12 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_PROPERTIES};
    VkPhysicalDeviceVulkan11Properties v11 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_PROPERTIES,
                                              .pNext = &v12};
    VkPhysicalDeviceProperties2 base = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2};
    api->GetPhysicalDeviceProperties2(physical, &base);
    if (base.properties.apiVersion < VK_API_VERSION_1_2) {
        snprintf(reason, reason_size, "%s has Vulkan %u.%u, 1.2 is needed", base.properties.deviceName,
                 VK_API_VERSION_MAJOR(base.properties.apiVersion), VK_API_VERSION_MINOR(base.properties.apiVersion));
        return KAS_ERROR_NO_DEVICE;
    }
    extension_list extensions = {NULL, 0};
    if (!list_extensions(api, physical, &extensions)) {
        snprintf(reason, reason_size, "host memory is exhausted");
        return KAS_ERROR_OUT_OF_MEMORY;
    }
    if (has_extension(&extensions, VK_NV_SHADER_SM_BUILTINS_EXTENSION_NAME))
        v12.pNext = &sm;
    else if (has_extension(&extensions, VK_AMD_SHADER_CORE_PROPERTIES_2_EXTENSION_NAME))
        v12.pNext = &core;
    base.pNext = &v11;
    api->GetPhysicalDeviceProperties2(physical, &base);

    fill_info(&base.properties, &v12, info);
    fill_limits(&base.properties, limits);
    limits->loop_turns = v12.driverID == VK_DRIVER_ID_MESA_LLVMPIPE ? LLVMPIPE_LOOP_TURNS : 0;
    find_memory(api, physical, v11.maxMemoryAllocationSize, info);
    find_queue_family(api, physical, limits);
    info->compute_units = compute_units(base.properties.deviceType, sm.shaderSMCount, core.activeComputeUnitCount);
    limits->subgroup_size = v11.subgroupSize;
    info->features = find_features(api, physical, &extensions, limits);
    if (covers_subgroups(&v11))
        info->features |= KAS_FEATURE_SUBGROUP;
    kas_release(extensions.names);
    return check_limits(&base.properties, limits, reason, reason_size) ? KAS_OK : KAS_ERROR_NO_DEVICE;
}
