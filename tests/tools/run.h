/* run.h - runs the kascade command through the shell and keeps what it printed. */
#ifndef TEST_TOOLS_RUN_H
#define TEST_TOOLS_RUN_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

typedef struct command_result {
    int code; /* exit code; -1 when a signal ended it */
    char output[65536];
} command_result;

/* Arguments as the shell takes them; standard error joins the output. */
static inline command_result *run_command(const char *format, ...)
{
    static command_result result;
    char arguments[8192], line[sizeof(arguments) + sizeof(KASCADE_COMMAND) + 16];
    va_list list;
    va_start(list, format);
    vsnprintf(arguments, sizeof(arguments), format, list);
    va_end(list);
    snprintf(line, sizeof(line), "%s %s 2>&1 </dev/null", KASCADE_COMMAND, arguments);
    FILE *pipe = popen(line, "r");
    size_t size = pipe ? fread(result.output, 1, sizeof(result.output) - 1, pipe) : 0;
    result.output[size] = '\0';
    char rest[4096];
    while (pipe && fread(rest, 1, sizeof(rest), pipe) > 0)
        continue;
    int status = pipe ? pclose(pipe) : -1;
    result.code = status != -1 && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    return &result;
}

#endif
