/*
 * driver.h - the OpenCL entry points this backend calls, reached by name at run time: a build with this backend runs
 * where no OpenCL is installed.
 */
#ifndef KAS_OPENCL_DRIVER_H
#define KAS_OPENCL_DRIVER_H

#define CL_TARGET_OPENCL_VERSION 120
#include "core/base.h"

#include <CL/cl.h>

/* Every entry point, without the cl in front of its name; all of OpenCL 1.2. */
#define KAS_CL_ENTRIES(X)                                                                                              \
    X(GetPlatformIDs)                                                                                                  \
    X(GetPlatformInfo)                                                                                                 \
    X(GetDeviceIDs)                                                                                                    \
    X(GetDeviceInfo)                                                                                                   \
    X(CreateContext)                                                                                                   \
    X(ReleaseContext)                                                                                                  \
    X(CreateCommandQueue)                                                                                              \
    X(ReleaseCommandQueue)                                                                                             \
    X(GetCommandQueueInfo)                                                                                             \
    X(CreateBuffer)                                                                                                    \
    X(ReleaseMemObject)                                                                                                \
    X(GetMemObjectInfo)                                                                                                \
    X(CreateProgramWithSource)                                                                                         \
    X(CreateProgramWithBinary)                                                                                         \
    X(BuildProgram)                                                                                                    \
    X(GetProgramInfo)                                                                                                  \
    X(GetProgramBuildInfo)                                                                                             \
    X(ReleaseProgram)                                                                                                  \
    X(CreateKernel)                                                                                                    \
    X(SetKernelArg)                                                                                                    \
    X(GetKernelWorkGroupInfo)                                                                                          \
    X(ReleaseKernel)                                                                                                   \
    X(EnqueueReadBuffer)                                                                                               \
    X(EnqueueWriteBuffer)                                                                                              \
    X(EnqueueCopyBuffer)                                                                                               \
    X(EnqueueFillBuffer)                                                                                               \
    X(EnqueueNDRangeKernel)                                                                                            \
    X(EnqueueMarkerWithWaitList)                                                                                       \
    X(GetEventProfilingInfo)                                                                                           \
    X(ReleaseEvent)                                                                                                    \
    X(Flush)                                                                                                           \
    X(Finish)

typedef struct kas_cl_driver {
#define KAS_CL_FIELD(name) __typeof__(&cl##name) name;
    KAS_CL_ENTRIES(KAS_CL_FIELD)
#undef KAS_CL_FIELD
} kas_cl_driver;

/* Valid once kas_cl_driver_load has returned true. */
extern kas_cl_driver kas_cl;

/* Loads libOpenCL.so.1, once a process. false: it is missing or too old, `reason` then holds the sentence. */
bool kas_cl_driver_load(char *reason, size_t reason_size);

/* "CL_OUT_OF_RESOURCES" for -5, "an error without a name" for codes that OpenCL does not define. */
const char *kas_cl_error_name(cl_int error);

/* "action: CL_OUT_OF_RESOURCES (-5)" as the thread's sentence, and the status that the error amounts to. */
kas_status kas_cl_fail(cl_int error, const char *action);

#endif
