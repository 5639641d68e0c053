/*
 * json.h - strict reading of JSON that others wrote: every getter fails with a sentence that names the file, the field,
 * the value and the bound.
 */
#ifndef LM_JSON_H
#define LM_JSON_H

#include "../fail.h"

#include <cJSON.h>
#include <stdbool.h>

/* Parses `size` bytes that must be one JSON object, with white space around it at most. For cJSON_Delete. */
kas_status lm_json_parse(const char *file, const char *text, size_t size, cJSON **root);

/* A whole number from min to max (at most 2^53). */
kas_status lm_json_whole(const char *file, const char *name, const cJSON *item, uint64_t min, uint64_t max,
                         uint64_t *value);

/* The fields of an object. A field that is absent or null leaves `value` as it is, unless it is needed. */
kas_status lm_json_u32(const char *file, const cJSON *object, const char *name, bool needed, uint32_t min, uint32_t max,
                       uint32_t *value);
kas_status lm_json_real(const char *file, const cJSON *object, const char *name, bool needed, double min, double max,
                        double *value);
kas_status lm_json_bool(const char *file, const cJSON *object, const char *name, bool *value);
/* `value` points into the JSON tree. */
kas_status lm_json_text(const char *file, const cJSON *object, const char *name, const char **value);
/* An object, NULL when absent or null. */
kas_status lm_json_object(const char *file, const cJSON *object, const char *name, const cJSON **value);

#endif
