/*
 * safetensors.h - the tensors of a checkpoint: one .safetensors file, or the shards that an index names. Files are
 * mapped, nothing in them is trusted: a header that lies about lengths, offsets or shapes is refused with a sentence.
 */
#ifndef LM_SAFETENSORS_H
#define LM_SAFETENSORS_H

#include "../fail.h"

#define LM_MAX_RANK 8

typedef enum lm_dtype { LM_DTYPE_F32, LM_DTYPE_F16, LM_DTYPE_BF16, LM_DTYPE_OTHER } lm_dtype;

typedef struct lm_tensor {
    char *name;
    lm_dtype dtype;
    const char *dtype_name; /* static */
    uint32_t rank;
    uint64_t shape[LM_MAX_RANK];
    uint64_t begin, end; /* bytes from the start of the file's data */
    const unsigned char *data; /* may be unaligned */
} lm_tensor;

/* The tensors of one file. */
typedef struct lm_shard lm_shard;

/*
 * Reads the header of a file that lies in memory, which must outlive the shard; `file` is copied. Errors: FORMAT with
 * the file, the tensor, the value and the bound; OUT_OF_MEMORY.
 */
kas_status lm_shard_parse(const char *file, const unsigned char *data, size_t size, lm_shard **shard);
void lm_shard_destroy(lm_shard *shard);
uint32_t lm_shard_count(const lm_shard *shard);
/* Tensors in the order of their names. */
const lm_tensor *lm_shard_tensor(const lm_shard *shard, uint32_t index);

typedef struct lm_checkpoint lm_checkpoint;

/* Opens model.safetensors of a folder, or the shards of its model.safetensors.index.json. Errors: as above, IO. */
kas_status lm_checkpoint_open(const char *folder, lm_checkpoint **checkpoint);
void lm_checkpoint_destroy(lm_checkpoint *checkpoint);

/* Whether the checkpoint has a tensor of this name. */
int lm_checkpoint_has(const lm_checkpoint *checkpoint, const char *name);

/*
 * Converts a tensor of `rank` dimensions to float at `values`. Errors: FORMAT when it is absent or its shape differs;
 * UNSUPPORTED when its type is none of F32, F16 and BF16.
 */
kas_status lm_checkpoint_read(const lm_checkpoint *checkpoint, const char *name, uint32_t rank, const uint64_t *shape,
                              float *values);

#endif
