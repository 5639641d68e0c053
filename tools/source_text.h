/*
 * source_text.h - the text that `kascade run` reads: a file, the text files of a folder, or by default the sources and
 * documents of this project.
 */
#ifndef TOOLS_SOURCE_TEXT_H
#define TOOLS_SOURCE_TEXT_H

#include "fail.h"

#define SOURCE_PATH_MAX 4096

typedef struct source_text {
    unsigned char *bytes; /* for source_text_release */
    uint64_t size;
    uint32_t files; /* that the bytes come from */
} source_text;

/*
 * Reads a file, or the text files below a folder in the order of their names, and stops after `limit` bytes. Errors:
 * IO with the path; OUT_OF_MEMORY.
 */
kas_status source_text_read(const char *path, uint64_t limit, source_text *text);
void source_text_release(source_text *text);

/*
 * The folder of this project's sources: the first of the working folder, the program's folder and the folders above
 * them that holds include/kascade/kascade.h. Errors: IO when there is none.
 */
kas_status source_root(char root[SOURCE_PATH_MAX]);

#endif
