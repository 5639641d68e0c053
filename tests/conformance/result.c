/* result.c - gathering measurements and messages of one case. */
#include "result.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

static void set_message(conformance_result *result, const char *format, va_list arguments)
{
    vsnprintf(result->message, sizeof(result->message), format, arguments);
}

void result_fail(conformance_result *result, const char *format, ...)
{
    if (result->verdict == CONFORMANCE_FAILED)
        return;
    va_list arguments;
    va_start(arguments, format);
    set_message(result, format, arguments);
    va_end(arguments);
    result->verdict = CONFORMANCE_FAILED;
}

void result_skip(conformance_result *result, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    set_message(result, format, arguments);
    va_end(arguments);
    result->verdict = CONFORMANCE_SKIPPED;
}

void result_measure(conformance_result *result, const char *what, double error, double bound)
{
    if (isnan(error))
        error = INFINITY;
    if (result->bound == 0.0 || error * result->bound > result->error * bound) {
        result->error = error;
        result->bound = bound;
    }
    if (!(error <= bound))
        result_fail(result, "%s: off by %.3g, allowed is %.3g", what, error, bound);
}

/* FNV-1a over 64 bits. */
void result_digest(conformance_result *result, const void *bytes, size_t size)
{
    const uint8_t *at = bytes;
    uint64_t hash = result->digest ? result->digest : 0xcbf29ce484222325u;
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ at[i]) * 0x100000001b3u;
    result->digest = hash;
}
