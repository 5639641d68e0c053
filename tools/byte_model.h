/* byte_model.h - models whose tokens are bytes: 0 to 255 stand for themselves, a start token may lie above. */
#ifndef TOOLS_BYTE_MODEL_H
#define TOOLS_BYTE_MODEL_H

#include "lm/model.h"

/* Errors: UNSUPPORTED for a vocabulary below 256, or a tokenizer beside the model in `folder`. */
kas_status byte_model_check(const lm_model *model, const char *folder);

/* The start token that byte texts can have, -1 for none: below 256 it would be a byte of text. */
int64_t byte_model_start(const lm_model *model);

#endif
