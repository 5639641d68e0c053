/*
 * world.h - one of everything on a device, small: a context, a stream, tensors with values, a plan with every role, a
 * session of it, and the arguments of a prefill and of a decode. What tests of validation and of failures begin with.
 */
#ifndef NULL_WORLD_H
#define NULL_WORLD_H

#include <kascade/kascade.h>

/* Layers: dense and select, reuse, anchor, dense, reuse. */
#define WORLD_LAYERS 5u
#define WORLD_HEADS 4u
#define WORLD_KV_HEADS 2u
#define WORLD_HEAD_DIM 16u
#define WORLD_TILE 16u
#define WORLD_BATCH 2u
#define WORLD_QUERIES 40u /* of a sequence in prefill; 1 in decode */
#define WORLD_KEYS 300u
#define WORLD_MAX_KEYS 320u
#define WORLD_TILES 3u /* that the prefill touches; in decode 1 */
#define WORLD_PAGE 16u

typedef struct world {
    kas_context *context;
    kas_stream *stream;
    kas_buffer *q, *k, *v, *out, *lse, *scores, *lists;
    kas_buffer *integers; /* all zero but for a page table in logical order: [batch][pages] from WORLD_PAGES_AT */
    kas_plan *plan;
    kas_session *session;
    kas_attention prefill, decode;
} world;

#define WORLD_PAGES_AT 1024u /* bytes */
#define WORLD_OUT_BYTES (WORLD_BATCH * WORLD_QUERIES * WORLD_HEADS * WORLD_HEAD_DIM * 4u)

/* Descriptors of the world's plan and session, for tests that change a field. */
kas_plan_desc world_plan_desc(void);
kas_session_desc world_session_desc(const kas_plan *plan);

/* The library's status of the first thing that went wrong; world_close is due in either case. */
kas_status world_open(world *w, const char *device);
void world_close(world *w);

/* Caller's scores and lists for kas_pooled_scores, kas_select and kas_attend_lists. */
kas_scores world_scores(const world *w, kas_phase phase);
kas_lists world_lists(const world *w, kas_phase phase);

#endif
