/*
 * storage.h - numbers as tensors store them (f32, f16, bf16), and the seeded random numbers that fill tensors. Written
 * apart from the library's own conversions, so that neither can hide a fault of the other.
 */
#ifndef CONFORMANCE_STORAGE_H
#define CONFORMANCE_STORAGE_H

#include <kascade/kascade.h>
#include <stdbool.h>

/* "f32", "f16", "bf16". */
const char *storage_name(kas_dtype dtype);
size_t storage_size(kas_dtype dtype);

/* Element `index` of an array; float holds every storage type exactly. */
float storage_get(kas_dtype dtype, const void *array, uint64_t index);
/* Rounds to nearest, ties to even. */
void storage_put(kas_dtype dtype, void *array, uint64_t index, float value);
float storage_round(kas_dtype dtype, float value);

/* A small generator (splitmix64): the same sequence on every machine. */
typedef struct storage_random {
    uint64_t state;
} storage_random;

uint64_t storage_random_bits(storage_random *random);
/* Below `bound`, which is not 0. */
uint32_t storage_random_below(storage_random *random, uint32_t bound);
/* In (0, 1). */
double storage_random_uniform(storage_random *random);
/* Mean 0, variance 1. */
double storage_random_normal(storage_random *random);

#endif
