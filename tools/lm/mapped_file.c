/* mapped_file.c - read-only mappings (POSIX). */
#define _POSIX_C_SOURCE 200809L
#include "mapped_file.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static kas_status map_descriptor(int descriptor, const char *path, lm_mapped_file *file)
{
    struct stat info;
    if (fstat(descriptor, &info) != 0)
        return tool_fail(KAS_ERROR_IO, "%s: cannot be read: %s", path, strerror(errno));
    if (!S_ISREG(info.st_mode))
        return tool_fail(KAS_ERROR_IO, "%s: is not a regular file", path);
    lm_mapped_file mapped = {NULL, (size_t)info.st_size};
    if (mapped.size > 0) {
        void *data = mmap(NULL, mapped.size, PROT_READ, MAP_PRIVATE, descriptor, 0);
        if (data == MAP_FAILED)
            return tool_fail(KAS_ERROR_IO, "%s: cannot be mapped: %s", path, strerror(errno));
        mapped.data = data;
    }
    *file = mapped;
    return KAS_OK;
}

kas_status lm_map_file(const char *path, lm_mapped_file *file)
{
    /* Not blocked by a pipe without a writer, which is refused afterwards as no regular file. */
    int descriptor = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (descriptor < 0)
        return tool_fail(KAS_ERROR_IO, "%s: cannot be opened: %s", path, strerror(errno));
    kas_status status = map_descriptor(descriptor, path, file);
    close(descriptor);
    return status;
}

void lm_unmap_file(lm_mapped_file *file)
{
    if (file->data)
        munmap((void *)file->data, file->size);
    file->data = NULL;
    file->size = 0;
}
