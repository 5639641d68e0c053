/* fail.c - the sentence of the newest failure and the exit codes. */
#include "fail.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_INPUT = 3, EXIT_NO_DEVICE = 4 };

static _Thread_local char sentence[1024];

kas_status tool_fail(kas_status status, const char *format, ...)
{
    char text[sizeof(sentence)];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    /* Names and values come from files: none of them may move the terminal's cursor. */
    for (char *c = text; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            *c = '?';
    memcpy(sentence, text, sizeof(sentence));
    return status;
}

kas_status tool_fail_library(kas_status status)
{
    const char *text = kas_last_error();
    return tool_fail(status, "%s", text[0] ? text : kas_status_text(status));
}

kas_status tool_fail_memory(void)
{
    return tool_fail(KAS_ERROR_OUT_OF_MEMORY, "host memory is exhausted");
}

const char *tool_error(void)
{
    return sentence;
}

int tool_exit_code(kas_status status)
{
    switch (status) {
    case KAS_OK:
        return EXIT_OK;
    case KAS_ERROR_INVALID_ARGUMENT:
    case KAS_ERROR_UNSUPPORTED:
    case KAS_ERROR_LIMIT:
        return EXIT_USAGE;
    case KAS_ERROR_IO:
    case KAS_ERROR_FORMAT:
        return EXIT_INPUT;
    case KAS_ERROR_NO_DEVICE:
        return EXIT_NO_DEVICE;
    default:
        return EXIT_FAILED;
    }
}

const char *tool_exit_code_help(void)
{
    return "  0  done\n"
           "  1  failed: a check did not pass, memory ran out, a driver reported an error\n"
           "  2  the command line asks for something that is out of range or unsupported\n"
           "  3  a file is missing, unreadable, malformed or cannot be written\n"
           "  4  the device does not exist here\n";
}
