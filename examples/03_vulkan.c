/*
 * 03_vulkan.c - the library inside a Vulkan program: it adopts the program's device and buffer, records a layer into the
 * program's command buffer between other commands, and the program waits for a timeline semaphore.
 */
#define VK_NO_PROTOTYPES
#include "check.h"

#include <kascade/vulkan.h>
#include <vulkan/vulkan_core.h>

#include <dlfcn.h>
#include <math.h>
#include <string.h>

#define HEADS 4u
#define KV_HEADS 2u
#define HEAD_DIM 32u
#define TOKENS 512u
#define Q_FLOATS (TOKENS * HEADS * HEAD_DIM)
#define KV_FLOATS (TOKENS * KV_HEADS * HEAD_DIM)
#define FLOATS (2 * Q_FLOATS + 2 * KV_FLOATS) /* q, k, v and out in one buffer */

/* The entry points that this program uses itself. The library finds its own. */
#define FUNCTIONS(X)                                                                                                   \
    X(EnumeratePhysicalDevices)                                                                                        \
    X(GetPhysicalDeviceQueueFamilyProperties)                                                                          \
    X(GetPhysicalDeviceMemoryProperties)                                                                               \
    X(CreateDevice)                                                                                                    \
    X(DestroyDevice)                                                                                                   \
    X(DestroyInstance)                                                                                                 \
    X(GetDeviceQueue)                                                                                                  \
    X(CreateBuffer)                                                                                                    \
    X(DestroyBuffer)                                                                                                   \
    X(GetBufferMemoryRequirements)                                                                                     \
    X(AllocateMemory)                                                                                                  \
    X(FreeMemory)                                                                                                      \
    X(BindBufferMemory)                                                                                                \
    X(MapMemory)                                                                                                       \
    X(CreateCommandPool)                                                                                               \
    X(DestroyCommandPool)                                                                                              \
    X(AllocateCommandBuffers)                                                                                          \
    X(BeginCommandBuffer)                                                                                              \
    X(EndCommandBuffer)                                                                                                \
    X(CmdFillBuffer)                                                                                                   \
    X(CmdPipelineBarrier)                                                                                              \
    X(CreateSemaphore)                                                                                                 \
    X(DestroySemaphore)                                                                                                \
    X(WaitSemaphores)                                                                                                  \
    X(QueueSubmit)

static struct {
#define MEMBER(name) PFN_vk##name name;
    FUNCTIONS(MEMBER)
    VkInstance instance;
    VkPhysicalDevice physical;
    VkDevice device;
    VkQueue queue;
    uint32_t family;
} vk;

#define CHECK_VK(call)                                                                                                 \
    do {                                                                                                               \
        VkResult result = (call);                                                                                      \
        if (result != VK_SUCCESS) {                                                                                    \
            fprintf(stderr, "%s:%d: %s answered %d\n", __FILE__, __LINE__, #call, (int)result);                        \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

static void skip(const char *why)
{
    printf("skipped: %s\n", why);
    exit(77);
}

/* The first device, with timeline semaphores enabled. */
static void open_device(void)
{
    void *library = dlopen("libvulkan.so.1", RTLD_NOW);
    PFN_vkGetInstanceProcAddr get = NULL;
    if (library)
        *(void **)&get = dlsym(library, "vkGetInstanceProcAddr");
    if (!get)
        skip("no Vulkan loader");
    VkApplicationInfo application = {.sType = VK_STRUCTURE_TYPE_APPLICATION_INFO, .apiVersion = VK_API_VERSION_1_2};
    VkInstanceCreateInfo create = {.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO, .pApplicationInfo = &application};
    if (((PFN_vkCreateInstance)get(NULL, "vkCreateInstance"))(&create, NULL, &vk.instance) != VK_SUCCESS)
        skip("no Vulkan driver");
#define LOAD(name) vk.name = (PFN_vk##name)get(vk.instance, "vk" #name);
    FUNCTIONS(LOAD)
    uint32_t count = 1;
    if (vk.EnumeratePhysicalDevices(vk.instance, &count, &vk.physical) < VK_SUCCESS || count == 0)
        skip("no Vulkan device");
    VkQueueFamilyProperties families[16];
    count = 16;
    vk.GetPhysicalDeviceQueueFamilyProperties(vk.physical, &count, families);
    while (vk.family < count && !(families[vk.family].queueFlags & VK_QUEUE_COMPUTE_BIT))
        vk.family++;
    if (vk.family == count)
        skip("no queue that computes");
    const float priority = 1.0f;
    VkPhysicalDeviceVulkan12Features features = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES,
                                                 .timelineSemaphore = VK_TRUE};
    VkDeviceQueueCreateInfo queue = {.sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO,
                                     .queueFamilyIndex = vk.family,
                                     .queueCount = 1,
                                     .pQueuePriorities = &priority};
    VkDeviceCreateInfo device = {.sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO,
                                 .pNext = &features,
                                 .queueCreateInfoCount = 1,
                                 .pQueueCreateInfos = &queue};
    CHECK_VK(vk.CreateDevice(vk.physical, &device, NULL, &vk.device));
    vk.GetDeviceQueue(vk.device, vk.family, 0, &vk.queue);
}

/* A buffer with the usages that kas_buffer_import asks for, in memory that the host sees at all times. */
static float *create_buffer(VkBuffer *buffer, VkDeviceMemory *memory)
{
    const VkMemoryPropertyFlags wanted = VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT;
    VkBufferCreateInfo create = {.sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO,
                                 .size = FLOATS * sizeof(float),
                                 .usage = VK_BUFFER_USAGE_STORAGE_BUFFER_BIT | VK_BUFFER_USAGE_TRANSFER_SRC_BIT |
                                          VK_BUFFER_USAGE_TRANSFER_DST_BIT};
    VkPhysicalDeviceMemoryProperties types;
    VkMemoryRequirements needs;
    void *mapped;
    CHECK_VK(vk.CreateBuffer(vk.device, &create, NULL, buffer));
    vk.GetBufferMemoryRequirements(vk.device, *buffer, &needs);
    vk.GetPhysicalDeviceMemoryProperties(vk.physical, &types);
    uint32_t type = 0;
    while (!(needs.memoryTypeBits & 1u << type) || (types.memoryTypes[type].propertyFlags & wanted) != wanted)
        type++;
    VkMemoryAllocateInfo allocate = {
        .sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO, .allocationSize = needs.size, .memoryTypeIndex = type};
    CHECK_VK(vk.AllocateMemory(vk.device, &allocate, NULL, memory));
    CHECK_VK(vk.BindBufferMemory(vk.device, *buffer, *memory, 0));
    CHECK_VK(vk.MapMemory(vk.device, *memory, 0, VK_WHOLE_SIZE, 0, &mapped));
    return mapped;
}

/* What the library needs to know of the program's device. It was created with none of the library's features. */
static kas_context *adopt_device(void)
{
    kas_vulkan_import import = {.struct_size = sizeof(import),
                                .queue_family = vk.family,
                                .instance = vk.instance,
                                .physical_device = vk.physical,
                                .device = vk.device,
                                .queue = vk.queue};
    kas_context_desc desc = {.struct_size = sizeof(desc), .device = "vulkan", .import = &import};
    kas_context *context;
    CHECK(kas_context_create(&desc, &context));
    return context;
}

static kas_session *create_session(kas_context *context)
{
    const uint32_t anchors[] = {0};
    kas_plan_desc plan_desc = {.struct_size = sizeof(plan_desc), .layers = 2, .heads = HEADS, .kv_heads = KV_HEADS,
                               .anchors = anchors, .anchor_count = 1};
    kas_plan *plan;
    kas_session *session;
    CHECK(kas_plan_create(&plan_desc, &plan));
    kas_session_desc desc = {.struct_size = sizeof(desc), .plan = plan, .head_dim = HEAD_DIM, .dtype = KAS_DTYPE_F32,
                             .max_queries = TOKENS, .max_keys = TOKENS};
    CHECK(kas_session_create(context, &desc, &session));
    kas_plan_destroy(plan);
    return session;
}

static VkCommandBuffer begin_commands(VkCommandPool *pool)
{
    VkCommandPoolCreateInfo create = {.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO,
                                      .queueFamilyIndex = vk.family};
    VkCommandBufferBeginInfo begin = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO};
    VkCommandBuffer commands;
    CHECK_VK(vk.CreateCommandPool(vk.device, &create, NULL, pool));
    VkCommandBufferAllocateInfo allocate = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO,
                                            .commandPool = *pool,
                                            .level = VK_COMMAND_BUFFER_LEVEL_PRIMARY,
                                            .commandBufferCount = 1};
    CHECK_VK(vk.AllocateCommandBuffers(vk.device, &allocate, &commands));
    CHECK_VK(vk.BeginCommandBuffer(commands, &begin));
    return commands;
}

/* Layer 0 publishes lists, layer 1 reads them; its output stays. */
static void record_layers(kas_session *session, kas_stream *stream, kas_buffer *buffer)
{
    for (uint32_t layer = 0; layer < 2; layer++) {
        kas_attention args = {.struct_size = sizeof(args), .layer = layer, .queries = TOKENS, .keys = TOKENS,
                              .q = {.buffer = buffer},
                              .k = {.buffer = buffer, .offset = Q_FLOATS * sizeof(float)},
                              .v = {.buffer = buffer, .offset = (Q_FLOATS + KV_FLOATS) * sizeof(float)},
                              .out = {.buffer = buffer, .offset = (Q_FLOATS + 2 * KV_FLOATS) * sizeof(float)}};
        CHECK(kas_prefill(session, stream, &args));
    }
}

/* The library orders its own work; the host's reading after it is the program's to order. */
static void order_host(VkCommandBuffer commands)
{
    VkMemoryBarrier barrier = {.sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER,
                               .srcAccessMask = VK_ACCESS_SHADER_WRITE_BIT | VK_ACCESS_TRANSFER_WRITE_BIT,
                               .dstAccessMask = VK_ACCESS_HOST_READ_BIT};
    vk.CmdPipelineBarrier(commands, VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT | VK_PIPELINE_STAGE_TRANSFER_BIT,
                          VK_PIPELINE_STAGE_HOST_BIT, 0, 1, &barrier, 0, NULL, 0, NULL);
}

/* Submits with a timeline semaphore and waits for its value. */
static void run(VkCommandBuffer commands)
{
    const uint64_t done = 1;
    VkSemaphoreTypeCreateInfo type = {.sType = VK_STRUCTURE_TYPE_SEMAPHORE_TYPE_CREATE_INFO,
                                      .semaphoreType = VK_SEMAPHORE_TYPE_TIMELINE};
    VkSemaphoreCreateInfo create = {.sType = VK_STRUCTURE_TYPE_SEMAPHORE_CREATE_INFO, .pNext = &type};
    VkSemaphore semaphore;
    CHECK_VK(vk.CreateSemaphore(vk.device, &create, NULL, &semaphore));
    VkTimelineSemaphoreSubmitInfo values = {.sType = VK_STRUCTURE_TYPE_TIMELINE_SEMAPHORE_SUBMIT_INFO,
                                            .signalSemaphoreValueCount = 1,
                                            .pSignalSemaphoreValues = &done};
    VkSubmitInfo submit = {.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO,
                           .pNext = &values,
                           .commandBufferCount = 1,
                           .pCommandBuffers = &commands,
                           .signalSemaphoreCount = 1,
                           .pSignalSemaphores = &semaphore};
    CHECK_VK(vk.QueueSubmit(vk.queue, 1, &submit, VK_NULL_HANDLE));
    VkSemaphoreWaitInfo wait = {.sType = VK_STRUCTURE_TYPE_SEMAPHORE_WAIT_INFO,
                                .semaphoreCount = 1,
                                .pSemaphores = &semaphore,
                                .pValues = &done};
    CHECK_VK(vk.WaitSemaphores(vk.device, &wait, UINT64_MAX));
    vk.DestroySemaphore(vk.device, semaphore, NULL);
}

int main(void)
{
    open_device();
    VkBuffer buffer;
    VkDeviceMemory memory;
    VkCommandPool pool;
    float *values = create_buffer(&buffer, &memory);
    for (uint32_t i = 0; i < FLOATS; i++)
        values[i] = sinf((float)i * 0.7f);

    kas_context *context = adopt_device();
    kas_session *session = create_session(context);
    kas_buffer *tensors;
    uint64_t handle = 0;
    memcpy(&handle, &buffer, sizeof(buffer));
    CHECK(kas_buffer_import(context, handle, 0, FLOATS * sizeof(float), &tensors));

    VkCommandBuffer commands = begin_commands(&pool);
    vk.CmdFillBuffer(commands, buffer, (Q_FLOATS + 2 * KV_FLOATS) * sizeof(float), Q_FLOATS * sizeof(float), 0x7fc00000);
    kas_stream *stream;
    CHECK(kas_stream_import(context, (uint64_t)(uintptr_t)commands, &stream));
    record_layers(session, stream, tensors);
    order_host(commands);
    CHECK_VK(vk.EndCommandBuffer(commands));
    run(commands);

    /* The first token sees itself alone: its output is its value, for every query head of a kv head. */
    const float *out = values + Q_FLOATS + 2 * KV_FLOATS, *v = values + Q_FLOATS + KV_FLOATS;
    float difference = 0;
    for (uint32_t h = 0; h < HEADS; h++)
        for (uint32_t d = 0; d < HEAD_DIM; d++)
            difference = fmaxf(difference, fabsf(out[h * HEAD_DIM + d] - v[h / (HEADS / KV_HEADS) * HEAD_DIM + d]));
    for (uint32_t i = 0; i < Q_FLOATS; i++)
        difference = isfinite(out[i]) ? difference : INFINITY;
    printf("two layers of %u tokens in the program's command buffer; attend by row %s; difference %g\n", TOKENS,
           kas_session_variant(session, "attend"), (double)difference);

    /* The stream holds the descriptor sets of what was recorded: it goes when the commands have run for the last time. */
    kas_stream_destroy(stream);
    kas_session_destroy(session);
    kas_buffer_destroy(tensors);
    kas_context_destroy(context);
    vk.DestroyCommandPool(vk.device, pool, NULL);
    vk.DestroyBuffer(vk.device, buffer, NULL);
    vk.FreeMemory(vk.device, memory, NULL);
    vk.DestroyDevice(vk.device, NULL);
    vk.DestroyInstance(vk.instance, NULL);
    return difference <= 1e-6f ? 0 : 1;
}
