/* loader.c - finds the Vulkan entry points at run time. */
#include "loader.h"

#include "core/platform.h"

#include <stdio.h>

PFN_vkGetInstanceProcAddr kas_vulkan_loader(void)
{
    void *library = kas_library_open("libvulkan.so.1");
    /* POSIX makes the conversion between object and function pointers valid; C11 alone does not. */
    union {
        void *object;
        PFN_vkGetInstanceProcAddr function;
    } symbol = {library ? kas_library_symbol(library, "vkGetInstanceProcAddr") : NULL};
    return symbol.function;
}

#define LOAD(handle, name)                                                                                             \
    api->name = (PFN_vk##name)get(handle, "vk" #name);                                                                 \
    if (!api->name) {                                                                                                  \
        *missing = "vk" #name;                                                                                         \
        return false;                                                                                                  \
    }

bool kas_vulkan_load_global(PFN_vkGetInstanceProcAddr get, kas_vulkan_global_api *api, const char **missing)
{
#define LOAD_GLOBAL(name) LOAD(NULL, name)
    KAS_VULKAN_GLOBAL_LIST(LOAD_GLOBAL)
    return true;
}

bool kas_vulkan_load_instance(PFN_vkGetInstanceProcAddr get, VkInstance instance, kas_vulkan_instance_api *api,
                              const char **missing)
{
#define LOAD_INSTANCE(name) LOAD(instance, name)
    KAS_VULKAN_INSTANCE_LIST(LOAD_INSTANCE)
    api->GetPhysicalDeviceCooperativeMatrixPropertiesKHR =
        (PFN_vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR)get(
            instance, "vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR");
    return true;
}

bool kas_vulkan_load_device(PFN_vkGetDeviceProcAddr get, VkDevice device, kas_vulkan_device_api *api,
                            const char **missing)
{
#define LOAD_DEVICE(name) LOAD(device, name)
    KAS_VULKAN_DEVICE_LIST(LOAD_DEVICE)
    return true;
}

const char *kas_vulkan_result_text(VkResult result)
{
    static _Thread_local char unknown[32];
    switch (result) {
#define RESULT(name)                                                                                                   \
    case name:                                                                                                         \
        return #name;
        RESULT(VK_NOT_READY)
        RESULT(VK_TIMEOUT)
        RESULT(VK_ERROR_OUT_OF_HOST_MEMORY)
        RESULT(VK_ERROR_OUT_OF_DEVICE_MEMORY)
        RESULT(VK_ERROR_INITIALIZATION_FAILED)
        RESULT(VK_ERROR_DEVICE_LOST)
        RESULT(VK_ERROR_MEMORY_MAP_FAILED)
        RESULT(VK_ERROR_LAYER_NOT_PRESENT)
        RESULT(VK_ERROR_EXTENSION_NOT_PRESENT)
        RESULT(VK_ERROR_FEATURE_NOT_PRESENT)
        RESULT(VK_ERROR_INCOMPATIBLE_DRIVER)
        RESULT(VK_ERROR_TOO_MANY_OBJECTS)
        RESULT(VK_ERROR_FRAGMENTED_POOL)
        RESULT(VK_ERROR_OUT_OF_POOL_MEMORY)
        RESULT(VK_ERROR_UNKNOWN)
    default:
        snprintf(unknown, sizeof(unknown), "VkResult %d", (int)result);
        return unknown;
    }
}
