/* attend_split.cu - decode: dense attention over one split of the keys. */
#include "split_generic.cuh"

template <class T, int D> KAS_CU void attend_split_generic(const kas_work &w, unsigned char *memory)
{
    split_generic<T, D, false>(w, memory);
}

GENERIC_KERNELS(attend_split, attend_split_generic)
