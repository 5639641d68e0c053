/* main.c - the `kascade` command: finds the subcommand, prints its failure, returns its exit code. */
#include "command.h"
#include "json_out.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static const tool_command *const commands[] = {
    &command_run,
    &command_devices,
    &command_calibrate,
    &command_plan,
    &command_attend,
    &command_bench,
    &command_conformance,
};

#define COMMAND_COUNT (sizeof(commands) / sizeof(commands[0]))

static void print_help(FILE *out)
{
    fprintf(out, "usage: kascade COMMAND [options]\n"
                 "\n"
                 "Kascade sparse attention: anchor layers select keys, the layers between them reuse the selection.\n"
                 "\n"
                 "commands:\n");
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        fprintf(out, "  %-12s %s\n", commands[i]->name, commands[i]->summary);
    fprintf(out,
            "\n"
            "  --version    the library's version\n"
            "  --help       this text; kascade COMMAND --help describes a command\n"
            "\n"
            "exit codes:\n%s",
            tool_exit_code_help());
}

static const tool_command *find_command(const char *name)
{
    for (size_t i = 0; i < COMMAND_COUNT; i++)
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
    return NULL;
}

/* Output lost to a full disk or a closed pipe is a failure like any other. */
static kas_status finish_output(kas_status status)
{
    if ((fflush(stdout) != 0 || ferror(stdout)) && status == KAS_OK)
        return tool_fail(KAS_ERROR_IO, "standard output cannot be written");
    return status;
}

/* The library's failures come back as statuses, its warnings only this way. */
static void show_warning(void *user, kas_log_level level, const char *message)
{
    (void)user;
    if (level == KAS_LOG_WARNING)
        fprintf(stderr, "kascade: %s\n", message);
}

static bool asks_for_json(int argc, char **argv)
{
    for (int i = 2; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], "--json") == 0)
            return true;
    return false;
}

int main(int argc, char **argv)
{
    if (argc < 2) {
        print_help(stderr);
        return tool_exit_code(KAS_ERROR_INVALID_ARGUMENT);
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        print_help(stdout);
        return tool_exit_code(finish_output(KAS_OK));
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("kascade %s\n", kas_version());
        return tool_exit_code(finish_output(KAS_OK));
    }
    const tool_command *command = find_command(argv[1]);
    if (!command) {
        fprintf(stderr, "kascade: there is no command '%.60s' (see kascade --help)\n", argv[1]);
        return tool_exit_code(KAS_ERROR_INVALID_ARGUMENT);
    }
    bool json = asks_for_json(argc, argv); /* parsing moves the operands */
    kas_set_log(show_warning, NULL, KAS_LOG_WARNING);
    kas_status status = command->run(argc - 1, argv + 1);
    if (status != KAS_OK && json)
        json_print_failure(tool_error(), tool_exit_code(status));
    status = finish_output(status);
    if (status != KAS_OK)
        fprintf(stderr, "kascade %s: %s\n", command->name, tool_error());
    return tool_exit_code(status);
}
