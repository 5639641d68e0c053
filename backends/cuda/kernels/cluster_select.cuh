/*
 * cluster_select.cuh - top-k of sort keys that lie in the shared memory of a cluster's blocks, each block's keys behind
 * those of the block before. A radix pass adds up the blocks' histograms over distributed shared memory: every block
 * sums an equal share of the bins and gives the sums to all.
 */
#ifndef KAS_CUDA_CLUSTER_SELECT_CUH
#define KAS_CUDA_CLUSTER_SELECT_CUH

#include "cluster.cuh"
#include "scan.cuh"

#define CLUSTER_BINS 2048u
#define CLUSTER_COPIES 4u /* of each bin of the first digit, so that lanes that meet the same one collide less */
#define CLUSTER_FIRST_SHIFT 21u

/* Blocks of THREADS threads that hold KEYS keys each. */
template <kas_u32 THREADS, kas_u32 KEYS> struct cluster_select {
    static constexpr kas_u32 warps = THREADS / 32u;

    struct memory {
        uint4 first_bins[CLUSTER_BINS]; /* the copies of a bin; later digits have one and use the first of them */
        kas_u32 sums[CLUSTER_BINS];     /* over all blocks */
        kas_u32 scan[warps];
        kas_u32 greater_of_warp[warps], equal_of_warp[warps];
        select_bin bin; /* of the least kept key's digit */
        kas_u32 greater; /* of this block's keys, those above the least kept one, and those equal */
        kas_u32 equal;
        __align__(16) kas_u32 keys[KEYS];
    };

    /* Before the first `put`. */
    KAS_CU void begin(memory *m)
    {
        for (kas_u32 bin = threadIdx.x; bin < CLUSTER_BINS; bin += THREADS)
            m->first_bins[bin] = make_uint4(0u, 0u, 0u, 0u);
        __syncthreads();
    }

    /* Key x of the block. */
    KAS_CU void put(memory *m, kas_u32 x, kas_u32 key)
    {
        kas_u32 *bins = (kas_u32 *)m->first_bins;
        m->keys[x] = key;
        atomicAdd(&bins[(key >> CLUSTER_FIRST_SHIFT) * CLUSTER_COPIES + threadIdx.x % CLUSTER_COPIES], 1u);
    }

    /* Calls visit(key, exists) for four keys at a time of those from `begin` to `end`, which are multiples of four. */
    template <class Visit> KAS_CU void visit(const memory *m, kas_u32 first, kas_u32 step, kas_u32 end, const Visit &body)
    {
        for (kas_u32 x = first; x < end; x += step) {
            const uint4 four = *(const uint4 *)(m->keys + x);
            body(four.x, true);
            body(four.y, x + 1u < end);
            body(four.z, x + 2u < end);
            body(four.w, x + 3u < end);
        }
    }

    /* Counts the digits of the block's keys that match `prefix` above them. */
    KAS_CU void count(memory *m, kas_u32 keys, kas_u32 known, kas_u32 prefix, kas_u32 shift, kas_u32 digits)
    {
        kas_u32 *bins = (kas_u32 *)m->first_bins;
        for (kas_u32 bin = threadIdx.x; bin < CLUSTER_BINS / 4u; bin += THREADS)
            m->first_bins[bin] = make_uint4(0u, 0u, 0u, 0u);
        __syncthreads();
        visit(m, threadIdx.x * 4u, THREADS * 4u, keys, [&](kas_u32 key, bool exists) {
            if (exists && (key & known) == prefix)
                atomicAdd(&bins[key >> shift & digits], 1u);
        });
    }

    /* Keys of all blocks in `bin`; COPIED: of the first digit. Eight loads are under way together. */
    template <bool COPIED> KAS_CU kas_u32 add_up(const memory *m, kas_u32 bin)
    {
        const kas_u32 size = cluster_size();
        kas_u32 sum = 0u;
        for (kas_u32 first = 0; first < size; first += 8u) {
            kas_u32 found[8];
#pragma unroll
            for (kas_u32 x = 0; x < 8u; x++) {
                const kas_u32 rank = first + x & size - 1u; /* sizes are powers of two */
                if (COPIED) {
                    const uint4 copies = cluster_load(m->first_bins + bin, rank);
                    found[x] = copies.x + copies.y + copies.z + copies.w;
                } else {
                    found[x] = cluster_load((const kas_u32 *)m->first_bins + bin, rank);
                }
            }
#pragma unroll
            for (kas_u32 x = 0; x < 8u; x++)
                sum += x < size ? found[x] : 0u;
        }
        return sum;
    }

    /* Finds the digit of the `wanted`-th largest of the keys that all blocks have counted. */
    template <bool COPIED> KAS_CU void find_digit(memory *m, kas_u32 wanted)
    {
        const kas_u32 share = CLUSTER_BINS / cluster_size();
        cluster_wait(); /* all histograms are complete */
        for (kas_u32 x = threadIdx.x; x < share; x += THREADS) {
            const kas_u32 bin = cluster_rank() * share + x, sum = add_up<COPIED>(m, bin);
#pragma unroll 4
            for (kas_u32 rank = 0; rank < cluster_size(); rank++)
                cluster_store(&m->sums[bin], rank, sum);
        }
        cluster_wait(); /* all sums are known, histograms may be cleared */
        kas_u32 counts[CLUSTER_BINS / THREADS];
#pragma unroll
        for (kas_u32 x = 0; x < CLUSTER_BINS / THREADS; x++)
            counts[x] = m->sums[first_bin<THREADS, CLUSTER_BINS>() + x];
        find_bin<THREADS, CLUSTER_BINS>(m->scan, counts, wanted, &m->bin);
    }

    KAS_CU select_threshold find_threshold(memory *m, kas_u32 keys, kas_u32 keep)
    {
        find_digit<true>(m, keep);
        select_threshold found = {m->bin.digit << CLUSTER_FIRST_SHIFT, keep - m->bin.above};
        kas_u32 known = ~0u << CLUSTER_FIRST_SHIFT;
#pragma unroll 1
        for (int pass = 1; pass < 3; pass++) {
            if (m->bin.inside == found.equal) { /* all of the digit's keys are kept, whatever follows it */
                const select_threshold below = {found.key - 1u, 0u};
                return below;
            }
            const kas_u32 shift = pass == 1 ? 10u : 0u, digits = pass == 1 ? 2047u : 1023u;
            count(m, keys, known, found.key, shift, digits);
            find_digit<false>(m, found.equal);
            found.key |= m->bin.digit << shift;
            found.equal -= m->bin.above;
            known |= digits << shift;
        }
        return found;
    }

    /* Keys of a warp: each takes an equal part of the block's, which keeps their order. */
    KAS_CU kas_u32 part_of_warp(kas_u32 keys)
    {
        return (kas_ceil_div(keys, warps) + 3u) / 4u * 4u;
    }

    /* Kept keys and keys equal to the least kept one before those of this warp. */
    KAS_CU void rank_keys(memory *m, kas_u32 begin, kas_u32 end, kas_u32 least, kas_u32 *greater, kas_u32 *equal)
    {
        const kas_u32 warp = threadIdx.x / 32u, lane = threadIdx.x % 32u;
        kas_u32 own_greater = 0u, own_equal = 0u;
        visit(m, begin + lane * 4u, 128u, end, [&](kas_u32 key, bool exists) {
            own_greater += exists && key > least;
            own_equal += exists && key == least;
        });
        own_greater = __reduce_add_sync(0xffffffffu, own_greater);
        own_equal = __reduce_add_sync(0xffffffffu, own_equal);
        if (lane == 0) {
            m->greater_of_warp[warp] = own_greater;
            m->equal_of_warp[warp] = own_equal;
        }
        __syncthreads();
        kas_u32 all_greater = 0u, all_equal = 0u;
        *greater = *equal = 0u;
#pragma unroll
        for (kas_u32 x = 0; x < warps; x++) {
            *greater += x < warp ? m->greater_of_warp[x] : 0u;
            *equal += x < warp ? m->equal_of_warp[x] : 0u;
            all_greater += m->greater_of_warp[x];
            all_equal += m->equal_of_warp[x];
        }
        if (threadIdx.x == 0) {
            m->greater = all_greater;
            m->equal = all_equal;
        }
        cluster_wait();
        *greater += cluster_sum_before(&m->greater);
        *equal += cluster_sum_before(&m->equal);
    }

    /* Writes the warp's part of the list; `first` is the position of the block's first key. */
    KAS_CU void write(const memory *m, kas_u32 first, kas_u32 begin, kas_u32 end, select_threshold least,
                      kas_u32 greater, kas_u32 equal, kas_i32 *list)
    {
        for (kas_u32 chunk = begin; chunk < end; chunk += 128u) {
            const kas_u32 x0 = chunk + threadIdx.x % 32u * 4u;
            const uint4 loaded = *(const uint4 *)(m->keys + (x0 < end ? x0 : begin));
            const kas_u32 four[4] = {loaded.x, loaded.y, loaded.z, loaded.w};
            kas_u32 own = 0u, total;
#pragma unroll
            for (kas_u32 x = 0; x < 4; x++)
                own += x0 + x >= end ? 0u : four[x] > least.key ? 1u : four[x] == least.key ? 0x10000u : 0u;
            const kas_u32 before = warp_scan(own, &total);
            kas_u32 above = greater + (before & 0xffffu), same = equal + (before >> 16);
#pragma unroll
            for (kas_u32 x = 0; x < 4; x++) {
                const bool is_above = x0 + x < end && four[x] > least.key;
                const bool is_same = x0 + x < end && four[x] == least.key;
                if (is_above || (is_same && same < least.equal))
                    list[above + kas_min2(same, least.equal)] = (kas_i32)(first + x0 + x);
                above += is_above;
                same += is_same;
            }
            greater += total & 0xffffu;
            equal += total >> 16;
        }
    }

    /*
     * Writes the `keep` best of the cluster's keys, of which this block has put `keys` from position `first` on, in
     * ascending position. All blocks call it; none may leave before the others have (a cluster_wait).
     */
    KAS_CU void run(memory *m, kas_u32 first, kas_u32 keys, kas_u32 keep, kas_i32 *list)
    {
        kas_u32 greater, equal;
        const select_threshold least = find_threshold(m, keys, keep);
        const kas_u32 begin = kas_min2(keys, threadIdx.x / 32u * part_of_warp(keys));
        const kas_u32 end = kas_min2(keys, begin + part_of_warp(keys));
        rank_keys(m, begin, end, least.key, &greater, &equal);
        write(m, first, begin, end, least, greater, equal, list);
    }
};

#endif
