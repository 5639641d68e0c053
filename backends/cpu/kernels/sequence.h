/* sequence.h - a cell's sequence, tile and row addresses, as docs/PORTING.md defines them. */
#ifndef KAS_CPU_SEQUENCE_H
#define KAS_CPU_SEQUENCE_H

#include "../cpu.h"
#include "core/kernel/tile.h"

#include <stdatomic.h>

/* What a cell works on. */
typedef struct cell {
    const kas_cpu_job *job;
    const kas_session_block *session;
    const kas_call *call;
    uint32_t z, b;
    kas_sequence sequence;
} cell;

/* Rows of the cell that begins at row y. */
static inline uint32_t cell_rows(const kas_cpu_job *job, uint32_t y)
{
    return kas_min_u32(job->step, job->rows - y);
}

static inline void raise_bits(const kas_cpu_job *job, uint32_t bits)
{
    atomic_fetch_or_explicit((_Atomic uint32_t *)job->slot[KAS_SLOT_STATUS], bits, memory_order_relaxed);
}

static inline uint32_t slot_value(const kas_cpu_job *job, uint32_t flag, uint32_t slot, uint32_t b, uint32_t otherwise)
{
    return job->call->flags & flag ? (uint32_t)((const int32_t *)job->slot[slot])[b] : otherwise;
}

static inline cell cell_of(const kas_cpu_job *job, uint32_t z)
{
    const kas_call *call = job->call;
    uint32_t b = call->seq_begin + z;
    int32_t queries = (int32_t)slot_value(job, KAS_CALL_Q_LENS, KAS_SLOT_Q_LENS, b, call->queries);
    int32_t keys = (int32_t)slot_value(job, KAS_CALL_KV_LENS, KAS_SLOT_KV_LENS, b, call->keys);
    cell c = {job, job->session, call, z, b, kas_sequence_make(queries, keys, call->queries, call->keys)};
    if (call->flags & KAS_CALL_Q_STARTS)
        c.sequence = kas_sequence_within(c.sequence, ((const int32_t *)job->slot[KAS_SLOT_Q_STARTS])[b],
                                         call->q_stride_seq / KAS_ROWS_UNIT);
    if (!c.sequence.valid)
        raise_bits(job, KAS_CHECK_LENGTH);
    return c;
}

/* Tile u of the call, or decode's one tile, with its `keep`. */
static inline kas_tile tile_of(const cell *c, uint32_t u)
{
    kas_tile tile = c->call->flags & KAS_CALL_DECODE ? kas_tile_decode(c->sequence)
                                                     : kas_tile_prefill(c->sequence, u, c->session->tile);
    uint32_t final_len = slot_value(c->job, KAS_CALL_FINAL_LENS, KAS_SLOT_FINAL_LENS, c->b, c->call->final_len);
    tile.keep = KAS_TOPK(*c->session, tile.candidates, final_len);
    return tile;
}

static inline uint32_t active_row(const cell *c, uint32_t y)
{
    return c->job->words[c->session->active_rows_at + c->call->layer * c->session->list_rows + y];
}

/* First entry of a tile's list; row `row` of the lists. */
static inline uint64_t list_entry(const cell *c, uint32_t row, uint32_t u, const kas_tile *tile)
{
    const kas_session_block *s = c->session;
    uint64_t list_row = (uint64_t)c->b * s->list_rows + row;
    if (!(c->call->flags & KAS_CALL_PACKED))
        return (list_row * c->call->list_tiles + u) * c->call->list_width;
    if (c->call->flags & KAS_CALL_DECODE)
        return list_row * s->list_capacity_decode;
    const uint32_t *offsets = c->job->words + s->tile_offsets_at;
    return list_row * s->list_capacity + kas_packed_entry(offsets[tile->index], offsets[c->sequence.offset / s->tile]);
}

/* Element of q or out where query i of head h begins. */
static inline uint64_t row_element(const cell *c, uint32_t base, uint32_t stride_seq, uint32_t stride_token,
                                   uint32_t stride_head, uint32_t i, uint32_t h)
{
    uint64_t first = (uint64_t)c->b * stride_seq;
    if (c->call->flags & KAS_CALL_Q_STARTS)
        first = (uint64_t)(uint32_t)((const int32_t *)c->job->slot[KAS_SLOT_Q_STARTS])[c->b] * stride_token;
    return base + first + (uint64_t)i * stride_token + (uint64_t)h * stride_head;
}

static inline uint64_t q_element(const cell *c, uint32_t i, uint32_t h)
{
    const kas_call *a = c->call;
    return row_element(c, a->q_base, a->q_stride_seq, a->q_stride_token, a->q_stride_head, i, h);
}

static inline uint64_t out_element(const cell *c, uint32_t i, uint32_t h)
{
    const kas_call *a = c->call;
    return row_element(c, a->out_base, a->out_stride_seq, a->out_stride_token, a->out_stride_head, i, h);
}

/* Block and slot of a key in the cache; false for a page outside the pool. */
static inline bool locate_key(const cell *c, uint32_t position, uint64_t *block, uint32_t *slot)
{
    if (!(c->call->flags & KAS_CALL_PAGED)) {
        *block = c->z;
        *slot = position;
        return true;
    }
    uint32_t page_size = c->session->page_size;
    const int32_t *pages = (const int32_t *)c->job->slot[KAS_SLOT_PAGES] + (uint64_t)c->b * c->call->page_table_stride;
    int32_t page = pages[position / page_size];
    *slot = position % page_size;
    *block = (uint64_t)(uint32_t)page;
    return page >= 0 && (uint32_t)page < c->call->page_count;
}

static inline uint64_t k_element(const cell *c, uint64_t block, uint32_t slot, uint32_t g)
{
    const kas_call *a = c->call;
    return a->k_base + block * a->k_stride_seq + (uint64_t)slot * a->k_stride_token + (uint64_t)g * a->k_stride_head;
}

static inline uint64_t v_element(const cell *c, uint64_t block, uint32_t slot, uint32_t g)
{
    const kas_call *a = c->call;
    return a->v_base + block * a->v_stride_seq + (uint64_t)slot * a->v_stride_token + (uint64_t)g * a->v_stride_head;
}

static inline uint64_t lse_element(const cell *c, uint32_t i, uint32_t h)
{
    return ((uint64_t)c->b * c->session->heads + h) * c->call->lse_stride + i;
}

/* Row of logits and partial results: kv head `y` of the launch's `rows`, head r of its group, query token i. */
static inline uint64_t query_row(const cell *c, uint32_t rows, uint32_t y, uint32_t r, uint32_t i)
{
    uint64_t kv_row = (uint64_t)c->z * rows + y;
    return (kv_row * c->session->group + r) * c->call->queries + i;
}

#endif
