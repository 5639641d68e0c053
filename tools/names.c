/* names.c - see names.h. */
#include "names.h"

#include <stddef.h>

#define OF_DTYPE(dtype) [(dtype) - FIRST_DTYPE]

const char *const phase_names[] = {[KAS_PHASE_PREFILL] = "prefill", [KAS_PHASE_DECODE] = "decode", NULL};
const char *const normalizer_names[] = {
    [KAS_NORMALIZER_EXACT] = "exact", [KAS_NORMALIZER_ESTIMATED] = "estimated", NULL};
const char *const pooling_names[] = {[KAS_POOLING_GROUP] = "group", [KAS_POOLING_ALL_HEADS] = "all_heads", NULL};
const char *const dtype_names[] = {
    OF_DTYPE(KAS_DTYPE_F32) = "f32", OF_DTYPE(KAS_DTYPE_F16) = "f16", OF_DTYPE(KAS_DTYPE_BF16) = "bf16", NULL};
