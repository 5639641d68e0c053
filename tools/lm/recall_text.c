/* recall_text.c - planting values and asking for them; see recall_text.h. */
#include "recall_text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LINE_FORMAT "\n# %.3s %.*s = %.*s\n"
#define LINE_BYTES (11 + LM_NAME_LETTERS + LM_VALUE_DIGITS) /* verbs have three letters */
#define ANSWER_OFFSET (10 + LM_NAME_LETTERS)
#define QUESTION_ALIGNMENT 128 /* the largest tile */
#define PLANTED_PART 0.75      /* values lie in this part of what comes before the questions */
#define LINE_SEARCH 200        /* how far a planted line moves to begin where a line of the text ends */

typedef struct planted {
    char name[LM_NAME_LETTERS + 1];
    char value[LM_VALUE_DIGITS + 1];
    uint32_t offset; /* bytes of text before it */
} planted;

/* splitmix64 */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static uint32_t random_below(uint64_t *state, uint32_t bound)
{
    return (uint32_t)((next_random(state) >> 32) * bound >> 32);
}

uint32_t lm_recall_text_min(uint32_t values)
{
    /* Planted lines take at most half of what comes before the questions. */
    uint32_t before = (2 * values * LINE_BYTES + QUESTION_ALIGNMENT) / QUESTION_ALIGNMENT * QUESTION_ALIGNMENT;
    return before + values * LINE_BYTES;
}

uint64_t lm_recall_text_bytes(int64_t start_token, uint32_t count, uint32_t values)
{
    return (uint64_t)count - 2 * (uint64_t)values * LINE_BYTES - (start_token >= 0 ? 1 : 0);
}

static bool name_taken(const planted *values, uint32_t count, const char *name)
{
    for (uint32_t i = 0; i < count; i++)
        if (strcmp(values[i].name, name) == 0)
            return true;
    return false;
}

/* One value for each equal part of the early and middle text, at a random place in it, moved to a line's end. */
static void choose_values(const unsigned char *text, uint32_t room, uint32_t count, uint64_t *random, planted *values)
{
    for (uint32_t i = 0; i < count; i++) {
        planted *value = &values[i];
        do {
            for (int c = 0; c < LM_NAME_LETTERS; c++)
                value->name[c] = (char)('a' + random_below(random, 26));
            value->name[LM_NAME_LETTERS] = 0;
        } while (name_taken(values, i, value->name));
        for (int c = 0; c < LM_VALUE_DIGITS; c++)
            value->value[c] = (char)('0' + random_below(random, 10));
        value->value[LM_VALUE_DIGITS] = 0;
        double part = PLANTED_PART * room / count;
        uint32_t place = (uint32_t)(part * (i + random_below(random, 1000) / 1000.0));
        uint32_t limit = place + LINE_SEARCH < room ? place + LINE_SEARCH : room;
        const unsigned char *line_end = memchr(text + place, '\n', limit - place);
        value->offset = line_end ? (uint32_t)(line_end - text) : place;
        if (i > 0 && value->offset < values[i - 1].offset)
            value->offset = values[i - 1].offset;
    }
}

static void add_text(lm_recall_text *made, const unsigned char *text, uint32_t size)
{
    for (uint32_t i = 0; i < size; i++) {
        made->plain[made->count] = true;
        made->tokens[made->count++] = text[i];
    }
}

static void add_line(lm_recall_text *made, const char *verb, const planted *value)
{
    char line[LINE_BYTES + 1];
    snprintf(line, sizeof(line), LINE_FORMAT, verb, LM_NAME_LETTERS, value->name, LM_VALUE_DIGITS, value->value);
    for (uint32_t i = 0; i < LINE_BYTES; i++)
        made->tokens[made->count++] = (unsigned char)line[i];
}

static void add_questions(lm_recall_text *made, const planted *values, uint32_t count, uint64_t *random)
{
    uint32_t order[LM_MAX_VALUES];
    for (uint32_t i = 0; i < count; i++) {
        uint32_t other = random_below(random, i + 1);
        order[i] = order[other];
        order[other] = i;
    }
    made->question_begin = made->count;
    made->question_count = count;
    for (uint32_t i = 0; i < count; i++) {
        made->questions[i] = (lm_question){made->count, made->count + ANSWER_OFFSET};
        add_line(made, "get", &values[order[i]]);
    }
}

static void fill(const unsigned char *text, int64_t start_token, uint32_t count, uint32_t values, uint64_t seed,
                 lm_recall_text *made)
{
    planted chosen[LM_MAX_VALUES];
    uint64_t random = seed;
    uint32_t before = (count - values * LINE_BYTES) / QUESTION_ALIGNMENT * QUESTION_ALIGNMENT;
    uint32_t room = before - values * LINE_BYTES - (start_token >= 0 ? 1 : 0);
    choose_values(text, room, values, &random, chosen);
    if (start_token >= 0)
        made->tokens[made->count++] = (uint32_t)start_token;
    uint32_t used = 0;
    for (uint32_t i = 0; i < values; i++) {
        add_text(made, text + used, chosen[i].offset - used);
        used = chosen[i].offset;
        add_line(made, "let", &chosen[i]);
    }
    add_text(made, text + used, room - used);
    add_questions(made, chosen, values, &random);
    add_text(made, text + room, count - made->count);
}

kas_status lm_recall_text_make(const unsigned char *text, uint64_t text_size, int64_t start_token, uint32_t count,
                               uint32_t values, uint64_t seed, lm_recall_text *made)
{
    if (values > LM_MAX_VALUES)
        return tool_fail(KAS_ERROR_INVALID_ARGUMENT, "%u values: the most is %d", values, LM_MAX_VALUES);
    if (count < lm_recall_text_min(values))
        return tool_fail(KAS_ERROR_INVALID_ARGUMENT, "a context of %u tokens does not hold %u values: it must be at "
                         "least %u", count, values, lm_recall_text_min(values));
    if (lm_recall_text_bytes(start_token, count, values) > text_size)
        return tool_fail(KAS_ERROR_INVALID_ARGUMENT, "the text has %llu bytes: a context of %u tokens needs %llu",
                         (unsigned long long)text_size, count,
                         (unsigned long long)lm_recall_text_bytes(start_token, count, values));
    lm_recall_text filled = {.tokens = calloc(count, sizeof(*filled.tokens)),
                             .plain = calloc(count, sizeof(*filled.plain))};
    if (!filled.tokens || !filled.plain) {
        lm_recall_text_release(&filled);
        return tool_fail_memory();
    }
    fill(text, start_token, count, values, seed, &filled);
    *made = filled;
    return KAS_OK;
}

void lm_recall_text_release(lm_recall_text *text)
{
    free(text->tokens);
    free(text->plain);
    *text = (lm_recall_text){0};
}
