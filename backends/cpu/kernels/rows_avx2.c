/* rows_avx2.c - the kernels compiled for AVX2, FMA and F16C. */
#define VECTOR_BYTES 32
#define ROWS kas_cpu_rows_avx2
#include "rows.h"
