/* fuzz_npy.c - .npy bytes from anywhere: they are refused with a sentence, or every element lies within them. */
#include "fuzz.h"

#include "npy.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    /* The reader wants aligned bytes, as mappings are; whether the input is does not belong to the file. */
    uint8_t *aligned = malloc(size + (size == 0));
    npy_array array = {0};
    FUZZ_CHECK(aligned);
    if (size > 0)
        memcpy(aligned, data, size);
    if (npy_parse("input", aligned, size, &array) != KAS_OK) {
        FUZZ_CHECK(tool_error()[0] != '\0');
        free(aligned);
        return 0;
    }
    uint64_t count = 1;
    for (uint32_t i = 0; i < array.dims; i++)
        count *= array.shape[i];
    const uint8_t *first = array.data;
    FUZZ_CHECK(array.dims <= NPY_MAX_DIMS && count == array.count);
    FUZZ_CHECK(first >= aligned && first + count * npy_dtype_size(array.dtype) == aligned + size);
    FUZZ_CHECK((uintptr_t)first % npy_dtype_size(array.dtype) == 0);
    volatile uint8_t sum = 0;
    for (const uint8_t *byte = first; byte < aligned + size; byte++)
        sum = (uint8_t)(sum + *byte);
    free(aligned);
    return 0;
}
