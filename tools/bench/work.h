/*
 * work.h - how much a layer has to do by the definition of Kascade, whatever a kernel really executes: operations of
 * prefill over the pairs of query and key that count, bytes of K and V that decode has to read.
 */
#ifndef BENCH_WORK_H
#define BENCH_WORK_H

#include <kascade/kascade.h>

#include <stdbool.h>

/* What is timed; layers first. */
typedef enum bench_kind { BENCH_DENSE, BENCH_LAYER0, BENCH_ANCHOR, BENCH_REUSE, BENCH_KINDS } bench_kind;

typedef struct bench_shape {
    kas_phase phase;
    uint32_t batch, keys; /* prefill: a text of `keys` tokens at once; decode: one query token a sequence */
    uint32_t heads, kv_heads, head_dim, tile;
    kas_dtype dtype;
    bool estimated;
    uint32_t layer0_rows; /* lists of layer 0 that a later layer reads */
} bench_shape;

uint32_t bench_element_size(kas_dtype dtype);

/*
 * Prefill: multiplications and additions of the products Q K^T and P V. Decode: bytes of K and V. The session gives
 * k(n).
 */
double bench_work(const bench_shape *shape, const kas_session *session, bench_kind kind);

#endif
