/* scan.cuh - what kernels of selection share: sums over the threads before one, the bin of a histogram that holds a key
   of given rank, and the least kept key. */
#ifndef KAS_CUDA_SCAN_CUH
#define KAS_CUDA_SCAN_CUH

#include "common.cuh"

/* The least kept key, and how many equal to it are kept. */
struct select_threshold {
    kas_u32 key;
    kas_u32 equal;
};

/* The sum over the warp's lanes before this one; `total` over all of them. */
KAS_CU kas_u32 warp_scan(kas_u32 value, kas_u32 *total)
{
    kas_u32 sum = value;
#pragma unroll
    for (kas_u32 step = 1; step < 32; step *= 2) {
        kas_u32 other = __shfl_up_sync(0xffffffffu, sum, step);
        sum += threadIdx.x % 32 >= step ? other : 0u;
    }
    *total = __shfl_sync(0xffffffffu, sum, 31);
    return sum - value;
}

/* The sum over the block's threads before this one; `total` over all of them. */
template <kas_u32 THREADS> KAS_CU kas_u32 block_scan(kas_u32 *warps, kas_u32 value, kas_u32 *total)
{
    const kas_u32 warp = threadIdx.x / 32;
    kas_u32 own, before = warp_scan(value, &own), all = 0;
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        warps[warp] = own;
    __syncthreads();
#pragma unroll
    for (kas_u32 x = 0; x < THREADS / 32; x++) {
        before += x < warp ? warps[x] : 0u;
        all += warps[x];
    }
    *total = all;
    return before;
}

/* The bin of a histogram in which a key of given rank lies. */
struct select_bin {
    kas_u32 digit;
    kas_u32 above;  /* keys in greater bins */
    kas_u32 inside; /* keys in this one */
};

/* The first of the bins that a thread takes: an equal share each, from the greatest down. */
template <kas_u32 THREADS, kas_u32 BINS> KAS_CU kas_u32 first_bin()
{
    return BINS - BINS / THREADS * (threadIdx.x + 1u);
}

/* Finds the bin of the `wanted`-th largest key, by a whole block; `counts` are those of the thread's bins. */
template <kas_u32 THREADS, kas_u32 BINS>
KAS_CU void find_bin(kas_u32 *warps, const kas_u32 (&counts)[BINS / THREADS], kas_u32 wanted, select_bin *found)
{
    kas_u32 own = 0u, total;
#pragma unroll
    for (kas_u32 x = 0; x < BINS / THREADS; x++)
        own += counts[x];
    kas_u32 above = block_scan<THREADS>(warps, own, &total);
#pragma unroll
    for (int x = (int)(BINS / THREADS) - 1; x >= 0; x--) {
        if (above < wanted && above + counts[x] >= wanted) {
            found->digit = first_bin<THREADS, BINS>() + (kas_u32)x;
            found->above = above;
            found->inside = counts[x];
        }
        above += counts[x];
    }
    __syncthreads();
}

#endif
