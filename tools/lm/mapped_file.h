/* mapped_file.h - a file's bytes, mapped read-only. */
#ifndef LM_MAPPED_FILE_H
#define LM_MAPPED_FILE_H

#include "../fail.h"

typedef struct lm_mapped_file {
    const unsigned char *data; /* NULL for an empty file */
    size_t size;
} lm_mapped_file;

/* Maps a regular file. Errors: IO with the path and the system's reason. */
kas_status lm_map_file(const char *path, lm_mapped_file *file);
/* Gives a mapping back and zeroes the struct; a zeroed struct is left as it is. */
void lm_unmap_file(lm_mapped_file *file);

#endif
