/*
 * common.cuh - what every kernel needs before its own loops begin: the arguments, where a sequence's and a tile's data
 * lie (docs/PORTING.md), and which keys a work group visits.
 */
#ifndef KAS_CUDA_COMMON_CUH
#define KAS_CUDA_COMMON_CUH

#include "element.cuh"

#include "core/kernel/softmax.h"
#include "core/kernel/tile.h"

/* Bits of the session's status word, as in kascade.h. */
#define KAS_STATUS_LENGTH 1u
#define KAS_STATUS_PAGE 2u
#define KAS_STATUS_LIST 4u

/* Addresses of the bound slots. */
struct kas_slots {
    kas_u64 at[KAS_SLOT_COUNT];
};

/* A kernel's two arguments. */
struct kas_work {
    const kas_call &call;
    const kas_slots &slots;
};

/*
 * From sm_90 on the host launches kernels before those they follow have ended (see launch in backend.c): here they wait
 * until all of that is done and visible, and allow the same to the next one.
 */
KAS_CU void kas_wait_for_predecessor()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;\ngriddepcontrol.launch_dependents;" ::: "memory");
#endif
}

/*
 * KAS_CUDA_KERNEL(name, threads, blocks, shared, body<...>) defines the kernel `name`, which runs body(work, memory) on
 * `threads` threads with `shared` bytes of dynamic memory, at least `blocks` of them a multiprocessor, and the constant
 * that tells the host so.
 */
#define KAS_CUDA_KERNEL(name, threads, blocks, shared, ...)                                                            \
    extern "C" __constant__ unsigned name##_shape[2] = {threads, shared};                                              \
    extern "C" __global__ void __launch_bounds__(threads, blocks)                                                      \
        name(const __grid_constant__ kas_call call, const __grid_constant__ kas_slots slots)                           \
    {                                                                                                                  \
        extern __shared__ __align__(1024) unsigned char memory[];                                                      \
        const kas_work work = {call, slots};                                                                           \
        kas_wait_for_predecessor();                                                                                    \
        __VA_ARGS__(work, memory);                                                                                     \
    }

template <class T> KAS_CU T *kas_slot(const kas_work &w, int slot)
{
    return (T *)w.slots.at[slot];
}

KAS_CU const kas_session_block &kas_session_of(const kas_work &w)
{
    return *kas_slot<const kas_session_block>(w, KAS_SLOT_SESSION);
}

/* Word `at` of the tables behind the session block. */
KAS_CU kas_u32 kas_table(const kas_work &w, kas_u32 at)
{
    return ((const kas_u32 *)(kas_slot<const kas_session_block>(w, KAS_SLOT_SESSION) + 1))[at];
}

KAS_CU bool kas_has(const kas_work &w, kas_u32 flag)
{
    return (w.call.flags & flag) != 0u;
}

KAS_CU void kas_report(const kas_work &w, kas_u32 bit)
{
    atomicOr(kas_slot<kas_u32>(w, KAS_SLOT_STATUS), bit);
}

/* ---- Sequences and tiles --------------------------------------------------------------------------------------- */

KAS_CU kas_u32 kas_sequence_index(const kas_work &w)
{
    return w.call.seq_begin + blockIdx.z;
}

KAS_CU kas_sequence kas_load_sequence(const kas_work &w)
{
    kas_u32 b = kas_sequence_index(w);
    kas_i32 queries = kas_has(w, KAS_CALL_Q_LENS) ? kas_slot<const kas_i32>(w, KAS_SLOT_Q_LENS)[b] : w.call.queries;
    kas_i32 keys = kas_has(w, KAS_CALL_KV_LENS) ? kas_slot<const kas_i32>(w, KAS_SLOT_KV_LENS)[b] : w.call.keys;
    kas_sequence s = kas_sequence_make(queries, keys, w.call.queries, w.call.keys);
    if (kas_has(w, KAS_CALL_Q_STARTS))
        s = kas_sequence_within(s, kas_slot<const kas_i32>(w, KAS_SLOT_Q_STARTS)[b],
                                w.call.q_stride_seq / KAS_ROWS_UNIT);
    if (!s.valid && threadIdx.x == 0)
        kas_report(w, KAS_STATUS_LENGTH);
    return s;
}

KAS_CU kas_u32 kas_load_final_length(const kas_work &w)
{
    return kas_has(w, KAS_CALL_FINAL_LENS)
               ? (kas_u32)kas_slot<const kas_i32>(w, KAS_SLOT_FINAL_LENS)[kas_sequence_index(w)]
               : w.call.final_len;
}

/* Tile `u` of the sequence (in decode its only one), with the length of its list. */
KAS_CU kas_tile kas_load_tile(const kas_work &w, const kas_sequence &s, kas_u32 u)
{
    const kas_session_block &session = kas_session_of(w);
    kas_tile t = kas_has(w, KAS_CALL_DECODE) ? kas_tile_decode(s) : kas_tile_prefill(s, u, session.tile);
    t.keep = KAS_TOPK(session, t.candidates, kas_load_final_length(w));
    return t;
}

/* The list row that axis y of scores, select and pool stands for. */
KAS_CU kas_u32 kas_active_row(const kas_work &w, kas_u32 y)
{
    const kas_session_block &session = kas_session_of(w);
    return kas_table(w, session.active_rows_at + w.call.layer * session.list_rows + y);
}

/* ---- Addresses ------------------------------------------------------------------------------------------------- */

KAS_CU kas_u64 kas_token_row(const kas_work &w, kas_u32 stride_seq, kas_u32 stride_token, kas_u32 i)
{
    kas_u32 b = kas_sequence_index(w);
    if (kas_has(w, KAS_CALL_Q_STARTS)) {
        kas_u64 row = (kas_u64)kas_slot<const kas_i32>(w, KAS_SLOT_Q_STARTS)[b] + i;
        return row * stride_token;
    }
    return (kas_u64)b * stride_seq + (kas_u64)i * stride_token;
}

template <class T> KAS_CU const T *kas_q_row(const kas_work &w, kas_u32 i, kas_u32 head)
{
    return kas_slot<const T>(w, KAS_SLOT_Q) + w.call.q_base +
           kas_token_row(w, w.call.q_stride_seq, w.call.q_stride_token, i) + (kas_u64)head * w.call.q_stride_head;
}

template <class T> KAS_CU T *kas_out_row(const kas_work &w, kas_u32 i, kas_u32 head)
{
    return kas_slot<T>(w, KAS_SLOT_OUT) + w.call.out_base +
           kas_token_row(w, w.call.out_stride_seq, w.call.out_stride_token, i) +
           (kas_u64)head * w.call.out_stride_head;
}

KAS_CU float *kas_lse_at(const kas_work &w, kas_u32 i, kas_u32 head)
{
    kas_u64 row = (kas_u64)kas_sequence_index(w) * kas_session_of(w).heads + head;
    return kas_slot<float>(w, KAS_SLOT_LSE) + row * w.call.lse_stride + i;
}

/* Scores of tile `u` for row y of a grid with `rows` of them. */
KAS_CU float *kas_scores_row(const kas_work &w, kas_u32 rows, kas_u32 y, kas_u32 u)
{
    kas_u32 tiles = kas_has(w, KAS_CALL_DECODE) ? 1u : w.call.tile_count;
    kas_u32 tile = kas_has(w, KAS_CALL_DECODE) ? 0u : u - w.call.tile_begin;
    return kas_slot<float>(w, KAS_SLOT_SCORES) +
           (((kas_u64)blockIdx.z * rows + y) * tiles + tile) * w.call.score_stride;
}

/* Query row `row` (r * queries + i) of kv head y of a grid with `rows` of them, counted over the launch. */
KAS_CU kas_u64 kas_query_row_index(const kas_work &w, kas_u32 rows, kas_u32 y, kas_u32 row)
{
    return ((kas_u64)blockIdx.z * rows + y) * kas_session_of(w).group * w.call.queries + row;
}

KAS_CU kas_u64 kas_partial_index(const kas_work &w, kas_u32 rows, kas_u32 y, kas_u32 row, kas_u32 split)
{
    return kas_query_row_index(w, rows, y, row) * w.call.splits + split;
}

/* The first entry of tile t's list (u counts tiles from that of the sequence's first query) in list row `row`. */
KAS_CU kas_i32 *kas_list_of(const kas_work &w, const kas_sequence &s, const kas_tile &t, kas_u32 u, kas_u32 row)
{
    const kas_session_block &session = kas_session_of(w);
    kas_i32 *lists = kas_slot<kas_i32>(w, KAS_SLOT_LISTS);
    kas_u64 list_row = (kas_u64)kas_sequence_index(w) * session.list_rows + row;
    if (!kas_has(w, KAS_CALL_PACKED))
        return lists + (list_row * w.call.list_tiles + (kas_has(w, KAS_CALL_DECODE) ? 0u : u)) * w.call.list_width;
    if (kas_has(w, KAS_CALL_DECODE))
        return lists + list_row * session.list_capacity_decode;
    return lists + list_row * session.list_capacity +
           kas_packed_entry(kas_table(w, session.tile_offsets_at + t.index),
                            kas_table(w, session.tile_offsets_at + s.offset / session.tile));
}

/* ---- Keys and values ------------------------------------------------------------------------------------------- */

#define KAS_ABSENT 0xffffffffu

/*
 * The keys a work group visits, numbered by entry: the list, then the own keys from `start`. Without a list the first
 * `listed` positions take its place. Which of them a query sees is one rule: position <= the query's own.
 */
struct kas_keys {
    const kas_i32 *list;
    kas_u32 listed;
    kas_u32 start;
    kas_u32 total;
    kas_u32 bound; /* a listed position from here on is invalid */
};

/* All positions below `end`. */
KAS_CU kas_keys kas_keys_all(kas_u32 end)
{
    kas_keys keys = {nullptr, end, end, end, end};
    return keys;
}

/* The list that kv head g of tile t attends to, and own keys below `end`. */
KAS_CU kas_keys kas_keys_listed(const kas_work &w, const kas_sequence &s, const kas_tile &t, kas_u32 u, kas_u32 row,
                                kas_u32 end)
{
    const bool given = kas_has(w, KAS_CALL_LISTS_GIVEN);
    kas_keys keys;
    keys.bound = t.candidates;
    keys.list = !given && kas_tile_is_dense(t) ? nullptr : kas_list_of(w, s, t, u, row);
    keys.listed = given ? w.call.list_width : kas_tile_is_dense(t) ? t.candidates : t.keep;
    keys.start = t.start;
    keys.total = keys.listed + (end > t.start ? end - t.start : 0u);
    return keys;
}

/* What the list says of entry e, unchecked; a load that may be started well before the position is needed. */
KAS_CU kas_u32 kas_key_entry(const kas_keys &keys, kas_u32 e)
{
    return e < keys.listed && keys.list != nullptr ? (kas_u32)keys.list[e] : 0u;
}

/*
 * Position of entry e, of which the list says `entry`; KAS_ABSENT for none. Lists of the session's own are checked as
 * well as a caller's: nothing that lies in their memory may lead out of a buffer.
 */
KAS_CU kas_u32 kas_key_position(const kas_work &w, const kas_keys &keys, kas_u32 e, kas_u32 entry)
{
    if (e >= keys.listed)
        return keys.start + (e - keys.listed);
    if (keys.list == nullptr)
        return e;
    if (entry >= keys.bound) {
        if (entry != KAS_ABSENT)
            kas_report(w, KAS_STATUS_LIST);
        return KAS_ABSENT;
    }
    return entry;
}

KAS_CU kas_u32 kas_key_position(const kas_work &w, const kas_keys &keys, kas_u32 e)
{
    return kas_key_position(w, keys, e, kas_key_entry(keys, e));
}

/* Where the rows of k and v of one (sequence, kv head) lie. */
struct kas_rows {
    kas_u64 base;
    kas_u32 stride_token;
    kas_u32 stride_page;
};

KAS_CU kas_rows kas_k_rows(const kas_work &w, kas_u32 g)
{
    kas_u64 sequence = kas_has(w, KAS_CALL_PAGED) ? 0 : (kas_u64)blockIdx.z * w.call.k_stride_seq;
    kas_rows rows = {w.call.k_base + sequence + (kas_u64)g * w.call.k_stride_head, w.call.k_stride_token,
                     w.call.k_stride_seq};
    return rows;
}

KAS_CU kas_rows kas_v_rows(const kas_work &w, kas_u32 g)
{
    kas_u64 sequence = kas_has(w, KAS_CALL_PAGED) ? 0 : (kas_u64)blockIdx.z * w.call.v_stride_seq;
    kas_rows rows = {w.call.v_base + sequence + (kas_u64)g * w.call.v_stride_head, w.call.v_stride_token,
                     w.call.v_stride_seq};
    return rows;
}

/* A position as the cache stores it: page and token within it, or token alone; `page` KAS_ABSENT: no such key. */
struct kas_place {
    kas_u32 page;
    kas_u32 token;
};

KAS_CU kas_place kas_key_place(const kas_work &w, kas_u32 position)
{
    kas_place place = {0u, position};
    if (position == KAS_ABSENT) {
        place.page = KAS_ABSENT;
    } else if (kas_has(w, KAS_CALL_PAGED)) {
        kas_u32 page_size = kas_session_of(w).page_size;
        kas_u32 logical = position / page_size;
        const kas_i32 *pages =
            kas_slot<const kas_i32>(w, KAS_SLOT_PAGES) + (kas_u64)kas_sequence_index(w) * w.call.page_table_stride;
        place.page = (kas_u32)pages[logical];
        place.token = position - logical * page_size;
        if (place.page >= w.call.page_count) {
            kas_report(w, KAS_STATUS_PAGE);
            place.page = KAS_ABSENT;
        }
    }
    return place;
}

/* Element offset of a row; contiguous caches have page 0. */
KAS_CU kas_u64 kas_row_offset(const kas_rows &rows, const kas_place &place)
{
    return rows.base + (kas_u64)place.page * rows.stride_page + (kas_u64)place.token * rows.stride_token;
}

#endif
