/* convert.h - rows of tensors to f32 and back. */
#ifndef KAS_CPU_CONVERT_H
#define KAS_CPU_CONVERT_H

#include "core/backend.h"
#include "core/half.h"

static inline void kas_store_row(void *tensor, uint64_t index, const float *row, uint32_t count, kas_dtype dtype)
{
    if (dtype == KAS_DTYPE_F32) {
        memcpy((float *)tensor + index, row, count * sizeof(float));
        return;
    }
    uint16_t *target = (uint16_t *)tensor + index;
    for (uint32_t d = 0; d < count; d++)
        target[d] = dtype == KAS_DTYPE_F16 ? kas_to_f16(row[d]) : kas_to_bf16(row[d]);
}

#endif
