/* registry.c - the backends of this build, probed once; devices by name. */
#include "registry.h"

#include "platform.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_BACKENDS 8

const kas_backend *const kas_backends[] = {
    &kas_backend_cpu,
#if KAS_HAVE_CUDA
    &kas_backend_cuda,
#endif
#if KAS_HAVE_VULKAN
    &kas_backend_vulkan,
#endif
#if KAS_HAVE_OPENCL
    &kas_backend_opencl,
#endif
    NULL,
};

typedef struct entry {
    const kas_backend *backend;
    uint32_t device_count;
    char reason[256];
} entry;

static entry entries[MAX_BACKENDS];
static uint32_t entry_count;
static kas_once probed;

static void add_entry(const kas_backend *backend)
{
    entry *added = &entries[entry_count++];
    added->backend = backend;
    added->device_count = backend->probe(added->reason, sizeof(added->reason));
}

static void probe_all(void)
{
    for (size_t i = 0; kas_backends[i]; i++)
        add_entry(kas_backends[i]);
}

bool kas_registry_add(const kas_backend *backend)
{
    kas_call_once(&probed, probe_all);
    if (entry_count == MAX_BACKENDS)
        return false;
    add_entry(backend);
    return true;
}

uint32_t kas_backend_count(void)
{
    kas_call_once(&probed, probe_all);
    return entry_count;
}

kas_status kas_backend_get_info(uint32_t index, kas_backend_info *info)
{
    KAS_TRY(kas_require_struct("info", info, sizeof(*info)));
    if (index >= kas_backend_count())
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "index is %u, the number of backends is %u", index, entry_count);
    const entry *found = &entries[index];
    info->name = found->backend->name;
    info->available = found->device_count > 0;
    info->reason = found->device_count > 0 ? "" : found->reason;
    info->device_count = found->device_count;
    return KAS_OK;
}

/* Reads ":3" behind a backend's name; "" is device 0. */
static bool parse_index(const char *text, uint32_t *index)
{
    if (*text == '\0') {
        *index = 0;
        return true;
    }
    if (text[0] != ':' || text[1] < '0' || text[1] > '9')
        return false;
    char *end;
    unsigned long value = strtoul(text + 1, &end, 10);
    if (*end != '\0' || value > 1000000)
        return false;
    *index = (uint32_t)value;
    return true;
}

static kas_status find_device(const entry *found, const char *device, uint32_t index)
{
    if (found->device_count == 0)
        return kas_fail(KAS_ERROR_NO_DEVICE, "%s: %s", device, found->reason);
    if (index >= found->device_count)
        return kas_fail(KAS_ERROR_NO_DEVICE, "%s does not exist, the last device of %s is %s:%u", device,
                        found->backend->name, found->backend->name, found->device_count - 1);
    return KAS_OK;
}

kas_status kas_registry_find(const char *device, const kas_backend **backend, uint32_t *index)
{
    kas_call_once(&probed, probe_all);
    for (uint32_t i = 0; i < entry_count; i++) {
        size_t length = strlen(entries[i].backend->name);
        uint32_t number;
        if (strncmp(device, entries[i].backend->name, length) != 0 || !parse_index(device + length, &number))
            continue;
        KAS_TRY(find_device(&entries[i], device, number));
        *backend = entries[i].backend;
        *index = number;
        return KAS_OK;
    }
    return kas_fail(KAS_ERROR_NO_DEVICE, "\"%.64s\" names no device of this build", device);
}

kas_status kas_registry_device_info(const kas_backend *backend, uint32_t index, kas_device_info *info)
{
    kas_device_info found = {.struct_size = sizeof(found)};
    snprintf(found.name, sizeof(found.name), "%s:%u", backend->name, index);
    KAS_TRY(backend->device_info(index, &found));
    *info = found;
    return KAS_OK;
}

kas_status kas_device_get_info(const char *name, kas_device_info *info)
{
    KAS_TRY(kas_require("name", name));
    KAS_TRY(kas_require_struct("info", info, sizeof(*info)));
    const kas_backend *backend;
    uint32_t index;
    KAS_TRY(kas_registry_find(name, &backend, &index));
    return kas_registry_device_info(backend, index, info);
}
