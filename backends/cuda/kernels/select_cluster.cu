/*
 * select_cluster.cu - top-k lists on sm_90. Many lists take a block each, as elsewhere. Few take a cluster of eight
 * blocks each: every block reads its eighth of the scores once and keeps the sort keys in shared memory; a radix pass
 * adds up the blocks' histograms over distributed shared memory, an eighth of the bins each.
 */
#include "select.cuh"

#define CLUSTER 8u
#define CLUSTER_KEYS 20480u /* sort keys that a block holds; longer rows are left to the cluster's first block */
#define CLUSTER_BINS (SELECT_BINS / CLUSTER)

struct cluster_memory {
    select_memory block;
    kas_u32 total;   /* of this block's share of the bins */
    kas_u32 digit;   /* written by the block that finds it, to all */
    kas_u32 above;
    kas_u32 greater; /* of this block's keys, those above the least kept one, and those equal */
    kas_u32 equal;
    __align__(16) kas_u32 keys[CLUSTER_KEYS];
};

KAS_CU kas_u32 cluster_rank()
{
    return blockIdx.x % CLUSTER;
}

/* Orders all blocks' shared memory accesses before and after it. */
KAS_CU void cluster_wait()
{
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

/* Address of `local` in the shared memory of block `rank`. */
KAS_CU kas_u32 cluster_address(const void *local, kas_u32 rank)
{
    kas_u32 address = (kas_u32)__cvta_generic_to_shared(local), remote;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(address), "r"(rank));
    return remote;
}

KAS_CU kas_u32 cluster_load(const kas_u32 *local, kas_u32 rank)
{
    kas_u32 value;
    asm volatile("ld.shared::cluster.u32 %0, [%1];" : "=r"(value) : "r"(cluster_address(local, rank)) : "memory");
    return value;
}

KAS_CU void cluster_store(kas_u32 *local, kas_u32 rank, kas_u32 value)
{
    asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(cluster_address(local, rank)), "r"(value) : "memory");
}

/* Counts the digits of the block's keys that match `known` so far, then sums the copies into the first. */
KAS_CU void cluster_count(cluster_memory *m, kas_u32 count, kas_u32 known, kas_u32 prefix, kas_u32 shift, kas_u32 digits)
{
    for (kas_u32 bin = threadIdx.x; bin < SELECT_BINS; bin += SELECT_THREADS)
        ((uint4 *)m->block.bins)[bin] = make_uint4(0u, 0u, 0u, 0u);
    __syncthreads();
    for (kas_u32 x = threadIdx.x; x < count; x += SELECT_THREADS) {
        const kas_u32 key = m->keys[x];
        if ((key & known) == prefix)
            atomicAdd(&m->block.bins[(key >> shift & digits) * SELECT_COPIES + threadIdx.x % SELECT_COPIES], 1u);
    }
    __syncthreads();
    for (kas_u32 bin = threadIdx.x; bin < SELECT_BINS; bin += SELECT_THREADS) {
        const uint4 copies = ((const uint4 *)m->block.bins)[bin];
        m->block.bins[bin * SELECT_COPIES] = copies.x + copies.y + copies.z + copies.w;
    }
}

/* Finds the digit of the `wanted`-th largest key over all blocks; every block gets it. */
KAS_CU void cluster_find_digit(cluster_memory *m, kas_u32 wanted)
{
    /* Ranks and threads count from the greatest bin down. */
    const kas_u32 bin = SELECT_BINS - 1u - (cluster_rank() * CLUSTER_BINS + threadIdx.x);
    kas_u32 own = 0u, total;
    cluster_wait(); /* all histograms are complete */
    if (threadIdx.x < CLUSTER_BINS)
        for (kas_u32 rank = 0; rank < CLUSTER; rank++)
            own += cluster_load(&m->block.bins[bin * SELECT_COPIES], rank);
    kas_u32 above = select_scan(&m->block, own, &total);
    if (threadIdx.x == 0)
        m->total = total;
    cluster_wait(); /* all totals are known, histograms may be cleared */
    for (kas_u32 rank = 0; rank < cluster_rank(); rank++)
        above += cluster_load(&m->total, rank);
    if (threadIdx.x < CLUSTER_BINS && above < wanted && above + own >= wanted)
        for (kas_u32 rank = 0; rank < CLUSTER; rank++) {
            cluster_store(&m->digit, rank, bin);
            cluster_store(&m->above, rank, above);
        }
    cluster_wait(); /* the digit is known */
}

KAS_CU select_threshold cluster_find_threshold(cluster_memory *m, kas_u32 count, kas_u32 keep)
{
    select_threshold found = {0u, keep};
    kas_u32 known = 0u;
#pragma unroll 1
    for (int pass = 0; pass < 3; pass++) {
        const kas_u32 shift = pass == 0 ? 21u : pass == 1 ? 10u : 0u;
        const kas_u32 digits = pass == 2 ? 1023u : 2047u;
        cluster_count(m, count, known, found.key, shift, digits);
        cluster_find_digit(m, found.equal);
        found.key |= m->digit << shift;
        found.equal -= m->above;
        known |= digits << shift;
    }
    return found;
}

/* Kept keys and keys equal to the least kept one in the blocks before this. */
KAS_CU void cluster_rank_keys(cluster_memory *m, kas_u32 count, kas_u32 least, kas_u32 *greater, kas_u32 *equal)
{
    kas_u32 own_greater = 0u, own_equal = 0u, total;
    for (kas_u32 x = threadIdx.x; x < count; x += SELECT_THREADS) {
        own_greater += m->keys[x] > least;
        own_equal += m->keys[x] == least;
    }
    select_scan(&m->block, own_greater, &total);
    if (threadIdx.x == 0)
        m->greater = total;
    select_scan(&m->block, own_equal, &total);
    if (threadIdx.x == 0)
        m->equal = total;
    cluster_wait();
    *greater = *equal = 0u;
    for (kas_u32 rank = 0; rank < cluster_rank(); rank++) {
        *greater += cluster_load(&m->greater, rank);
        *equal += cluster_load(&m->equal, rank);
    }
}

/* Writes the block's part of the list; `first` is the position of its first key. */
KAS_CU void cluster_write(cluster_memory *m, kas_u32 first, kas_u32 count, select_threshold least, kas_u32 greater,
                          kas_u32 equal, kas_i32 *list)
{
    for (kas_u32 begin = 0; begin < count; begin += SELECT_THREADS * 4u) {
        const kas_u32 x0 = begin + threadIdx.x * 4u;
        const uint4 four = *(const uint4 *)(m->keys + (x0 < count ? x0 : 0u));
        const kas_u32 keys[4] = {four.x, four.y, four.z, four.w};
        kas_u32 own = 0u, total;
#pragma unroll
        for (kas_u32 x = 0; x < 4; x++)
            own += x0 + x >= count ? 0u : keys[x] > least.key ? 1u : keys[x] == least.key ? 0x10000u : 0u;
        const kas_u32 before = select_scan(&m->block, own, &total);
        kas_u32 above = greater + (before & 0xffffu), same = equal + (before >> 16);
#pragma unroll
        for (kas_u32 x = 0; x < 4; x++) {
            const bool is_above = x0 + x < count && keys[x] > least.key;
            const bool is_same = x0 + x < count && keys[x] == least.key;
            if (is_above || (is_same && same < least.equal))
                list[above + kas_min2(same, least.equal)] = (kas_i32)(first + x0 + x);
            above += is_above;
            same += is_same;
        }
        greater += total & 0xffffu;
        equal += total >> 16;
    }
}

KAS_CU void cluster_load_keys(cluster_memory *m, const float *scores, kas_u32 count)
{
    if ((kas_u64)scores % 16u == 0u) {
        for (kas_u32 x = threadIdx.x; x < count / 4u; x += SELECT_THREADS) {
            const float4 four = ((const float4 *)scores)[x];
            ((uint4 *)m->keys)[x] =
                make_uint4(kas_sort_key(kas_bits_of(four.x)), kas_sort_key(kas_bits_of(four.y)),
                           kas_sort_key(kas_bits_of(four.z)), kas_sort_key(kas_bits_of(four.w)));
        }
        for (kas_u32 x = count / 4u * 4u + threadIdx.x; x < count; x += SELECT_THREADS)
            m->keys[x] = kas_sort_key(kas_bits_of(scores[x]));
    } else {
        for (kas_u32 x = threadIdx.x; x < count; x += SELECT_THREADS)
            m->keys[x] = kas_sort_key(kas_bits_of(scores[x]));
    }
}

/* All blocks of a cluster come to the same decisions here, so that none waits for one that has left. */
KAS_CU void select_cluster_group(const kas_work &w, unsigned char *memory)
{
    cluster_memory *m = (cluster_memory *)memory;
    const select_job job = select_job_of(w, blockIdx.x / CLUSTER);
    const kas_u32 share = (kas_ceil_div(job.tile.candidates, CLUSTER) + 3u) / 4u * 4u;
    if (job.tile.query_begin == job.tile.query_end)
        return;
    if (kas_tile_is_dense(job.tile) || share > CLUSTER_KEYS) {
        if (cluster_rank() != 0)
            return;
        if (kas_tile_is_dense(job.tile))
            select_all(job);
        else
            select_scores(job, &m->block);
        select_pad(w, job);
        return;
    }
    const kas_u32 first = kas_min2(cluster_rank() * share, job.tile.candidates);
    const kas_u32 count = kas_min2(share, job.tile.candidates - first);
    kas_u32 greater, equal;
    cluster_load_keys(m, job.scores + first, count);
    const select_threshold least = cluster_find_threshold(m, count, job.tile.keep);
    cluster_rank_keys(m, count, least.key, &greater, &equal);
    cluster_write(m, first, count, least, greater, equal, job.list);
    if (cluster_rank() == 0)
        select_pad(w, job);
    cluster_wait(); /* nobody leaves while its memory may be read */
}

extern "C" __constant__ unsigned select_cluster_shape[2] = {SELECT_THREADS, sizeof(cluster_memory)};
extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(SELECT_THREADS, 1)
    select_cluster(const __grid_constant__ kas_call call, const __grid_constant__ kas_slots slots)
{
    extern __shared__ __align__(1024) unsigned char memory[];
    const kas_work work = {call, slots};
    select_cluster_group(work, memory);
}

KAS_CUDA_KERNEL(select_cluster_many, SELECT_THREADS, 4, sizeof(select_memory), select_block)
