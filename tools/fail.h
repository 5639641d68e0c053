/*
 * fail.h - how the command and the model host report failure: a status and one sentence, printed once by main. The
 * host uses the library's statuses but keeps its own sentence, because it only sees the public interface.
 */
#ifndef TOOLS_FAIL_H
#define TOOLS_FAIL_H

#include <kascade/kascade.h>

#if defined(__GNUC__)
#define TOOL_PRINTF(format_index, first) __attribute__((format(printf, format_index, first)))
#else
#define TOOL_PRINTF(format_index, first)
#endif

/* Sets the sentence and returns `status`: return tool_fail(KAS_ERROR_FORMAT, "%s: ...", path). */
kas_status tool_fail(kas_status status, const char *format, ...) TOOL_PRINTF(2, 3);
/* Takes over the library's sentence for a status that it returned. */
kas_status tool_fail_library(kas_status status);
kas_status tool_fail_memory(void);

/* The sentence of the newest failure, "" before the first. */
const char *tool_error(void);

/* The process's exit code for a status; the codes are listed in fail.c and nowhere else. */
int tool_exit_code(kas_status status);
/* The table of exit codes, for --help; lines indented by two. */
const char *tool_exit_code_help(void);

#define TOOL_TRY(expression)                                                                                           \
    do {                                                                                                               \
        kas_status tool_status = (expression);                                                                         \
        if (tool_status != KAS_OK)                                                                                     \
            return tool_status;                                                                                        \
    } while (0)

/* For calls into the library. */
#define TOOL_TRY_LIBRARY(expression)                                                                                   \
    do {                                                                                                               \
        kas_status tool_status = (expression);                                                                         \
        if (tool_status != KAS_OK)                                                                                     \
            return tool_fail_library(tool_status);                                                                     \
    } while (0)

#endif
