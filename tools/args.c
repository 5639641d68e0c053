/* args.c - the parser and the help text of args.h. */
#include "args.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_OPTIONS 64
#define HELP_COLUMN 28

static kas_status fail_bound(const args_option *option, const char *text, const char *what)
{
    return tool_fail(KAS_ERROR_INVALID_ARGUMENT, "%s is '%s': it must be %s from %.10g to %.10g", option->name, text,
                     what, option->min, option->max);
}

/* A decimal number of at most `length` characters, nothing before or behind it. */
static bool parse_u32(const char *text, size_t length, const args_option *option, uint32_t *value)
{
    uint64_t sum = 0;
    if (length == 0 || length > 10)
        return false;
    for (size_t i = 0; i < length; i++) {
        if (text[i] < '0' || text[i] > '9')
            return false;
        sum = sum * 10 + (uint64_t)(text[i] - '0');
    }
    if ((double)sum < option->min || (double)sum > option->max)
        return false;
    *value = (uint32_t)sum;
    return true;
}

static kas_status parse_power(const args_option *option, const char *text)
{
    uint32_t value;
    if (!parse_u32(text, strlen(text), option, &value) || value == 0 || (value & (value - 1)) != 0)
        return fail_bound(option, text, "a power of two");
    *(uint32_t *)option->target = value;
    return KAS_OK;
}

static kas_status parse_real(const args_option *option, const char *text)
{
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    bool starts_well = (text[0] >= '0' && text[0] <= '9') || text[0] == '.' || text[0] == '-';
    if (!starts_well || *end != 0 || errno != 0 || !isfinite(value) || value < option->min || value > option->max)
        return fail_bound(option, text, "a number");
    *(double *)option->target = value;
    return KAS_OK;
}

static kas_status parse_list(const args_option *option, const char *text)
{
    args_list list = {0};
    for (const char *item = text;;) {
        size_t length = strcspn(item, ",");
        if (list.count == ARGS_LIST_MAX)
            return tool_fail(KAS_ERROR_INVALID_ARGUMENT, "%s has more than %d entries", option->name, ARGS_LIST_MAX);
        if (!parse_u32(item, length, option, &list.values[list.count]))
            return tool_fail(KAS_ERROR_INVALID_ARGUMENT,
                             "%s: entry %u is '%.*s': it must be a whole number from %.10g to %.10g", option->name,
                             list.count, (int)(length < 40 ? length : 40), item, option->min, option->max);
        list.count++;
        if (item[length] == 0)
            break;
        item += length + 1;
    }
    *(args_list *)option->target = list;
    return KAS_OK;
}

static int find_choice(const args_option *option, const char *text, size_t length)
{
    for (int i = 0; option->choices[i]; i++)
        if (strlen(option->choices[i]) == length && memcmp(option->choices[i], text, length) == 0)
            return i;
    return -1;
}

static kas_status fail_choice(const args_option *option, const char *text, size_t length)
{
    char all[256] = "";
    for (int i = 0; option->choices[i]; i++)
        snprintf(all + strlen(all), sizeof(all) - strlen(all), "%s%s", i ? ", " : "", option->choices[i]);
    return tool_fail(KAS_ERROR_INVALID_ARGUMENT, "%s is '%.*s': it must be one of %s", option->name,
                     (int)(length < 40 ? length : 40), text, all);
}

static kas_status parse_choices(const args_option *option, const char *text)
{
    uint32_t set = 0;
    for (const char *item = text;;) {
        size_t length = strcspn(item, ",");
        int choice = find_choice(option, item, length);
        if (choice < 0)
            return fail_choice(option, item, length);
        set |= 1u << choice;
        if (item[length] == 0)
            break;
        item += length + 1;
    }
    *(uint32_t *)option->target = set;
    return KAS_OK;
}

static kas_status parse_value(const args_option *option, const char *text)
{
    if (text[0] == 0)
        return tool_fail(KAS_ERROR_INVALID_ARGUMENT, "%s needs a value (%s), not an empty one", option->name,
                         option->value);
    switch (option->kind) {
    case ARGS_FLAG:
        break;
    case ARGS_TEXT:
        *(const char **)option->target = text;
        break;
    case ARGS_U32:
        if (!parse_u32(text, strlen(text), option, option->target))
            return fail_bound(option, text, "a whole number");
        break;
    case ARGS_POWER:
        return parse_power(option, text);
    case ARGS_REAL:
        return parse_real(option, text);
    case ARGS_LIST:
        return parse_list(option, text);
    case ARGS_CHOICES:
        return parse_choices(option, text);
    case ARGS_CHOICE: {
        int choice = find_choice(option, text, strlen(text));
        if (choice < 0)
            return fail_choice(option, text, strlen(text));
        *(int *)option->target = choice;
        break;
    }
    }
    return KAS_OK;
}

static const args_option *find_option(const args_spec *spec, const char *text, size_t length)
{
    for (uint32_t i = 0; i < spec->option_count; i++)
        if (strlen(spec->options[i].name) == length && memcmp(spec->options[i].name, text, length) == 0)
            return &spec->options[i];
    return NULL;
}

/* Handles the option at argv[*index] and moves the index over the value it took. */
static kas_status parse_option(const args_spec *spec, int argc, char **argv, int *index, bool *seen)
{
    const char *text = argv[*index];
    size_t length = strcspn(text, "=");
    const args_option *option = find_option(spec, text, length);
    if (!option)
        return tool_fail(KAS_ERROR_INVALID_ARGUMENT, "there is no option '%.*s' (see kascade %s --help)",
                         (int)(length < 60 ? length : 60), text, spec->command);
    if (seen[option - spec->options])
        return tool_fail(KAS_ERROR_INVALID_ARGUMENT, "%s is given twice", option->name);
    seen[option - spec->options] = true;

    const char *inline_value = text[length] == '=' ? text + length + 1 : NULL;
    if (option->kind == ARGS_FLAG) {
        if (inline_value)
            return tool_fail(KAS_ERROR_INVALID_ARGUMENT, "%s takes no value, '%s' was given", option->name,
                             inline_value);
        *(bool *)option->target = true;
        return KAS_OK;
    }
    if (!inline_value && *index + 1 >= argc)
        return tool_fail(KAS_ERROR_INVALID_ARGUMENT, "%s needs a value (%s)", option->name, option->value);
    return parse_value(option, inline_value ? inline_value : argv[++*index]);
}

kas_status args_parse(const args_spec *spec, int argc, char **argv, args_result *result)
{
    bool seen[MAX_OPTIONS] = {false};
    if (spec->option_count > MAX_OPTIONS)
        return tool_fail(KAS_ERROR_LIMIT, "kascade %s describes more than %d options", spec->command, MAX_OPTIONS);
    args_result found = {false, (const char **)(argv + 1), 0};
    bool options_ended = false;
    for (int i = 1; i < argc; i++) {
        if (!options_ended && strcmp(argv[i], "--") == 0) {
            options_ended = true;
        } else if (!options_ended && (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)) {
            args_print_help(stdout, spec);
            found.help = true;
            *result = found;
            return KAS_OK;
        } else if (!options_ended && argv[i][0] == '-' && argv[i][1] != 0) {
            TOOL_TRY(parse_option(spec, argc, argv, &i, seen));
        } else if (found.operand_count == spec->max_operands) {
            return tool_fail(KAS_ERROR_INVALID_ARGUMENT, "the operand '%.60s' is one too many (see kascade %s --help)",
                             argv[i], spec->command);
        } else {
            argv[1 + found.operand_count++] = argv[i];
        }
    }
    if (found.operand_count < spec->min_operands)
        return tool_fail(KAS_ERROR_INVALID_ARGUMENT, "an operand is missing: kascade %s %s", spec->command,
                         spec->operands);
    *result = found;
    return KAS_OK;
}

static void print_option(FILE *out, const args_option *option)
{
    int width = fprintf(out, "  %s%s%s", option->name, option->value ? " " : "", option->value ? option->value : "");
    if (width >= HELP_COLUMN) {
        fputc('\n', out);
        width = 0;
    }
    for (const char *line = option->help;;) {
        int length = (int)strcspn(line, "\n");
        fprintf(out, "%*s%.*s\n", HELP_COLUMN - width, "", length, line);
        if (line[length] == 0)
            break;
        line += length + 1;
        width = 0;
    }
}

void args_print_help(FILE *out, const args_spec *spec)
{
    fprintf(out, "usage: kascade %s%s%s%s\n\n%s", spec->command, spec->option_count ? " [options]" : "",
            spec->operands ? " " : "", spec->operands ? spec->operands : "", spec->about);
    fprintf(out, "\noptions:\n");
    for (uint32_t i = 0; i < spec->option_count; i++)
        print_option(out, &spec->options[i]);
    const args_option help = {.name = "--help", .help = "this text"};
    print_option(out, &help);
    fprintf(out, "\nexit codes:\n%s", tool_exit_code_help());
}
