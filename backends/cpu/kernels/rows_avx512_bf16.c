/* rows_avx512_bf16.c - the kernels compiled for AVX-512 with dot products of bf16 pairs; for tensors of bf16 alone. */
#define VECTOR_BYTES 64
#define VECTOR_PAIRS
#define ROWS kas_cpu_rows_avx512_bf16
#include "rows.h"
