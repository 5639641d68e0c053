/* fuzz_plan.c - plan text from anywhere: it is refused with a sentence, or its saved form reads back as itself. */
#include "fuzz.h"

#include "core/plan.h"

#include <string.h>

static void check_round_trip(const kas_plan *plan)
{
    char *text = NULL, *again = NULL;
    size_t size = 0, size_again = 0;
    kas_plan *parsed = NULL;
    FUZZ_CHECK(kas_plan_format(plan, &text, &size) == KAS_OK);
    FUZZ_CHECK(size <= KAS_PLAN_MAX_FILE);
    FUZZ_CHECK(kas_plan_parse(text, size, &parsed) == KAS_OK);
    FUZZ_CHECK(kas_plan_format(parsed, &again, &size_again) == KAS_OK);
    FUZZ_CHECK(size == size_again && memcmp(text, again, size) == 0);
    kas_release(text);
    kas_release(again);
    kas_plan_destroy(parsed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    kas_plan *plan = NULL;
    kas_status status = kas_plan_parse((const char *)data, size, &plan);
    FUZZ_CHECK((status == KAS_OK) == (plan != NULL));
    if (status != KAS_OK) {
        FUZZ_CHECK(kas_last_error()[0] != '\0');
        return 0;
    }
    for (uint32_t layer = 0; layer < plan->layers; layer++)
        for (uint32_t head = 0; head < plan->kv_heads; head++)
            FUZZ_CHECK(kas_plan_list_row(plan, layer, head) < kas_plan_row_count(plan));
    check_round_trip(plan);
    kas_plan_destroy(plan);
    return 0;
}
