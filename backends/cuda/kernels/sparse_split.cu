/* sparse_split.cu - decode: attention over one split of a list's entries and the own keys. */
#include "split_generic.cuh"

template <class T, int D> KAS_CU void sparse_split_generic(const kas_work &w, unsigned char *memory)
{
    split_generic<T, D, true>(w, memory);
}

GENERIC_KERNELS(sparse_split, sparse_split_generic)
