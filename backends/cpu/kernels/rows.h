/* rows.h - all kernels of one instruction set as the table ROWS; included by a file that defines VECTOR_BYTES and ROWS. */
#include "core/kernel/softmax.h"

#include "block.h"

#include "attend.h"
#include "sparse.h"

#include "lse.h"

#include "scores.h"

#include "select.h"

#include "publish.h"

#include "attend_split.h"

#include "sparse_split.h"

#include "logits.h"

#include "pool.h"

#include "../variants.h"

const kas_cpu_rows ROWS = {
    .attend = {attend},
    .lse = {lse},
    .scores = {scores},
    .select = {select_keys},
    .sparse = {sparse},
    .publish = {publish},
    .attend_split = {attend_split, KAS_CPU_CELL_ROWS},
    .sparse_split = {sparse_split},
    .logits = {logits, KAS_CPU_CELL_ROWS},
    .pool = {pool},
};
