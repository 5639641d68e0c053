/* device_features.h - sets of KAS_FEATURE_* bits, shown by their names. */
#ifndef TOOLS_DEVICE_FEATURES_H
#define TOOLS_DEVICE_FEATURES_H

#include <cJSON.h>

#include <stdint.h>

/* Names of the bits that are set, each behind a space, to standard output. */
void features_print(uint64_t features);

/* The same names as an array of strings. */
cJSON *features_json(uint64_t features);

#endif
