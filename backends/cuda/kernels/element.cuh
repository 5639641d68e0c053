/*
 * element.cuh - the storage types f32, f16 and bf16: conversion to and from float, one value or two at a time. 16-bit
 * values travel as their bits, so that no vendor header is needed.
 */
#ifndef KAS_CUDA_ELEMENT_CUH
#define KAS_CUDA_ELEMENT_CUH

#include "core/kernel/dialect.h"

#define KAS_CU static __device__ __forceinline__

typedef unsigned short kas_u16;
typedef unsigned long long kas_u64;

struct f32 {
    float value;
};
struct f16 {
    kas_u16 bits;
};
struct bf16 {
    kas_u16 bits;
};

#ifndef KAS_CUDA_EMULATED
KAS_CU float kas_to_float(f16 x)
{
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}

KAS_CU void kas_from_float(float x, f16 &y)
{
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
}
#endif

KAS_CU float kas_to_float(f32 x)
{
    return x.value;
}

KAS_CU float kas_to_float(bf16 x)
{
    return kas_float_of((kas_u32)x.bits << 16);
}

KAS_CU void kas_from_float(float x, f32 &y)
{
    y.value = x;
}

/* Round to nearest, ties to even; a NaN stays one. */
KAS_CU void kas_from_float(float x, bf16 &y)
{
    kas_u32 bits = kas_bits_of(x);
    y.bits = kas_is_nan(x) ? (kas_u16)0x7fff : (kas_u16)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

#endif
