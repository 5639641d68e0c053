/*
 * code.h - what kas_variant.code points to in this backend: which embedded image holds a row's kernels and how their
 * names are put together.
 */
#ifndef KAS_CUDA_CODE_H
#define KAS_CUDA_CODE_H

#include "core/backend.h"

/* One image a file in kernels/: `name` is its basename. CMakeLists.txt compiles the same list. */
#define KAS_CUDA_IMAGES(X)                                                                                             \
    X(attend)                                                                                                          \
    X(lse)                                                                                                             \
    X(scores)                                                                                                          \
    X(select)                                                                                                          \
    X(sparse)                                                                                                          \
    X(attend_split)                                                                                                    \
    X(sparse_split)                                                                                                    \
    X(merge)                                                                                                           \
    X(logits)                                                                                                          \
    X(pool)                                                                                                            \
    X(mass)                                                                                                            \
    X(attend_split_mma)                                                                                                \
    X(sparse_split_mma)                                                                                                \
    X(logits_mma)                                                                                                      \
    X(attend_mma)                                                                                                      \
    X(lse_mma)                                                                                                         \
    X(scores_mma)                                                                                                      \
    X(sparse_mma)                                                                                                      \
    X(attend_wgmma)                                                                                                    \
    X(lse_wgmma)                                                                                                       \
    X(scores_wgmma)                                                                                                    \
    X(sparse_wgmma)                                                                                                    \
    X(select_cluster)                                                                                                  \
    X(anchor_cluster)

typedef enum kas_cuda_image {
#define KAS_CUDA_IMAGE_ENUM(name) KAS_CUDA_IMAGE_##name,
    KAS_CUDA_IMAGES(KAS_CUDA_IMAGE_ENUM)
#undef KAS_CUDA_IMAGE_ENUM
        KAS_CUDA_IMAGE_COUNT
} kas_cuda_image;

#define KAS_CUDA_MAX_ROW_CLASSES 2

/*
 * A row's kernels are named kernel[_dtype][_head dim][_rows]: "attend_generic_f16_128". Beside each stands a constant
 * NAME_shape of two words, its threads and its bytes of dynamic shared memory.
 */
typedef struct kas_cuda_code {
    kas_cuda_image image;
    const char *kernel;
    bool by_dtype;
    uint16_t head_dims[6]; /* those compiled, ascending, 0 behind the last; the least that holds the head dimension is
                              used. None: the name carries none */
    uint16_t rows[KAS_CUDA_MAX_ROW_CLASSES + 1]; /* the same for the query rows of a kv head in a decode launch; more
                                                    rows than the last are worked off in turns of it */
    const char *few; /* the kernel of launches whose work groups, `blocks` thread blocks each along x, leave most of the
                        device idle otherwise; NULL: none */
    uint16_t blocks;
    bool team; /* the blocks along a grid's x axis make a cluster */
    bool key_maps; /* kernels take a third argument, kas_key_maps in kernels/wgmma.cuh */
} kas_cuda_code;

#define KAS_CUDA_VARIANT_COUNT 31

/* The rows of this backend, best first within an operation. */
extern const kas_variant kas_cuda_variants[KAS_CUDA_VARIANT_COUNT];

#endif
