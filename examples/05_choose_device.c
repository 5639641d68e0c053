/*
 * 05_choose_device.c - picks a device at run time: the first of a list of wishes that opens and has a row for the
 * shapes, with the reason for every one passed over. The CPU ends the list and is always there.
 */
#include "check.h"

/* A device is taken only once a session of the real shapes exists on it: it may open and still lack memory or a row. */
static kas_status try_device(const char *name, kas_session_desc *desc, kas_context **context, kas_session **session)
{
    kas_status status =
        kas_context_create(&(kas_context_desc){.struct_size = sizeof(kas_context_desc), .device = name}, context);
    if (status != KAS_OK)
        return status;
    status = kas_session_create(*context, desc, session);
    if (status != KAS_OK)
        kas_context_destroy(*context);
    return status;
}

int main(int argc, char **argv)
{
    const char *defaults[] = {"cuda", "vulkan", "opencl", "cpu"};
    const char **wishes = argc > 1 ? (const char **)argv + 1 : defaults;
    int count = argc > 1 ? argc - 1 : 4;
    kas_session_desc desc = {.struct_size = sizeof(desc),
                             .heads = 32,
                             .kv_heads = 8,
                             .head_dim = 128,
                             .dtype = KAS_DTYPE_F16,
                             .max_keys = 4096};
    for (int i = 0; i < count; i++) {
        kas_context *context;
        kas_session *session;
        if (try_device(wishes[i], &desc, &context, &session) != KAS_OK) {
            printf("%s: passed over: %s\n", wishes[i], kas_last_error());
            continue;
        }
        kas_device_info info = {.struct_size = sizeof(info)};
        CHECK(kas_context_get_info(context, &info));
        printf("%s: %s, decode by %s\n", info.name, info.description, kas_session_variant(session, "attend_split"));
        kas_session_destroy(session);
        kas_context_destroy(context);
        return 0;
    }
    printf("no device of the list can be used\n");
    return 1;
}
