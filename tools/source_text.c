/* source_text.c - reading files and folders as one text; see source_text.h. */
#define _XOPEN_SOURCE 700
#include "source_text.h"

#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ROOT_MARK "include/kascade/kascade.h"
#define MAX_DEPTH 16

static const char *const text_suffixes[] = {".c",   ".h",  ".cc", ".cpp",  ".hpp", ".cu",  ".cuh", ".cl", ".comp", ".glsl",
                                            ".md",  ".py", ".rs", ".go",   ".js",  ".ts",  ".java", ".sh", ".txt",  ".cmake",
                                            NULL};

/* Build folders, which hold copies and generated files. */
static const char *const skipped_folders[] = {"build", "out", NULL};

static bool is_listed(const char *name, const char *const *list)
{
    for (; *list; list++)
        if (strcmp(name, *list) == 0)
            return true;
    return false;
}

static bool is_text(const char *name)
{
    const char *dot = strrchr(name, '.');
    return dot && is_listed(dot, text_suffixes);
}

static kas_status fail_read(const char *path)
{
    return tool_fail(KAS_ERROR_IO, "%s: cannot be read: %s", path, strerror(errno));
}

static kas_status append_file(const char *path, uint64_t limit, source_text *text)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        return fail_read(path);
    size_t got = 1;
    while (text->size < limit && got > 0) {
        size_t step = limit - text->size < 1u << 20 ? (size_t)(limit - text->size) : 1u << 20;
        unsigned char *grown = realloc(text->bytes, text->size + step);
        if (!grown) {
            fclose(file);
            return tool_fail_memory();
        }
        text->bytes = grown;
        got = fread(text->bytes + text->size, 1, step, file);
        text->size += got;
    }
    bool failed = ferror(file) != 0;
    fclose(file);
    text->files++;
    return failed ? fail_read(path) : KAS_OK;
}

static int accept_entry(const struct dirent *entry)
{
    return entry->d_name[0] != '.' && !is_listed(entry->d_name, skipped_folders);
}

/* Byte order, the same under every locale. */
static int compare_entries(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static kas_status append_folder(const char *path, uint64_t limit, int depth, source_text *text);

static kas_status append_entry(const char *folder, const char *name, uint64_t limit, int depth, source_text *text)
{
    char path[SOURCE_PATH_MAX];
    struct stat info;
    if (snprintf(path, sizeof(path), "%s/%s", folder, name) >= SOURCE_PATH_MAX)
        return tool_fail(KAS_ERROR_IO, "%.60s...: the path is longer than %d bytes", path, SOURCE_PATH_MAX - 1);
    /* Links are left out: they may lead in circles. */
    if (lstat(path, &info) != 0)
        return fail_read(path);
    if (S_ISDIR(info.st_mode))
        return depth < MAX_DEPTH ? append_folder(path, limit, depth + 1, text) : KAS_OK;
    return S_ISREG(info.st_mode) && is_text(name) ? append_file(path, limit, text) : KAS_OK;
}

static kas_status append_folder(const char *path, uint64_t limit, int depth, source_text *text)
{
    struct dirent **entries;
    int count = scandir(path, &entries, accept_entry, compare_entries);
    if (count < 0)
        return fail_read(path);
    kas_status status = KAS_OK;
    for (int i = 0; i < count; i++) {
        if (status == KAS_OK && text->size < limit)
            status = append_entry(path, entries[i]->d_name, limit, depth, text);
        free(entries[i]);
    }
    free(entries);
    return status;
}

kas_status source_text_read(const char *path, uint64_t limit, source_text *text)
{
    struct stat info;
    if (stat(path, &info) != 0)
        return fail_read(path);
    source_text read = {0};
    kas_status status = S_ISDIR(info.st_mode) ? append_folder(path, limit, 0, &read) : append_file(path, limit, &read);
    if (status == KAS_OK && read.size == 0)
        status = tool_fail(KAS_ERROR_IO, "%s: holds no text", path);
    if (status != KAS_OK) {
        source_text_release(&read);
        return status;
    }
    *text = read;
    return KAS_OK;
}

void source_text_release(source_text *text)
{
    free(text->bytes);
    *text = (source_text){0};
}

/* ---- The project's folder -------------------------------------------------------------------------------------- */

/* Shortens `folder` until the mark lies below it. */
static bool climb(char folder[SOURCE_PATH_MAX])
{
    for (;;) {
        char mark[SOURCE_PATH_MAX + sizeof(ROOT_MARK)];
        snprintf(mark, sizeof(mark), "%s/%s", folder, ROOT_MARK);
        if (access(mark, R_OK) == 0)
            return true;
        char *slash = strrchr(folder, '/');
        if (!slash)
            return false;
        *slash = 0;
    }
}

kas_status source_root(char root[SOURCE_PATH_MAX])
{
    char folder[SOURCE_PATH_MAX];
    if (getcwd(folder, sizeof(folder)) && climb(folder)) {
        memcpy(root, folder, sizeof(folder));
        return KAS_OK;
    }
    ssize_t length = readlink("/proc/self/exe", folder, sizeof(folder) - 1);
    if (length > 0) {
        folder[length] = 0;
        if (climb(folder)) {
            memcpy(root, folder, sizeof(folder));
            return KAS_OK;
        }
    }
    return tool_fail(KAS_ERROR_IO, "the bundled model, plan and text are not here: neither the working folder nor the "
                     "program's folder lies in the project's sources (name --model, --plan and --text)");
}
