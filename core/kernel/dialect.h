/*
 * dialect.h - the few words in which C, CUDA, OpenCL C and GLSL differ, so that the headers beside it mean the same in
 * all four. Those headers pass everything by value and use no pointers, casts or library calls but these.
 */
#ifndef KAS_DIALECT_H
#define KAS_DIALECT_H

#if defined(KAS_GLSL)
#define KAS_FN
#define KAS_STRUCT(name) struct name
#define kas_u32 uint
#define kas_i32 int
#define kas_f32 float
#define kas_bool bool
#define KAS_U32(x) uint(x)
#define KAS_I32(x) int(x)
#define KAS_F32(x) float(x)
#define kas_bits_of(x) floatBitsToUint(x)
#define kas_float_of(x) uintBitsToFloat(x)
#define kas_exp(x) exp(x)
#define kas_log_e(x) log(x)
uint kas_mulhi(uint a, uint b)
{
    uint high, low;
    umulExtended(a, b, high, low);
    return high;
}
#else

#if defined(__OPENCL_VERSION__)
#define KAS_FN static inline
typedef uint kas_u32;
typedef int kas_i32;
typedef float kas_f32;
typedef int kas_bool;
#define kas_bits_of(x) as_uint(x)
#define kas_float_of(x) as_float(x)
#define kas_exp(x) exp(x)
#define kas_log_e(x) log(x)
#define kas_mulhi(a, b) mul_hi((uint)(a), (uint)(b))
#elif defined(__CUDACC__)
#define KAS_FN static __device__ __forceinline__
typedef unsigned int kas_u32;
typedef int kas_i32;
typedef float kas_f32;
typedef bool kas_bool;
#define kas_bits_of(x) __float_as_uint(x)
#define kas_float_of(x) __uint_as_float(x)
#define kas_exp(x) __expf(x)
#define kas_log_e(x) logf(x)
#define kas_mulhi(a, b) __umulhi(a, b)
#else
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#define KAS_FN static inline
typedef uint32_t kas_u32;
typedef int32_t kas_i32;
typedef float kas_f32;
typedef bool kas_bool;
static inline uint32_t kas_bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    return bits;
}
static inline float kas_float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof(x));
    return x;
}
#define kas_exp(x) expf(x)
#define kas_log_e(x) logf(x)
#define kas_mulhi(a, b) ((uint32_t)(((uint64_t)(a) * (uint64_t)(b)) >> 32))
#endif

#define KAS_STRUCT(name)                                                                                               \
    typedef struct name name;                                                                                          \
    struct name
#define KAS_U32(x) ((kas_u32)(x))
#define KAS_I32(x) ((kas_i32)(x))
#define KAS_F32(x) ((kas_f32)(x))
#endif

#define KAS_NEGATIVE_INFINITY kas_float_of(0xff800000u)

KAS_FN kas_u32 kas_min2(kas_u32 a, kas_u32 b)
{
    return a < b ? a : b;
}

KAS_FN kas_u32 kas_max2(kas_u32 a, kas_u32 b)
{
    return a > b ? a : b;
}

KAS_FN kas_u32 kas_ceil_div(kas_u32 a, kas_u32 b)
{
    return a / b + KAS_U32(a % b != 0u);
}

/* By bits, because compilers may assume that floats are numbers. */
KAS_FN kas_bool kas_is_nan(kas_f32 x)
{
    return (kas_bits_of(x) & 0x7fffffffu) > 0x7f800000u;
}

#endif
