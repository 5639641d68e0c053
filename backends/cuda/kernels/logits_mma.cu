/* logits_mma.cu - decode: logits of one split of an anchor's keys, on warp matrix instructions. */
#include "split_mma.cuh"

SPLIT_MMA_KERNELS(logits, SPLIT_LOGITS)
