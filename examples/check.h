/* check.h - what the examples do about errors: print the library's sentence and end. */
#ifndef EXAMPLES_CHECK_H
#define EXAMPLES_CHECK_H

#include <kascade/kascade.h>

#include <stdio.h>
#include <stdlib.h>

#define CHECK(call)                                                                                                    \
    do {                                                                                                               \
        if ((call) != KAS_OK) {                                                                                        \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, kas_last_error());                                      \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

#endif
