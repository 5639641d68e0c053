/*
 * driver.h - the part of the CUDA driver API that this backend calls, reached by name at run time. Types and entry
 * points are declared here, so that nothing of CUDA is needed to compile or link the host code.
 */
#ifndef KAS_CUDA_DRIVER_H
#define KAS_CUDA_DRIVER_H

#include "core/base.h"

typedef int CUresult;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef struct CUctx_st *CUcontext;
typedef struct CUmod_st *CUmodule;
typedef struct CUfunc_st *CUfunction;
typedef struct CUstream_st *CUstream;
typedef struct CUevent_st *CUevent;

/* What the tensor copy engine is told about a tensor: made by the driver, opaque. */
typedef struct CUtensorMap {
    _Alignas(64) uint64_t words[16];
} CUtensorMap;

/* What a launch asks for beyond its grid. The driver's union is 64 bytes. */
typedef struct CUlaunchAttribute {
    int id;
    int padding;
    union {
        struct {
            unsigned x, y, z;
        } cluster;
        int overlaps;
        unsigned char room[64];
    } value;
} CUlaunchAttribute;

typedef struct CUlaunchConfig {
    unsigned grid_x, grid_y, grid_z, block_x, block_y, block_z, shared;
    CUstream stream;
    CUlaunchAttribute *attributes;
    unsigned attribute_count;
} CUlaunchConfig;

enum {
    CUDA_SUCCESS = 0,
    CUDA_ERROR_OUT_OF_MEMORY = 2,
    CUDA_ERROR_NO_DEVICE = 100,
    CUDA_ERROR_NO_BINARY_FOR_GPU = 209,
    CUDA_ERROR_ECC_UNCORRECTABLE = 214,
    CUDA_ERROR_UNSUPPORTED_PTX_VERSION = 222,
    CUDA_ERROR_CONTAINED = 226,
    CUDA_ERROR_NOT_READY = 600,
    CUDA_ERROR_ILLEGAL_ADDRESS = 700,
    CUDA_ERROR_LAUNCH_TIMEOUT = 702,
    CUDA_ERROR_CONTEXT_IS_DESTROYED = 709,
    CUDA_ERROR_ASSERT = 710,
    CUDA_ERROR_HARDWARE_STACK_ERROR = 714,
    CUDA_ERROR_ILLEGAL_INSTRUCTION = 715,
    CUDA_ERROR_MISALIGNED_ADDRESS = 716,
    CUDA_ERROR_INVALID_ADDRESS_SPACE = 717,
    CUDA_ERROR_INVALID_PC = 718,
    CUDA_ERROR_LAUNCH_FAILED = 719
};

enum {
    CU_TENSOR_MAP_DATA_TYPE_UINT16 = 1,
    CU_TENSOR_MAP_INTERLEAVE_NONE = 0,
    CU_TENSOR_MAP_SWIZZLE_128B = 3,
    CU_TENSOR_MAP_L2_PROMOTION_256B = 3,
    CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE = 0
};

enum {
    CU_STREAM_NON_BLOCKING = 1,
    CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8,
    CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED = 14,
    CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION = 4,
    CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION = 6,
    CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_X = 5,
    CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Y = 6,
    CU_DEVICE_ATTRIBUTE_MAX_GRID_DIM_Z = 7,
    CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT = 16,
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75,
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76,
    CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN = 97
};

/* Every entry point: field of the table, symbol (the version whose signature stands here), arguments. */
#define KAS_CUDA_ENTRIES(X)                                                                                            \
    X(init, "cuInit", (unsigned flags))                                                                                \
    X(driver_version, "cuDriverGetVersion", (int *version))                                                            \
    X(error_name, "cuGetErrorName", (CUresult error, const char **name))                                               \
    X(error_string, "cuGetErrorString", (CUresult error, const char **text))                                           \
    X(device_count, "cuDeviceGetCount", (int *count))                                                                  \
    X(device_get, "cuDeviceGet", (CUdevice *device, int ordinal))                                                      \
    X(device_name, "cuDeviceGetName", (char *name, int size, CUdevice device))                                         \
    X(device_memory, "cuDeviceTotalMem_v2", (size_t *bytes, CUdevice device))                                          \
    X(device_attribute, "cuDeviceGetAttribute", (int *value, int attribute, CUdevice device))                          \
    X(primary_retain, "cuDevicePrimaryCtxRetain", (CUcontext *context, CUdevice device))                               \
    X(primary_release, "cuDevicePrimaryCtxRelease_v2", (CUdevice device))                                              \
    X(context_push, "cuCtxPushCurrent_v2", (CUcontext context))                                                        \
    X(context_pop, "cuCtxPopCurrent_v2", (CUcontext *context))                                                         \
    X(context_device, "cuCtxGetDevice", (CUdevice *device))                                                            \
    X(memory_allocate, "cuMemAlloc_v2", (CUdeviceptr *pointer, size_t bytes))                                          \
    X(memory_free, "cuMemFree_v2", (CUdeviceptr pointer))                                                              \
    X(memory_info, "cuMemGetInfo_v2", (size_t *available, size_t *total))                                              \
    X(copy_in, "cuMemcpyHtoDAsync_v2", (CUdeviceptr target, const void *source, size_t bytes, CUstream stream))        \
    X(copy_out, "cuMemcpyDtoHAsync_v2", (void *target, CUdeviceptr source, size_t bytes, CUstream stream))             \
    X(copy_out_now, "cuMemcpyDtoH_v2", (void *target, CUdeviceptr source, size_t bytes))                               \
    X(copy_device, "cuMemcpyDtoDAsync_v2", (CUdeviceptr target, CUdeviceptr source, size_t bytes, CUstream stream))    \
    X(fill, "cuMemsetD8Async", (CUdeviceptr target, unsigned char value, size_t bytes, CUstream stream))               \
    X(stream_create, "cuStreamCreate", (CUstream *stream, unsigned flags))                                             \
    X(stream_destroy, "cuStreamDestroy_v2", (CUstream stream))                                                         \
    X(stream_wait, "cuStreamSynchronize", (CUstream stream))                                                           \
    X(event_create, "cuEventCreate", (CUevent *event, unsigned flags))                                                 \
    X(event_destroy, "cuEventDestroy_v2", (CUevent event))                                                             \
    X(event_record, "cuEventRecord", (CUevent event, CUstream stream))                                                 \
    X(event_elapsed, "cuEventElapsedTime", (float *milliseconds, CUevent first, CUevent second))                       \
    X(module_load, "cuModuleLoadDataEx",                                                                               \
      (CUmodule *module, const void *image, unsigned options, int *names, void **values))                              \
    X(module_unload, "cuModuleUnload", (CUmodule module))                                                              \
    X(module_function, "cuModuleGetFunction", (CUfunction *function, CUmodule module, const char *name))               \
    X(module_global, "cuModuleGetGlobal_v2",                                                                           \
      (CUdeviceptr *pointer, size_t *bytes, CUmodule module, const char *name))                                        \
    X(function_attribute, "cuFuncSetAttribute", (CUfunction function, int attribute, int value))                       \
    X(launch, "cuLaunchKernelEx",                                                                                      \
      (const CUlaunchConfig *config, CUfunction function, void **arguments, void **extra))

/* Entry points that a driver may lack: NULL then. */
#define KAS_CUDA_OPTIONAL_ENTRIES(X)                                                                                   \
    X(tensor_map, "cuTensorMapEncodeTiled",                                                                            \
      (CUtensorMap *map, int type, uint32_t rank, void *base, const uint64_t *extents, const uint64_t *strides,        \
       const uint32_t *box, const uint32_t *steps, int interleave, int swizzle, int promotion, int fill))

typedef struct kas_cuda_driver {
#define KAS_CUDA_FIELD(field, symbol, arguments) CUresult(*field) arguments;
    KAS_CUDA_ENTRIES(KAS_CUDA_FIELD)
    KAS_CUDA_OPTIONAL_ENTRIES(KAS_CUDA_FIELD)
#undef KAS_CUDA_FIELD
} kas_cuda_driver;

/* Valid once kas_cuda_driver_load has returned true. */
extern kas_cuda_driver kas_cuda;

/*
 * Loads the driver, once a process. false: there is none, it is too old for the embedded kernels, or it does not start;
 * `reason` then holds the sentence.
 */
bool kas_cuda_driver_load(char *reason, size_t reason_size);

/* "CUDA_ERROR_OUT_OF_MEMORY (out of memory)", in the caller's buffer. */
const char *kas_cuda_error_text(CUresult error, char *text, size_t size);

/* After these the driver refuses all further work on the context. */
bool kas_cuda_error_is_sticky(CUresult error);

#endif
