/*
 * cluster_merge.cuh - attention over the splits that a cluster's blocks take, merged out of each other's shared memory
 * without a launch of merge.
 */
#ifndef KAS_CUDA_CLUSTER_MERGE_CUH
#define KAS_CUDA_CLUSTER_MERGE_CUH

#include "cluster.cuh"
#include "split_mma.cuh"

/* The block's part of a query row: greatest logit, sum, D outputs. */
template <class S> KAS_CU float *cluster_part(unsigned char *memory, kas_u32 local)
{
    return (float *)(memory + S::block_at) + local * S::part;
}

KAS_CU float cluster_load(const float *local, kas_u32 rank)
{
    return kas_float_of(cluster_load((const kas_u32 *)local, rank));
}

/* The softmax over what the lanes have; `own` is the lane's. */
KAS_CU kas_softmax warp_merge(kas_softmax own)
{
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
        kas_softmax other = {__shfl_xor_sync(0xffffffffu, own.greatest, step),
                             __shfl_xor_sync(0xffffffffu, own.sum, step)};
        own = kas_softmax_merge(own, other);
    }
    return own;
}

/* Merges the warps' parts of a query row into the block's; run by one warp. */
template <class S> KAS_CU void cluster_publish_row(unsigned char *memory, kas_u32 local, bool exists)
{
    const kas_u32 lane = threadIdx.x % 32;
    float weights[S::warps], *part = cluster_part<S>(memory, local);
    const kas_softmax result = split_merge_warps<S>(memory, local, exists, weights);
    if (lane == 0) {
        part[0] = result.greatest;
        part[1] = result.sum;
    }
    for (kas_u32 d = lane; d < S::D; d += 32)
        part[2 + d] = split_merge_output<S>(memory, local, d, result.sum, weights);
}

/* Merges the blocks' parts of a query row into its output; run by a block. */
template <class S>
KAS_CU void cluster_write_row(const kas_work &w, unsigned char *memory, kas_u32 local, kas_u32 i, kas_u32 head)
{
    const kas_u32 lane = threadIdx.x % 32;
    const float *part = cluster_part<S>(memory, local);
    kas_softmax own = kas_softmax_none();
    if (lane < cluster_size()) {
        own.greatest = cluster_load(part, lane);
        own.sum = cluster_load(part + 1, lane);
    }
    const kas_softmax all = warp_merge(own);
    const float share = all.sum == 0.0f ? 0.0f : 1.0f / all.sum;
    const float weight = own.sum * kas_softmax_weight(own.greatest, all.greatest);
    if (kas_has(w, KAS_CALL_LSE) && threadIdx.x == 0)
        *kas_lse_at(w, i, head) = kas_softmax_lse(all);
    typename S::T *out = kas_out_row<typename S::T>(w, i, head);
    for (kas_u32 d = threadIdx.x; d < S::D; d += S::threads) {
        float sum = 0.0f;
#pragma unroll 8
        for (kas_u32 rank = 0; rank < cluster_size(); rank++)
            sum += __shfl_sync(0xffffffffu, weight, rank) * cluster_load(part + 2 + d, rank);
        kas_from_float(sum * share, out[d]);
    }
}

/* The splits' results of the rows from `first` on, which the blocks share out. */
template <class S>
KAS_CU void cluster_write_rows(const kas_work &w, unsigned char *memory, kas_u32 first, kas_u32 rows, kas_u32 queries)
{
    for (kas_u32 local = threadIdx.x / 32; local < 16 * S::M && first + local < rows; local += S::warps)
        cluster_publish_row<S>(memory, local, (first + local) % w.call.queries < queries);
    cluster_wait(); /* all blocks' parts are complete */
    for (kas_u32 local = cluster_rank(); local < 16 * S::M && first + local < rows; local += cluster_size()) {
        const kas_u32 row = first + local, i = row % w.call.queries;
        if (i < queries)
            cluster_write_row<S>(w, memory, local, i, blockIdx.y * kas_session_of(w).group + row / w.call.queries);
    }
    cluster_wait(); /* and have been read */
}

template <class S> KAS_CU void split_team(const kas_work &w, unsigned char *memory)
{
    split_work<S>(w, memory, [&](kas_u32 first, kas_u32 rows, kas_u32 queries) {
        cluster_write_rows<S>(w, memory, first, rows, queries);
    });
}

#endif
