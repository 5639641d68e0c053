/*
 * runner.h - runs one case on one context through the public interface: memory, session, calls, and the comparison of
 * everything that came back.
 */
#ifndef CONFORMANCE_RUNNER_H
#define CONFORMANCE_RUNNER_H

#include "expect.h"
#include "result.h"

/* Told which row the session chose for each operation that the case exercises. */
typedef void (*runner_rows_fn)(void *user, const char *operation, const char *variant);

/* Fills verdict, measurements and digest; name and variant are the caller's. */
void runner_run(kas_context *context, const case_data *data, expect_cache *expected, runner_rows_fn rows, void *user,
                conformance_result *result);

/* CASE_FAR: an own computation, because its buffers are mostly empty. */
void runner_run_far(kas_context *context, const conformance_case *c, runner_rows_fn rows, void *user,
                    conformance_result *result);

#endif
