/* vectors.glsl - rows of k and v by eight 16-bit elements at a time. After keys.glsl. */
layout(set = 0, binding = KAS_SLOT_K, std430) readonly buffer k_vector_block
{
    uvec4 k_vectors[];
};
#ifdef KAS_VALUES
layout(set = 0, binding = KAS_SLOT_V, std430) readonly buffer v_vector_block
{
    uvec4 v_vectors[];
};
#endif

bool is_aligned(uint base, uint stride_seq, uint stride_token, uint stride_head)
{
    return ((base | stride_seq | stride_token | stride_head) & 7u) == 0u;
}

bool keys_aligned()
{
    return is_aligned(call.k_base, call.k_stride_seq, call.k_stride_token, call.k_stride_head);
}

#ifdef KAS_VALUES
bool values_aligned()
{
    return is_aligned(call.v_base, call.v_stride_seq, call.v_stride_token, call.v_stride_head);
}
#endif

/* Eight elements from `at`: a whole vector of a tensor that is aligned for them, or one by one. */
#define LOAD_VECTOR(name, array, vectors)                                                                              \
    uvec4 name##_vector(uint at)                                                                                       \
    {                                                                                                                  \
        return vectors[at >> 3];                                                                                       \
    }                                                                                                                  \
    uvec4 name##_elements(uint at)                                                                                     \
    {                                                                                                                  \
        uvec4 v;                                                                                                       \
        [[unroll]] for (uint i = 0u; i < 4u; i++)                                                                      \
            v[i] = uint(array[at + 2u * i]) | uint(array[at + 2u * i + 1u]) << 16;                                     \
        return v;                                                                                                      \
    }
LOAD_VECTOR(load_k, k_data, k_vectors)
#ifdef KAS_VALUES
LOAD_VECTOR(load_v, v_data, v_vectors)
#endif

/* Several loads at a time, so that none waits for a branch: count addresses to count vectors. */
#define LOAD_VECTORS(name, count, at, aligned, target)                                                                 \
    if (aligned) {                                                                                                     \
        [[unroll]] for (uint n = 0u; n < count; n++)                                                                   \
            target[n] = name##_vector(at[n]);                                                                          \
    } else {                                                                                                           \
        [[unroll]] for (uint n = 0u; n < count; n++)                                                                   \
            target[n] = name##_elements(at[n]);                                                                        \
    }
