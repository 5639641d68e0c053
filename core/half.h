/* half.h - f16 and bf16 to f32 and back, rounding to nearest even. */
#ifndef KAS_HALF_H
#define KAS_HALF_H

#include "base.h"
#include "kernel/dialect.h"

static inline float kas_from_f16(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    uint32_t magnitude = (uint32_t)(half & 0x7fffu) << 13;
    /* A product with 2^112 moves the exponent's bias and makes subnormals normal. */
    uint32_t bits = kas_bits_of(kas_float_of(magnitude) * kas_float_of(0x77800000u));
    bits |= magnitude >= 0x0f800000u ? 0x7f800000u : 0;
    return kas_float_of(bits | sign);
}

static inline uint16_t kas_to_f16(float value)
{
    uint32_t bits = kas_bits_of(value);
    uint32_t sign = bits >> 16 & 0x8000u;
    uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u);
    if (magnitude >= 0x477ff000u) /* rounds past the largest finite half */
        return (uint16_t)(sign | 0x7c00u);
    if (magnitude < 0x38800000u) /* subnormal: let the adder round at 2^-24 */
        return (uint16_t)(sign | (kas_bits_of(kas_float_of(magnitude) + 0.5f) - 0x3f000000u));
    uint32_t odd = magnitude >> 13 & 1u;
    return (uint16_t)(sign | ((magnitude + 0xfffu + odd - 0x38000000u) >> 13));
}

static inline float kas_from_bf16(uint16_t value)
{
    return kas_float_of((uint32_t)value << 16);
}

static inline uint16_t kas_to_bf16(float value)
{
    uint32_t bits = kas_bits_of(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

/* `count` elements from element `index` of a tensor. */
static inline void kas_load_row(float *row, const void *tensor, uint64_t index, uint32_t count, kas_dtype dtype)
{
    if (dtype == KAS_DTYPE_F32) {
        memcpy(row, (const float *)tensor + index, count * sizeof(float));
        return;
    }
    const uint16_t *source = (const uint16_t *)tensor + index;
    if (dtype == KAS_DTYPE_F16)
        for (uint32_t d = 0; d < count; d++)
            row[d] = kas_from_f16(source[d]);
    else
        for (uint32_t d = 0; d < count; d++)
            row[d] = kas_from_bf16(source[d]);
}

#endif
