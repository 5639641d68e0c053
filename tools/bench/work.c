/* work.c - see work.h. */
#include "work.h"

/* Pairs of one query head: all causal ones, those with candidates of tiles that select, those of sparse attention. */
typedef struct pairs {
    double causal, scored, attended;
} pairs;

uint32_t bench_element_size(kas_dtype dtype)
{
    return dtype == KAS_DTYPE_F32 ? 4 : 2;
}

static pairs prefill_pairs(const bench_shape *shape, const kas_session *session)
{
    pairs sum = {0};
    for (uint32_t start = 0; start < shape->keys; start += shape->tile) {
        double queries = shape->keys - start < shape->tile ? shape->keys - start : shape->tile;
        double kept = kas_session_topk(session, start, shape->keys);
        double own = queries * (queries + 1) / 2;
        sum.causal += queries * start + own;
        sum.scored += kept < start ? queries * start : 0;
        sum.attended += queries * kept + own;
    }
    return sum;
}

/* A product of a pair takes 2 D operations. */
static double prefill_operations(const bench_shape *shape, const pairs *of, bench_kind kind)
{
    double product = 2.0 * shape->head_dim * shape->batch;
    double heads = shape->heads;
    double group = heads / shape->kv_heads;
    switch (kind) {
    case BENCH_DENSE:
        return product * heads * 2 * of->causal;
    case BENCH_LAYER0:
        return product * (heads * 2 * of->causal + group * shape->layer0_rows * of->scored);
    case BENCH_ANCHOR:
        return product * heads * ((shape->estimated ? of->attended : of->causal) + of->scored + 2 * of->attended);
    default:
        return product * heads * 2 * of->attended;
    }
}

/* Rows of K or of V that are read. */
static double decode_bytes(const bench_shape *shape, double kept, bench_kind kind)
{
    double row = (double)shape->head_dim * bench_element_size(shape->dtype) * shape->batch;
    double keys = shape->keys, scored = kept < keys ? keys : 0;
    switch (kind) {
    case BENCH_DENSE:
        return row * shape->kv_heads * 2 * keys;
    case BENCH_LAYER0:
        return row * (shape->kv_heads * 2 * keys + shape->layer0_rows * scored);
    case BENCH_ANCHOR:
        return row * shape->kv_heads * (scored + 2 * kept);
    default:
        return row * shape->kv_heads * 2 * kept;
    }
}

double bench_work(const bench_shape *shape, const kas_session *session, bench_kind kind)
{
    if (shape->phase == KAS_PHASE_DECODE)
        return decode_bytes(shape, kas_session_topk(session, shape->keys, shape->keys), kind);
    pairs of = prefill_pairs(shape, session);
    return prefill_operations(shape, &of, kind);
}
