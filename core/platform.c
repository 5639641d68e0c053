/* platform.c - the operating system behind platform.h (POSIX). */
#define _GNU_SOURCE
#include "platform.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

struct kas_mutex {
    pthread_mutex_t handle;
};

struct kas_condition {
    pthread_cond_t handle;
};

struct kas_thread {
    pthread_t handle;
    void (*run)(void *argument);
    void *argument;
};

void *kas_library_open(const char *soname)
{
    return dlopen(soname, RTLD_NOW | RTLD_LOCAL);
}

void *kas_library_symbol(void *library, const char *name)
{
    return dlsym(library, name);
}

kas_mutex *kas_mutex_create(void)
{
    kas_mutex *mutex = kas_alloc(1, sizeof(*mutex));
    if (mutex && pthread_mutex_init(&mutex->handle, NULL) != 0) {
        kas_release(mutex);
        return NULL;
    }
    return mutex;
}

void kas_mutex_destroy(kas_mutex *mutex)
{
    if (!mutex)
        return;
    pthread_mutex_destroy(&mutex->handle);
    kas_release(mutex);
}

kas_mutex *kas_process_mutex(void)
{
    static kas_mutex mutex = {PTHREAD_MUTEX_INITIALIZER};
    return &mutex;
}

void kas_mutex_lock(kas_mutex *mutex)
{
    pthread_mutex_lock(&mutex->handle);
}

void kas_mutex_unlock(kas_mutex *mutex)
{
    pthread_mutex_unlock(&mutex->handle);
}

kas_condition *kas_condition_create(void)
{
    kas_condition *condition = kas_alloc(1, sizeof(*condition));
    if (condition && pthread_cond_init(&condition->handle, NULL) != 0) {
        kas_release(condition);
        return NULL;
    }
    return condition;
}

void kas_condition_destroy(kas_condition *condition)
{
    if (!condition)
        return;
    pthread_cond_destroy(&condition->handle);
    kas_release(condition);
}

void kas_condition_wait(kas_condition *condition, kas_mutex *mutex)
{
    pthread_cond_wait(&condition->handle, &mutex->handle);
}

void kas_condition_wake_all(kas_condition *condition)
{
    pthread_cond_broadcast(&condition->handle);
}

static void *thread_main(void *argument)
{
    kas_thread *thread = argument;
    thread->run(thread->argument);
    return NULL;
}

kas_thread *kas_thread_start(void (*run)(void *argument), void *argument)
{
    kas_thread *thread = kas_alloc(1, sizeof(*thread));
    if (!thread)
        return NULL;
    thread->run = run;
    thread->argument = argument;
    if (pthread_create(&thread->handle, NULL, thread_main, thread) != 0) {
        kas_release(thread);
        return NULL;
    }
    return thread;
}

void kas_thread_join(kas_thread *thread)
{
    if (!thread)
        return;
    pthread_join(thread->handle, NULL);
    kas_release(thread);
}

void kas_call_once(kas_once *once, void (*initialise)(void))
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&lock);
    if (!once->state) {
        initialise();
        once->state = 1;
    }
    pthread_mutex_unlock(&lock);
}

uint32_t kas_processor_count(void)
{
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof(allowed), &allowed) == 0 && CPU_COUNT(&allowed) > 0)
        return (uint32_t)CPU_COUNT(&allowed);
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (uint32_t)online : 1;
}

uint64_t kas_physical_memory(void)
{
    long pages = sysconf(_SC_PHYS_PAGES);
    long page_size = sysconf(_SC_PAGESIZE);
    return pages > 0 && page_size > 0 ? (uint64_t)pages * (uint64_t)page_size : 0;
}

uint64_t kas_clock(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static kas_status read_open_file(FILE *file, const char *path, uint64_t limit, char **data, size_t *size)
{
    struct stat status;
    if (fstat(fileno(file), &status) != 0 || !S_ISREG(status.st_mode))
        return kas_fail(KAS_ERROR_IO, "%s: not a regular file", path);
    if ((uint64_t)status.st_size > limit)
        return kas_fail(KAS_ERROR_FORMAT, "%s: %lld bytes, at most %llu are read", path, (long long)status.st_size,
                        (unsigned long long)limit);
    size_t expected = (size_t)status.st_size;
    char *bytes = kas_alloc(expected + 1, 1);
    if (!bytes)
        return kas_fail_memory();
    if (fread(bytes, 1, expected, file) != expected) {
        kas_release(bytes);
        return kas_fail(KAS_ERROR_IO, "%s: cannot read %zu bytes", path, expected);
    }
    *data = bytes;
    *size = expected;
    return KAS_OK;
}

kas_status kas_file_read(const char *path, uint64_t limit, char **data, size_t *size)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        return kas_fail(KAS_ERROR_IO, "%s: %s", path, strerror(errno));
    kas_status status = read_open_file(file, path, limit, data, size);
    fclose(file);
    return status;
}

static bool write_all(const char *path, const void *data, size_t size)
{
    FILE *file = fopen(path, "wb");
    if (!file)
        return false;
    bool written = fwrite(data, 1, size, file) == size;
    return fclose(file) == 0 && written;
}

kas_status kas_file_replace(const char *path, const void *data, size_t size)
{
    size_t length = strlen(path) + 32;
    char *temporary = kas_alloc(length, 1);
    if (!temporary)
        return kas_fail_memory();
    snprintf(temporary, length, "%s.%ld.part", path, (long)getpid());
    bool replaced = write_all(temporary, data, size) && rename(temporary, path) == 0;
    int reason = errno;
    if (!replaced)
        remove(temporary);
    kas_release(temporary);
    return replaced ? KAS_OK : kas_fail(KAS_ERROR_IO, "%s: cannot be written: %s", path, strerror(reason));
}
