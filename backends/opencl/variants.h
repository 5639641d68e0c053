/* variants.h - the rows of this backend. */
#ifndef KAS_OPENCL_VARIANTS_H
#define KAS_OPENCL_VARIANTS_H

#include "core/backend.h"

#define KAS_CL_VARIANT_COUNT 31

extern const kas_variant kas_cl_variants[KAS_CL_VARIANT_COUNT];

#endif
