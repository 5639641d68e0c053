/* out_file.c - see out_file.h (POSIX). */
#define _POSIX_C_SOURCE 200809L
#include "out_file.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static kas_status fail_path(const char *path, int reason)
{
    return tool_fail(KAS_ERROR_IO, "%s: cannot be written: %s", path, strerror(reason));
}

kas_status out_file_failed(const out_file *out)
{
    return fail_path(out->path, errno);
}

/* Taking the place of a device or a folder would destroy it. */
static kas_status check_target(const char *path)
{
    struct stat info;
    if (stat(path, &info) == 0 && !S_ISREG(info.st_mode))
        return tool_fail(KAS_ERROR_IO, "%s: cannot be written: it is not a regular file", path);
    return KAS_OK;
}

kas_status out_file_open(out_file *out, const char *path)
{
    TOOL_TRY(check_target(path));
    size_t capacity = strlen(path) + 32;
    out_file opened = {.path = strdup(path), .part = malloc(capacity)};
    kas_status status = KAS_OK;
    if (!opened.path || !opened.part) {
        status = tool_fail_memory();
    } else {
        snprintf(opened.part, capacity, "%s.%ld.part", path, (long)getpid());
        opened.stream = fopen(opened.part, "wb");
        if (!opened.stream)
            status = fail_path(path, errno);
    }
    if (status != KAS_OK) {
        free(opened.path);
        free(opened.part);
        return status;
    }
    *out = opened;
    return KAS_OK;
}

kas_status out_file_finish(out_file *out)
{
    errno = EIO; /* of a write that failed long ago */
    bool written = !ferror(out->stream);
    if (fclose(out->stream) != 0)
        written = false;
    out->stream = NULL;
    kas_status status = written && rename(out->part, out->path) == 0 ? KAS_OK : out_file_failed(out);
    if (status == KAS_OK) {
        free(out->part);
        out->part = NULL;
    }
    out_file_abandon(out);
    return status;
}

void out_file_abandon(out_file *out)
{
    if (out->stream)
        fclose(out->stream);
    if (out->part)
        remove(out->part);
    free(out->part);
    free(out->path);
    *out = (out_file){0};
}

kas_status out_file_save(const char *path, const char *text)
{
    out_file out;
    TOOL_TRY(out_file_open(&out, path));
    fputs(text, out.stream); /* finish tells whether it went well */
    return out_file_finish(&out);
}

bool out_file_is_same(const char *path, const char *other)
{
    struct stat a, b;
    return stat(path, &a) == 0 && stat(other, &b) == 0 && a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}
