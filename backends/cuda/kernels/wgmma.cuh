/*
 * wgmma.cuh - the instructions of sm_90a that the wgmma rows use: matrix products of a warpgroup with operands in shared
 * memory, barriers between producers and consumers, and the layout of tiles of 128 elements a row in which the matrix
 * unit finds them.
 */
#ifndef KAS_CUDA_WGMMA_CUH
#define KAS_CUDA_WGMMA_CUH

#include "mma.cuh"

/* ---- Barriers in shared memory --------------------------------------------------------------------------------- */

KAS_CU void kas_barrier_init(kas_u32 barrier, kas_u32 arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

KAS_CU void kas_barrier_arrive(kas_u32 barrier)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

/* An arrival as soon as all copies that this thread has started have landed; the barrier counts it from the start. */
KAS_CU void kas_barrier_arrive_copied(kas_u32 barrier)
{
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}

/* `count` arrivals at once, and `bytes` that copies of the tensor copy engine will bring before the phase ends. */
KAS_CU void kas_barrier_expect(kas_u32 barrier, kas_u32 count, kas_u32 bytes)
{
    asm volatile("mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}

/* Whether the phase of this parity has ended; false may also mean not yet seen. */
KAS_CU bool kas_barrier_passed(kas_u32 barrier, kas_u32 parity)
{
    kas_u32 passed;
    asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
                 : "=r"(passed)
                 : "r"(barrier), "r"(parity)
                 : "memory");
    return passed != 0u;
}

KAS_CU void kas_barrier_wait(kas_u32 barrier, kas_u32 parity)
{
    while (!kas_barrier_passed(barrier, parity)) {
    }
}

/* A place in a ring of N slots, each passed once a turn. */
template <int N> struct ring_place {
    kas_u32 slot, turn; /* turn: parity */

    __device__ __forceinline__ void advance()
    {
        slot++;
        if (slot == N) {
            slot = 0;
            turn ^= 1u;
        }
    }
};

/* Orders writes to shared memory that this thread made, or has seen a barrier pass for, before the matrix unit's reads. */
KAS_CU void kas_fence_matrices()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* The lesser of two, NaN when either is one. */
KAS_CU float kas_min_or_nan(float a, float b)
{
    float c;
    asm("min.NaN.f32 %0, %1, %2;" : "=f"(c) : "f"(a), "f"(b));
    return c;
}

/* ---- Matrix products of a warpgroup ---------------------------------------------------------------------------- */

/*
 * A tile of R rows of 128 elements lies in shared memory as two halves of 64 columns, rows of 128 bytes, whose chunks of
 * 16 bytes are exchanged within groups of eight rows. It begins at a multiple of 1,024 bytes.
 */
template <int R> struct wide_tile {
    static constexpr kas_u32 half = R * 128;
    static constexpr kas_u32 bytes = 2 * half;

    static __device__ __forceinline__ kas_u32 at(kas_u32 row, kas_u32 chunk)
    {
        return chunk / 8u * half + row * 128u + ((chunk ^ row) & 7u) * 16u;
    }

    /* Columns 16 k .. 16 k + 15 of the rows from `tile` on, summed over: operand of a product along columns. */
    static __device__ __forceinline__ kas_u64 columns(kas_u32 tile, kas_u32 k)
    {
        return describe(tile, 16u, k / 4u * half + k % 4u * 32u);
    }

    /* Rows 16 k .. 16 k + 15, summed over: operand of a product along rows. */
    static __device__ __forceinline__ kas_u64 rows(kas_u32 tile, kas_u32 k)
    {
        return describe(tile, half, k * 2048u);
    }

    /* A matrix descriptor: 128-byte exchange, groups of eight rows 1,024 bytes apart. The offset is added last, so that
       descriptors of one tile differ by a constant. */
    static __device__ __forceinline__ kas_u64 describe(kas_u32 tile, kas_u32 leading, kas_u32 offset)
    {
        const kas_u32 low = (leading >> 4 << 16 | tile >> 4) + (offset >> 4);
        return (kas_u64)(1u << 30 | 1024u >> 4) << 32 | low;
    }
};

/* The number of this thread's warpgroup, in a form that the compiler knows to be the same in all lanes. */
KAS_CU kas_u32 kas_warpgroup()
{
    return __shfl_sync(0xffffffffu, threadIdx.x / 128u, 0);
}

/* Orders register and shared memory accesses before the products that follow. */
KAS_CU void kas_wgmma_begin()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

KAS_CU void kas_wgmma_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* What the host knows about the keys and values of a launch: maps of axes (element, token, kv head, sequence). */
struct alignas(64) kas_tensor_map {
    kas_u64 words[16];
};

struct kas_key_maps {
    kas_tensor_map k, v;
    kas_u32 present; /* 0: rows are to be copied one by one */
};

/* Brings the tile of keys from `token` on to a wide_tile<128>; one thread starts it, the barrier counts its bytes. */
KAS_CU void kas_fetch_tile(kas_u32 tile, const kas_tensor_map &map, kas_u32 token, kas_u32 head, kas_u32 sequence,
                           kas_u32 barrier)
{
#pragma unroll
    for (kas_u32 half = 0; half < 2; half++)
        asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
                     "[%1, {%2, %3, %4, %5}], [%6];" ::"r"(tile + half * wide_tile<128>::half),
                     "l"(&map), "r"(half * 64u), "r"(token), "r"(head), "r"(sequence), "r"(barrier)
                     : "memory");
}

/* Waits until at most N committed groups are under way. */
template <int N> KAS_CU void kas_wgmma_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

/* Keeps the compiler from moving what makes or uses these values over a wait. */
KAS_CU void kas_wgmma_settle(float c[16][4])
{
#pragma unroll
    for (int n = 0; n < 16; n++)
        asm volatile("" : "+f"(c[n][0]), "+f"(c[n][1]), "+f"(c[n][2]), "+f"(c[n][3])::"memory");
}

#define KAS_WGMMA_REGISTERS                                                                                            \
    "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                    \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "                           \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                           \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}"

#define KAS_WGMMA_FOUR(c, n) "+f"(c[n][0]), "+f"(c[n][1]), "+f"(c[n][2]), "+f"(c[n][3])
#define KAS_WGMMA_SUMS(c)                                                                                              \
    KAS_WGMMA_FOUR(c, 0), KAS_WGMMA_FOUR(c, 1), KAS_WGMMA_FOUR(c, 2), KAS_WGMMA_FOUR(c, 3), KAS_WGMMA_FOUR(c, 4),      \
        KAS_WGMMA_FOUR(c, 5), KAS_WGMMA_FOUR(c, 6), KAS_WGMMA_FOUR(c, 7), KAS_WGMMA_FOUR(c, 8), KAS_WGMMA_FOUR(c, 9),  \
        KAS_WGMMA_FOUR(c, 10), KAS_WGMMA_FOUR(c, 11), KAS_WGMMA_FOUR(c, 12), KAS_WGMMA_FOUR(c, 13),                    \
        KAS_WGMMA_FOUR(c, 14), KAS_WGMMA_FOUR(c, 15)

/*
 * c (64 x 128: element x of c[n] as in mma.cuh) = a * b, or c + a * b where `add`. a: 64 rows along columns, b: 128 rows
 * along columns.
 */
#define KAS_WGMMA_COLUMNS(T, NAME)                                                                                     \
    KAS_CU void kas_wgmma_columns(T, float c[16][4], kas_u64 a, kas_u64 b, bool add)                                   \
    {                                                                                                                  \
        asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %66, 0;\n"                                                      \
                     "wgmma.mma_async.sync.aligned.m64n128k16.f32." NAME "." NAME " " KAS_WGMMA_REGISTERS              \
                     ", %64, %65, p, 1, 1, 0, 0;\n}"                                                                   \
                     : KAS_WGMMA_SUMS(c)                                                                               \
                     : "l"(a), "l"(b), "r"((int)add));                                                                 \
    }

/* c += a * b. a: 64 x 16 in registers, as in mma.cuh; b: 16 rows, summed over, of 128 columns. */
#define KAS_WGMMA_ROWS(T, NAME)                                                                                        \
    KAS_CU void kas_wgmma_rows(T, float c[16][4], const kas_u32 a[4], kas_u64 b)                                       \
    {                                                                                                                  \
        asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32." NAME "." NAME " " KAS_WGMMA_REGISTERS              \
                     ", {%64, %65, %66, %67}, %68, 1, 1, 1, 1;"                                                        \
                     : KAS_WGMMA_SUMS(c)                                                                               \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                                            \
    }

KAS_WGMMA_COLUMNS(f16, "f16")
KAS_WGMMA_COLUMNS(bf16, "bf16")
KAS_WGMMA_ROWS(f16, "f16")
KAS_WGMMA_ROWS(bf16, "bf16")

/* Starts c = a * b over all 128 columns of both tiles. */
template <class T, class A, class B> KAS_CU void kas_wgmma_product(float c[16][4], kas_u32 a, kas_u32 b)
{
    kas_wgmma_begin();
#pragma unroll
    for (kas_u32 k = 0; k < 8; k++)
        kas_wgmma_columns(T(), c, A::columns(a, k), B::columns(b, k), k != 0);
    kas_wgmma_commit();
}

/* KAS_CUDA_KERNEL of a kernel that takes kas_key_maps as well: body(work, maps, memory). */
#define KAS_CUDA_KERNEL_WITH_MAPS(name, threads, shared, ...)                                                          \
    extern "C" __constant__ unsigned name##_shape[2] = {threads, shared};                                              \
    extern "C" __global__ void __launch_bounds__(threads, 1)                                                           \
        name(const __grid_constant__ kas_call call, const __grid_constant__ kas_slots slots,                           \
             const __grid_constant__ kas_key_maps maps)                                                                \
    {                                                                                                                  \
        extern __shared__ __align__(1024) unsigned char memory[];                                                      \
        const kas_work work = {call, slots};                                                                           \
        kas_wait_for_predecessor();                                                                                    \
        __VA_ARGS__(work, maps, memory);                                                                               \
    }

/* Registers a thread of this warpgroup may use from now on. */
template <int N> KAS_CU void kas_raise_registers()
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

template <int N> KAS_CU void kas_lower_registers()
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}

#endif
