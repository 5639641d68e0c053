/* consumer.c - the least a user's program does: header and library belong together, and the CPU opens. */
#include <kascade/kascade.h>

#include <stdio.h>
#include <string.h>

int main(void)
{
    kas_context *context;
    if (strcmp(kas_version(), KAS_VERSION_STRING) != 0) {
        fprintf(stderr, "the header is of %s, the library of %s\n", KAS_VERSION_STRING, kas_version());
        return 1;
    }
    if (kas_context_create(&(kas_context_desc){.struct_size = sizeof(kas_context_desc)}, &context) != KAS_OK) {
        fprintf(stderr, "%s\n", kas_last_error());
        return 1;
    }
    kas_context_destroy(context);
    return 0;
}
