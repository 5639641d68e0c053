/* rows_generic.c - the kernels compiled for the instructions every processor has. */
#define VECTOR_BYTES 16
#define ROWS kas_cpu_rows_generic
#include "rows.h"
