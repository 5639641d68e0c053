/*
 * test_vulkan_embed.c - the library inside a Vulkan program: it adopts the program's device, buffers and command
 * buffers, gives back what it made, and survives a driver that fails. Every device entry point that the library loads
 * here goes through this file, which counts objects and the driver's host memory behind them, and makes the Nth call,
 * or the driver's Nth allocation, fail. Skipped without a Vulkan device.
 */
#define _POSIX_C_SOURCE 200809L
#define VK_NO_PROTOTYPES
#include <kascade/vulkan.h>

#include <vulkan/vulkan_core.h>

#include <dlfcn.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "embedded_work.h"

/* ---- The program's own Vulkan ----------------------------------------------------------------------------------- */

#define HOST_LIST(X)                                                                                                   \
    X(EnumeratePhysicalDevices)                                                                                        \
    X(GetPhysicalDeviceQueueFamilyProperties)                                                                          \
    X(GetPhysicalDeviceFeatures2)                                                                                      \
    X(GetPhysicalDeviceMemoryProperties)                                                                               \
    X(CreateDevice)                                                                                                    \
    X(DestroyDevice)                                                                                                   \
    X(DestroyInstance)                                                                                                 \
    X(GetDeviceQueue)                                                                                                  \
    X(GetDeviceProcAddr)                                                                                               \
    X(CreateCommandPool)                                                                                               \
    X(DestroyCommandPool)                                                                                              \
    X(AllocateCommandBuffers)                                                                                          \
    X(BeginCommandBuffer)                                                                                              \
    X(EndCommandBuffer)                                                                                                \
    X(CmdFillBuffer)                                                                                                   \
    X(CmdPipelineBarrier)                                                                                              \
    X(QueueSubmit)                                                                                                     \
    X(QueueWaitIdle)                                                                                                   \
    X(CreateBuffer)                                                                                                    \
    X(DestroyBuffer)                                                                                                   \
    X(GetBufferMemoryRequirements)                                                                                     \
    X(AllocateMemory)                                                                                                  \
    X(FreeMemory)                                                                                                      \
    X(BindBufferMemory)                                                                                                \
    X(MapMemory)

typedef struct host {
    PFN_vkGetInstanceProcAddr get;
#define MEMBER(name) PFN_vk##name name;
    HOST_LIST(MEMBER)
    VkInstance instance;
    VkPhysicalDevice physical;
    VkDevice device;
    VkQueue queue;
    VkCommandPool pool;
    uint32_t family;
    uint64_t features;
    int locks, unlocks;
} host;

static host vk;

static void count_lock(void *user)
{
    ((host *)user)->locks++;
}

static void count_unlock(void *user)
{
    ((host *)user)->unlocks++;
}

static int load_host(void)
{
    void *library = dlopen("libvulkan.so.1", RTLD_NOW);
    if (!library)
        return 0;
    *(void **)&vk.get = dlsym(library, "vkGetInstanceProcAddr");
    VkApplicationInfo application = {.sType = VK_STRUCTURE_TYPE_APPLICATION_INFO, .apiVersion = VK_API_VERSION_1_2};
    VkInstanceCreateInfo create = {.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO, .pApplicationInfo = &application};
    PFN_vkCreateInstance create_instance = (PFN_vkCreateInstance)vk.get(NULL, "vkCreateInstance");
    if (!create_instance || create_instance(&create, NULL, &vk.instance) != VK_SUCCESS)
        return 0;
#define LOAD(name) vk.name = (PFN_vk##name)vk.get(vk.instance, "vk" #name);
    HOST_LIST(LOAD)
    uint32_t count = 1;
    return vk.EnumeratePhysicalDevices(vk.instance, &count, &vk.physical) >= VK_SUCCESS && count == 1;
}

static uint32_t compute_family(void)
{
    VkQueueFamilyProperties families[16];
    uint32_t count = 16, n = 0;
    vk.GetPhysicalDeviceQueueFamilyProperties(vk.physical, &count, families);
    while (n < count && !(families[n].queueFlags & VK_QUEUE_COMPUTE_BIT))
        n++;
    return n;
}

/* A device with 16-bit storage where there is any, and no other feature. */
static void create_device(void)
{
    VkPhysicalDevice16BitStorageFeatures storage = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_16BIT_STORAGE_FEATURES};
    VkPhysicalDeviceFeatures2 has = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2, .pNext = &storage};
    vk.GetPhysicalDeviceFeatures2(vk.physical, &has);
    VkPhysicalDevice16BitStorageFeatures enabled = {.sType = storage.sType,
                                                    .storageBuffer16BitAccess = storage.storageBuffer16BitAccess};
    const float priority = 1.0f;
    vk.family = compute_family();
    VkDeviceQueueCreateInfo queue = {.sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO,
                                     .queueFamilyIndex = vk.family,
                                     .queueCount = 1,
                                     .pQueuePriorities = &priority};
    VkDeviceCreateInfo create = {.sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO,
                                 .pNext = &enabled,
                                 .queueCreateInfoCount = 1,
                                 .pQueueCreateInfos = &queue};
    assert_int_equal(vk.CreateDevice(vk.physical, &create, NULL, &vk.device), VK_SUCCESS);
    vk.GetDeviceQueue(vk.device, vk.family, 0, &vk.queue);
    VkCommandPoolCreateInfo pool = {.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO, .queueFamilyIndex = vk.family};
    assert_int_equal(vk.CreateCommandPool(vk.device, &pool, NULL, &vk.pool), VK_SUCCESS);
    vk.features = enabled.storageBuffer16BitAccess ? KAS_FEATURE_STORAGE16 : 0;
}

static int set_up(void **state)
{
    (void)state;
    if (load_host())
        create_device();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    if (!vk.device)
        return 0;
    vk.DestroyCommandPool(vk.device, vk.pool, NULL);
    vk.DestroyDevice(vk.device, NULL);
    vk.DestroyInstance(vk.instance, NULL);
    return 0;
}

static void need_device(void)
{
    if (!vk.device) {
        print_message("skipped: no Vulkan device\n");
        skip();
    }
}

static VkCommandBuffer begin_commands(VkCommandBufferUsageFlags flags)
{
    VkCommandBufferAllocateInfo allocate = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO,
                                            .commandPool = vk.pool,
                                            .level = VK_COMMAND_BUFFER_LEVEL_PRIMARY,
                                            .commandBufferCount = 1};
    VkCommandBufferBeginInfo begin = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO, .flags = flags};
    VkCommandBuffer commands;
    assert_int_equal(vk.AllocateCommandBuffers(vk.device, &allocate, &commands), VK_SUCCESS);
    assert_int_equal(vk.BeginCommandBuffer(commands, &begin), VK_SUCCESS);
    return commands;
}

static void submit(VkCommandBuffer commands)
{
    VkSubmitInfo info = {.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO, .commandBufferCount = 1, .pCommandBuffers = &commands};
    assert_int_equal(vk.QueueSubmit(vk.queue, 1, &info, VK_NULL_HANDLE), VK_SUCCESS);
    assert_int_equal(vk.QueueWaitIdle(vk.queue), VK_SUCCESS);
}

/* Memory of the program's that the host sees at all times. */
typedef struct shared_buffer {
    VkBuffer handle;
    VkDeviceMemory memory;
    unsigned char *bytes;
} shared_buffer;

static shared_buffer make_buffer(uint64_t size)
{
    const VkMemoryPropertyFlags wanted = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
    VkBufferCreateInfo create = {.sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO,
                                 .size = size,
                                 .usage = VK_BUFFER_USAGE_STORAGE_BUFFER_BIT | VK_BUFFER_USAGE_TRANSFER_SRC_BIT |
                                          VK_BUFFER_USAGE_TRANSFER_DST_BIT};
    shared_buffer b;
    assert_int_equal(vk.CreateBuffer(vk.device, &create, NULL, &b.handle), VK_SUCCESS);
    VkMemoryRequirements needs;
    VkPhysicalDeviceMemoryProperties memory;
    vk.GetBufferMemoryRequirements(vk.device, b.handle, &needs);
    vk.GetPhysicalDeviceMemoryProperties(vk.physical, &memory);
    uint32_t type = 0;
    while (!(needs.memoryTypeBits & 1u << type) || (memory.memoryTypes[type].propertyFlags & wanted) != wanted)
        type++;
    VkMemoryAllocateInfo allocate = {
        .sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO, .allocationSize = needs.size, .memoryTypeIndex = type};
    assert_int_equal(vk.AllocateMemory(vk.device, &allocate, NULL, &b.memory), VK_SUCCESS);
    assert_int_equal(vk.BindBufferMemory(vk.device, b.handle, b.memory, 0), VK_SUCCESS);
    assert_int_equal(vk.MapMemory(vk.device, b.memory, 0, VK_WHOLE_SIZE, 0, (void **)&b.bytes), VK_SUCCESS);
    return b;
}

static void free_buffer(shared_buffer *b)
{
    vk.DestroyBuffer(vk.device, b->handle, NULL);
    vk.FreeMemory(vk.device, b->memory, NULL);
}

/* ---- A driver that fails ---------------------------------------------------------------------------------------- */

static int fail_at;             /* the call that fails, counted from 1; 0: none */
static VkResult fail_with;      /* what it answers */
static const char *fail_only;   /* fails that entry point alone; NULL: any of them */
static const char *hide;        /* an entry point that is not found */
static int calls;               /* that could have failed */
static int objects;             /* made and not destroyed */

static int fails(const char *name)
{
    if (fail_only && strcmp(fail_only, name) != 0)
        return 0;
    return ++calls == fail_at;
}

/* ---- The driver's host memory, by allocation callbacks ---------------------------------------------------------- */

static int driver_blocks;     /* allocated and not freed */
static int driver_makes;      /* whether an object is being made: Mesa's recording does not outlive a refusal */
static int driver_calls;      /* allocations for objects being made */
static int driver_refuses_at; /* the one of them that fails, counted from 1; 0: none */

/* In front of what the driver gets. */
typedef struct block_head {
    size_t size;
    size_t front; /* bytes from the block's begin to the driver's pointer */
} block_head;

static block_head *head_of(void *memory)
{
    return (block_head *)memory - 1;
}

static void *VKAPI_CALL driver_allocate(void *user, size_t size, size_t alignment, VkSystemAllocationScope scope)
{
    (void)user;
    (void)scope;
    void *base = NULL;
    size_t front = alignment > sizeof(block_head) ? alignment : sizeof(block_head);
    if ((driver_makes && ++driver_calls == driver_refuses_at) || posix_memalign(&base, front, front + size) != 0)
        return NULL;
    driver_blocks++;
    void *memory = (char *)base + front;
    *head_of(memory) = (block_head){size, front};
    return memory;
}

static void VKAPI_CALL driver_free(void *user, void *memory)
{
    (void)user;
    if (!memory)
        return;
    driver_blocks--;
    free((char *)memory - head_of(memory)->front);
}

static void *VKAPI_CALL driver_reallocate(void *user, void *memory, size_t size, size_t alignment,
                                          VkSystemAllocationScope scope)
{
    void *grown = size ? driver_allocate(user, size, alignment, scope) : NULL;
    if (grown && memory)
        memcpy(grown, memory, size < head_of(memory)->size ? size : head_of(memory)->size);
    if (grown || !size)
        driver_free(user, memory);
    return grown;
}

static const VkAllocationCallbacks driver_memory = {
    .pfnAllocation = driver_allocate, .pfnReallocation = driver_reallocate, .pfnFree = driver_free};

/* ---- Calls that go through here --------------------------------------------------------------------------------- */

#define CREATES(X)                                                                                                     \
    X(Buffer, VkBuffer)                                                                                                \
    X(Fence, VkFence)                                                                                                  \
    X(CommandPool, VkCommandPool)                                                                                      \
    X(DescriptorPool, VkDescriptorPool)                                                                                \
    X(DescriptorSetLayout, VkDescriptorSetLayout)                                                                      \
    X(PipelineLayout, VkPipelineLayout)                                                                                \
    X(ShaderModule, VkShaderModule)                                                                                    \
    X(PipelineCache, VkPipelineCache)                                                                                  \
    X(QueryPool, VkQueryPool)

#define INTERPOSE(noun, type)                                                                                          \
    static PFN_vkCreate##noun real_create_##noun;                                                                      \
    static PFN_vkDestroy##noun real_destroy_##noun;                                                                    \
    static VkResult VKAPI_CALL create_##noun(VkDevice device, const Vk##noun##CreateInfo *info,                        \
                                             const VkAllocationCallbacks *callbacks, type *handle)                     \
    {                                                                                                                  \
        (void)callbacks; /* the library gives none; create and destroy have the same */                                \
        if (fails("vkCreate" #noun))                                                                                   \
            return fail_with;                                                                                          \
        driver_makes = 1;                                                                                              \
        VkResult result = real_create_##noun(device, info, &driver_memory, handle);                                    \
        driver_makes = 0;                                                                                              \
        objects += result == VK_SUCCESS;                                                                               \
        return result;                                                                                                 \
    }                                                                                                                  \
    static void VKAPI_CALL destroy_##noun(VkDevice device, type handle, const VkAllocationCallbacks *callbacks)        \
    {                                                                                                                  \
        (void)callbacks;                                                                                               \
        objects -= handle != VK_NULL_HANDLE;                                                                           \
        real_destroy_##noun(device, handle, &driver_memory);                                                           \
    }
CREATES(INTERPOSE)

static PFN_vkAllocateMemory real_allocate;
static PFN_vkFreeMemory real_free;
static PFN_vkCreateComputePipelines real_pipelines;
static PFN_vkDestroyPipeline real_destroy_pipeline;
static PFN_vkQueueSubmit real_submit;
static PFN_vkBeginCommandBuffer real_begin;
static PFN_vkWaitForFences real_wait;

static VkResult VKAPI_CALL allocate_memory(VkDevice device, const VkMemoryAllocateInfo *info,
                                           const VkAllocationCallbacks *callbacks, VkDeviceMemory *memory)
{
    (void)callbacks;
    if (fails("vkAllocateMemory"))
        return fail_with;
    driver_makes = 1;
    VkResult result = real_allocate(device, info, &driver_memory, memory);
    driver_makes = 0;
    objects += result == VK_SUCCESS;
    return result;
}

static void VKAPI_CALL free_memory(VkDevice device, VkDeviceMemory memory, const VkAllocationCallbacks *callbacks)
{
    (void)callbacks;
    objects -= memory != VK_NULL_HANDLE;
    real_free(device, memory, &driver_memory);
}

static VkResult VKAPI_CALL create_pipelines(VkDevice device, VkPipelineCache cache, uint32_t count,
                                            const VkComputePipelineCreateInfo *infos,
                                            const VkAllocationCallbacks *callbacks, VkPipeline *pipelines)
{
    (void)callbacks;
    if (fails("vkCreateComputePipelines")) {
        memset(pipelines, 0, count * sizeof(*pipelines));
        return fail_with;
    }
    driver_makes = 1;
    VkResult result = real_pipelines(device, cache, count, infos, &driver_memory, pipelines);
    driver_makes = 0;
    objects += result == VK_SUCCESS;
    return result;
}

static void VKAPI_CALL destroy_pipeline(VkDevice device, VkPipeline pipeline, const VkAllocationCallbacks *callbacks)
{
    (void)callbacks;
    objects -= pipeline != VK_NULL_HANDLE;
    real_destroy_pipeline(device, pipeline, &driver_memory);
}

static VkResult VKAPI_CALL queue_submit(VkQueue queue, uint32_t count, const VkSubmitInfo *infos, VkFence fence)
{
    return fails("vkQueueSubmit") ? fail_with : real_submit(queue, count, infos, fence);
}

static VkResult VKAPI_CALL begin_command_buffer(VkCommandBuffer commands, const VkCommandBufferBeginInfo *info)
{
    return fails("vkBeginCommandBuffer") ? fail_with : real_begin(commands, info);
}

static VkResult VKAPI_CALL wait_for_fences(VkDevice device, uint32_t count, const VkFence *fences, VkBool32 all,
                                           uint64_t timeout)
{
    VkResult result = real_wait(device, count, fences, all, timeout);
    return fails("vkWaitForFences") ? fail_with : result;
}

typedef struct interposed {
    const char *name;
    PFN_vkVoidFunction ours;
    void *real; /* where the driver's function is kept */
} interposed;

#define PAIR(noun, type)                                                                                               \
    {"vkCreate" #noun, (PFN_vkVoidFunction)create_##noun, &real_create_##noun},                                        \
        {"vkDestroy" #noun, (PFN_vkVoidFunction)destroy_##noun, &real_destroy_##noun},

static const interposed table[] = {
    CREATES(PAIR){"vkAllocateMemory", (PFN_vkVoidFunction)allocate_memory, &real_allocate},
    {"vkFreeMemory", (PFN_vkVoidFunction)free_memory, &real_free},
    {"vkCreateComputePipelines", (PFN_vkVoidFunction)create_pipelines, &real_pipelines},
    {"vkDestroyPipeline", (PFN_vkVoidFunction)destroy_pipeline, &real_destroy_pipeline},
    {"vkQueueSubmit", (PFN_vkVoidFunction)queue_submit, &real_submit},
    {"vkBeginCommandBuffer", (PFN_vkVoidFunction)begin_command_buffer, &real_begin},
    {"vkWaitForFences", (PFN_vkVoidFunction)wait_for_fences, &real_wait},
};

static PFN_vkVoidFunction VKAPI_CALL get_device_function(VkDevice device, const char *name)
{
    PFN_vkVoidFunction real = vk.GetDeviceProcAddr(device, name);
    if (hide && strcmp(hide, name) == 0)
        return NULL;
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        if (strcmp(table[i].name, name) == 0) {
            memcpy(table[i].real, &real, sizeof(real));
            return table[i].ours;
        }
    return real;
}

static PFN_vkVoidFunction VKAPI_CALL get_instance_function(VkInstance instance, const char *name)
{
    if (strcmp(name, "vkGetDeviceProcAddr") == 0)
        return (PFN_vkVoidFunction)get_device_function;
    return vk.get(instance, name);
}

static void no_faults(void)
{
    fail_at = calls = 0;
    fail_with = VK_ERROR_OUT_OF_DEVICE_MEMORY;
    fail_only = hide = NULL;
    driver_refuses_at = driver_calls = 0;
}

static void check_nothing_left(void)
{
    assert_int_equal(objects, 0);
    assert_int_equal(driver_blocks, 0);
}

static kas_vulkan_import describe_import(void)
{
    return (kas_vulkan_import){.struct_size = sizeof(kas_vulkan_import),
                               .queue_family = vk.family,
                               .instance = vk.instance,
                               .physical_device = vk.physical,
                               .device = vk.device,
                               .queue = vk.queue,
                               .get_instance_proc_addr = (kas_vulkan_function)get_instance_function,
                               .features = vk.features,
                               .lock_user = &vk,
                               .lock = count_lock,
                               .unlock = count_unlock};
}

static kas_status adopt(const kas_vulkan_import *import, kas_context **context)
{
    kas_context_desc desc = {.struct_size = sizeof(desc), .device = "vulkan", .import = import};
    return kas_context_create(&desc, context);
}

static uint64_t handle_of(VkBuffer buffer)
{
    uint64_t handle = 0;
    memcpy(&handle, &buffer, sizeof(buffer));
    return handle;
}

/* ---- Tests ------------------------------------------------------------------------------------------------------ */

/* The library's own stream on the program's queue, over the program's buffer from an offset. */
static void test_device_and_buffers(void **state)
{
    (void)state;
    need_device();
    no_faults();
    const uint64_t offset = 512;
    float *expected = expected_output();
    shared_buffer memory = make_buffer(offset + all_bytes);
    kas_vulkan_import import = describe_import();
    kas_context *context;
    kas_stream *stream;
    kas_buffer *buffer;
    kas_session *session;
    fill_tensors(memory.bytes + offset);
    vk.locks = vk.unlocks = 0;
    check(adopt(&import, &context));
    check(kas_stream_create(context, &stream));
    check(kas_buffer_import(context, handle_of(memory.handle), offset, all_bytes, &buffer));
    check(make_session(context, &session));
    check(run_layers(session, stream, buffer));
    check(kas_stream_wait(stream));
    check_output(memory.bytes + offset, expected);
    kas_session_destroy(session);
    kas_buffer_destroy(buffer);
    kas_stream_destroy(stream);
    kas_context_destroy(context);
    assert_true(vk.locks > 0);
    assert_int_equal(vk.locks, vk.unlocks);
    check_nothing_left();
    free_buffer(&memory);
    free(expected);
}

/* Recorded between the program's own commands, and run twice. */
static void test_command_buffer(void **state)
{
    (void)state;
    need_device();
    no_faults();
    float *expected = expected_output();
    shared_buffer memory = make_buffer(all_bytes);
    kas_vulkan_import import = describe_import();
    kas_context *context;
    kas_stream *stream;
    kas_buffer *buffer;
    kas_session *session;
    check(adopt(&import, &context));
    check(kas_buffer_import(context, handle_of(memory.handle), 0, all_bytes, &buffer));
    check(make_session(context, &session));
    VkCommandBuffer commands = begin_commands(0);
    vk.CmdFillBuffer(commands, memory.handle, out_at, Q_FLOATS * sizeof(float), 0x7fc00000u);
    vk.locks = 0;
    check(kas_stream_import(context, (uint64_t)(uintptr_t)commands, &stream));
    check(run_layers(session, stream, buffer));
    assert_int_equal(kas_stream_wait(stream), KAS_ERROR_UNSUPPORTED);
    assert_int_equal(vk.locks, 0);
    VkMemoryBarrier barrier = {.sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER,
                               .srcAccessMask = VK_ACCESS_SHADER_WRITE_BIT | VK_ACCESS_TRANSFER_WRITE_BIT,
                               .dstAccessMask = VK_ACCESS_HOST_READ_BIT | VK_ACCESS_TRANSFER_WRITE_BIT};
    vk.CmdPipelineBarrier(commands, VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT | VK_PIPELINE_STAGE_TRANSFER_BIT,
                          VK_PIPELINE_STAGE_HOST_BIT | VK_PIPELINE_STAGE_TRANSFER_BIT, 0, 1, &barrier, 0, NULL, 0,
                          NULL);
    assert_int_equal(vk.EndCommandBuffer(commands), VK_SUCCESS);
    for (int run = 0; run < 2; run++) {
        fill_tensors(memory.bytes);
        submit(commands);
        check_output(memory.bytes, expected);
    }
    kas_stream_destroy(stream);
    kas_session_destroy(session);
    kas_buffer_destroy(buffer);
    kas_context_destroy(context);
    check_nothing_left();
    free_buffer(&memory);
    free(expected);
}

/* Makes a context and a session, works and reads; whatever was made is destroyed. */
static kas_status whole_life(const kas_vulkan_import *import)
{
    kas_context *context = NULL;
    kas_stream *stream = NULL;
    kas_buffer *buffer = NULL;
    kas_session *session = NULL;
    kas_timer *timer = NULL;
    static unsigned char bytes[4096];
    kas_status status = adopt(import, &context);
    if (status == KAS_OK)
        status = kas_stream_create(context, &stream);
    if (status == KAS_OK)
        status = kas_buffer_create(context, all_bytes, &buffer);
    if (status == KAS_OK)
        status = kas_timer_create(context, 2, &timer);
    if (status == KAS_OK)
        status = kas_buffer_write(stream, buffer, 0, bytes, sizeof(bytes));
    if (status == KAS_OK)
        status = make_session(context, &session);
    if (status == KAS_OK)
        status = run_layers(session, stream, buffer);
    if (status == KAS_OK)
        status = kas_buffer_read(stream, buffer, 0, bytes, sizeof(bytes));
    kas_timer_destroy(timer);
    kas_session_destroy(session);
    kas_buffer_destroy(buffer);
    kas_stream_destroy(stream);
    kas_context_destroy(context);
    return status;
}

/* Each call in turn fails for want of memory: a status and a sentence, and nothing left behind. A pipeline cache only
   saves time, and a kernel that cannot be built is passed over where another row serves. */
static void test_driver_out_of_memory(void **state)
{
    (void)state;
    need_device();
    kas_vulkan_import import = describe_import();
    int survived = 0, refused = 0;
    no_faults();
    check(whole_life(&import));
    int most = calls;
    assert_true(most > 20);
    for (int n = 1; n <= most; n++) {
        no_faults();
        fail_at = n;
        kas_status status = whole_life(&import);
        check_nothing_left();
        survived += status == KAS_OK;
        refused += status != KAS_OK;
        if (status != KAS_OK) {
            assert_true(status == KAS_ERROR_OUT_OF_DEVICE_MEMORY || status == KAS_ERROR_UNSUPPORTED);
            assert_true(strlen(kas_last_error()) > 0);
        }
    }
    assert_true(refused > survived);
    no_faults();
    check(whole_life(&import));
}

/* Likewise each allocation of host memory by the driver for an object: it says so, or gets along without. */
static void test_driver_out_of_host_memory(void **state)
{
    (void)state;
    need_device();
    kas_vulkan_import import = describe_import();
    int refused = 0;
    no_faults();
    check(whole_life(&import));
    int most = driver_calls;
    assert_true(most > 20);
    for (int n = 1; n <= most; n++) {
        no_faults();
        driver_refuses_at = n;
        kas_status status = whole_life(&import);
        check_nothing_left();
        refused += status == KAS_ERROR_OUT_OF_MEMORY;
        if (status != KAS_OK)
            assert_true(strlen(kas_last_error()) > 0);
    }
    assert_true(refused > 10);
    no_faults();
    check(whole_life(&import));
}

static int allocations, allocate_fails_at;

static void *counted_allocate(void *user, size_t size, size_t alignment)
{
    (void)user;
    void *pointer = NULL;
    if (allocate_fails_at && --allocate_fails_at == 0)
        return NULL;
    if (posix_memalign(&pointer, alignment < sizeof(void *) ? sizeof(void *) : alignment, size ? size : 1) != 0)
        return NULL;
    allocations++;
    return pointer;
}

static void counted_release(void *user, void *pointer, size_t size)
{
    (void)user;
    (void)size;
    allocations--;
    free(pointer);
}

static void test_host_out_of_memory(void **state)
{
    (void)state;
    need_device();
    no_faults();
    kas_allocator allocator = {.allocate = counted_allocate, .release = counted_release};
    kas_vulkan_import import = describe_import();
    kas_status status = KAS_ERROR_OUT_OF_MEMORY;
    int refused = 0;
    check(whole_life(&import));
    kas_set_allocator(&allocator);
    for (int n = 1; n < 500; n++) {
        allocate_fails_at = n;
        status = whole_life(&import);
        assert_int_equal(allocations, 0);
        check_nothing_left();
        refused += status == KAS_ERROR_OUT_OF_MEMORY;
        if (allocate_fails_at > 0)
            break;
    }
    allocate_fails_at = 0;
    kas_set_allocator(NULL);
    assert_int_equal(status, KAS_OK);
    assert_true(refused > 10);
}

/* A lost device says so, and goes on saying so; another context of the same device works. */
static void lose_at(const char *call)
{
    kas_vulkan_import import = describe_import();
    kas_context *context;
    kas_stream *stream;
    kas_buffer *buffer;
    unsigned char bytes[64] = {0};
    no_faults();
    check(adopt(&import, &context));
    check(kas_stream_create(context, &stream));
    check(kas_buffer_create(context, sizeof(bytes), &buffer));
    fail_only = call;
    fail_with = VK_ERROR_DEVICE_LOST;
    calls = 0;
    fail_at = 1;
    assert_int_equal(kas_buffer_read(stream, buffer, 0, bytes, sizeof(bytes)), KAS_ERROR_DEVICE_LOST);
    assert_non_null(strstr(kas_last_error(), "lost"));
    assert_int_equal(kas_buffer_read(stream, buffer, 0, bytes, sizeof(bytes)), KAS_ERROR_DEVICE_LOST);
    assert_int_equal(kas_stream_wait(stream), KAS_ERROR_DEVICE_LOST);
    kas_buffer_destroy(buffer);
    kas_stream_destroy(stream);
    kas_context_destroy(context);
    check_nothing_left();
    no_faults();
    check(whole_life(&import));
}

static void test_device_lost(void **state)
{
    (void)state;
    need_device();
    lose_at("vkQueueSubmit");
    lose_at("vkWaitForFences");
}

static void test_what_is_missing(void **state)
{
    (void)state;
    need_device();
    no_faults();
    kas_context *context = NULL;
    kas_vulkan_import import = describe_import();
    import.queue = NULL;
    assert_int_equal(adopt(&import, &context), KAS_ERROR_INVALID_ARGUMENT);
    import = describe_import();
    import.unlock = NULL;
    assert_int_equal(adopt(&import, &context), KAS_ERROR_INVALID_ARGUMENT);
    import = describe_import();
    import.struct_size = 8;
    assert_int_equal(adopt(&import, &context), KAS_ERROR_INVALID_ARGUMENT);
    import = describe_import();
    hide = "vkCmdDispatch";
    assert_int_equal(adopt(&import, &context), KAS_ERROR_DRIVER);
    assert_non_null(strstr(kas_last_error(), "vkCmdDispatch"));
    assert_null(context);
    check_nothing_left();
}

/* Without any feature 16-bit types are reached by words. */
static void test_no_features(void **state)
{
    (void)state;
    need_device();
    no_faults();
    kas_vulkan_import import = describe_import();
    import.features = 0;
    kas_context *context;
    kas_session *session;
    kas_session_desc desc = {.struct_size = sizeof(desc), .heads = HEADS, .kv_heads = KV_HEADS, .head_dim = HEAD_DIM,
                             .dtype = KAS_DTYPE_F16, .max_queries = TOKENS, .max_keys = TOKENS};
    check(adopt(&import, &context));
    check(kas_session_create(context, &desc, &session));
    assert_string_equal(kas_session_variant(session, "attend"), "attend_packed");
    kas_session_destroy(session);
    kas_context_destroy(context);
    check_nothing_left();
}

/* llvmpipe ends long loops without a word: what it cannot go through is refused, whole. */
typedef struct long_call {
    kas_context *context;
    kas_stream *stream;
    kas_session *session;
    kas_buffer *q, *out, *kv;
    kas_attention args;
    bool is_llvmpipe;
} long_call;

enum { LONG_KEYS = 34945, LONG_DIM = 256 };

static void begin_long(long_call *l, uint32_t heads, uint32_t batch, uint32_t queries)
{
    kas_vulkan_import import = describe_import();
    kas_device_info info = {.struct_size = sizeof(info)};
    const kas_session_desc desc = {.struct_size = sizeof(desc), .heads = heads, .kv_heads = 1, .head_dim = LONG_DIM,
                                   .dtype = KAS_DTYPE_F32, .max_batch = batch, .max_queries = 1,
                                   .max_decode_queries = queries, .max_keys = LONG_KEYS};
    const uint64_t row = LONG_DIM * sizeof(float);
    no_faults();
    check(adopt(&import, &l->context));
    check(kas_context_get_info(l->context, &info));
    check(kas_stream_create(l->context, &l->stream));
    check(kas_session_create(l->context, &desc, &l->session));
    check(kas_buffer_create(l->context, heads * queries * row, &l->q));
    check(kas_buffer_create(l->context, heads * queries * row, &l->out));
    check(kas_buffer_create(l->context, LONG_KEYS * row, &l->kv));
    l->args = (kas_attention){.struct_size = sizeof(l->args), .queries = queries, .keys = LONG_KEYS, .q = {l->q},
                              .k = {l->kv}, .v = {l->kv}, .out = {l->out}};
    l->is_llvmpipe = strstr(info.driver, "llvmpipe") != NULL;
}

/* A call that llvmpipe must refuse, with a sentence that has `text`, and other devices take. */
static void check_refused(long_call *l, kas_phase phase, const char *text)
{
    kas_status status = kas_attend(l->session, l->stream, phase, &l->args);
    assert_int_equal(status, l->is_llvmpipe ? KAS_ERROR_LIMIT : KAS_OK);
    if (l->is_llvmpipe)
        assert_non_null(strstr(kas_last_error(), text));
}

static void end_long(long_call *l)
{
    check(kas_stream_wait(l->stream));
    kas_session_destroy(l->session);
    kas_buffer_destroy(l->q);
    kas_buffer_destroy(l->out);
    kas_buffer_destroy(l->kv);
    kas_stream_destroy(l->stream);
    kas_context_destroy(l->context);
    check_nothing_left();
}

static void test_loop_turns(void **state)
{
    (void)state;
    long_call l;
    need_device();
    begin_long(&l, 1, 1, 1);
    l.args.keys = LONG_KEYS - 1;
    check(kas_attend(l.session, l.stream, KAS_PHASE_PREFILL, &l.args));
    l.args.keys = LONG_KEYS;
    check_refused(&l, KAS_PHASE_PREFILL, "34945");
    end_long(&l);
}

/* Decode goes over a split's keys once for each 16 query rows of a kv head. */
static void test_loop_turns_of_many_rows(void **state)
{
    (void)state;
    long_call l;
    need_device();
    begin_long(&l, 32, 64, 8);
    check_refused(&l, KAS_PHASE_DECODE, "8 queries");
    l.args.queries = 1;
    l.args.keys = 1000;
    check(kas_attend(l.session, l.stream, KAS_PHASE_DECODE, &l.args));
    end_long(&l);
}

/* Allocations are slow and few: small buffers share them, and a stream takes over what a destroyed one was made of. */
static void test_memory_is_shared(void **state)
{
    (void)state;
    enum { SMALL = 200, SIZE = 100000 };
    kas_vulkan_import import = describe_import();
    kas_context *context;
    kas_buffer *buffers[SMALL];
    kas_stream *stream, *other;
    char wrote[SIZE], read[SIZE];
    need_device();
    no_faults();
    check(adopt(&import, &context));
    check(kas_stream_create(context, &stream));
    int before = objects;
    for (int i = 0; i < SMALL; i++)
        check(kas_buffer_create(context, SIZE, &buffers[i]));
    assert_in_range(objects - before, SMALL, SMALL + SMALL / 8);
    for (int i = 0; i < SMALL; i++) {
        memset(wrote, i, SIZE);
        check(kas_buffer_write(stream, buffers[i], 0, wrote, SIZE));
    }
    for (int i = 0; i < SMALL; i++) {
        memset(wrote, i, SIZE);
        check(kas_buffer_read(stream, buffers[i], 0, read, SIZE));
        assert_memory_equal(read, wrote, SIZE);
    }
    for (int i = 0; i < SMALL; i++)
        kas_buffer_destroy(buffers[i]);
    assert_in_range(objects - before, 0, 3); /* an empty block, and the stream's staging memory */
    kas_stream_destroy(stream);
    before = objects;
    check(kas_stream_create(context, &stream));
    assert_int_equal(objects, before);
    check(kas_stream_create(context, &other));
    assert_true(objects > before);
    kas_stream_destroy(stream);
    kas_stream_destroy(other);
    kas_context_destroy(context);
    check_nothing_left();
}

/* ---- The pipeline cache ----------------------------------------------------------------------------------------- */

typedef struct cache_memory {
    unsigned char data[1 << 22];
    size_t size;
    char key[128];
    int loads, stores;
} cache_memory;

static cache_memory kept;

static size_t load_kept(void *user, const char *key, void *data, size_t capacity)
{
    cache_memory *m = user;
    m->loads++;
    if (m->size == 0 || strcmp(key, m->key) != 0)
        return 0;
    if (data)
        memcpy(data, m->data, m->size < capacity ? m->size : capacity);
    return m->size;
}

static void store_kept(void *user, const char *key, const void *data, size_t size)
{
    cache_memory *m = user;
    assert_true(size > 0 && size <= sizeof(m->data) && strlen(key) < sizeof(m->key));
    memcpy(m->data, data, size);
    m->size = size;
    snprintf(m->key, sizeof(m->key), "%s", key);
    m->stores++;
}

static void make_cached_session(void)
{
    kas_context_desc desc = {.struct_size = sizeof(desc), .device = "vulkan:0",
                             .cache = {.user = &kept, .load = load_kept, .store = store_kept}};
    kas_context *context;
    kas_session *session;
    check(kas_context_create(&desc, &context));
    check(make_session(context, &session));
    kas_session_destroy(session);
    kas_context_destroy(context);
}

static void test_pipeline_cache(void **state)
{
    (void)state;
    need_device();
    memset(&kept, 0, sizeof(kept));
    make_cached_session();
    assert_int_equal(kept.stores, 1);
    int loads = kept.loads;
    make_cached_session();
    assert_true(kept.loads > loads);
    /* Another driver's data under the same key, and less than a header. */
    memset(kept.data, 0x77, kept.size);
    make_cached_session();
    kept.size = 5;
    make_cached_session();
    assert_true(kept.size > 5);
}

/* ---- A loader without devices: another process, since drivers are looked for once ------------------------------- */

static int print_backend(void)
{
    kas_device_info info = {.struct_size = sizeof(info)};
    kas_status status = kas_device_get_info("vulkan:0", &info);
    printf("%d %s\n", status == KAS_ERROR_NO_DEVICE, kas_last_error());
    return 0;
}

static void test_no_device(void **state)
{
    (void)state;
    need_device();
    char command[4200], path[4096], line[512] = "";
    ssize_t length = readlink("/proc/self/exe", path, sizeof(path) - 1);
    assert_true(length > 0);
    path[length] = 0;
    snprintf(command, sizeof(command), "VK_DRIVER_FILES=/nonexistent VK_ICD_FILENAMES=/nonexistent '%s' --backend",
             path);
    FILE *output = popen(command, "r");
    assert_non_null(output);
    assert_non_null(fgets(line, sizeof(line), output));
    assert_int_equal(pclose(output), 0);
    assert_int_equal(line[0], '1');
    assert_true(strlen(line) > 20);
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--backend") == 0)
        return print_backend();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_device_and_buffers), cmocka_unit_test(test_command_buffer),
        cmocka_unit_test(test_driver_out_of_memory),
        cmocka_unit_test(test_driver_out_of_host_memory), cmocka_unit_test(test_host_out_of_memory),
        cmocka_unit_test(test_device_lost), cmocka_unit_test(test_what_is_missing),
        cmocka_unit_test(test_no_features), cmocka_unit_test(test_loop_turns),
        cmocka_unit_test(test_loop_turns_of_many_rows),
        cmocka_unit_test(test_memory_is_shared),
        cmocka_unit_test(test_pipeline_cache),
        cmocka_unit_test(test_no_device),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
