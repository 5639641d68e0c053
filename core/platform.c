/* platform.c - the operating system behind platform.h (POSIX). */
#define _GNU_SOURCE
#include "platform.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
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

void kas_thread_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#else
    sched_yield();
#endif
}

void kas_call_once(kas_once *once, void (*initialise)(void))
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    if (atomic_load_explicit(&once->done, memory_order_acquire))
        return;
    pthread_mutex_lock(&lock);
    if (!atomic_load_explicit(&once->done, memory_order_relaxed)) {
        initialise();
        atomic_store_explicit(&once->done, 1, memory_order_release);
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

void kas_memory_prefer_large_pages(void *memory, size_t size)
{
#ifdef MADV_HUGEPAGE
    (void)madvise(memory, size, MADV_HUGEPAGE);
#else
    (void)memory;
    (void)size;
#endif
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

/* Not blocked by a pipe without a writer, which is refused afterwards as no regular file. */
static FILE *open_to_read(const char *path)
{
    int descriptor = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    FILE *file = descriptor < 0 ? NULL : fdopen(descriptor, "rb");
    if (!file && descriptor >= 0)
        close(descriptor);
    return file;
}

kas_status kas_file_read(const char *path, uint64_t limit, char **data, size_t *size)
{
    FILE *file = open_to_read(path);
    if (!file)
        return kas_fail(KAS_ERROR_IO, "%s: %s", path, strerror(errno));
    kas_status status = read_open_file(file, path, limit, data, size);
    fclose(file);
    return status;
}

/* Writes to the descriptor and to the disk behind it, and closes it; 0 or the first errno. */
static int write_all(int descriptor, const char *data, size_t size)
{
    int reason = 0;
    while (size > 0 && !reason) {
        ssize_t written = write(descriptor, data, size);
        if (written >= 0) {
            data += written;
            size -= (size_t)written;
        } else if (errno != EINTR) {
            reason = errno;
        }
    }
    if (!reason && fsync(descriptor) != 0)
        reason = errno;
    if (close(descriptor) != 0 && !reason)
        reason = errno;
    return reason;
}

/* A new file beside `path`, of a name that no other writer has; its name is put into `name`. */
static int create_beside(const char *path, char *name, size_t size)
{
    static atomic_uint count;
    int descriptor;
    do {
        snprintf(name, size, "%s.%ld-%u.part", path, (long)getpid(), atomic_fetch_add(&count, 1));
        descriptor = open(name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    } while (descriptor < 0 && errno == EEXIST);
    return descriptor;
}

/* A device or a pipe that gave its place to a file would be gone. */
static kas_status check_target(const char *path)
{
    struct stat status;
    if (stat(path, &status) == 0 && !S_ISREG(status.st_mode))
        return kas_fail(KAS_ERROR_IO, "%s: cannot be written: not a regular file", path);
    return KAS_OK;
}

kas_status kas_file_replace(const char *path, const void *data, size_t size)
{
    KAS_TRY(check_target(path));
    size_t length = strlen(path) + 48;
    char *temporary = kas_alloc(length, 1);
    if (!temporary)
        return kas_fail_memory();
    int descriptor = create_beside(path, temporary, length);
    int reason = descriptor < 0 ? errno : write_all(descriptor, data, size);
    if (!reason && rename(temporary, path) != 0)
        reason = errno;
    if (reason && descriptor >= 0)
        unlink(temporary);
    kas_release(temporary);
    return reason ? kas_fail(KAS_ERROR_IO, "%s: cannot be written: %s", path, strerror(reason)) : KAS_OK;
}
