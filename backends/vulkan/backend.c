/* backend.c - the table through which core reaches Vulkan devices. */
#include "context.h"

const kas_backend kas_backend_vulkan = {
    .name = "vulkan",
    .variants = kas_vulkan_variants,
    .variant_count = KAS_VULKAN_VARIANT_COUNT,
    /* By the registers that NVIDIA's driver gives the subgroup rows at head dimension 128; a guess elsewhere. */
    .groups_per_unit = 3,
    .score_groups_per_unit = 5,
    .probe = kas_vulkan_probe,
    .device_info = kas_vulkan_device_info,
    .open = kas_vulkan_open,
    .close = kas_vulkan_close,
    .buffer_create = kas_vulkan_buffer_create,
    .buffer_import = kas_vulkan_buffer_import,
    .buffer_destroy = kas_vulkan_buffer_destroy,
    .buffer_host = kas_vulkan_buffer_host,
    .stream_create = kas_vulkan_stream_create,
    .stream_destroy = kas_vulkan_stream_destroy,
    .stream_wait = kas_vulkan_stream_wait,
    .write = kas_vulkan_write,
    .read = kas_vulkan_read,
    .copy = kas_vulkan_copy,
    .fill = kas_vulkan_fill,
    .kernel_load = kas_vulkan_kernel_load,
    .kernel_unload = kas_vulkan_kernel_unload,
    .launch = kas_vulkan_launch,
    .timer_create = kas_vulkan_timer_create,
    .timer_destroy = kas_vulkan_timer_destroy,
    .timer_mark = kas_vulkan_timer_mark,
    .timer_elapsed = kas_vulkan_timer_elapsed,
};
