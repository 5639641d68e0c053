/* byte_model.c - see byte_model.h. */
#define _POSIX_C_SOURCE 200809L
#include "byte_model.h"

#include "source_text.h"

#include <stdio.h>
#include <unistd.h>

#define BYTE_TOKENS 256u

kas_status byte_model_check(const lm_model *model, const char *folder)
{
    static const char *const tokenizers[] = {"tokenizer.json", "tokenizer.model"};
    if (model->config.vocab < BYTE_TOKENS)
        return tool_fail(KAS_ERROR_UNSUPPORTED, "%s: the vocabulary is %u: tokens are bytes, it must be at least %u",
                         folder, model->config.vocab, BYTE_TOKENS);
    for (size_t i = 0; i < sizeof(tokenizers) / sizeof(tokenizers[0]); i++) {
        char path[SOURCE_PATH_MAX + 32];
        snprintf(path, sizeof(path), "%s/%s", folder, tokenizers[i]);
        if (access(path, F_OK) == 0)
            return tool_fail(KAS_ERROR_UNSUPPORTED, "%s: tokenizers are not supported: tokens are bytes", path);
    }
    return KAS_OK;
}

int64_t byte_model_start(const lm_model *model)
{
    return model->config.start_token >= BYTE_TOKENS ? model->config.start_token : -1;
}
