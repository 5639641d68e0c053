/* rows_avx512.c - the attention kernels compiled for AVX-512. */
#define VECTOR_BYTES 64
#include "core/kernel/softmax.h"

#include "block.h"

#include "attend.h"
#include "sparse.h"

#include "lse.h"

#include "scores.h"

#include "attend_split.h"

#include "sparse_split.h"

#include "logits.h"

#include "../variants.h"

const kas_cpu_rows kas_cpu_rows_avx512 = {
    .attend = {attend},
    .lse = {lse},
    .scores = {scores},
    .sparse = {sparse},
    .attend_split = {attend_split},
    .sparse_split = {sparse_split},
    .logits = {logits},
};
