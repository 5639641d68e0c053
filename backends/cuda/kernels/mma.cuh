/*
 * mma.cuh - the instructions of sm_80 that the tuned rows use: asynchronous copies to shared memory, matrix loads and
 * warp matrix multiplication; and how a row of D 16-bit elements lies in shared memory so that they meet no bank
 * conflicts.
 */
#ifndef KAS_CUDA_MMA_CUH
#define KAS_CUDA_MMA_CUH

#include "common.cuh"

KAS_CU kas_u32 kas_shared_address(const void *pointer)
{
    return (kas_u32)__cvta_generic_to_shared(pointer);
}

/* 16 bytes to shared memory, or zeros when `exists` is false; `source` must be a valid address all the same. */
KAS_CU void kas_copy16(kas_u32 target, const void *source, bool exists)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(source), "r"(exists ? 16 : 0)
                 : "memory");
}

/* Asks the second cache to give up first what is read once. */
KAS_CU kas_u64 kas_once_policy()
{
    kas_u64 policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

/* kas_copy16 of what is read once. */
KAS_CU void kas_copy16_once(kas_u32 target, const void *source, bool exists, kas_u64 policy)
{
    asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2, %3;" ::"r"(target), "l"(source),
                 "r"(exists ? 16 : 0), "l"(policy)
                 : "memory");
}

/* Four bytes to shared memory. */
KAS_CU void kas_copy4(kas_u32 target, const void *source)
{
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(target), "l"(source) : "memory");
}

KAS_CU void kas_copy_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/* Waits until at most N of this thread's newest groups are under way. */
template <int N> KAS_CU void kas_copy_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

/* Waits for all copies of this thread. */
KAS_CU void kas_copy_wait_all()
{
    asm volatile("cp.async.wait_all;" ::: "memory");
}

KAS_CU void kas_store16(kas_u32 target, kas_u32 a, kas_u32 b, kas_u32 c, kas_u32 d)
{
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(target), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
}

/* Eight elements at any alignment, gathered one by one. */
template <class T> KAS_CU void kas_copy16_slowly(kas_u32 target, const T *source, bool exists)
{
    kas_u32 words[4] = {};
    if (exists)
#pragma unroll
        for (int x = 0; x < 4; x++)
            words[x] = (kas_u32)source[2 * x].bits | (kas_u32)source[2 * x + 1].bits << 16;
    kas_store16(target, words[0], words[1], words[2], words[3]);
}

KAS_CU void kas_load_matrices(kas_u32 address, kas_u32 m[4])
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(address)
                 : "memory");
}

KAS_CU void kas_load_matrices_transposed(kas_u32 address, kas_u32 m[4])
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(address)
                 : "memory");
}

/* c += a * b: a 16 x 16, b 16 x 8, c 16 x 8. The type is that of the first argument. */
KAS_CU void kas_multiply_add(f16, float c[4], const kas_u32 a[4], kas_u32 b0, kas_u32 b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

KAS_CU void kas_multiply_add(bf16, float c[4], const kas_u32 a[4], kas_u32 b0, kas_u32 b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* Two floats as elements, the first in the low half. */
KAS_CU kas_u32 kas_pack(f16, float low, float high)
{
    kas_u32 word;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
}

KAS_CU kas_u32 kas_pack(bf16, float low, float high)
{
    kas_u32 word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
}

KAS_CU float kas_exp2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

#define KAS_LOG2_E 1.4426950408889634f
#define KAS_LN_2 0.6931471805599453f

/*
 * Rows of D elements in shared memory, in chunks of 16 bytes. Where rows are a multiple of 128 bytes, chunks are
 * exchanged within groups of eight by the row's number; other rows are padded by a chunk.
 */
template <int D> struct row_layout {
    static constexpr int chunks = D / 8;
    static constexpr bool exchanged = D % 64 == 0;
    static constexpr int pitch = exchanged ? D * 2 : D * 2 + 16;

    static __device__ __forceinline__ kas_u32 at(kas_u32 row, kas_u32 chunk)
    {
        return row * pitch + (exchanged ? chunk ^ (row & 7u) : chunk) * 16u;
    }
};

/* Whether all rows of a tensor begin at a multiple of 16 bytes (the slot itself does). */
KAS_CU bool kas_rows_are_aligned(kas_u32 base, kas_u32 a, kas_u32 b, kas_u32 c)
{
    return ((base | a | b | c) & 7u) == 0u;
}

/*
 * The keys of one (sequence, kv head) on their way to shared memory, 16 entries at a time by a warp. The place of an
 * entry is looked up one load ahead, so that a list's or page table's latency is hidden.
 */
template <class T, int D, bool VALUES> struct key_source {
    const T *k, *v;
    kas_rows k_rows, v_rows;
    kas_keys keys;
    bool aligned;
    kas_place next; /* of entry lane % 16 of the next load */
};

template <class T, int D, bool VALUES>
KAS_CU void kas_open_keys(const kas_work &w, key_source<T, D, VALUES> &source, const kas_keys &keys, kas_u32 g)
{
    const kas_call &c = w.call;
    source.k = kas_slot<const T>(w, KAS_SLOT_K);
    source.v = kas_slot<const T>(w, KAS_SLOT_V);
    source.k_rows = kas_k_rows(w, g);
    source.v_rows = kas_v_rows(w, g);
    source.keys = keys;
    source.aligned = kas_rows_are_aligned(c.k_base, c.k_stride_seq, c.k_stride_token, c.k_stride_head) &&
                     (!VALUES || kas_rows_are_aligned(c.v_base, c.v_stride_seq, c.v_stride_token, c.v_stride_head));
}

/* Makes a source of keys one of their values. */
template <class T, int D> KAS_CU void kas_values_alone(const kas_work &w, key_source<T, D, false> &source, kas_u32 g)
{
    const kas_call &c = w.call;
    source.k = kas_slot<const T>(w, KAS_SLOT_V);
    source.k_rows = kas_v_rows(w, g);
    source.aligned = kas_rows_are_aligned(c.v_base, c.v_stride_seq, c.v_stride_token, c.v_stride_head);
}

/* Looks up entries first .. first + 15, those from `end` on being absent. */
template <class T, int D, bool VALUES>
KAS_CU void kas_look_up(const kas_work &w, key_source<T, D, VALUES> &source, kas_u32 first, kas_u32 end)
{
    const kas_u32 e = first + threadIdx.x % 16;
    source.next = kas_key_place(w, e < end ? kas_key_position(w, source.keys, e) : KAS_ABSENT);
}

/*
 * Starts the copies of the entries looked up; rows of absent ones become zeros. One bit for each that exists. ONCE: no
 * other block reads them.
 */
template <bool ONCE = false, class T, int D, bool VALUES>
KAS_CU kas_u32 kas_load_keys(const key_source<T, D, VALUES> &source, kas_u32 k_at, kas_u32 v_at)
{
    typedef row_layout<D> rows;
    const kas_u32 lane = threadIdx.x % 32;
    const kas_u32 present = __ballot_sync(0xffffffffu, source.next.page != KAS_ABSENT) & 0xffffu;
    const kas_place none = {0u, 0u};
    const kas_place place = source.next.page != KAS_ABSENT ? source.next : none;
    const kas_u64 k_own = kas_row_offset(source.k_rows, place), v_own = kas_row_offset(source.v_rows, place);
    const kas_u64 policy = ONCE ? kas_once_policy() : 0u;
    const auto copy = [&](kas_u32 target, const T *from, bool exists) {
        if (ONCE)
            kas_copy16_once(target, from, exists, policy);
        else
            kas_copy16(target, from, exists);
    };
    if (source.aligned) {
#pragma unroll
        for (int x = 0; x < rows::chunks / 2; x++) {
            const kas_u32 row = (x * 32 + lane) / rows::chunks, chunk = (x * 32 + lane) % rows::chunks;
            const bool exists = present >> row & 1u;
            copy(k_at + rows::at(row, chunk), source.k + __shfl_sync(0xffffffffu, k_own, row) + chunk * 8u, exists);
            if (VALUES)
                copy(v_at + rows::at(row, chunk), source.v + __shfl_sync(0xffffffffu, v_own, row) + chunk * 8u, exists);
        }
    } else {
#pragma unroll 1
        for (int x = 0; x < rows::chunks / 2; x++) {
            const kas_u32 row = (x * 32 + lane) / rows::chunks, chunk = (x * 32 + lane) % rows::chunks;
            const bool exists = present >> row & 1u;
            kas_copy16_slowly(k_at + rows::at(row, chunk), source.k + __shfl_sync(0xffffffffu, k_own, row) + chunk * 8u,
                              exists);
            if (VALUES)
                kas_copy16_slowly(v_at + rows::at(row, chunk),
                                  source.v + __shfl_sync(0xffffffffu, v_own, row) + chunk * 8u, exists);
        }
    }
    return present;
}

/* The greatest position that an entry before `end` can have, as far as masking goes: listed keys lie before all
   queries. */
KAS_CU kas_u32 kas_last_position(const kas_keys &keys, kas_u32 end)
{
    if (end > keys.listed)
        return keys.start + (end - 1u - keys.listed);
    return keys.list == nullptr ? end - 1u : 0u;
}

KAS_CU kas_u32 kas_masked_position(const kas_keys &keys, kas_u32 e)
{
    return kas_last_position(keys, e + 1u);
}

#endif
