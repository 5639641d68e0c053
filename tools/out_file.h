/*
 * out_file.h - files that commands write: under another name beside their own until they are whole, so that a failure
 * leaves what was there before, and never over something that is no file.
 */
#ifndef TOOLS_OUT_FILE_H
#define TOOLS_OUT_FILE_H

#include "fail.h"

#include <stdbool.h>
#include <stdio.h>

typedef struct out_file {
    FILE *stream; /* for the caller to write to */
    char *path;
    char *part; /* its name until it is whole */
} out_file;

/* Errors: IO, also for a path that is there and no regular file; OUT_OF_MEMORY. */
kas_status out_file_open(out_file *out, const char *path);
/* Puts the file in place. Errors: IO, for earlier writes as well. Whatever it answers, the file is spent. */
kas_status out_file_finish(out_file *out);
/* Removes what was written. Does nothing for a file that is spent, zeroed, or was never opened successfully. */
void out_file_abandon(out_file *out);

/* The failure of a write to out->stream, by errno. */
kas_status out_file_failed(const out_file *out);

/* Writes a whole file of one text. Errors: as above. */
kas_status out_file_save(const char *path, const char *text);

/* Whether two paths lead to one file that is there. */
bool out_file_is_same(const char *path, const char *other);

#endif
