/*
 * host_memory.h - the library's host memory under a test's eyes: blocks are counted, guarded by their size, and the
 * Nth allocation can be told to fail.
 */
#ifndef NULL_HOST_MEMORY_H
#define NULL_HOST_MEMORY_H

#include <stddef.h>
#include <stdint.h>

/* Puts the counting allocator in the place of the library's; no handle of the library may exist. */
void host_memory_install(void);
void host_memory_uninstall(void);

/* The nth allocation from now on fails, once; 0: none does. */
void host_memory_fail(uint64_t nth);

/* Allocations asked for since the last host_memory_fail. */
uint64_t host_memory_asked(void);

/* Blocks allocated and not released. */
uint64_t host_memory_blocks(void);

/* Blocks released with another size than they were allocated with, or not known at all; 0 in a sound library. */
uint64_t host_memory_mismatches(void);

#endif
