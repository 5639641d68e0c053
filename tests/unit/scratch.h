/* scratch.h - a folder of its own for each test that writes files, removed with what is in it. */
#ifndef TEST_SCRATCH_H
#define TEST_SCRATCH_H

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct scratch {
    char folder[256];
    char path[512]; /* of the name last asked for */
} scratch;

static inline int scratch_open(scratch *s)
{
    const char *root = getenv("TMPDIR");
    snprintf(s->folder, sizeof(s->folder), "%s/kascade-test-XXXXXX", root ? root : "/tmp");
    return mkdtemp(s->folder) ? 0 : -1;
}

static inline const char *scratch_path(scratch *s, const char *name)
{
    snprintf(s->path, sizeof(s->path), "%s/%s", s->folder, name);
    return s->path;
}

/* Files in the folder; removes them when told to. */
static inline int scratch_count(scratch *s, int remove_them)
{
    int count = 0;
    DIR *folder = opendir(s->folder);
    for (struct dirent *entry = folder ? readdir(folder) : NULL; entry; entry = readdir(folder)) {
        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
            continue;
        count++;
        if (remove_them)
            remove(scratch_path(s, entry->d_name));
    }
    if (folder)
        closedir(folder);
    return count;
}

static inline void scratch_close(scratch *s)
{
    scratch_count(s, 1);
    rmdir(s->folder);
}

#endif
