/* split.cuh - decode: what all kernels that work on one split of a kv head's keys have in common. */
#ifndef KAS_CUDA_SPLIT_CUH
#define KAS_CUDA_SPLIT_CUH

#include "common.cuh"

/* The keys that kv head g attends to in decode: all of them, or (LISTED) its list and own keys. */
template <bool LISTED> KAS_CU kas_keys split_keys_of(const kas_work &w, const kas_sequence &s, kas_u32 g)
{
    if (!LISTED)
        return kas_keys_all(s.keys);
    const kas_session_block &session = kas_session_of(w);
    const kas_u32 row = kas_table(w, session.head_map_at + w.call.layer * session.kv_heads + g);
    return kas_keys_listed(w, s, kas_load_tile(w, s, 0u), 0u, row, s.keys);
}

/* Entries of a split: begin and one past the last. */
struct split_range {
    kas_u32 begin;
    kas_u32 end;
};

KAS_CU split_range split_range_of(const kas_work &w, kas_u32 split, kas_u32 total)
{
    kas_u64 begin = (kas_u64)split * w.call.split_keys;
    split_range range;
    range.begin = begin < total ? (kas_u32)begin : total;
    range.end = total - range.begin > w.call.split_keys ? range.begin + w.call.split_keys : total;
    return range;
}

#endif
