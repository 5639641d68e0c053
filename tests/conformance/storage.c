/* storage.c - conversions by bits, and splitmix64 with the Box-Muller transform. */
#include "storage.h"

#include <math.h>
#include <string.h>

static uint32_t bits_of(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits;
}

static float float_of(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

static float float_of_half(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    uint32_t exponent = (half >> 10) & 31u;
    uint32_t fraction = half & 0x3ffu;
    if (exponent == 0) {
        float magnitude = (float)fraction * 0x1p-24f;
        return sign ? -magnitude : magnitude;
    }
    return float_of(sign | (exponent == 31 ? 0x7f800000u : (exponent + 112u) << 23) | fraction << 13);
}

static uint16_t half_of_float(float value)
{
    uint32_t bits = bits_of(value);
    uint32_t sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u);
    if (magnitude >= 0x477ff000u) /* 65520: nearer to infinity than to 65504 */
        return (uint16_t)(sign | 0x7c00u);
    if (magnitude < 0x38800000u) /* below 2^-14 halves are multiples of 2^-24 */
        return (uint16_t)(sign | (uint32_t)nearbyintf(float_of(magnitude) * 0x1p24f));
    /* A carry out of the fraction moves the exponent up by itself. */
    return (uint16_t)(sign | (((magnitude + 0xfffu + (magnitude >> 13 & 1u)) >> 13) - (112u << 10)));
}

static uint16_t bfloat_of_float(float value)
{
    uint32_t bits = bits_of(value);
    if (isnan(value))
        return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

const char *storage_name(kas_dtype dtype)
{
    return dtype == KAS_DTYPE_F32 ? "f32" : dtype == KAS_DTYPE_F16 ? "f16" : "bf16";
}

size_t storage_size(kas_dtype dtype)
{
    return dtype == KAS_DTYPE_F32 ? 4 : 2;
}

float storage_get(kas_dtype dtype, const void *array, uint64_t index)
{
    if (dtype == KAS_DTYPE_F32) {
        float value;
        memcpy(&value, (const uint8_t *)array + index * 4, 4);
        return value;
    }
    uint16_t half;
    memcpy(&half, (const uint8_t *)array + index * 2, 2);
    return dtype == KAS_DTYPE_F16 ? float_of_half(half) : float_of((uint32_t)half << 16);
}

void storage_put(kas_dtype dtype, void *array, uint64_t index, float value)
{
    if (dtype == KAS_DTYPE_F32) {
        memcpy((uint8_t *)array + index * 4, &value, 4);
        return;
    }
    uint16_t half = dtype == KAS_DTYPE_F16 ? half_of_float(value) : bfloat_of_float(value);
    memcpy((uint8_t *)array + index * 2, &half, 2);
}

float storage_round(kas_dtype dtype, float value)
{
    float rounded;
    if (dtype == KAS_DTYPE_F32)
        return value;
    storage_put(dtype, &rounded, 0, value);
    return storage_get(dtype, &rounded, 0);
}

uint64_t storage_random_bits(storage_random *random)
{
    uint64_t z = random->state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

uint32_t storage_random_below(storage_random *random, uint32_t bound)
{
    return (uint32_t)((storage_random_bits(random) >> 32) * bound >> 32);
}

double storage_random_uniform(storage_random *random)
{
    return ((double)(storage_random_bits(random) >> 11) + 0.5) * 0x1p-53;
}

double storage_random_normal(storage_random *random)
{
    double radius = sqrt(-2.0 * log(storage_random_uniform(random)));
    return radius * cos(6.283185307179586 * storage_random_uniform(random));
}
