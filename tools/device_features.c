/* device_features.c - names of device features. */
#include "device_features.h"

#include <kascade/kascade.h>

#include <stdio.h>

typedef struct feature_name {
    uint64_t bit;
    const char *name;
} feature_name;

static const feature_name feature_names[] = {
    {KAS_FEATURE_AVX2, "avx2"},
    {KAS_FEATURE_AVX512, "avx512"},
    {KAS_FEATURE_AVX512_BF16, "avx512-bf16"},
    {KAS_FEATURE_AVX512_FP16, "avx512-fp16"},
    {KAS_FEATURE_NEON, "neon"},
    {KAS_FEATURE_F16, "f16"},
    {KAS_FEATURE_SUBGROUP, "subgroup"},
    {KAS_FEATURE_COOPMAT, "cooperative-matrix"},
    {KAS_FEATURE_COOPMAT2, "cooperative-matrix-2"},
    {KAS_FEATURE_ADDRESS, "buffer-address"},
    {KAS_FEATURE_INT64, "int64"},
    {KAS_FEATURE_STORAGE16, "storage-16"},
    {KAS_FEATURE_SERIAL, "serial"},
    {KAS_FEATURE_MMA, "mma"},
    {KAS_FEATURE_WGMMA, "wgmma"},
};

#define FEATURE_COUNT (sizeof(feature_names) / sizeof(feature_names[0]))

void features_print(uint64_t features)
{
    for (size_t i = 0; i < FEATURE_COUNT; i++)
        if (features & feature_names[i].bit)
            printf(" %s", feature_names[i].name);
}

cJSON *features_json(uint64_t features)
{
    cJSON *array = cJSON_CreateArray();
    for (size_t i = 0; i < FEATURE_COUNT; i++)
        if (features & feature_names[i].bit)
            cJSON_AddItemToArray(array, cJSON_CreateString(feature_names[i].name));
    return array;
}
