/* driver.c - finds libOpenCL and its entry points, and puts OpenCL's errors into words and statuses. */
#include "driver.h"

#include "core/platform.h"
#include <stdio.h>

/* What NVIDIA's driver answers after a kernel has touched memory it must not. */
#define NVIDIA_ILLEGAL_ACCESS (-9999)
/* cl_khr_icd: the loader knows no platform. */
#define PLATFORM_NOT_FOUND (-1001)

kas_cl_driver kas_cl;

static const char *load_entries(void *library)
{
    void *entry;
#define KAS_CL_LOAD(name)                                                                                              \
    entry = kas_library_symbol(library, "cl" #name);                                                                   \
    if (!entry)                                                                                                        \
        return "cl" #name;                                                                                             \
    *(void **)(&kas_cl.name) = entry;
    KAS_CL_ENTRIES(KAS_CL_LOAD)
#undef KAS_CL_LOAD
    return NULL;
}

bool kas_cl_driver_load(char *reason, size_t reason_size)
{
    void *library = kas_library_open("libOpenCL.so.1");
    if (!library) {
        snprintf(reason, reason_size,
                 "libOpenCL.so.1 was not found (on Debian and Ubuntu: package ocl-icd-libopencl1)");
        return false;
    }
    const char *missing = load_entries(library);
    if (missing) {
        snprintf(reason, reason_size, "libOpenCL.so.1 lacks %s; OpenCL 1.2 or newer is needed", missing);
        return false;
    }
    return true;
}

#define ERRORS(X)                                                                                                      \
    X(CL_DEVICE_NOT_FOUND)                                                                                             \
    X(CL_DEVICE_NOT_AVAILABLE)                                                                                         \
    X(CL_COMPILER_NOT_AVAILABLE)                                                                                       \
    X(CL_MEM_OBJECT_ALLOCATION_FAILURE)                                                                                \
    X(CL_OUT_OF_RESOURCES)                                                                                             \
    X(CL_OUT_OF_HOST_MEMORY)                                                                                           \
    X(CL_PROFILING_INFO_NOT_AVAILABLE)                                                                                 \
    X(CL_MEM_COPY_OVERLAP)                                                                                             \
    X(CL_BUILD_PROGRAM_FAILURE)                                                                                        \
    X(CL_EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST)                                                                    \
    X(CL_INVALID_VALUE)                                                                                                \
    X(CL_INVALID_PLATFORM)                                                                                             \
    X(CL_INVALID_DEVICE)                                                                                               \
    X(CL_INVALID_CONTEXT)                                                                                              \
    X(CL_INVALID_QUEUE_PROPERTIES)                                                                                     \
    X(CL_INVALID_COMMAND_QUEUE)                                                                                        \
    X(CL_INVALID_MEM_OBJECT)                                                                                           \
    X(CL_INVALID_BINARY)                                                                                               \
    X(CL_INVALID_BUILD_OPTIONS)                                                                                        \
    X(CL_INVALID_PROGRAM)                                                                                              \
    X(CL_INVALID_PROGRAM_EXECUTABLE)                                                                                   \
    X(CL_INVALID_KERNEL_NAME)                                                                                          \
    X(CL_INVALID_KERNEL_DEFINITION)                                                                                    \
    X(CL_INVALID_KERNEL)                                                                                               \
    X(CL_INVALID_ARG_INDEX)                                                                                            \
    X(CL_INVALID_ARG_VALUE)                                                                                            \
    X(CL_INVALID_ARG_SIZE)                                                                                             \
    X(CL_INVALID_KERNEL_ARGS)                                                                                          \
    X(CL_INVALID_WORK_DIMENSION)                                                                                       \
    X(CL_INVALID_WORK_GROUP_SIZE)                                                                                      \
    X(CL_INVALID_WORK_ITEM_SIZE)                                                                                       \
    X(CL_INVALID_GLOBAL_OFFSET)                                                                                        \
    X(CL_INVALID_EVENT_WAIT_LIST)                                                                                      \
    X(CL_INVALID_EVENT)                                                                                                \
    X(CL_INVALID_OPERATION)                                                                                            \
    X(CL_INVALID_BUFFER_SIZE)                                                                                          \
    X(CL_INVALID_GLOBAL_WORK_SIZE)                                                                                     \
    X(CL_INVALID_PROPERTY)

const char *kas_cl_error_name(cl_int error)
{
    switch (error) {
#define KAS_CL_ERROR_NAME(name)                                                                                        \
    case name:                                                                                                         \
        return #name;
        ERRORS(KAS_CL_ERROR_NAME)
#undef KAS_CL_ERROR_NAME
    case NVIDIA_ILLEGAL_ACCESS:
        return "illegal memory access of a kernel";
    case PLATFORM_NOT_FOUND:
        return "CL_PLATFORM_NOT_FOUND_KHR";
    default:
        return "an error without a name";
    }
}

/* A context or queue that was valid turns invalid only when the driver has given it up. */
static kas_status status_of(cl_int error)
{
    switch (error) {
    case CL_SUCCESS:
        return KAS_OK;
    case CL_OUT_OF_HOST_MEMORY:
        return KAS_ERROR_OUT_OF_MEMORY;
    case CL_MEM_OBJECT_ALLOCATION_FAILURE:
        return KAS_ERROR_OUT_OF_DEVICE_MEMORY;
    case CL_DEVICE_NOT_AVAILABLE:
    case CL_INVALID_CONTEXT:
    case CL_INVALID_COMMAND_QUEUE:
    case NVIDIA_ILLEGAL_ACCESS:
        return KAS_ERROR_DEVICE_LOST;
    default:
        return KAS_ERROR_DRIVER;
    }
}

kas_status kas_cl_fail(cl_int error, const char *action)
{
    kas_status status = status_of(error);
    return kas_fail(status, "%s: %s%s (%d)", action,
                    status == KAS_ERROR_DEVICE_LOST ? "the OpenCL device is lost: " : "", kas_cl_error_name(error),
                    error);
}
