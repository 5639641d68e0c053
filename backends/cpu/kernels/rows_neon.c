/* rows_neon.c - the kernels compiled for Advanced SIMD of 64-bit Arm. */
#define VECTOR_BYTES 16
#define VECTOR_NEON
#define ROWS kas_cpu_rows_neon
#include "rows.h"
