/* names.h - the words by which commands take and show values of the library. */
#ifndef TOOLS_NAMES_H
#define TOOLS_NAMES_H

#include <kascade/kascade.h>

/* NULL-terminated, as ARGS_CHOICE takes them. */
extern const char *const phase_names[];      /* by kas_phase */
extern const char *const normalizer_names[]; /* by kas_normalizer */
extern const char *const pooling_names[];    /* by kas_pooling */
extern const char *const dtype_names[];      /* by kas_dtype from FIRST_DTYPE on: the storage types that are built */

#define FIRST_DTYPE KAS_DTYPE_F32

/* The storage type of an index into dtype_names. */
static inline kas_dtype named_dtype(int index)
{
    return (kas_dtype)(FIRST_DTYPE + index);
}

#endif
