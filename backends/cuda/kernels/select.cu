/* select.cu - top-k lists, a block a list. */
#include "select.cuh"

KAS_CUDA_KERNEL(select_generic, SELECT_THREADS, 2, sizeof(select_memory), select_block)
