/* variants.h - the kernels of one instruction set, and the table of rows made of them. */
#ifndef KAS_CPU_VARIANTS_H
#define KAS_CPU_VARIANTS_H

#include "cpu.h"

typedef struct kas_cpu_rows {
    kas_cpu_code attend, lse, scores, select, sparse, publish, attend_split, sparse_split, logits, pool;
} kas_cpu_rows;

extern const kas_cpu_rows kas_cpu_rows_generic;
extern const kas_cpu_rows kas_cpu_rows_avx2;
extern const kas_cpu_rows kas_cpu_rows_avx512;
extern const kas_cpu_rows kas_cpu_rows_avx512_bf16;
extern const kas_cpu_rows kas_cpu_rows_neon;

/* Little work, the same for all. */
extern const kas_cpu_code kas_cpu_merge, kas_cpu_mass;

#endif
