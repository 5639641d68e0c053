/*
 * cuda.h - native handles of CUDA for kas_context_desc.import, kas_buffer_import and kas_stream_import. Needs no CUDA
 * header: a CUcontext is a pointer, a CUdevice an int, a CUdeviceptr and a CUstream travel as uint64_t.
 */
#ifndef KASCADE_CUDA_H
#define KASCADE_CUDA_H

#include <kascade/kascade.h>

#ifdef __cplusplus
extern "C" {
#endif

/*
 * An existing CUDA context. `context` stays the caller's and outlives the kas_context; calls make it current for their
 * own duration and leave the thread's context stack as they found it. Memory of that context (cuMemAlloc, cudaMalloc)
 * is wrapped with kas_buffer_import, its streams (cudaStream_t too) with kas_stream_import. The runtime API and
 * PyTorch use a device's primary context, which a plain open adopts: they need no import struct.
 */
typedef struct kas_cuda_import {
    uint32_t struct_size;
    int device;    /* CUdevice of the context; it must be the device that kas_context_desc.device names */
    void *context; /* CUcontext; NULL: the device's primary context */
} kas_cuda_import;

#ifdef __cplusplus
}
#endif

#endif
