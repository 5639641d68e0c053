/* sparse_split_mma.cu - decode: attention over one split of a list and the own keys, on warp matrix instructions. */
#include "split_mma.cuh"

SPLIT_MMA_KERNELS(sparse_split, SPLIT_LISTED)
