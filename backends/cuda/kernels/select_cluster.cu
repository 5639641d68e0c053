/*
 * select_cluster.cu - top-k lists on sm_90. Many lists take a block each, as elsewhere. Few take a cluster of eight
 * blocks each: every block reads its eighth of the scores once and keeps the sort keys in shared memory; a radix pass
 * adds up the blocks' histograms over distributed shared memory, an eighth of the bins each.
 */
#include "cluster_select.cuh"
#include "select.cuh"

#define CLUSTER 8u
#define CLUSTER_KEYS 20480u /* sort keys that a block holds; longer rows are left to the cluster's first block */

typedef cluster_select<SELECT_THREADS, CLUSTER_KEYS> chosen;

/* A row that is left to one block takes the memory another way. */
union cluster_row {
    select_memory block;
    chosen::memory cluster;
};

KAS_CU void cluster_put(chosen::memory *m, kas_u32 x, float score)
{
    chosen::put(m, x, kas_sort_key(kas_bits_of(score)));
}

KAS_CU void cluster_load_keys(chosen::memory *m, const float *scores, kas_u32 count)
{
    const kas_u32 quads = (kas_u64)scores % 16u == 0u ? count / 4u : 0u;
    chosen::begin(m);
    for (kas_u32 x = threadIdx.x; x < quads; x += SELECT_THREADS) {
        const float4 four = ((const float4 *)scores)[x];
        cluster_put(m, 4u * x, four.x);
        cluster_put(m, 4u * x + 1u, four.y);
        cluster_put(m, 4u * x + 2u, four.z);
        cluster_put(m, 4u * x + 3u, four.w);
    }
    for (kas_u32 x = quads * 4u + threadIdx.x; x < count; x += SELECT_THREADS)
        cluster_put(m, x, scores[x]);
}

/* All blocks of a cluster come to the same decisions here, so that none waits for one that has left. */
KAS_CU void select_cluster_group(const kas_work &w, unsigned char *memory)
{
    chosen::memory *m = (chosen::memory *)memory;
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
            select_scores(job, (select_memory *)memory);
        select_pad(w, job);
        return;
    }
    const kas_u32 first = kas_min2(cluster_rank() * share, job.tile.candidates);
    const kas_u32 count = kas_min2(share, job.tile.candidates - first);
    cluster_load_keys(m, job.scores + first, count);
    chosen::run(m, first, count, job.tile.keep, job.list);
    if (cluster_rank() == 0)
        select_pad(w, job);
    cluster_wait(); /* nobody leaves while its memory may be read */
}

KAS_CUDA_KERNEL(select_cluster, SELECT_THREADS, 1, sizeof(cluster_row), select_cluster_group)
KAS_CUDA_KERNEL(select_cluster_many, SELECT_THREADS, 4, sizeof(select_memory), select_block)
