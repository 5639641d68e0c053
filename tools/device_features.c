/* device_features.c - see device_features.h. */
#include "device_features.h"

#include <kascade/kascade.h>

#include <stdio.h>

/* The name of bit `bit` where it is set, NULL where it is not. */
static const char *name_of(uint64_t features, int bit)
{
    return features >> bit & 1 ? kas_feature_name((uint64_t)1 << bit) : NULL;
}

void features_print(uint64_t features)
{
    for (int bit = 0; bit < 64; bit++)
        if (name_of(features, bit))
            printf(" %s", name_of(features, bit));
}

cJSON *features_json(uint64_t features)
{
    cJSON *array = cJSON_CreateArray();
    for (int bit = 0; bit < 64; bit++)
        if (name_of(features, bit))
            cJSON_AddItemToArray(array, cJSON_CreateString(name_of(features, bit)));
    return array;
}
