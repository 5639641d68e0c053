/*
 * words.h - what a register tile multiplies: words, which are f32 elements, or with VECTOR_PAIRS pairs of bf16 in the
 * place of one. A pair's products are exact and are added in f32; subnormal numbers count as zero. Weights are rounded
 * to bf16 before their products with values, their sums are not.
 */
#ifdef VECTOR_PAIRS

#define WORD_ELEMENTS 2u

/* acc + a b, word by word */
INLINE vector multiply_add(vector acc, vector a, vector b)
{
    return (vector)_mm512_dpbf16_ps((__m512)acc, (__m512bh)a, (__m512bh)b);
}

INLINE vector load_whole_words(const void *row, size_t d, kas_dtype dtype)
{
    (void)dtype;
    return (vector)_mm512_loadu_ps((const char *)row + d * sizeof(float));
}

/* LANES words of a row from word d on, zeros from word `words` on. */
INLINE vector load_words(const void *row, uint32_t d, uint32_t words, kas_dtype dtype)
{
    (void)dtype;
    const char *from = (const char *)row + (size_t)d * sizeof(float);
    if (d + LANES <= words)
        return (vector)_mm512_loadu_ps(from);
    return d < words ? (vector)_mm512_maskz_loadu_ps((__mmask16)((1u << (words - d)) - 1), from) : splat(0.0f);
}

INLINE void load_query(float *q, const void *tensor, uint64_t element, uint32_t dim, kas_dtype dtype)
{
    (void)dtype;
    memcpy(q, (const uint16_t *)tensor + element, dim * sizeof(uint16_t));
}

/* The words of rows n and n + 1 of V, element by element. */
INLINE vector join_values(const void *const *v, uint32_t n, uint32_t d, uint32_t dim)
{
    __mmask16 there = (__mmask16)(dim - d < LANES ? (1u << (dim - d)) - 1 : 0xffffu);
    __m512i first = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(there, (const uint16_t *)v[n] + d));
    __m512i second = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(there, (const uint16_t *)v[n + 1] + d));
    return (vector)_mm512_or_si512(first, _mm512_slli_epi32(second, 16));
}

/* Weights [key][row], `stride` rows side by side, as words [pair of keys][row]. `words` may be `weights`. */
static void round_weights(const float *weights, uint32_t count, uint32_t stride, float *words)
{
    for (uint32_t n = 0; n < count; n += 2) {
        const float *first = weights + (size_t)n * stride, *second = n + 1 < count ? first + stride : NULL;
        for (uint32_t row = 0; row < stride; row += LANES) {
            __m512i low = _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(first + row)));
            __m512i high = second ? _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(second + row)))
                                  : _mm512_setzero_si512();
            _mm512_storeu_si512(words + (size_t)n / 2 * stride + row,
                                _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
        }
    }
}

INLINE vector load_values(const void *const *v, uint32_t n, uint32_t d, uint32_t dim, kas_dtype dtype)
{
    (void)dtype;
    return join_values(v, n, d, dim);
}

INLINE vector load_whole_values(const void *const *v, uint32_t n, size_t d, kas_dtype dtype)
{
    (void)dtype;
    __m512i first = _mm512_cvtepu16_epi32(_mm256_loadu_epi16((const uint16_t *)v[n] + d));
    __m512i second = _mm512_cvtepu16_epi32(_mm256_loadu_epi16((const uint16_t *)v[n + 1] + d));
    return (vector)_mm512_or_si512(first, _mm512_slli_epi32(second, 16));
}

#else

#define WORD_ELEMENTS 1u

INLINE vector multiply_add(vector acc, vector a, vector b)
{
    return acc + a * b;
}

INLINE vector load_whole_words(const void *row, size_t d, kas_dtype dtype)
{
    return load_elements(row, d, dtype);
}

INLINE vector load_words(const void *row, uint32_t d, uint32_t words, kas_dtype dtype)
{
    if (d + LANES <= words)
        return load_elements(row, d, dtype);
    return d < words ? load_last(row, d, words - d, dtype) : splat(0.0f);
}

INLINE void load_query(float *q, const void *tensor, uint64_t element, uint32_t dim, kas_dtype dtype)
{
    kas_load_row(q, tensor, element, dim, dtype);
}

INLINE vector load_values(const void *const *v, uint32_t n, uint32_t d, uint32_t dim, kas_dtype dtype)
{
    return load_words(v[n], d, dim, dtype);
}

INLINE vector load_whole_values(const void *const *v, uint32_t n, size_t d, kas_dtype dtype)
{
    return load_elements(v[n], d, dtype);
}

#endif
