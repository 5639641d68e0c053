/* driver.c - finds libcuda and its entry points, judges its version, and puts its errors into words. */
#include "driver.h"

#include "core/platform.h"
#include <stdio.h>

/* The toolkit that compiled the kernels, as CUDA counts: 13000 for 13.0. Set by CMake. */
#ifndef KAS_CUDA_TOOLKIT
#error "KAS_CUDA_TOOLKIT must name the version of nvcc"
#endif

kas_cuda_driver kas_cuda;

static const char *load_entries(void *library)
{
    void *entry;
#define KAS_CUDA_LOAD(field, symbol, arguments)                                                                        \
    entry = kas_library_symbol(library, symbol);                                                                       \
    if (!entry)                                                                                                        \
        return symbol;                                                                                                 \
    *(void **)(&kas_cuda.field) = entry;
    KAS_CUDA_ENTRIES(KAS_CUDA_LOAD)
#undef KAS_CUDA_LOAD
#define KAS_CUDA_LOAD_IF_THERE(field, symbol, arguments)                                                               \
    *(void **)(&kas_cuda.field) = kas_library_symbol(library, symbol);
    KAS_CUDA_OPTIONAL_ENTRIES(KAS_CUDA_LOAD_IF_THERE)
#undef KAS_CUDA_LOAD_IF_THERE
    return NULL;
}

/* Machine code runs on drivers of the toolkit's major version and newer. */
static bool version_suffices(char *reason, size_t size)
{
    int version = 0;
    int needed = KAS_CUDA_TOOLKIT / 1000 * 1000;
    if (kas_cuda.driver_version(&version) != CUDA_SUCCESS || version < needed) {
        snprintf(reason, size,
                 "the NVIDIA driver supports CUDA %d.%d, but this build's kernels need a driver for CUDA %d.%d or newer",
                 version / 1000, version % 1000 / 10, needed / 1000, needed % 1000 / 10);
        return false;
    }
    return true;
}

bool kas_cuda_driver_load(char *reason, size_t reason_size)
{
    void *library = kas_library_open("libcuda.so.1");
    if (!library) {
        snprintf(reason, reason_size, "the NVIDIA driver's libcuda.so.1 was not found");
        return false;
    }
    const char *missing = load_entries(library);
    if (missing) {
        snprintf(reason, reason_size,
                 "the NVIDIA driver is too old: it lacks %s; this build needs a driver for CUDA %d.%d or newer", missing,
                 KAS_CUDA_TOOLKIT / 1000, 0);
        return false;
    }
    CUresult error = kas_cuda.init(0);
    if (error == CUDA_ERROR_NO_DEVICE) {
        snprintf(reason, reason_size, "the NVIDIA driver shows no device to this process");
        return false;
    }
    if (error != CUDA_SUCCESS) {
        char text[160];
        snprintf(reason, reason_size, "the NVIDIA driver does not start: %s",
                 kas_cuda_error_text(error, text, sizeof(text)));
        return false;
    }
    return version_suffices(reason, reason_size);
}

const char *kas_cuda_error_text(CUresult error, char *text, size_t size)
{
    const char *name = NULL, *meaning = NULL;
    if (kas_cuda.error_name(error, &name) != CUDA_SUCCESS || !name)
        name = "unknown error";
    if (kas_cuda.error_string(error, &meaning) != CUDA_SUCCESS || !meaning)
        meaning = "no description";
    snprintf(text, size, "%s %d (%s)", name, error, meaning);
    return text;
}

bool kas_cuda_error_is_sticky(CUresult error)
{
    switch (error) {
    case CUDA_ERROR_ECC_UNCORRECTABLE:
    case CUDA_ERROR_CONTAINED:
    case CUDA_ERROR_ILLEGAL_ADDRESS:
    case CUDA_ERROR_LAUNCH_TIMEOUT:
    case CUDA_ERROR_CONTEXT_IS_DESTROYED:
    case CUDA_ERROR_ASSERT:
    case CUDA_ERROR_HARDWARE_STACK_ERROR:
    case CUDA_ERROR_ILLEGAL_INSTRUCTION:
    case CUDA_ERROR_MISALIGNED_ADDRESS:
    case CUDA_ERROR_INVALID_ADDRESS_SPACE:
    case CUDA_ERROR_INVALID_PC:
    case CUDA_ERROR_LAUNCH_FAILED:
        return true;
    default:
        return false;
    }
}
