/*
 * half.h - binary16 and bfloat16 in terms of float: exact one way, rounded to the nearest (ties to even) the other.
 * Rounding is done on integers, so that no compiler flag and no rounding mode changes the result.
 */
#ifndef TOOLS_HALF_H
#define TOOLS_HALF_H

#include <stdint.h>
#include <string.h>

static inline uint32_t float_bits(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

static inline float bits_float(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

/* value / 2^shift, rounded to the nearest, ties to even; shift from 1 to 31. */
static inline uint32_t shift_right_rounded(uint32_t value, uint32_t shift)
{
    uint32_t kept = value >> shift;
    uint32_t rest = value & ((1u << shift) - 1);
    uint32_t middle = 1u << (shift - 1);
    return kept + (rest > middle || (rest == middle && (kept & 1)));
}

static inline float half_to_float(uint16_t half)
{
    const uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    const uint32_t exponent = half >> 10 & 0x1fu;
    const uint32_t fraction = half & 0x3ffu;
    if (exponent == 0)
        return bits_float(sign | float_bits((float)fraction * 0x1p-24f));
    if (exponent == 0x1f)
        return bits_float(sign | 0x7f800000u | fraction << 13);
    return bits_float(sign | (exponent + 127 - 15) << 23 | fraction << 13);
}

static inline uint16_t half_from_float(float value)
{
    const uint32_t bits = float_bits(value);
    const uint32_t sign = bits >> 16 & 0x8000u;
    const uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | (magnitude >> 13 & 0x3ffu));
    if (magnitude >= 0x47800000u) /* 65536 */
        return (uint16_t)(sign | 0x7c00u);
    /* From 2^-14. A carry out of the fraction raises the exponent, as it should, up to that of infinity. */
    if (magnitude >= 0x38800000u)
        return (uint16_t)(sign | (shift_right_rounded(magnitude, 13) - ((127u - 15u) << 10)));
    if (magnitude <= 0x33000000u) /* 2^-25: halfway from zero to the least subnormal */
        return (uint16_t)sign;
    const uint32_t significand = (magnitude & 0x7fffffu) | 0x800000u;
    return (uint16_t)(sign | shift_right_rounded(significand, 126 - (magnitude >> 23)));
}

static inline float bfloat_to_float(uint16_t bfloat)
{
    return bits_float((uint32_t)bfloat << 16);
}

static inline uint16_t bfloat_from_float(float value)
{
    const uint32_t bits = float_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)shift_right_rounded(bits, 16);
}

#endif
