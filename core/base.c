/* base.c - host memory through the caller's hooks, the thread's error sentence, the log. */
#include "base.h"
#include "platform.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK_ALIGNMENT 64
/* Blocks from this size on lie in large pages where the system has them: rows of K and V that lie far apart would each
   cost an address translation. */
#define LARGE_PAGE ((size_t)2 << 20)
#define LARGE_BLOCK (2 * LARGE_PAGE)

/* Stands in front of every block, because the release hook is told the size. */
typedef struct block_header {
    size_t size;
} block_header;

static void *default_allocate(void *user, size_t size, size_t alignment)
{
    (void)user;
    if (size < LARGE_BLOCK)
        return aligned_alloc(alignment, kas_round_up(size, alignment));
    if (size > SIZE_MAX - LARGE_PAGE)
        return NULL;
    size_t whole = kas_round_up(size, LARGE_PAGE);
    void *block = aligned_alloc(LARGE_PAGE, whole);
    if (block)
        kas_memory_prefer_large_pages(block, whole);
    return block;
}

static void default_release(void *user, void *pointer, size_t size)
{
    (void)user;
    (void)size;
    free(pointer);
}

static kas_allocator allocator = {NULL, default_allocate, default_release};
static kas_log_fn log_sink;
static void *log_user;
static kas_log_level log_limit;
static _Thread_local char error_text[512];
static _Thread_local uint32_t attempts; /* that this thread is within */

void kas_set_allocator(const kas_allocator *replacement)
{
    static const kas_allocator standard = {NULL, default_allocate, default_release};
    allocator = replacement && replacement->allocate && replacement->release ? *replacement : standard;
}

void kas_set_log(kas_log_fn log, void *user, kas_log_level level)
{
    log_sink = log;
    log_user = user;
    log_limit = level;
}

void *kas_alloc(size_t count, size_t size)
{
    if (size != 0 && count > (SIZE_MAX - 2 * BLOCK_ALIGNMENT) / size)
        return NULL;
    size_t whole = count * size + BLOCK_ALIGNMENT;
    unsigned char *block = allocator.allocate(allocator.user, whole, BLOCK_ALIGNMENT);
    if (!block)
        return NULL;
    memset(block, 0, whole);
    ((block_header *)block)->size = whole;
    return block + BLOCK_ALIGNMENT;
}

void kas_release(void *pointer)
{
    if (!pointer)
        return;
    unsigned char *block = (unsigned char *)pointer - BLOCK_ALIGNMENT;
    allocator.release(allocator.user, block, ((block_header *)block)->size);
}

char *kas_strdup(const char *text)
{
    size_t size = text ? strlen(text) + 1 : 1;
    char *copy = kas_alloc(size, 1);
    if (copy && text)
        memcpy(copy, text, size);
    return copy;
}

kas_status kas_fail(kas_status status, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error_text, sizeof(error_text), format, arguments);
    va_end(arguments);
    kas_log(attempts ? KAS_LOG_DEBUG : KAS_LOG_ERROR, "%s", error_text);
    return status;
}

void kas_attempt_begin(void)
{
    attempts++;
}

void kas_attempt_end(void)
{
    attempts--;
}

kas_status kas_fail_memory(void)
{
    return kas_fail(KAS_ERROR_OUT_OF_MEMORY, "host memory is exhausted");
}

kas_status kas_require(const char *name, const void *pointer)
{
    return pointer ? KAS_OK : kas_fail(KAS_ERROR_INVALID_ARGUMENT, "%s is NULL", name);
}

kas_status kas_require_struct(const char *name, const void *descriptor, size_t size)
{
    KAS_TRY(kas_require(name, descriptor));
    uint32_t given = *(const uint32_t *)descriptor;
    if (given != size)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "%s: struct_size is %u, needed is %zu", name, given, size);
    return KAS_OK;
}

const char *kas_last_error(void)
{
    return error_text;
}

void kas_log(kas_log_level level, const char *format, ...)
{
    if (!log_sink || level > log_limit)
        return;
    char message[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof(message), format, arguments);
    va_end(arguments);
    log_sink(log_user, level, message);
}

const char *kas_status_text(kas_status status)
{
    switch (status) {
#define STATUS_CASE(name, value, text)                                                                                 \
    case name:                                                                                                         \
        return text;
        KAS_STATUS_LIST(STATUS_CASE)
#undef STATUS_CASE
    }
    return "not a status";
}

const char *kas_version(void)
{
    return KAS_VERSION_STRING;
}

bool kas_multiply(uint64_t a, uint64_t b, uint64_t c, uint64_t *product)
{
    if (a != 0 && b > UINT64_MAX / a)
        return false;
    uint64_t ab = a * b;
    if (ab != 0 && c > UINT64_MAX / ab)
        return false;
    *product = ab * c;
    return true;
}
