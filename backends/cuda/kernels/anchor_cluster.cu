/*
 * anchor_cluster.cu - decode of an anchor in one launch on sm_90. A cluster of blocks takes a kv head of a sequence, a
 * split of the keys each: logits as logits_mma makes them, then pooled scores and the choice of the best in shared
 * memory, then attention over an equal share of the list each, which has its logits already and reads values alone, then
 * the merge.
 */
#include "cluster_merge.cuh"
#include "cluster_select.cuh"

#define ANCHOR_KEYS 16384u /* of a split: team_keys of the row */
#define ANCHOR_ROWS 128u   /* query rows of a kv head: max_group of the row times KAS_MAX_DECODE_QUERIES */

template <class T, int D, int M> struct anchor_shape {
    /* Eight warps choose sooner; with 32 query rows they would want more registers than there are. */
    static constexpr int warps = M == 1 ? 8 : 4;
    typedef split_shape<T, D, M, SPLIT_LOGITS, warps> logits;
    typedef split_shape<T, D, M, SPLIT_STORED, warps> listed;
    static constexpr int threads = logits::threads;
    typedef cluster_select<threads, ANCHOR_KEYS> select;
    struct memory {
        typename select::memory choice;
        kas_u32 row[ANCHOR_ROWS]; /* query rows that exist */
        float lse[ANCHOR_ROWS];   /* theirs */
    };
    static constexpr int larger = logits::shared > listed::shared ? logits::shared : listed::shared;
    static constexpr int shared = larger > (int)sizeof(memory) ? larger : (int)sizeof(memory);
    static_assert(listed::threads == threads, "one block does both");
    static_assert(shared <= 113 * 1024, "two blocks share a multiprocessor");
};

/* The query rows that exist and their log-sum-exp. Other blocks wrote the partial sums, so they are read past the first
   cache. */
template <class A> KAS_CU void anchor_normalise(const kas_work &w, typename A::memory *m, kas_u32 queries)
{
    const kas_u32 existing = kas_session_of(w).group * queries;
    for (kas_u32 e = threadIdx.x / 32; e < existing; e += A::warps) {
        const kas_u32 row = e / queries * w.call.queries + e % queries;
        kas_softmax own = kas_softmax_none();
        if (threadIdx.x % 32 < w.call.splits) {
            const float *ml = kas_slot<const float>(w, KAS_SLOT_PART_ML) +
                              kas_partial_index(w, gridDim.y, blockIdx.y, row, threadIdx.x % 32) * 2;
            own.greatest = __ldcg(ml);
            own.sum = __ldcg(ml + 1);
        }
        const kas_softmax all = warp_merge(own);
        if (threadIdx.x % 32 == 0) {
            m->row[e] = row;
            m->lse[e] = kas_softmax_lse(all);
        }
    }
}

/* Adds a row's weights of four keys. */
KAS_CU void anchor_add(float sum[4], float4 logits, float lse)
{
    sum[0] += kas_softmax_weight(logits.x, lse);
    sum[1] += kas_softmax_weight(logits.y, lse);
    sum[2] += kas_softmax_weight(logits.z, lse);
    sum[3] += kas_softmax_weight(logits.w, lse);
}

template <class A> KAS_CU void anchor_put(typename A::memory *m, kas_u32 x, kas_u32 count, const float sum[4])
{
#pragma unroll
    for (kas_u32 y = 0; y < 4; y++)
        if (x + y < count)
            A::select::put(&m->choice, x + y, kas_sort_key(kas_bits_of(sum[y])));
}

/* Sort keys of the pooled scores of the block's `count` candidates from `first` on, eight a thread at a time. */
template <class A>
KAS_CU void anchor_pool(const kas_work &w, typename A::memory *m, kas_u32 queries, kas_u32 first, kas_u32 count)
{
    const kas_u32 existing = kas_session_of(w).group * queries, apart = A::threads * 4u;
    const float *logits = kas_slot<const float>(w, KAS_SLOT_LOGITS) +
                          kas_query_row_index(w, gridDim.y, blockIdx.y, 0u) * w.call.score_stride + first;
    anchor_normalise<A>(w, m, queries);
    A::select::begin(&m->choice);
    /* Rows of logits are padded to a multiple of four. */
    for (kas_u32 x = threadIdx.x * 4u; x < count; x += 2u * apart) {
        const kas_u32 second = x + apart < count ? apart : 0u;
        float sum[2][4] = {};
#pragma unroll 4
        for (kas_u32 e = 0; e < existing; e++) {
            const float *line = logits + (kas_u64)m->row[e] * w.call.score_stride + x;
            const float4 one = __ldcg((const float4 *)line), two = __ldcg((const float4 *)(line + second));
            anchor_add(sum[0], one, m->lse[e]);
            anchor_add(sum[1], two, m->lse[e]);
        }
        anchor_put<A>(m, x, count, sum[0]);
        if (second)
            anchor_put<A>(m, x + second, count, sum[1]);
    }
}

/* The list of a tile that selects. */
template <class A>
KAS_CU void anchor_choose(const kas_work &w, unsigned char *memory, const kas_sequence &s, const kas_tile &t,
                          kas_i32 *list)
{
    typename A::memory *m = (typename A::memory *)memory;
    const split_range range = split_range_of(w, blockIdx.x, t.candidates);
    anchor_pool<A>(w, m, s.queries, range.begin, range.end - range.begin);
    A::select::run(&m->choice, range.begin, range.end - range.begin, t.keep, list);
}

/* A dense tile's list names every candidate. */
KAS_CU void anchor_choose_all(const kas_tile &t, kas_i32 *list)
{
    for (kas_u32 j = blockIdx.x * blockDim.x + threadIdx.x; j < t.candidates; j += gridDim.x * blockDim.x)
        list[j] = (kas_i32)j;
}

/*
 * Nobody reads the block's logits any more: what the second cache still holds of them need not go to memory. A line that
 * is discarded must begin at a multiple of 128 bytes, which the caller's scratch need not.
 */
KAS_CU void anchor_discard(const kas_work &w, const kas_sequence &s)
{
    const split_range range = split_range_of(w, blockIdx.x, s.keys);
    const float *logits = kas_slot<const float>(w, KAS_SLOT_LOGITS) +
                          kas_query_row_index(w, gridDim.y, blockIdx.y, 0u) * w.call.score_stride;
    if ((kas_u64)logits % 128u != 0u)
        return;
    for (kas_u32 row = 0; row < kas_session_of(w).group * w.call.queries; row++)
        for (kas_u32 e = range.begin + threadIdx.x * 32u; e < range.end; e += blockDim.x * 32u)
            asm volatile("discard.global.L2 [%0], 128;" ::"l"(logits + (kas_u64)row * w.call.score_stride + e)
                         : "memory");
}

/* Attention over the list and the own keys. */
template <class A> KAS_CU void anchor_attend(const kas_work &w, unsigned char *memory, const kas_sequence &s)
{
    kas_call call = w.call;
    const kas_work own = {call, w.slots};
    call.split_keys = (kas_ceil_div(split_keys_of<true>(w, s, blockIdx.y).total, w.call.splits) + 15u) / 16u * 16u;
    split_team<typename A::listed>(own, memory);
    anchor_discard(w, s);
}

/* All blocks of a cluster come to the same decisions here, so that none waits for one that has left. */
template <class A> KAS_CU void anchor_team(const kas_work &w, unsigned char *memory)
{
    const kas_sequence s = kas_load_sequence(w);
    if (s.queries == 0u)
        return;
    const kas_tile t = kas_load_tile(w, s, 0u);
    const bool out = kas_has(w, KAS_CALL_OUT), dense = kas_tile_is_dense(t);
    kas_i32 *list = kas_list_of(w, s, t, 0u, kas_active_row(w, blockIdx.y));
    if (out || !dense)
        split_mma<typename A::logits>(w, memory);
    cluster_wait(); /* logits and partial sums are known */
    if (dense)
        anchor_choose_all(t, list);
    else
        anchor_choose<A>(w, memory, s, t, list);
    cluster_wait(); /* the list is complete, and nobody reads another block's memory any more */
    if (out)
        anchor_attend<A>(w, memory, s);
}

#define ANCHOR_KERNEL(name, T, D, M)                                                                                   \
    KAS_CUDA_KERNEL(name, (anchor_shape<T, D, M>::threads), 2, (anchor_shape<T, D, M>::shared),                        \
                    anchor_team<anchor_shape<T, D, M>>)

#define ANCHOR_HEAD_DIM(D)                                                                                             \
    ANCHOR_KERNEL(anchor_cluster_f16_##D##_16, f16, D, 1)                                                              \
    ANCHOR_KERNEL(anchor_cluster_f16_##D##_32, f16, D, 2)                                                              \
    ANCHOR_KERNEL(anchor_cluster_bf16_##D##_16, bf16, D, 1)                                                            \
    ANCHOR_KERNEL(anchor_cluster_bf16_##D##_32, bf16, D, 2)

ANCHOR_HEAD_DIM(64)
ANCHOR_HEAD_DIM(128)
