/* main.c - conformance as a test: the tier and device of the command line, failures and a summary on standard output. */
#include "engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void print_result(void *user, const conformance_result *result, uint32_t done, uint32_t total)
{
    (void)user, (void)done, (void)total;
    if (result->verdict != CONFORMANCE_PASSED)
        printf("%s %s@%s: %s\n", result->verdict == CONFORMANCE_FAILED ? "FAILED" : "skipped", result->name,
               result->variant, result->message);
}

int main(int argc, char **argv)
{
    conformance_options options = {.device = "cpu", .seed = 1, .progress = print_result};
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--quick") == 0)
            options.tier = CASE_TIER_QUICK;
        else if (strcmp(argv[i], "--short") == 0)
            options.tier = CASE_TIER_SHORT;
        else if (strcmp(argv[i], "--small") == 0)
            options.tier = CASE_TIER_SMALL;
        else if (strcmp(argv[i], "--device") == 0 && i + 1 < argc)
            options.device = argv[++i];
        else if (strcmp(argv[i], "--filter") == 0 && i + 1 < argc)
            options.filter = argv[++i];
        else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc)
            options.seed = strtoull(argv[++i], NULL, 0);
        else if (strcmp(argv[i], "--jobs") == 0 && i + 1 < argc)
            options.jobs = (uint32_t)strtoul(argv[++i], NULL, 0);
        else {
            fprintf(stderr,
                    "usage: %s [--device D] [--filter RE] [--quick | --short | --small] [--seed N] [--jobs N]\n",
                    argv[0]);
            return 2;
        }
    }
    conformance_report report;
    if (conformance_run(&options, &report) != KAS_OK) {
        fprintf(stderr, "%s: %s\n", options.device, conformance_error());
        return 2;
    }
    for (uint32_t i = 0; i < report.row_count; i++)
        if (report.rows[i].passed + report.rows[i].failed == 0)
            printf("untested: row %s of %s\n", report.rows[i].variant, report.rows[i].operation);
    printf("%s (%s tier, seed %llu): %u passed, %u failed, %u skipped, %u rows untested, %.1f s\n", report.device,
           case_tier_name(report.tier), (unsigned long long)report.seed, report.passed, report.failed,
           report.skipped, report.untested, report.duration_s);
    bool succeeded = conformance_succeeded(&report);
    conformance_report_free(&report);
    return succeeded ? 0 : 1;
}
