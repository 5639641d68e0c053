/* mass.cu - the scores of a tile summed over the tile's list of every row, and over all candidates; a block a tile. */
#include "common.cuh"

#define MASS_THREADS 256
#define MASS_WARPS (MASS_THREADS / 32)

/* The sum over the block's threads, in thread 0. */
KAS_CU float mass_reduce(float *warps, float value)
{
#pragma unroll
    for (int step = 16; step > 0; step /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, step);
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        warps[threadIdx.x / 32] = value;
    __syncthreads();
    float sum = 0.0f;
    for (int x = 0; x < MASS_WARPS && threadIdx.x == 0; x++)
        sum += warps[x];
    return sum;
}

/* This thread's part of the sum over a list. Entries that name no candidate count as absent. */
KAS_CU float mass_of_list(const kas_work &w, const kas_tile &t, const float *scores, const kas_i32 *list)
{
    const kas_u32 entries = kas_has(w, KAS_CALL_PACKED) ? t.keep : w.call.list_width;
    float sum = 0.0f;
    for (kas_u32 e = threadIdx.x; e < entries; e += MASS_THREADS) {
        const kas_u32 position = (kas_u32)list[e];
        if (position < t.candidates)
            sum += scores[position];
        else if (position != 0xffffffffu)
            kas_report(w, KAS_STATUS_LIST);
    }
    return sum;
}

KAS_CU void mass_block(const kas_work &w, unsigned char *memory)
{
    const kas_sequence s = kas_load_sequence(w);
    const kas_u32 u = w.call.tile_begin + blockIdx.x;
    const kas_tile t = kas_load_tile(w, s, u);
    if (t.query_begin == t.query_end)
        return;
    const kas_u32 rows = kas_session_of(w).list_rows;
    const float *scores = kas_scores_row(w, gridDim.y, blockIdx.y, u);
    float *warps = (float *)memory;
    float *mass = kas_slot<float>(w, KAS_SLOT_PART_ML) +
                  (((kas_u64)blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x) * (rows + 1u);
    for (kas_u32 row = 0; row < rows; row++) {
        const float sum = mass_reduce(warps, mass_of_list(w, t, scores, kas_list_of(w, s, t, u, row)));
        if (threadIdx.x == 0)
            mass[row] = sum;
    }
    float own = 0.0f;
    for (kas_u32 j = threadIdx.x; j < t.candidates; j += MASS_THREADS)
        own += scores[j];
    const float sum = mass_reduce(warps, own);
    if (threadIdx.x == 0)
        mass[rows] = sum;
}

KAS_CUDA_KERNEL(mass_generic, MASS_THREADS, 2, MASS_WARPS * 4, mass_block)
