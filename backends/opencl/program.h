/* program.h - from a row and a specification to a compiled program, through the caller's cache of binaries. */
#ifndef KAS_OPENCL_PROGRAM_H
#define KAS_OPENCL_PROGRAM_H

#include "code.h"
#include "driver.h"

#define KAS_CL_OPTIONS_SIZE 1024

/* Writes the compiler's options: equal options of one row mean one program. */
void kas_cl_program_options(const kas_variant *variant, const kas_kernel_spec *spec, char *options, size_t size);

/*
 * Compiles a row, or takes it from the cache. Errors: UNSUPPORTED with the compiler's first lines when the driver
 * rejects the text, so that another row may be tried; OUT_OF_MEMORY; DRIVER.
 */
kas_status kas_cl_program_build(cl_context context, cl_device_id device, const kas_cache *cache,
                                const kas_variant *variant, const char *options, cl_program *program);

#endif
