/* rows_avx512.c - the kernels compiled for AVX-512. */
#define VECTOR_BYTES 64
#define ROWS kas_cpu_rows_avx512
#include "rows.h"
