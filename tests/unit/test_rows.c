/* test_rows.c - what must hold of every backend's table of variant rows, whether this machine has its devices or not. */
#include "core/backend.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#define EACH_ROW(backend, row)                                                                                         \
    for (const kas_backend *const *at = kas_backends, *backend; (backend = *at); at++)                                 \
        for (const kas_variant *row = backend->variants; row < backend->variants + backend->variant_count; row++)

/* A feature without a name would be left out wherever rows are listed. */
static void needs_have_names(void **state)
{
    (void)state;
    EACH_ROW(backend, row)
        for (int bit = 0; bit < 64; bit++)
            if (row->needs >> bit & 1 && !kas_feature_name((uint64_t)1 << bit))
                fail_msg("%s: row %s of %s needs feature bit %d, which has no name", backend->name, row->name,
                         kas_op_name(row->op), bit);
    assert_null(kas_feature_name(0));
    assert_null(kas_feature_name(KAS_FEATURE_AVX2 | KAS_FEATURE_AVX512));
}

static bool takes_every_shape(const kas_variant *row)
{
    return row->needs == 0 && row->min_head_dim <= 1 && row->max_head_dim >= KAS_MAX_HEAD_DIM &&
           row->head_dim_step <= 1 && row->max_group == 0 && row->tiles == 0 && !row->no_pages && !row->no_estimate;
}

/* Whatever the features, shape and type, an operation that a backend has finds a row: all but anchor, whose place a
   chain of others takes. */
static void last_rows_take_everything(void **state)
{
    (void)state;
    for (const kas_backend *const *at = kas_backends; *at; at++)
        for (int op = 0; op < KAS_OP_COUNT; op++) {
            uint32_t rows = 0, taken = 0;
            for (uint32_t i = 0; i < (*at)->variant_count; i++) {
                const kas_variant *row = &(*at)->variants[i];
                if (row->op != (kas_op)op)
                    continue;
                rows++;
                taken |= takes_every_shape(row) ? row->dtypes : 0;
            }
            if (op != KAS_OP_ANCHOR && rows && (taken & KAS_DTYPES_ALL) != KAS_DTYPES_ALL)
                fail_msg("%s: no row of %s takes every device and shape in all of its types", (*at)->name,
                         kas_op_name((kas_op)op));
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(needs_have_names),
        cmocka_unit_test(last_rows_take_everything),
    };
    return cmocka_run_group_tests_name("unit.rows", tests, NULL, NULL);
}
