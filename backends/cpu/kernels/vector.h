/*
 * vector.h - vectors of VECTOR_BYTES: arithmetic, sums and maxima across lanes, transposition, and loads that convert
 * storage types to f32. Written over the compiler's vectors, with the instructions of a set where they say it shorter.
 */
#include "convert.h"

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(VECTOR_NEON)
#include <arm_neon.h>
#endif

#define LANES (VECTOR_BYTES / sizeof(float))
/* Before a loop over an array of vectors, which lies in registers only when no index is left. */
#define UNROLL _Pragma("GCC unroll 16")
#define UNROLL_TWICE _Pragma("GCC unroll 2")
#define INLINE static inline __attribute__((always_inline))

typedef float vector __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));
typedef int32_t vector_bits __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));
typedef uint32_t vector_words __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));
typedef uint16_t vector_halves __attribute__((vector_size(VECTOR_BYTES / 2), aligned(2), may_alias));

INLINE vector splat(float value)
{
    return value - (vector){0};
}

INLINE vector choose(vector_bits mask, vector yes, vector no)
{
    return (vector)((mask & (vector_bits)yes) | (~mask & (vector_bits)no));
}

INLINE vector load_vector(const float *from)
{
    return *(const vector *)from;
}

INLINE void store_vector(float *to, vector value)
{
    *(vector *)to = value;
}

/* The larger of a and b, b where either is a NaN. */
INLINE vector vector_max(vector a, vector b)
{
#if VECTOR_BYTES == 64
    return (vector)_mm512_max_ps((__m512)a, (__m512)b);
#elif VECTOR_BYTES == 32
    return (vector)_mm256_max_ps((__m256)a, (__m256)b);
#elif defined(__SSE2__)
    return (vector)_mm_max_ps((__m128)a, (__m128)b);
#else
    return choose(a > b, a, b);
#endif
}

/* 2^r for r from -0.5 to 0.5, to one unit in the last place. */
INLINE vector fraction_power(vector r)
{
    vector p = splat(1.53458124e-4f);
    p = p * r + splat(1.33999309e-3f);
    p = p * r + splat(9.61848907e-3f);
    p = p * r + splat(5.55032864e-2f);
    p = p * r + splat(2.40226462e-1f);
    p = p * r + splat(6.93147182e-1f);
    return p * r + splat(1.0f);
}

/* exp(x) to a few units in the last place; below -87 zero; large above 88, perhaps infinite; NaN stays. */
INLINE vector vector_exp(vector x)
{
    const vector log2e = splat(1.44269504f);
#if VECTOR_BYTES == 64
    __mmask16 keep = _mm512_cmp_ps_mask((__m512)x, _mm512_set1_ps(-87.0f), _CMP_NLT_UQ);
    vector n = (vector)_mm512_roundscale_ps((__m512)(x * log2e), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    vector p = fraction_power(x * log2e - n);
    return (vector)_mm512_maskz_scalef_ps(keep, (__m512)p, (__m512)n);
#else
    const vector magic = splat(12582912.0f); /* adding 1.5 * 2^23 rounds to a whole number */
    vector_bits tiny = x < splat(-87.0f);
    vector bounded = vector_max(splat(-87.0f), x);
    bounded = choose(bounded > splat(88.0f), splat(88.0f), bounded);
    vector shifted = bounded * log2e + magic;
    vector n = shifted - magic;
    vector p = fraction_power(bounded * log2e - n);
    vector_bits exponent = ((vector_bits)shifted - (vector_bits)magic + 127) << 23;
    return (vector)(~tiny & (vector_bits)(p * (vector)exponent));
#endif
}

/* Whether a comparison holds in any lane. */
INLINE bool any_lane(vector_bits mask)
{
#if VECTOR_BYTES == 64
    return _mm512_movepi32_mask((__m512i)mask) != 0;
#elif VECTOR_BYTES == 32
    return _mm256_movemask_ps((__m256)mask) != 0;
#else
    return (mask[0] | mask[1] | mask[2] | mask[3]) != 0;
#endif
}

/* ---- Across lanes ------------------------------------------------------------------------------------------------ */

/* Lanes of a and b by number, b's after a's; the numbers are one of the lists below. */
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)

#if VECTOR_BYTES == 64
#define ZIP_LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define ZIP_HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#define EVEN_LANES 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30
#define ODD_LANES 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31
#define ZIP_IN_QUADS_LOW 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29
#define ZIP_IN_QUADS_HIGH 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31
#define JOIN_PAIRS_LOW 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29
#define JOIN_PAIRS_HIGH 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31
#define EVEN_QUADS 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27
#define ODD_QUADS 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31
#elif VECTOR_BYTES == 32
#define ZIP_LOW 0, 8, 1, 9, 2, 10, 3, 11
#define ZIP_HIGH 4, 12, 5, 13, 6, 14, 7, 15
#define EVEN_LANES 0, 2, 4, 6, 8, 10, 12, 14
#define ODD_LANES 1, 3, 5, 7, 9, 11, 13, 15
#define ZIP_IN_QUADS_LOW 0, 8, 1, 9, 4, 12, 5, 13
#define ZIP_IN_QUADS_HIGH 2, 10, 3, 11, 6, 14, 7, 15
#define JOIN_PAIRS_LOW 0, 1, 8, 9, 4, 5, 12, 13
#define JOIN_PAIRS_HIGH 2, 3, 10, 11, 6, 7, 14, 15
#define EVEN_QUADS 0, 1, 2, 3, 8, 9, 10, 11
#define ODD_QUADS 4, 5, 6, 7, 12, 13, 14, 15
#else
#define ZIP_LOW 0, 4, 1, 5
#define ZIP_HIGH 2, 6, 3, 7
#define EVEN_LANES 0, 2, 4, 6
#define ODD_LANES 1, 3, 5, 7
#define ZIP_IN_QUADS_LOW 0, 4, 1, 5
#define ZIP_IN_QUADS_HIGH 2, 6, 3, 7
#define JOIN_PAIRS_LOW 0, 1, 4, 5
#define JOIN_PAIRS_HIGH 2, 3, 6, 7
#endif

/* The sums of a's and of b's lanes in half as many lanes each. */
#define FOLD(a, b, first, second) (SHUFFLE(a, b, first) + SHUFFLE(a, b, second))

/* Four consecutive lanes of each vector folded to one: of a, b, c and d in turn. */
INLINE vector fold_four(vector a, vector b, vector c, vector d)
{
    vector ab = FOLD(a, b, ZIP_IN_QUADS_LOW, ZIP_IN_QUADS_HIGH), cd = FOLD(c, d, ZIP_IN_QUADS_LOW, ZIP_IN_QUADS_HIGH);
    return FOLD(ab, cd, JOIN_PAIRS_LOW, JOIN_PAIRS_HIGH);
}

/* Lane i of the result is the sum of part[i]. */
INLINE vector sum_lanes_of(const vector part[LANES])
{
    vector a = fold_four(part[0], part[1], part[2], part[3]);
#if VECTOR_BYTES >= 32
    vector b = fold_four(part[4], part[5], part[6], part[7]);
    a = FOLD(a, b, EVEN_QUADS, ODD_QUADS);
#endif
#if VECTOR_BYTES == 64
    vector c = fold_four(part[8], part[9], part[10], part[11]), d = fold_four(part[12], part[13], part[14], part[15]);
    c = FOLD(c, d, EVEN_QUADS, ODD_QUADS);
    a = FOLD(a, c, EVEN_QUADS, ODD_QUADS);
#endif
    return a;
}

/* Transposes LANES vectors in place: lane j of row i and lane i of row j trade places. */
INLINE void transpose(vector row[LANES])
{
    vector next[LANES];
    UNROLL
    for (uint32_t step = 1; step < LANES; step *= 2) {
        UNROLL
        for (uint32_t i = 0; i < LANES / 2; i++) {
            next[2 * i] = SHUFFLE(row[i], row[i + LANES / 2], ZIP_LOW);
            next[2 * i + 1] = SHUFFLE(row[i], row[i + LANES / 2], ZIP_HIGH);
        }
        UNROLL
        for (uint32_t i = 0; i < LANES; i++)
            row[i] = next[i];
    }
}

INLINE float greatest_lane(vector value)
{
#if VECTOR_BYTES == 64
    return _mm512_reduce_max_ps((__m512)value);
#else
    vector folded = value;
    for (uint32_t step = 1; step < LANES; step *= 2)
        folded = vector_max(SHUFFLE(folded, folded, EVEN_LANES), SHUFFLE(folded, folded, ODD_LANES));
    return folded[0];
#endif
}

INLINE float sum_of_lanes(vector value)
{
    float sum = 0.0f;
    for (uint32_t i = 0; i < LANES; i++)
        sum += value[i];
    return sum;
}

/* ---- Loads -------------------------------------------------------------------------------------------------------- */

INLINE uint32_t element_size(kas_dtype dtype)
{
    return dtype == KAS_DTYPE_F32 ? 4 : 2;
}

INLINE vector widen_f16(vector_halves half)
{
#if VECTOR_BYTES == 64
    return (vector)_mm512_cvtph_ps((__m256i)half);
#elif VECTOR_BYTES == 32
    return (vector)_mm256_cvtph_ps((__m128i)half);
#elif defined(VECTOR_NEON)
    return (vector)vcvt_f32_f16((float16x4_t)half);
#else
    vector_bits bits = (vector_bits)__builtin_convertvector(half, vector_words);
    vector_bits magnitude = (bits & 0x7fff) << 13;
    /* A product with 2^112 moves the exponent's bias and makes subnormals normal. */
    vector_bits result = (vector_bits)((vector)magnitude * splat(0x1p112f));
    result |= (magnitude >= 0x0f800000) & 0x7f800000;
    return (vector)(result | (bits & 0x8000) << 16);
#endif
}

/* LANES elements from element `index`; the dtype is a constant where it matters for speed. */
INLINE vector load_elements(const void *from, size_t index, kas_dtype dtype)
{
    if (dtype == KAS_DTYPE_F32)
        return load_vector((const float *)from + index);
    vector_halves half = *(const vector_halves *)((const uint16_t *)from + index);
    if (dtype == KAS_DTYPE_F16)
        return widen_f16(half);
    return (vector)(__builtin_convertvector(half, vector_words) << 16);
}

/* The `count` elements, fewer than LANES, that end a row; zeros behind them. */
INLINE vector load_last(const void *from, uint32_t index, uint32_t count, kas_dtype dtype)
{
    float last[LANES] = {0};
    kas_load_row(last, from, index, count, dtype);
    return load_vector(last);
}
