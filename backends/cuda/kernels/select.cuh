/*
 * select.cuh - the `keep` candidates of largest score, in ascending position, by one block. Histograms narrow the range of
 * sort keys in which the least kept one lies: the first spreads its bins over the keys that there are, so that scores
 * that resemble each other do not meet in one bin; the few keys of the bin that it finds are gathered in shared memory,
 * where the others follow. A last pass writes the list.
 */
#ifndef KAS_CUDA_SELECT_CUH
#define KAS_CUDA_SELECT_CUH

#include "scan.cuh"

#define SELECT_THREADS 512
#define SELECT_WARPS (SELECT_THREADS / 32)
#define SELECT_BINS 2048
#define SELECT_COPIES 4 /* of each bin, so that lanes that meet the same one collide less */
#define SELECT_SHARE 8  /* neighbouring scores a thread takes at a time */
#define SELECT_CHUNK (SELECT_THREADS * SELECT_SHARE)
#define SELECT_GATHERED 4096u /* keys of a bin that are gathered */

struct select_memory {
    kas_u32 bins[SELECT_BINS * SELECT_COPIES];
    kas_u32 warps[SELECT_WARPS];
    select_bin bin; /* of the least kept key */
    kas_u32 least;  /* of all keys */
    kas_u32 greatest;
    kas_u32 gathered; /* keys that stand in `keys` */
    kas_u32 keys[SELECT_GATHERED];
};

/* Sort keys of this thread's scores in the chunk at `first`; `count` of them exist. */
KAS_CU kas_u32 select_load(const float *scores, bool aligned, kas_u32 first, kas_u32 candidates,
                           kas_u32 keys[SELECT_SHARE])
{
    const kas_u32 begin = first + threadIdx.x * SELECT_SHARE;
    if (aligned && begin + SELECT_SHARE <= candidates) {
#pragma unroll
        for (int x = 0; x < SELECT_SHARE / 4; x++) {
            float4 four = ((const float4 *)(scores + begin))[x];
            keys[4 * x] = kas_sort_key(kas_bits_of(four.x));
            keys[4 * x + 1] = kas_sort_key(kas_bits_of(four.y));
            keys[4 * x + 2] = kas_sort_key(kas_bits_of(four.z));
            keys[4 * x + 3] = kas_sort_key(kas_bits_of(four.w));
        }
        return SELECT_SHARE;
    }
    const kas_u32 count = begin < candidates ? kas_min2(candidates - begin, SELECT_SHARE) : 0u;
#pragma unroll
    for (kas_u32 x = 0; x < SELECT_SHARE; x++)
        keys[x] = x < count ? kas_sort_key(kas_bits_of(scores[begin + x])) : 0u;
    return count;
}

/* Finds the bin in which the `wanted`-th largest of the counted keys lies. */
KAS_CU void select_find_digit(select_memory *m, kas_u32 wanted)
{
    const kas_u32 first = first_bin<SELECT_THREADS, SELECT_BINS>();
    kas_u32 counts[SELECT_BINS / SELECT_THREADS];
#pragma unroll
    for (kas_u32 x = 0; x < SELECT_BINS / SELECT_THREADS; x++) {
        uint4 copies = ((const uint4 *)m->bins)[first + x];
        counts[x] = copies.x + copies.y + copies.z + copies.w;
    }
    find_bin<SELECT_THREADS, SELECT_BINS>(m->warps, counts, wanted, &m->bin);
}

/* Calls visit(key) for every candidate's key, chunk by chunk. */
template <class Visit>
KAS_CU void select_visit(const float *scores, bool aligned, kas_u32 candidates, const Visit &visit)
{
#pragma unroll 2
    for (kas_u32 first = 0; first < candidates; first += SELECT_CHUNK) {
        kas_u32 keys[SELECT_SHARE];
        const kas_u32 count = select_load(scores, aligned, first, candidates, keys);
#pragma unroll
        for (kas_u32 x = 0; x < SELECT_SHARE; x++)
            if (x < count)
                visit(keys[x]);
    }
}

/* Finds the least and the greatest key. */
KAS_CU void select_find_range(select_memory *m, const float *scores, bool aligned, kas_u32 candidates)
{
    kas_u32 least = 0xffffffffu, greatest = 0u;
    if (threadIdx.x == 0) {
        m->least = 0xffffffffu;
        m->greatest = 0u;
    }
    select_visit(scores, aligned, candidates, [&](kas_u32 key) {
        least = kas_min2(least, key);
        greatest = kas_max2(greatest, key);
    });
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
        least = kas_min2(least, __shfl_xor_sync(0xffffffffu, least, step));
        greatest = kas_max2(greatest, __shfl_xor_sync(0xffffffffu, greatest, step));
    }
    __syncthreads();
    if (threadIdx.x % 32 == 0) {
        atomicMin(&m->least, least);
        atomicMax(&m->greatest, greatest);
    }
    __syncthreads();
}

/* Brings the keys low .. high, of which there are at most SELECT_GATHERED, to shared memory. */
KAS_CU void select_gather(select_memory *m, const float *scores, bool aligned, kas_u32 candidates, kas_u32 low,
                          kas_u32 high)
{
    if (threadIdx.x == 0)
        m->gathered = 0u;
    __syncthreads();
    select_visit(scores, aligned, candidates, [&](kas_u32 key) {
        if (key >= low && key <= high)
            m->keys[atomicAdd(&m->gathered, 1u)] = key;
    });
    __syncthreads();
}

/* Finds the bin of the `wanted`-th largest of the keys low .. high; bin b counts low + b 2^shift and those after it. */
KAS_CU void select_count(select_memory *m, const float *scores, bool aligned, kas_u32 candidates, bool gathered,
                         kas_u32 low, kas_u32 high, kas_u32 shift, kas_u32 wanted)
{
    for (kas_u32 bin = threadIdx.x; bin < SELECT_BINS; bin += SELECT_THREADS)
        ((uint4 *)m->bins)[bin] = make_uint4(0u, 0u, 0u, 0u);
    __syncthreads();
    const auto count = [&](kas_u32 key) {
        if (key >= low && key <= high)
            atomicAdd(&m->bins[(key - low >> shift) * SELECT_COPIES + threadIdx.x % SELECT_COPIES], 1u);
    };
    if (gathered)
        for (kas_u32 x = threadIdx.x; x < m->gathered; x += SELECT_THREADS)
            count(m->keys[x]);
    else
        select_visit(scores, aligned, candidates, count);
    __syncthreads();
    select_find_digit(m, wanted);
}

KAS_CU select_threshold select_find_threshold(select_memory *m, const float *scores, bool aligned, kas_u32 candidates,
                                              kas_u32 keep)
{
    select_find_range(m, scores, aligned, candidates);
    kas_u32 low = m->least, high = m->greatest, wanted = keep;
    bool gathered = false;
    while (low != high) {
        const int bits = 32 - __clz((int)(high - low));
        const kas_u32 shift = bits > 11 ? (kas_u32)bits - 11u : 0u;
        select_count(m, scores, aligned, candidates, gathered, low, high, shift, wanted);
        wanted -= m->bin.above;
        low += m->bin.digit << shift;
        high = kas_min2(high, low + ((1u << shift) - 1u));
        if (!gathered && low != high && m->bin.inside <= SELECT_GATHERED) {
            select_gather(m, scores, aligned, candidates, low, high);
            gathered = true;
        }
        __syncthreads(); /* the digit has been read */
    }
    const select_threshold found = {low, wanted};
    return found;
}

/* Keys above the least kept one count in the low half of a word, equal ones in the high half. */
KAS_CU void select_write(select_memory *m, const float *scores, bool aligned, kas_u32 candidates, kas_u32 keep,
                         select_threshold least, kas_i32 *list)
{
    kas_u32 greater = 0u, equal = 0u; /* in the chunks before */
    for (kas_u32 first = 0; first < candidates && greater + kas_min2(equal, least.equal) < keep;
         first += SELECT_CHUNK) {
        kas_u32 keys[SELECT_SHARE], own = 0u, total;
        const kas_u32 count = select_load(scores, aligned, first, candidates, keys);
#pragma unroll
        for (kas_u32 x = 0; x < SELECT_SHARE; x++)
            own += x >= count ? 0u : keys[x] > least.key ? 1u : keys[x] == least.key ? 0x10000u : 0u;
        const kas_u32 before = block_scan<SELECT_THREADS>(m->warps, own, &total);
        kas_u32 above = greater + (before & 0xffffu), same = equal + (before >> 16);
#pragma unroll
        for (kas_u32 x = 0; x < SELECT_SHARE; x++) {
            const bool is_above = x < count && keys[x] > least.key;
            const bool is_same = x < count && keys[x] == least.key;
            if (is_above || (is_same && same < least.equal))
                list[above + kas_min2(same, least.equal)] = (kas_i32)(first + threadIdx.x * SELECT_SHARE + x);
            above += is_above;
            same += is_same;
        }
        greater += total & 0xffffu;
        equal += total >> 16;
    }
}

/* What a work group of select works on; tile without queries: nothing. */
struct select_job {
    kas_tile tile;
    kas_i32 *list;
    const float *scores;
};

KAS_CU select_job select_job_of(const kas_work &w, kas_u32 x)
{
    const kas_sequence s = kas_load_sequence(w);
    const kas_u32 u = w.call.tile_begin + x;
    select_job job;
    job.tile = kas_load_tile(w, s, u);
    job.list = kas_list_of(w, s, job.tile, u, kas_active_row(w, blockIdx.y));
    job.scores = kas_scores_row(w, gridDim.y, blockIdx.y, u);
    return job;
}

/* Every candidate, for a dense tile. */
KAS_CU void select_all(const select_job &job)
{
    for (kas_u32 j = threadIdx.x; j < job.tile.candidates; j += SELECT_THREADS)
        job.list[j] = (kas_i32)j;
}

/* Fills a caller's list behind its last entry. */
KAS_CU void select_pad(const kas_work &w, const select_job &job)
{
    if (!kas_has(w, KAS_CALL_PACKED))
        for (kas_u32 e = job.tile.keep + threadIdx.x; e < w.call.list_width; e += SELECT_THREADS)
            job.list[e] = -1;
}

KAS_CU void select_scores(const select_job &job, select_memory *m)
{
    const bool aligned = (kas_u64)job.scores % 16u == 0u;
    const select_threshold least = select_find_threshold(m, job.scores, aligned, job.tile.candidates, job.tile.keep);
    select_write(m, job.scores, aligned, job.tile.candidates, job.tile.keep, least, job.list);
}

KAS_CU void select_block(const kas_work &w, unsigned char *memory)
{
    const select_job job = select_job_of(w, blockIdx.x);
    if (job.tile.query_begin == job.tile.query_end)
        return;
    if (kas_tile_is_dense(job.tile))
        select_all(job);
    else
        select_scores(job, (select_memory *)memory);
    select_pad(w, job);
}

#endif
