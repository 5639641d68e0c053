/* host_memory.c - the counting allocator. Hooks may be called by any thread, so everything counted is atomic. */
#include "host_memory.h"

#include <kascade/kascade.h>

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define GUARD_WORD 0x6b6173636164656bu

/* Lies in front of a block. */
typedef struct block_tag {
    uint64_t size;
    uint64_t guard;
} block_tag;

/* From the start of the memory to the block: the library's alignment, which a release is not told. */
#define PREFIX 64u

static _Atomic uint64_t asked, failing, blocks, mismatches;

static block_tag *tag_of(void *pointer)
{
    return (block_tag *)pointer - 1;
}

static void *allocate(void *user, size_t size, size_t alignment)
{
    (void)user;
    if (atomic_fetch_add(&asked, 1) + 1 == atomic_load(&failing) || alignment > PREFIX)
        return NULL;
    unsigned char *memory = aligned_alloc(PREFIX, (PREFIX + size + PREFIX - 1) / PREFIX * PREFIX);
    if (!memory)
        return NULL;
    unsigned char *block = memory + PREFIX;
    *tag_of(block) = (block_tag){size, GUARD_WORD};
    memset(block, 0xa5, size);
    atomic_fetch_add(&blocks, 1);
    return block;
}

static void release(void *user, void *pointer, size_t size)
{
    (void)user;
    block_tag *tag = tag_of(pointer);
    if (tag->guard != GUARD_WORD || tag->size != size) {
        atomic_fetch_add(&mismatches, 1);
        return;
    }
    tag->guard = 0;
    atomic_fetch_sub(&blocks, 1);
    free((unsigned char *)pointer - PREFIX);
}

void host_memory_install(void)
{
    const kas_allocator hooks = {NULL, allocate, release};
    host_memory_fail(0);
    atomic_store(&blocks, 0);
    atomic_store(&mismatches, 0);
    kas_set_allocator(&hooks);
}

void host_memory_uninstall(void)
{
    kas_set_allocator(NULL);
}

void host_memory_fail(uint64_t nth)
{
    atomic_store(&asked, 0);
    atomic_store(&failing, nth);
}

uint64_t host_memory_asked(void)
{
    return atomic_load(&asked);
}

uint64_t host_memory_blocks(void)
{
    return atomic_load(&blocks);
}

uint64_t host_memory_mismatches(void)
{
    return atomic_load(&mismatches);
}
