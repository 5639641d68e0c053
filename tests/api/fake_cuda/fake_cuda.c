/*
 * fake_cuda.c - a libcuda.so.1 without a device behind it: memory is the host's, kernels do nothing. FAKE_CUDA in the
 * environment names what is wrong with it: "none" (no device permitted), "old" (version), "memory" (none left), "lost"
 * (launches run into an illegal address). Built with FAKE_CUDA_LACKS it has no cuMemsetD8Async. Tensor maps are judged
 * by the driver's rules for alignment; fake_cuda_maps is the word behind those of the last kernel that took any.
 */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { NO_DEVICE = 100, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, ILLEGAL_ADDRESS = 700, MAP_BYTES = 128 };

unsigned fake_cuda_maps;

typedef unsigned long long pointer;

static int lost;
static int takes_maps; /* its address is the handle of kernels that do */

static bool is(const char *mode)
{
    const char *own = getenv("FAKE_CUDA");
    return own && strcmp(own, mode) == 0;
}

static void *memory(pointer at)
{
    return (void *)(size_t)at;
}

#define FAKE(name, arguments, ...)                                                                                     \
    int name arguments;                                                                                                \
    int name arguments                                                                                                 \
    {                                                                                                                  \
        __VA_ARGS__;                                                                                                   \
        return lost;                                                                                                   \
    }

FAKE(cuInit, (unsigned flags), (void)flags; if (is("none")) return NO_DEVICE)
FAKE(cuDriverGetVersion, (int *version), *version = is("old") ? 11040 : 99000)
FAKE(cuGetErrorName, (int error, const char **name), (void)error; *name = "FAKE_ERROR"; return 0)
FAKE(cuGetErrorString, (int error, const char **text), (void)error; *text = "made up"; return 0)
FAKE(cuDeviceGetCount, (int *count), *count = 1)
FAKE(cuDeviceGet, (int *device, int ordinal), *device = ordinal)
FAKE(cuDeviceGetName, (char *name, int size, int device), (void)device; strncpy(name, "fake", (size_t)size))
FAKE(cuDeviceTotalMem_v2, (size_t *bytes, int device), (void)device; *bytes = (size_t)1 << 33)
FAKE(cuDeviceGetAttribute, (int *value, int attribute, int device), (void)device;
     *value = attribute == 75 ? 9 : attribute == 76 ? 0 : 65535)
FAKE(cuDevicePrimaryCtxRetain, (void **context, int device), (void)device; *context = &lost)
FAKE(cuDevicePrimaryCtxRelease_v2, (int device), (void)device)
FAKE(cuCtxPushCurrent_v2, (void *context), (void)context; return 0)
FAKE(cuCtxPopCurrent_v2, (void **context), *context = &lost; return 0)
FAKE(cuCtxGetDevice, (int *device), *device = 0)
FAKE(cuMemAlloc_v2, (pointer * at, size_t bytes), if (is("memory")) return OUT_OF_MEMORY;
     *at = (pointer)(size_t)calloc(1, bytes))
FAKE(cuMemFree_v2, (pointer at), free(memory(at)))
FAKE(cuMemGetInfo_v2, (size_t *available, size_t *total), *available = 5; *total = 7)
FAKE(cuMemcpyHtoDAsync_v2, (pointer to, const void *from, size_t bytes, void *stream), (void)stream;
     memcpy(memory(to), from, bytes))
FAKE(cuMemcpyDtoHAsync_v2, (void *to, pointer from, size_t bytes, void *stream), (void)stream;
     memcpy(to, memory(from), bytes))
FAKE(cuMemcpyDtoH_v2, (void *to, pointer from, size_t bytes), memcpy(to, memory(from), bytes))
FAKE(cuMemcpyDtoDAsync_v2, (pointer to, pointer from, size_t bytes, void *stream), (void)stream;
     memcpy(memory(to), memory(from), bytes))
#ifndef FAKE_CUDA_LACKS
FAKE(cuMemsetD8Async, (pointer to, unsigned char value, size_t bytes, void *stream), (void)stream;
     memset(memory(to), value, bytes))
#endif
FAKE(cuStreamCreate, (void **stream, unsigned flags), (void)flags; *stream = &lost)
FAKE(cuStreamDestroy_v2, (void *stream), (void)stream)
FAKE(cuStreamSynchronize, (void *stream), (void)stream)
FAKE(cuEventCreate, (void **event, unsigned flags), (void)flags; *event = &lost)
FAKE(cuEventDestroy_v2, (void *event), (void)event)
FAKE(cuEventRecord, (void *event, void *stream), (void)event; (void)stream)
FAKE(cuEventElapsedTime, (float *ms, void *first, void *second), (void)first; (void)second; *ms = 1)
FAKE(cuModuleLoadDataEx, (void **module, const void *image, unsigned options, int *names, void **values), (void)image;
     (void)options; (void)names; (void)values; *module = &lost)
FAKE(cuModuleUnload, (void *module), (void)module)
FAKE(cuModuleGetFunction, (void **function, void *module, const char *name), (void)module;
     *function = strstr(name, "_wgmma_") ? &takes_maps : &lost)
FAKE(cuModuleGetGlobal_v2, (pointer * at, size_t *bytes, void *module, const char *name), (void)module; (void)name;
     static unsigned shape[2] = {128, 1024}; *at = (pointer)(size_t)shape; *bytes = sizeof(shape))
FAKE(cuFuncSetAttribute, (void *function, int attribute, int value), (void)function; (void)attribute; (void)value)
FAKE(cuLaunchKernelEx, (const void *config, void *function, void **arguments, void **extra), (void)config; (void)extra;
     if (function == &takes_maps) memcpy(&fake_cuda_maps, (char *)arguments[2] + 2 * MAP_BYTES, sizeof(fake_cuda_maps));
     if (is("lost")) lost = ILLEGAL_ADDRESS; return 0)
FAKE(cuTensorMapEncodeTiled,
     (void *map, int type, unsigned rank, void *base, const unsigned long long *extents,
      const unsigned long long *strides, const unsigned *box, const unsigned *steps, int interleave, int swizzle,
      int promotion, int fill),
     (void)type; (void)extents; (void)box; (void)steps; (void)interleave; (void)swizzle; (void)promotion; (void)fill;
     if ((size_t)map % 64 != 0 || (size_t)base % 16 != 0) return INVALID_VALUE;
     for (unsigned i = 0; i + 1 < rank; i++) if (strides[i] % 16 != 0) return INVALID_VALUE; memset(map, 1, MAP_BYTES))
