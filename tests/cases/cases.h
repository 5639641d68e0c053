/*
 * cases.h - which computations are tried: a case is one call (or one pass over the layers of a small plan) with its
 * shapes, lengths, values and circumstances. The list is the same for every device; cases.c chooses it.
 */
#ifndef CASES_H
#define CASES_H

#include <kascade/kascade.h>
#include <stdbool.h>

#define CASE_MAX_BATCH 8

typedef enum case_operation {
    CASE_ATTEND, /* kas_attend */
    CASE_LSE,    /* kas_log_sum_exp */
    CASE_SCORES, /* kas_pooled_scores */
    CASE_SELECT, /* kas_select */
    CASE_LISTS,  /* kas_attend_lists */
    CASE_MASS,   /* kas_pooled_mass */
    CASE_LAYERS, /* kas_prefill or kas_decode over every layer of a plan */
    CASE_FAR     /* kas_attend_lists, elements beyond 2^32 */
} case_operation;

/* Circumstances of a case. */
#define CASE_LENS (1u << 0)         /* lengths on the device, unlike one another */
#define CASE_STARTS (1u << 1)       /* queries packed without gaps, q_starts on the device */
#define CASE_PADDED (1u << 2)       /* odd strides, other ones for each tensor */
#define CASE_HEAD_MAJOR (1u << 3)   /* [b][h][i][d] */
#define CASE_MISALIGNED (1u << 4)   /* offsets no multiple of 16 bytes */
#define CASE_SEGMENTS (1u << 5)     /* k and v in several buffers */
#define CASE_TIGHT (1u << 6)        /* the smallest scratch that a session can do with */
#define CASE_WITH_LSE (1u << 7)     /* the log-sum-exp as well */
#define CASE_BAD_LENGTHS (1u << 8)  /* some lengths are invalid */
#define CASE_BAD_PAGES (1u << 9)    /* some pages lie outside the pool */
#define CASE_BAD_LISTS (1u << 10)   /* some list entries are no candidates */
#define CASE_OWN_MEMORY (1u << 11)  /* lists and scratch are the caller's, exactly as large as asked for */
#define CASE_REPEAT (1u << 12)      /* twice: the same bits */
#define CASE_ROOM (1u << 13)        /* the session is made for more than the call uses */
#define CASE_FINAL_LENS (1u << 14)  /* KAS_TOPK_FIXED: final lengths on the device */
#define CASE_MAPPED (1u << 15)      /* lists are read through a plan's head map */
#define CASE_DEFAULT_KEYS (1u << 16) /* kas_attention.keys stays 0 */
#define CASE_BAD_STARTS (1u << 17)  /* some q_starts lead past q and out */

typedef enum case_values {
    CASE_NORMAL, /* standard normal in the storage type */
    CASE_COARSE, /* small whole numbers: many equal scores */
    CASE_EQUAL,  /* all keys alike: every score equal */
    CASE_PEAKED, /* large logits: most weights vanish */
    CASE_SPECIAL /* scores for select: NaN, infinities, both zeros, denormals */
} case_values;

/* Where one NaN stands: in the second kv head of the last sequence. */
typedef enum case_nan { CASE_NAN_NONE, CASE_NAN_Q, CASE_NAN_K, CASE_NAN_V } case_nan;

typedef struct conformance_case {
    char name[128];
    case_operation operation;
    kas_phase phase;
    kas_dtype dtype;
    uint32_t kv_heads, group, head_dim, tile;
    kas_topk topk; /* every field filled in */
    kas_pooling pooling;
    kas_normalizer normalizer;
    float scale; /* 0: the default */
    uint32_t batch;
    uint32_t q_len[CASE_MAX_BATCH], kv_len[CASE_MAX_BATCH];
    uint32_t chunk; /* CASE_LAYERS, prefill: query tokens a call; 0: all at once */
    uint32_t page_size;
    uint32_t traits;
    case_values values;
    case_nan nan;
    uint64_t seed;
} conformance_case;

typedef enum case_tier {
    CASE_TIER_FULL,
    CASE_TIER_QUICK, /* fewer shapes, each variation with one storage type */
    CASE_TIER_SHORT, /* the quick tier's cases over shorter sequences, for emulated processors */
    CASE_TIER_SMALL  /* short sequences and few variations, for devices that compute slowly */
} case_tier;

/* "full", "quick", "short" or "small". */
const char *case_tier_name(case_tier tier);

/* The cases of a tier, `count` of them, for free(). */
conformance_case *cases_make(case_tier tier, uint64_t seed, uint32_t *count);

/* The library's operations that a case is meant to exercise, as a NULL-terminated list of names. */
const char *const *cases_operations(const conformance_case *c);

#endif
