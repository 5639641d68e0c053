/* input.h - a fuzz input as a run of choices: bytes taken from its front, zeros once it has ended. */
#ifndef FUZZ_INPUT_H
#define FUZZ_INPUT_H

#include <stddef.h>
#include <stdint.h>

typedef struct fuzz_input {
    const uint8_t *data;
    size_t left;
} fuzz_input;

static inline uint32_t input_byte(fuzz_input *input)
{
    if (input->left == 0)
        return 0;
    input->left--;
    return *input->data++;
}

static inline uint64_t input_number(fuzz_input *input, int bytes)
{
    uint64_t number = 0;
    for (int i = 0; i < bytes; i++)
        number = number << 8 | input_byte(input);
    return number;
}

/* In least .. most, which differ by less than 2^16. */
static inline uint32_t input_range(fuzz_input *input, uint32_t least, uint32_t most)
{
    return least + (uint32_t)input_number(input, 2) % (most - least + 1);
}

#endif
