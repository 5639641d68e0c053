/*
 * platform.h - everything the library asks of the operating system: shared objects, threads, files, a clock.
 * platform.c is the only file with calls beyond C11.
 */
#ifndef KAS_PLATFORM_H
#define KAS_PLATFORM_H

#include "base.h"

typedef struct kas_mutex kas_mutex;
typedef struct kas_condition kas_condition;
typedef struct kas_thread kas_thread;

/* A shared object by soname, NULL when it cannot be loaded. Never unloaded: drivers do not survive it. */
void *kas_library_open(const char *soname);
void *kas_library_symbol(void *library, const char *name);

/* NULL when memory is exhausted. */
kas_mutex *kas_mutex_create(void);
void kas_mutex_destroy(kas_mutex *mutex);
void kas_mutex_lock(kas_mutex *mutex);
void kas_mutex_unlock(kas_mutex *mutex);
/* One of the process's own, which needs no memory: for what the first handle makes and the last one releases. */
kas_mutex *kas_process_mutex(void);

kas_condition *kas_condition_create(void);
void kas_condition_destroy(kas_condition *condition);
void kas_condition_wait(kas_condition *condition, kas_mutex *mutex);
void kas_condition_wake_all(kas_condition *condition);

/* Between two looks at what another thread is about to change. */
void kas_thread_pause(void);

/* NULL when the thread cannot be started. join waits for it and releases the handle. */
kas_thread *kas_thread_start(void (*run)(void *argument), void *argument);
void kas_thread_join(kas_thread *thread);

/* Runs `initialise` once a process, whichever thread comes first; `once` begins as zero.
   One such function must not cause another to be called for the first time. */
typedef struct kas_once {
    _Atomic int done;
} kas_once;
void kas_call_once(kas_once *once, void (*initialise)(void));

/* Processors this process may run on, at least 1. */
uint32_t kas_processor_count(void);
/* Bytes of physical memory, 0 when unknown. */
uint64_t kas_physical_memory(void);

/* Memory not touched yet may come in large pages; a hint that a system may not know. `memory` is page-aligned. */
void kas_memory_prefer_large_pages(void *memory, size_t size);

/* Nanoseconds of a clock that never goes back. */
uint64_t kas_clock(void);

/*
 * Reads a whole file into memory for kas_release, a zero byte behind it. Errors: IO with the path; FORMAT when the file
 * holds more than `limit` bytes; OUT_OF_MEMORY.
 */
kas_status kas_file_read(const char *path, uint64_t limit, char **data, size_t *size);
/*
 * Writes a file beside `path` and renames it over; nothing is left behind on failure. Errors: IO, also for a path that is
 * there and no regular file; OUT_OF_MEMORY.
 */
kas_status kas_file_replace(const char *path, const void *data, size_t size);

#endif
