/*
 * fuzz_safetensors.c - .safetensors bytes from anywhere: they are refused with a sentence, or the tensors share the data
 * out among them, each with as many bytes as its shape takes, and no two have the same name.
 */
#include "fuzz.h"

#include "lm/safetensors.h"

#include <string.h>

static uint64_t shape_elements(const lm_tensor *tensor)
{
    uint64_t count = 1;
    for (uint32_t i = 0; i < tensor->rank; i++)
        count *= tensor->shape[i];
    return count;
}

static void check_tensor(const lm_tensor *tensor, const uint8_t *input_end)
{
    static const uint64_t element[] = {[LM_DTYPE_F32] = 4, [LM_DTYPE_F16] = 2, [LM_DTYPE_BF16] = 2};
    const uint64_t size = tensor->end - tensor->begin, elements = shape_elements(tensor);
    FUZZ_CHECK(tensor->rank <= LM_MAX_RANK && tensor->begin <= tensor->end);
    FUZZ_CHECK(tensor->data + size <= input_end);
    if (tensor->dtype == LM_DTYPE_OTHER)
        FUZZ_CHECK(elements ? size % elements == 0 && size / elements <= 8 : size == 0);
    else
        FUZZ_CHECK(size == elements * element[tensor->dtype]);
    volatile uint8_t sum = 0;
    for (uint64_t i = 0; i < size; i++)
        sum = (uint8_t)(sum + tensor->data[i]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    lm_shard *shard = NULL;
    kas_status status = lm_shard_parse("input", data, size, &shard);
    FUZZ_CHECK((status == KAS_OK) == (shard != NULL));
    if (status != KAS_OK) {
        FUZZ_CHECK(status == KAS_ERROR_FORMAT && tool_error()[0] != '\0');
        return 0;
    }
    uint64_t covered = 0, data_begin = size;
    for (uint32_t i = 0; i < lm_shard_count(shard); i++) {
        const lm_tensor *tensor = lm_shard_tensor(shard, i);
        FUZZ_CHECK(i == 0 || strcmp(lm_shard_tensor(shard, i - 1)->name, tensor->name) < 0);
        check_tensor(tensor, data + size);
        covered += tensor->end - tensor->begin;
        data_begin = (uint64_t)(tensor->data - data) - tensor->begin;
    }
    /* Without overlaps, which would count bytes twice, the sum is the whole of the data. */
    FUZZ_CHECK(covered == size - data_begin);
    lm_shard_destroy(shard);
    return 0;
}
