/*
 * oracle.h - what the library computes, written down plainly in double precision, one sequence at a time: the rule of
 * k, tiles, selection order, pooled scores, dense and sparse attention. It shares no code with the library. Beside the
 * exact result stands the error of `ref`, a plain computation in the precision that kernels have (inputs in the storage
 * type, sums in f32, softmax weights and output rounded to the storage type): the measure of what a kernel may be off.
 */
#ifndef CONFORMANCE_ORACLE_H
#define CONFORMANCE_ORACLE_H

#include "storage.h"

typedef struct oracle_rule {
    uint32_t heads, kv_heads, head_dim, tile;
    double scale;
    kas_topk topk; /* every field filled in */
    bool all_heads;
    kas_phase phase;
} oracle_rule;

/* One sequence of one call, values in logical order as the storage type holds them. */
typedef struct oracle_sequence {
    uint32_t queries, keys; /* no keys at all: no query sees anything */
    uint32_t final_len;
    const float *q;     /* [queries][heads][head_dim] */
    const float *k, *v; /* [keys][kv_heads][head_dim]; v NULL: nothing but the log-sum-exp is wanted */
    const bool *absent; /* [keys]; NULL: every key is there */
} oracle_sequence;

typedef struct oracle_tile {
    uint32_t begin, end; /* queries of the call */
    uint32_t start;      /* first own key */
    uint32_t candidates; /* keys 0 .. candidates - 1 compete */
    uint32_t keep;
} oracle_tile;

/* Lists of one sequence: `count` entries of row r and tile u stand from entries[(r * tiles + u) * width]. */
typedef struct oracle_lists {
    uint32_t rows, tiles, width;
    uint32_t *count;  /* [rows][tiles] */
    int32_t *entries; /* all of them candidates */
} oracle_lists;

/* A result and how far `ref` is from it; errors and maxima cover the rows that were computed. */
typedef struct oracle_output {
    double *out; /* [queries][heads][head_dim]; NULL without v */
    double *lse; /* [queries][heads] */
    double out_error, out_most;
    double lse_error, lse_most;
} oracle_output;

uint32_t oracle_topk(const kas_topk *topk, uint32_t n, uint32_t final_len);

/* The position of the first query. */
uint32_t oracle_offset(const oracle_sequence *sequence);

/* Tiles of a sequence: 0 where it has no query. */
uint32_t oracle_tile_count(const oracle_rule *rule, const oracle_sequence *sequence);
oracle_tile oracle_tile_at(const oracle_rule *rule, const oracle_sequence *sequence, uint32_t u);
uint32_t oracle_tile_of(const oracle_rule *rule, const oracle_sequence *sequence, uint32_t query);

oracle_lists oracle_lists_make(uint32_t rows, uint32_t tiles, uint32_t width);
void oracle_lists_free(oracle_lists *lists);
int32_t *oracle_list(const oracle_lists *lists, uint32_t row, uint32_t tile);

/*
 * Attention of every query: over all causal keys, or with `lists` over those of row list_rows[g] (NULL: row g) and the
 * tile's own keys. kv heads with dirty[g] are left alone (NULL: none). `output` gets memory for oracle_output_free.
 */
oracle_output oracle_attend(const oracle_rule *rule, const oracle_sequence *sequence, kas_dtype dtype,
                            const oracle_lists *lists, const uint32_t *list_rows, const bool *dirty);
void oracle_output_free(oracle_output *output);

/*
 * Pooled scores of a tile's candidates for list row `row`, normalised by lse [queries][heads]; with `clamped` each term
 * is at most 4. A query whose lse is -inf sees no key and adds nothing.
 */
void oracle_pool(const oracle_rule *rule, const oracle_sequence *sequence, const oracle_tile *tile, uint32_t row,
                 const double *lse, bool clamped, double *scores);

/* Whether score a at position i comes before score b at position j. */
bool oracle_before(double a, uint32_t i, double b, uint32_t j);

/* The `keep` best of n scores, ascending by position. */
void oracle_select(const double *scores, uint32_t n, uint32_t keep, int32_t *selected);

#endif
