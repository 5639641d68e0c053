/*
 * args.h - strict command lines: a table of options describes what a command takes, the parser fills its targets or
 * fails with a sentence that names the option, the value and the bound, and --help prints the same table.
 */
#ifndef TOOLS_ARGS_H
#define TOOLS_ARGS_H

#include "fail.h"

#include <stdbool.h>
#include <stdio.h>

typedef enum args_kind {
    ARGS_FLAG,    /* bool, no value */
    ARGS_TEXT,    /* const char *, not empty */
    ARGS_U32,     /* uint32_t within min..max */
    ARGS_POWER,   /* uint32_t, a power of two within min..max */
    ARGS_REAL,    /* double within min..max */
    ARGS_CHOICE,  /* int: index into the NULL-terminated choices */
    ARGS_CHOICES, /* uint32_t: bit set of indices into choices, given as a comma-separated list */
    ARGS_LIST     /* args_list: comma-separated uint32_t within min..max */
} args_kind;

#define ARGS_LIST_MAX 1024

typedef struct args_list {
    uint32_t count; /* 0: the option was not given */
    uint32_t values[ARGS_LIST_MAX];
} args_list;

typedef struct args_option {
    const char *name;  /* "--context" */
    const char *value; /* what --help calls the value; NULL for flags */
    const char *help;  /* may hold newlines */
    args_kind kind;
    void *target; /* holds the default before the parse */
    double min, max;
    const char *const *choices;
} args_option;

typedef struct args_spec {
    const char *command; /* "run" */
    const char *operands; /* how --help shows what follows the options; NULL: no operands are taken */
    uint32_t min_operands, max_operands;
    const char *about; /* paragraphs for --help, ending in a newline */
    const args_option *options;
    uint32_t option_count;
} args_spec;

typedef struct args_result {
    bool help;             /* --help was given and has been printed to standard output: nothing else to do */
    const char **operands; /* points into argv */
    uint32_t operand_count;
} args_result;

/*
 * Parses argv[1..]: "--name value" or "--name=value", operands anywhere, "--" ends the options, no option twice.
 * Operands are moved to the front of argv + 1. Errors: INVALID_ARGUMENT.
 */
kas_status args_parse(const args_spec *spec, int argc, char **argv, args_result *result);

void args_print_help(FILE *out, const args_spec *spec);

#endif
