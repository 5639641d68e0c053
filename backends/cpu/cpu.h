/* cpu.h - what the CPU backend's files share: a kernel as a function over grid cells, and the job it works on. */
#ifndef KAS_CPU_H
#define KAS_CPU_H

#include "core/backend.h"

/* Bytes of working memory every thread has for a kernel. */
#define KAS_CPU_SCRATCH_BYTES (2304u * 1024u + KAS_CPU_WEIGHTS * 4u + KAS_CPU_WEIGHTS / 16u)

/* Weights that scores and publish keep of a tile until its rows' log-sum-exps are known, and up to how many keys. */
#define KAS_CPU_WEIGHTS (2048u * 1024u)
#define KAS_CPU_OWN_LSE_KEYS 65536u

/* One launch as its cells see it. */
typedef struct kas_cpu_job {
    const kas_session_block *session;
    const uint32_t *words; /* the tables behind the block */
    const kas_call *call;
    kas_dtype dtype;
    uint32_t rows; /* the y extent of the grid, */
    uint32_t step; /* of which a cell takes so many */
    void *slot[KAS_SLOT_COUNT];
} kas_cpu_job;

/* Rows of the grid that a cell may take side by side, where its kernel can: rows of K and V of the kv heads of a key
   follow each other in memory, which answers faster where it is read in its order. */
#define KAS_CPU_CELL_ROWS 8u

/* One cell of the grid: (x, y, z) to (x, y + step - 1, z) as far as there are rows. Cells run in any order and on any
   thread; `scratch` is the thread's own. */
typedef void (*kas_cpu_kernel)(const kas_cpu_job *job, uint32_t x, uint32_t y, uint32_t z, void *scratch);

/* Queries of one cell of attend and lse. */
#define KAS_CPU_ATTEND_QUERIES 64u

/* Keys of one cell of pool. */
#define KAS_CPU_POOL_KEYS 4096u

/* What kas_variant.code points to. */
typedef struct kas_cpu_code {
    kas_cpu_kernel run;
    uint32_t most_rows; /* of a cell; 0: one */
} kas_cpu_code;

#if defined(__x86_64__)
#define KAS_CPU_VARIANT_COUNT (8 + 3 * 10 + 2)
#elif defined(__aarch64__)
#define KAS_CPU_VARIANT_COUNT (2 * 10 + 2)
#else
#define KAS_CPU_VARIANT_COUNT (10 + 2)
#endif
extern const kas_variant kas_cpu_variants[KAS_CPU_VARIANT_COUNT];

#endif
