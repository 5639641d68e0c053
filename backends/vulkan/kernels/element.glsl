/*
 * element.glsl - the storage type of q, k, v and out: ELEMENT_F32, ELEMENT_F16 or ELEMENT_BF16, defined by the build.
 * 16-bit values are converted by their bits, which needs no arithmetic of that width and rounds to nearest even on all
 * devices. With ELEMENT_PACKED they are reached through 32-bit words.
 */
#if defined(ELEMENT_F32)
#define KAS_ELEMENT float
#define LOAD_ELEMENT(array, at) array[at]
#define STORE_ELEMENT(array, at, value) array[at] = (value)
#elif defined(ELEMENT_PACKED)
#define KAS_ELEMENT uint
#define LOAD_ELEMENT(array, at) widen(array[(at) >> 1] >> (((at) & 1u) * 16u) & 0xffffu)
/* The other half of the word may be another work group's. */
#define STORE_ELEMENT(array, at, value)                                                                                \
    {                                                                                                                  \
        uint shift = ((at) & 1u) * 16u;                                                                                \
        uint narrowed = narrow(value) << shift;                                                                        \
        atomicAnd(array[(at) >> 1], ~(0xffffu << shift));                                                              \
        atomicOr(array[(at) >> 1], narrowed);                                                                          \
    }
#else
#define KAS_ELEMENT uint16_t
#define LOAD_ELEMENT(array, at) widen(uint(array[at]))
#define STORE_ELEMENT(array, at, value) array[at] = uint16_t(narrow(value))
#endif

#if defined(ELEMENT_F16)
float widen(uint bits)
{
    return unpackHalf2x16(bits).x;
}

uint narrow(float x)
{
    uint bits = floatBitsToUint(x);
    uint sign = bits >> 16 & 0x8000u;
    uint magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u)
        return sign | 0x7e00u;
    if (magnitude >= 0x477ff000u) /* 65520 and more round to infinity */
        return sign | 0x7c00u;
    if (magnitude < 0x38800000u) /* subnormal: at 0.5 a float's last bit is worth 2^-24 */
        return sign | floatBitsToUint(uintBitsToFloat(magnitude) + 0.5) - 0x3f000000u;
    uint rebiased = magnitude - (112u << 23);
    return sign | rebiased + 0xfffu + (rebiased >> 13 & 1u) >> 13;
}
#elif defined(ELEMENT_BF16)
float widen(uint bits)
{
    return uintBitsToFloat(bits << 16);
}

uint narrow(float x)
{
    uint bits = floatBitsToUint(x);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return bits >> 16 | 0x40u;
    return bits + 0x7fffu + (bits >> 16 & 1u) >> 16;
}
#endif
