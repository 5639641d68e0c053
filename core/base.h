/*
 * base.h - what every file of the library leans on: host memory through the caller's hooks, the thread's error
 * sentence, the log. Nothing here knows a device.
 */
#ifndef KAS_BASE_H
#define KAS_BASE_H

#include <kascade/kascade.h>
#include <stdbool.h>

#if defined(__GNUC__)
#define KAS_PRINTF(format_index, first) __attribute__((format(printf, format_index, first)))
#else
#define KAS_PRINTF(format_index, first)
#endif

#define KAS_COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Zeroed memory aligned to 64 bytes, or NULL. Multiplication of count and size is checked. */
void *kas_alloc(size_t count, size_t size);
void kas_release(void *pointer);
/* A copy of `text` ("" for NULL), or NULL when memory is exhausted. */
char *kas_strdup(const char *text);

/* Sets the thread's sentence and returns `status`: return kas_fail(KAS_ERROR_LIMIT, "keys is %u, ...", n). */
kas_status kas_fail(kas_status status, const char *format, ...) KAS_PRINTF(2, 3);
/* Around what may fail and be made good by another attempt: until the end, failures of this thread are no errors of the
   log but details of it. */
void kas_attempt_begin(void);
void kas_attempt_end(void);
/* kas_fail for exhausted host memory. */
kas_status kas_fail_memory(void);

/* INVALID_ARGUMENT with the argument's name when a pointer is NULL. */
kas_status kas_require(const char *name, const void *pointer);
/* The same for a descriptor, whose struct_size must be `size`. */
kas_status kas_require_struct(const char *name, const void *descriptor, size_t size);

void kas_log(kas_log_level level, const char *format, ...) KAS_PRINTF(2, 3);

/* a * b * c in 64 bits; false when it overflows, `product` then untouched. */
bool kas_multiply(uint64_t a, uint64_t b, uint64_t c, uint64_t *product);

static inline uint64_t kas_round_up(uint64_t value, uint64_t multiple)
{
    return (value + multiple - 1) / multiple * multiple;
}

static inline uint64_t kas_div_up(uint64_t value, uint64_t divisor)
{
    return (value + divisor - 1) / divisor;
}

static inline uint32_t kas_min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static inline uint32_t kas_max_u32(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

#define KAS_TRY(expression)                                                                                            \
    do {                                                                                                               \
        kas_status try_status = (expression);                                                                          \
        if (try_status != KAS_OK)                                                                                      \
            return try_status;                                                                                         \
    } while (0)

#endif
