/* attend_split_mma.cu - decode: dense attention over one split of the keys, on warp matrix instructions. */
#include "split_mma.cuh"

SPLIT_MMA_KERNELS(attend_split, SPLIT_DENSE)
