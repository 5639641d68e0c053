/*
 * command.h - a subcommand of `kascade`: cmd_NAME.c defines command_NAME, main.c lists it in its table.
 */
#ifndef TOOLS_COMMAND_H
#define TOOLS_COMMAND_H

#include "fail.h"

typedef struct tool_command {
    const char *name;
    const char *summary; /* one line for `kascade --help` */
    /* argv[0] is the command's name. On failure the sentence is in tool_error(); main prints it and turns the status
       into the exit code. */
    kas_status (*run)(int argc, char **argv);
} tool_command;

extern const tool_command command_attend;
extern const tool_command command_bench;
extern const tool_command command_calibrate;
extern const tool_command command_conformance;
extern const tool_command command_devices;
extern const tool_command command_plan;
extern const tool_command command_run;

#endif
