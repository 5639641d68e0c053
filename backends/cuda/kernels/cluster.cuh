/* cluster.cuh - thread block clusters of sm_90: who is who in one, waiting for each other, and each other's memory. */
#ifndef KAS_CUDA_CLUSTER_CUH
#define KAS_CUDA_CLUSTER_CUH

#include "common.cuh"

KAS_CU kas_u32 cluster_rank()
{
    kas_u32 rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

KAS_CU kas_u32 cluster_size()
{
    kas_u32 size;
    asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
    return size;
}

/* Orders all blocks' memory accesses before and after it. */
KAS_CU void cluster_wait()
{
    __syncwarp();
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

/* Address of `local` in the shared memory of block `rank`. */
KAS_CU kas_u32 cluster_address(const void *local, kas_u32 rank)
{
    kas_u32 address = (kas_u32)__cvta_generic_to_shared(local), remote;
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(address), "r"(rank));
    return remote;
}

/* Loads without a clobber: several are under way together. A cluster_wait stands between them and what they read. */
KAS_CU kas_u32 cluster_load(const kas_u32 *local, kas_u32 rank)
{
    kas_u32 value;
    asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(value) : "r"(cluster_address(local, rank)));
    return value;
}

KAS_CU uint4 cluster_load(const uint4 *local, kas_u32 rank)
{
    uint4 value;
    asm volatile("ld.shared::cluster.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
                 : "r"(cluster_address(local, rank)));
    return value;
}

KAS_CU void cluster_store(kas_u32 *local, kas_u32 rank, kas_u32 value)
{
    asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(cluster_address(local, rank)), "r"(value) : "memory");
}

/* The sum of `local` over the blocks before this one; by whole warps. */
KAS_CU kas_u32 cluster_sum_before(const kas_u32 *local)
{
    const kas_u32 lane = threadIdx.x % 32;
    return __reduce_add_sync(0xffffffffu, lane < cluster_rank() ? cluster_load(local, lane) : 0u);
}

#endif
