/*
 * blocks.h - the argument blocks that host and kernels share, and the slots their buffers are bound to. Each field is
 * written once, as an entry of a list: KAS_SESSION_FIELDS and KAS_CALL_FIELDS expand to the same struct in C, CUDA,
 * OpenCL C and GLSL. All fields are four bytes.
 *
 * Ranges of sequences: a launch covers as many sequences as its grid has in z, from `seq_begin` of the call. Per-sequence arrays of the
 * caller (q, out, lse, lengths, page tables, lists) are indexed by the absolute sequence b = seq_begin + z; contiguous
 * k and v and all scratch (scores, logits, partial results) by z, the sequence within the launch.
 */
#ifndef KAS_BLOCKS_H
#define KAS_BLOCKS_H

#include "dialect.h"

/* Binding slots. A slot that a launch does not use may be bound to anything. */
#define KAS_SLOT_SESSION 0    /* kas_session_block, then its tables of words */
#define KAS_SLOT_Q 1          /* session's dtype */
#define KAS_SLOT_K 2
#define KAS_SLOT_V 3
#define KAS_SLOT_OUT 4
#define KAS_SLOT_LSE 5        /* f32 [b][head][query]: natural log-sum-exp, row length lse_stride */
#define KAS_SLOT_Q_LENS 6     /* i32 [b] */
#define KAS_SLOT_KV_LENS 7    /* i32 [b] */
#define KAS_SLOT_Q_STARTS 8   /* i32 [b] */
#define KAS_SLOT_FINAL_LENS 9 /* i32 [b] */
#define KAS_SLOT_PAGES 10     /* i32 [b][page_table_stride] */
#define KAS_SLOT_LISTS 11     /* i32: packed, or rectangles; see tile.h and "Lists" of docs/PORTING.md */
#define KAS_SLOT_SCORES 12    /* f32 [z][row][tile][score_stride]: pooled scores */
#define KAS_SLOT_LOGITS 13    /* f32 [z][row][query row][score_stride]: scaled logits of decode; query rows as in
                                 KAS_SLOT_PART_ML */
#define KAS_SLOT_PART_O 14    /* f32 [z][head][query][split][head_dim]: a split's output, normalised by itself */
#define KAS_SLOT_PART_ML 15   /* f32 [z][head][query][split][2]: a split's greatest logit and sum of exponentials;
                                 in mass f32 [z][row][tile][list_rows + 1]: sums of scores; in select_split
                                 u32 [z][row][split][KAS_SELECT_WORDS]: what a split found */
#define KAS_SLOT_STATUS 16    /* u32 [1]: KAS_CHECK_* bits, set with an atomic or */
#define KAS_SLOT_COUNT 17

/* Bits of kas_call.flags. */
#define KAS_CALL_Q_LENS (1u << 0)     /* the slot is bound; otherwise every sequence has kas_call.queries */
#define KAS_CALL_KV_LENS (1u << 1)    /* likewise kas_call.keys */
#define KAS_CALL_Q_STARTS (1u << 2)   /* sequence b's tokens begin at row q_starts[b], not at b * q_stride_seq */
#define KAS_CALL_FINAL_LENS (1u << 3) /* otherwise kas_call.final_len */
#define KAS_CALL_PAGED (1u << 4)
#define KAS_CALL_LSE (1u << 5)        /* write the log-sum-exp */
#define KAS_CALL_OUT (1u << 6)        /* write the output (merge: absent for a log-sum-exp alone) */
#define KAS_CALL_DECODE (1u << 7)     /* tiles by the decode rule: one a sequence */
#define KAS_CALL_SKIP_DENSE (1u << 8) /* scores of dense tiles are not needed */
#define KAS_CALL_PACKED (1u << 9)     /* lists in the session's packed storage, not the caller's rectangles */
#define KAS_CALL_DIRECT (1u << 10)    /* a single split: write out and lse, no partial results */
#define KAS_CALL_LISTS_GIVEN (1u << 11) /* lists are the caller's: entries are checked, tiles never dense by rule */
#define KAS_CALL_ESTIMATED (1u << 12) /* lse: over the previous lists; scores: min(4, exp(s - estimate)) */
#define KAS_CALL_STORE_LOGITS (1u << 13) /* logits: keep them, not only their partial sums */

#define KAS_CALL_OWN_LSE (1u << 14) /* scores: no log-sum-exp is given */
#define KAS_CALL_DENSE (1u << 15)   /* publish: the output is over all causal keys */
#define KAS_CALL_STEP_AT 16         /* select_split: the two bits from here on hold the step */
#define KAS_CALL_SELECT_STEP(flags) ((flags) >> KAS_CALL_STEP_AT & 3u)

/*
 * A split of select_split has so many words to leave to the next step. What stands in them is the row's affair; rows by
 * digits cut sort keys, the first digit the highest bits. Step s adds up what the splits counted of digit s - 1, and with
 * it knows the bits that the least kept key begins with; of the keys that begin so it counts digit s. The last step knows
 * all bits and writes its split's part of the list. A split's words are, for the digit counted last and for the next, the
 * state that it leaves to its own next step and the counts, which all splits read.
 */
#define KAS_SELECT_DIGITS 3u
#define KAS_SELECT_STEPS (KAS_SELECT_DIGITS + 1u)
#define KAS_SELECT_BINS 2048u
#define KAS_SELECT_STATE 4u
#define KAS_SELECT_WORDS (2u * (KAS_SELECT_STATE + KAS_SELECT_BINS))

/* What a session fixes. *_at are word offsets into the table that follows the block in its buffer. */
#define KAS_SESSION_FIELDS(U, F)                                                                                       \
    U(heads)                                                                                                           \
    U(kv_heads)                                                                                                        \
    U(group)    /* query heads a kv head */                                                                            \
    U(head_dim)                                                                                                        \
    F(scale)                                                                                                           \
    U(tile)                                                                                                            \
    U(topk_fraction) /* ceil(fraction * 2^32) */                                                                       \
    U(topk_min)                                                                                                        \
    U(topk_round)                                                                                                      \
    U(topk_all)    /* 1: k(n) = n */                                                                                   \
    U(topk_fixed)  /* 1: k follows the final length */                                                                 \
    U(list_rows)   /* rows of lists and scores a sequence: kv_heads, or 1 when all heads are pooled */                 \
    U(pool_heads)  /* kv heads pooled into a row: 1, or kv_heads */                                                    \
    U(max_keys)                                                                                                        \
    U(page_size)                                                                                                       \
    U(list_capacity)        /* entries of a row of packed prefill lists */                                             \
    U(list_capacity_decode) /* entries of a row of packed decode lists */                                              \
    U(tile_offsets_at)      /* [tiles of max_keys + 1]: packed entries before a tile at position tile * T */           \
    U(head_map_at)          /* [layers + 1][kv_heads]: row that a kv head reads; the last layer is the identity */     \
    U(normalizer_map_at)    /* [layers + 1][kv_heads]: row whose list estimates a kv head's normaliser */              \
    U(active_rows_at)       /* [layers + 1][list_rows]: the rows a layer makes, KAS_NO_ROW behind them */

#define KAS_NO_ROW 0xffffffffu

/* Keeps q_stride_seq a multiple of every vector's elements also where it counts rows. */
#define KAS_ROWS_UNIT 16u

/* What a launch fixes: at most 128 bytes, the push constants every Vulkan device has. Strides count elements. */
#define KAS_CALL_FIELDS(U, F)                                                                                          \
    U(flags)                                                                                                           \
    U(layer) /* the row of the session's maps */                                                                       \
    U(seq_begin)                                                                                                       \
    U(queries)                                                                                                         \
    U(keys)                                                                                                            \
    U(final_len)                                                                                                       \
    U(tile_begin) /* prefill: first tile of the launch, counted from the tile of a sequence's first query */           \
    U(tile_count)                                                                                                      \
    U(splits)                                                                                                          \
    U(split_keys) /* keys (or list entries) of a split */                                                              \
    U(q_stride_seq) /* with KAS_CALL_Q_STARTS: KAS_ROWS_UNIT times the rows that q and out have */                     \
    U(q_stride_token)                                                                                                  \
    U(q_stride_head)                                                                                                   \
    U(k_stride_seq) /* of pages in a paged cache */                                                                    \
    U(k_stride_token)                                                                                                  \
    U(k_stride_head)                                                                                                   \
    U(v_stride_seq)                                                                                                    \
    U(v_stride_token)                                                                                                  \
    U(v_stride_head)                                                                                                   \
    U(out_stride_seq)                                                                                                  \
    U(out_stride_token)                                                                                                \
    U(out_stride_head)                                                                                                 \
    U(q_base) /* elements from the bound offset, which is aligned for the device */                                    \
    U(k_base)                                                                                                          \
    U(v_base)                                                                                                          \
    U(out_base)                                                                                                        \
    U(page_table_stride)                                                                                               \
    U(page_count)                                                                                                      \
    U(lse_stride)                                                                                                      \
    U(list_tiles) /* caller's lists: [b][row][list_tiles][list_width] */                                               \
    U(list_width)                                                                                                      \
    U(score_stride)

#define KAS_FIELD_U32(name) kas_u32 name;
#define KAS_FIELD_F32(name) kas_f32 name;

KAS_STRUCT(kas_session_block)
{
    KAS_SESSION_FIELDS(KAS_FIELD_U32, KAS_FIELD_F32)
};

KAS_STRUCT(kas_call)
{
    KAS_CALL_FIELDS(KAS_FIELD_U32, KAS_FIELD_F32)
};

#endif
