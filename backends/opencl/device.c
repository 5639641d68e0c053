/* device.c - finds the OpenCL devices that can run this backend and describes them. */
#include "device.h"

#include <stdio.h>
#include <string.h>

#define MAX_DEVICES 64
#define MAX_PLATFORMS 16

/* cl_nv_device_attribute_query */
#define DEVICE_COMPUTE_CAPABILITY_MAJOR_NV 0x4000

/* GPUs come first, so that "opencl" alone means the fastest kind of device. */
static const cl_device_type kinds[] = {CL_DEVICE_TYPE_GPU, CL_DEVICE_TYPE_ACCELERATOR, CL_DEVICE_TYPE_CPU};

static cl_device_id devices[MAX_DEVICES];
static uint32_t device_count;

void kas_cl_device_text(cl_device_id device, cl_device_info name, char *text, size_t size)
{
    char whole[8192] = "";
    if (kas_cl.GetDeviceInfo(device, name, sizeof(whole), whole, NULL) != CL_SUCCESS)
        whole[0] = 0;
    whole[sizeof(whole) - 1] = 0;
    snprintf(text, size, "%s", whole);
}

static uint64_t number_of(cl_device_id device, cl_device_info name, size_t size)
{
    uint64_t value = 0; /* little-endian hosts only: shorter values fill the low bytes */
    return kas_cl.GetDeviceInfo(device, name, size, &value, NULL) == CL_SUCCESS ? value : 0;
}

static uint32_t u32_of(cl_device_id device, cl_device_info name)
{
    return (uint32_t)number_of(device, name, sizeof(cl_uint));
}

static bool has_extension(cl_device_id device, const char *extension)
{
    char list[8192];
    size_t length = strlen(extension);
    kas_cl_device_text(device, CL_DEVICE_EXTENSIONS, list, sizeof(list));
    for (const char *at = strstr(list, extension); at; at = strstr(at + 1, extension))
        if ((at == list || at[-1] == ' ') && (at[length] == ' ' || at[length] == 0))
            return true;
    return false;
}

/* A sentence's end on why a device cannot be used, or NULL. */
static const char *defect_of(cl_device_id device)
{
    char version[128];
    unsigned major = 0, minor = 0;
    kas_cl_device_text(device, CL_DEVICE_VERSION, version, sizeof(version));
    if (sscanf(version, "OpenCL %u.%u", &major, &minor) != 2 || major < 1 || (major == 1 && minor < 2))
        return "is older than OpenCL 1.2";
    if (!u32_of(device, CL_DEVICE_AVAILABLE))
        return "is not available";
    if (!u32_of(device, CL_DEVICE_COMPILER_AVAILABLE))
        return "has no compiler for OpenCL C";
    if (!u32_of(device, CL_DEVICE_ENDIAN_LITTLE))
        return "is big-endian";
    return NULL;
}

/* A device may be of several kinds. */
static bool is_listed(cl_device_id device)
{
    for (uint32_t i = 0; i < device_count; i++)
        if (devices[i] == device)
            return true;
    return false;
}

static void add_devices(cl_platform_id platform, cl_device_type kind)
{
    cl_device_id found[MAX_DEVICES];
    cl_uint count = 0;
    if (kas_cl.GetDeviceIDs(platform, kind, MAX_DEVICES, found, &count) != CL_SUCCESS)
        return;
    for (cl_uint i = 0; i < count && i < MAX_DEVICES; i++) {
        const char *defect = defect_of(found[i]);
        if (!defect && device_count < MAX_DEVICES && !is_listed(found[i])) {
            devices[device_count++] = found[i];
        } else if (defect) {
            char name[128];
            kas_cl_device_text(found[i], CL_DEVICE_NAME, name, sizeof(name));
            kas_log(KAS_LOG_WARNING, "opencl: the device %s is left out: it %s", name, defect);
        }
    }
}

uint32_t kas_cl_devices_find(char *reason, size_t reason_size)
{
    cl_platform_id platforms[MAX_PLATFORMS];
    cl_uint count = 0;
    cl_int error = kas_cl.GetPlatformIDs(MAX_PLATFORMS, platforms, &count);
    if (error != CL_SUCCESS || count == 0) {
        snprintf(reason, reason_size,
                 "libOpenCL.so.1 knows no platform; a driver must be installed and named by an .icd file in "
                 "/etc/OpenCL/vendors (%s)",
                 kas_cl_error_name(error));
        return 0;
    }
    for (size_t kind = 0; kind < KAS_COUNT(kinds); kind++)
        for (cl_uint i = 0; i < count && i < MAX_PLATFORMS; i++)
            add_devices(platforms[i], kinds[kind]);
    if (device_count == 0)
        snprintf(reason, reason_size, "%u OpenCL platform(s) were found, but no device that can run this library",
                 count);
    return device_count;
}

cl_device_id kas_cl_device(uint32_t index)
{
    return devices[index];
}

static uint64_t features_of(cl_device_id device)
{
    uint64_t features = KAS_FEATURE_INT64 | KAS_FEATURE_STORAGE16;
    if (has_extension(device, "cl_khr_fp16"))
        features |= KAS_FEATURE_F16;
    if (has_extension(device, "cl_khr_subgroups"))
        features |= KAS_FEATURE_SUBGROUP;
    if (number_of(device, CL_DEVICE_TYPE, sizeof(cl_device_type)) & CL_DEVICE_TYPE_CPU)
        features |= KAS_FEATURE_SERIAL;
    if (has_extension(device, "cl_nv_device_attribute_query") &&
        u32_of(device, DEVICE_COMPUTE_CAPABILITY_MAJOR_NV) >= 8)
        features |= KAS_FEATURE_MMA;
    return features;
}

/* NVIDIA's driver (580) answers 256 for every kernel, and runs the group that reqd_work_group_size asked for. */
cl_int kas_cl_most_items(cl_device_id device, cl_kernel kernel, size_t *items)
{
    if (has_extension(device, "cl_nv_device_attribute_query"))
        return kas_cl.GetDeviceInfo(device, CL_DEVICE_MAX_WORK_GROUP_SIZE, sizeof(*items), items, NULL);
    return kas_cl.GetKernelWorkGroupInfo(kernel, device, CL_KERNEL_WORK_GROUP_SIZE, sizeof(*items), items, NULL);
}

kas_status kas_cl_device_describe(cl_device_id device, kas_device_info *info)
{
    char name[128], version[64], driver[48];
    kas_cl_device_text(device, CL_DEVICE_NAME, name, sizeof(name));
    kas_cl_device_text(device, CL_DEVICE_VERSION, version, sizeof(version));
    kas_cl_device_text(device, CL_DRIVER_VERSION, driver, sizeof(driver));
    if (!name[0])
        return kas_fail(KAS_ERROR_DRIVER, "the OpenCL driver does not describe its device");
    snprintf(info->description, sizeof(info->description), "%s", name);
    snprintf(info->driver, sizeof(info->driver), "%s, driver %s", version, driver);
    info->features = features_of(device);
    info->memory = number_of(device, CL_DEVICE_GLOBAL_MEM_SIZE, sizeof(cl_ulong));
    info->max_allocation = number_of(device, CL_DEVICE_MAX_MEM_ALLOC_SIZE, sizeof(cl_ulong));
    info->max_binding = info->max_allocation;
    info->slice_alignment = 4; /* offsets reach kernels as arguments, not as sub-buffers */
    info->compute_units = u32_of(device, CL_DEVICE_MAX_COMPUTE_UNITS);
    /* Groups of 1,024 items stay below 2^32 items; y and z as NVIDIA limits them. */
    info->max_group_count[0] = (1u << 22) - 1;
    info->max_group_count[1] = 65535;
    info->max_group_count[2] = 65535;
    info->shared_memory = (uint32_t)number_of(device, CL_DEVICE_LOCAL_MEM_SIZE, sizeof(cl_ulong));
    info->host_memory = 0;
    return KAS_OK;
}
