/*
 * work.h - one public call on its way to the device: its arguments checked once, the launch that all its operations
 * share filled in, and the loops over sequences and tiles that cut it to the device's limits.
 */
#ifndef KAS_WORK_H
#define KAS_WORK_H

#include "../session.h"

/* What a call needs of kas_attention. */
#define KAS_NEEDS_Q (1u << 0)
#define KAS_NEEDS_K (1u << 1)
#define KAS_NEEDS_V (1u << 2)
#define KAS_NEEDS_OUT (1u << 3)
#define KAS_NEEDS_LSE (1u << 4)
#define KAS_NEEDS_ATTENTION (KAS_NEEDS_Q | KAS_NEEDS_K | KAS_NEEDS_V | KAS_NEEDS_OUT)

/* Keys and values as a launch binds them. */
typedef struct kas_kv {
    uint32_t count; /* sequences */
    kas_tensor k, v;
} kas_kv;

typedef struct kas_work {
    kas_session *session;
    kas_stream *stream;
    const kas_attention *args;
    kas_phase phase;
    uint32_t needs;
    uint32_t batch, queries, keys;
    uint32_t tiles; /* that the call's sequences can touch */
    bool ragged;    /* lengths lie on the device */
    kas_launch base;
    uint32_t kv_count;       /* runs of sequences: the call's k and v, or its segments */
    uint32_t piece_multiple; /* pieces of a run begin at multiples of so many sequences */
} kas_work;

/* Sequences [begin, begin + count) and tiles [tile_begin, tile_begin + tile_count) that one set of launches covers. */
typedef struct kas_piece {
    uint32_t begin, count;
    uint32_t tile_begin, tile_count;
} kas_piece;

/* Checks the arguments and fills work. */
kas_status kas_work_begin(kas_work *work, kas_session *session, kas_stream *stream, kas_phase phase,
                          const kas_attention *args, uint32_t needs);

/*
 * Calls `body` for pieces of at most `sequences` sequences and `tiles` tiles that cover the call. Within the body
 * work->base is the piece's launch: sequences, tiles, k and v are set.
 */
kas_status kas_work_pieces(kas_work *work, uint32_t sequences, uint32_t tiles,
                           kas_status (*body)(kas_work *work, const kas_piece *piece, void *user), void *user);

/* Checks a caller's slice of `size` bytes: context, alignment, room. */
kas_status kas_work_check_slice(const kas_work *work, const char *name, const kas_slice *slice, uint64_t size);

/* Binds `size` bytes of a slice. */
void kas_bind(kas_launch *launch, uint32_t slot, const kas_slice *slice, uint64_t size);
/* Binds a section of the session's scratch. */
void kas_bind_scratch(const kas_work *work, kas_launch *launch, uint32_t slot, uint64_t offset, uint64_t size);

/* Launches an operation over a grid; a grid with an empty axis is no work. */
kas_status kas_work_launch(const kas_work *work, kas_op op, kas_launch *launch, uint32_t x, uint32_t y, uint32_t z);

/* ---- The operations, each in the file of its name -------------------------------------------------------------- */

/* Which lists sparse attention reads, or select writes. */
typedef struct kas_list_view {
    bool packed; /* the session's */
    uint32_t flags;
    kas_slice slice;
    uint64_t size;
    uint32_t tiles, width; /* rectangles */
} kas_list_view;

kas_list_view kas_view_published(const kas_work *work);
/* Checks the caller's lists; `width`: least list_width, 0 for any. */
kas_status kas_view_given(const kas_work *work, const kas_lists *lists, uint32_t width, kas_list_view *view);

/* Row of the session's maps for layer-less operations. */
static inline uint32_t kas_identity_layer(const kas_session *session)
{
    return session->layers;
}

/* Splits of dense decode and of scoring; of decode over lists. */
kas_splits kas_work_splits(const kas_work *work);
kas_splits kas_work_score_splits(const kas_work *work, uint32_t rows);
kas_splits kas_work_list_splits(const kas_work *work, uint32_t entries);
/* Of selection, a single one where select does it. */
kas_splits kas_work_select_splits(const kas_work *work);

/* Prefill. lse: where the log-sum-exp goes, NULL for nowhere. */
kas_status kas_launch_attend(const kas_work *work, const kas_piece *piece, const kas_slice *lse);
kas_status kas_launch_lse(const kas_work *work, const kas_piece *piece, uint32_t layer, const kas_slice *lse,
                          const kas_list_view *previous);
kas_status kas_launch_scores(const kas_work *work, const kas_piece *piece, uint32_t layer, uint32_t rows,
                             uint32_t flags, const kas_slice *lse, const kas_slice *scores, uint32_t stride);
kas_status kas_launch_sparse(const kas_work *work, const kas_piece *piece, uint32_t layer, const kas_list_view *lists);

/* `dense`: the output is over all causal keys. */
kas_status kas_launch_publish(const kas_work *work, const kas_piece *piece, uint32_t layer, bool dense,
                              const kas_list_view *lists);

/* Tiles of a launch of the prefill chain: what `tiles` of scratch allow, within the grid. */
uint32_t kas_work_chunk_tiles(const kas_work *work, uint32_t tiles);

/* Decode. */
kas_status kas_launch_attend_split(const kas_work *work, const kas_piece *piece, const kas_scratch_plan *scratch);
kas_status kas_launch_sparse_split(const kas_work *work, const kas_piece *piece, const kas_scratch_plan *scratch,
                                   uint32_t layer, const kas_list_view *lists);
kas_status kas_launch_logits(const kas_work *work, const kas_piece *piece, const kas_scratch_plan *scratch,
                             uint32_t layer, uint32_t rows, bool store, uint32_t stride);
kas_status kas_launch_pool(const kas_work *work, const kas_piece *piece, const kas_scratch_plan *scratch,
                           uint32_t layer, uint32_t rows, const kas_slice *scores, uint32_t stride);
kas_status kas_launch_merge(const kas_work *work, const kas_piece *piece, const kas_scratch_plan *scratch,
                            uint32_t splits, uint32_t flags);
/* out: attention over the lists as well. */
kas_status kas_launch_anchor(const kas_work *work, const kas_piece *piece, const kas_scratch_plan *scratch,
                             uint32_t layer, uint32_t rows, bool out, uint32_t stride, const kas_list_view *lists);

/* Both. */
kas_status kas_launch_select(const kas_work *work, const kas_piece *piece, const kas_scratch_plan *scratch,
                             uint32_t layer, uint32_t rows, const kas_slice *scores, uint32_t stride,
                             const kas_list_view *lists);

kas_status kas_launch_mass(const kas_work *work, const kas_piece *piece, const kas_slice *scores, uint32_t stride,
                           const kas_list_view *lists, const kas_slice *mass);

/* Bytes of the scores of a piece, of the sums that mass makes of them. */
static inline uint64_t kas_score_bytes(uint32_t sequences, uint32_t rows, uint32_t tiles, uint32_t stride)
{
    return (uint64_t)sequences * rows * tiles * stride * sizeof(float);
}

static inline uint64_t kas_mass_bytes(uint32_t sequences, uint32_t rows, uint32_t tiles)
{
    return kas_score_bytes(sequences, rows, tiles, rows + 1);
}

#endif
