/*
 * test_command.c - the command line: help, exit codes, JSON, and a sentence that names file or argument, value and
 * bound for everything that a user can get wrong.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "npy.h"
#include "run.h"
#include "scratch.h"

#include <cJSON.h>

enum { DONE = 0, FAILED = 1, MISUSED = 2, BAD_FILE = 3, NO_DEVICE = 4 };

/* Ends with `code` and says every one of the given texts. */
#define expect(code_wanted, result, ...)                                                                               \
    do {                                                                                                               \
        const command_result *got = (result);                                                                          \
        const char *const texts[] = {__VA_ARGS__};                                                                     \
        if (got->code != (code_wanted))                                                                                \
            fail_msg("ended with %d, not %d: %s", got->code, (code_wanted), got->output);                              \
        for (size_t index = 0; index < sizeof(texts) / sizeof(texts[0]); index++)                                      \
            if (!strstr(got->output, texts[index]))                                                                    \
                fail_msg("does not say '%s': %s", texts[index], got->output);                                          \
    } while (0)

static const char *const commands[] = {"run",         "devices", "plan show", "plan check",
                                       "plan import", "attend",  "bench",     "conformance",
                                       "calibrate"};

static void help(void **state)
{
    (void)state;
    expect(DONE, run_command("--help"), "usage: kascade", "exit codes:");
    expect(DONE, run_command("--version"), KAS_VERSION_STRING);
    expect(MISUSED, run_command("%s", ""), "usage: kascade");
    expect(MISUSED, run_command("nonsense"), "nonsense");
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        expect(DONE, run_command("%s --help", commands[i]), "usage: kascade", commands[i], "exit codes:");
        expect(MISUSED, run_command("%s --no-such-option", commands[i]), "--no-such-option");
    }
}

static void manual_page(void **state)
{
    (void)state;
    char page[16384];
    FILE *file = fopen(KASCADE_SOURCE_DIR "/docs/kascade.1", "r");
    assert_non_null(file);
    page[fread(page, 1, sizeof(page) - 1, file)] = '\0';
    fclose(file);
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        char entry[32];
        snprintf(entry, sizeof(entry), ".B %.*s\n", (int)strcspn(commands[i], " "), commands[i]);
        if (!strstr(page, entry))
            fail_msg("docs/kascade.1 does not describe '%s'", commands[i]);
    }
}

static void option_values(void **state)
{
    (void)state;
    expect(MISUSED, run_command("run --context 0"), "--context", "0");
    expect(MISUSED, run_command("run --context 1e3"), "--context", "1e3");
    expect(MISUSED, run_command("run --context -5"), "--context", "-5");
    expect(MISUSED, run_command("run --context 99999999999999999999"), "--context");
    expect(MISUSED, run_command("run --topk nan"), "--topk", "nan");
    expect(MISUSED, run_command("run --topk -0.5"), "--topk", "-0.5");
    expect(MISUSED, run_command("run --tile 48"), "tile", "48");
    expect(MISUSED, run_command("run --dtype f8"), "--dtype", "f8");
    static const char *const with_tiles[] = {"attend", "bench", "calibrate", "run"};
    for (size_t i = 0; i < sizeof(with_tiles) / sizeof(with_tiles[0]); i++)
        expect(MISUSED, run_command("%s --tile 48", with_tiles[i]), "--tile is '48'", "a power of two from 16 to 128");
    expect(MISUSED, run_command("run --context"), "--context");
    expect(MISUSED, run_command("run --json --json"), "--json");
    expect(MISUSED, run_command("bench stray"), "stray");
    expect(MISUSED, run_command("bench --write rows"), "--write", "--tune");
    expect(MISUSED, run_command("bench --tune --json"), "--tune", "--json");
    expect(MISUSED, run_command("bench --variant lse=none"), "variant", "lse=none");
    expect(MISUSED, run_command("attend --phase sideways"), "--phase", "sideways");
    expect(MISUSED, run_command("attend --phase prefill --role dense"), "--q");
    expect(MISUSED, run_command("conformance --filter '('"), "(");
}

/* The rows that are chosen are taken back as they were written. */
static void tuned_rows(void **state)
{
    static const char shape[] = "--phase decode --keys 300 --heads 2 --kv-heads 1 --head-dim 16 --rounds 1 --threads 1";
    (void)state;
    scratch s;
    assert_int_equal(scratch_open(&s), 0);
    const char *path = scratch_path(&s, "rows");
    expect(DONE, run_command("bench --tune %s --write %s", shape, path), "attend_split", "generic", "chosen:");
    expect(DONE, run_command("bench %s --variant \"$(cat %s)\"", shape, path), "rows:");
    expect(DONE, run_command("bench %s --variant pool=generic", shape), "pool generic");
    expect(BAD_FILE, run_command("bench --tune %s --write %s/none/rows", shape, s.folder), "none/rows");
    scratch_close(&s);
}

/* What reads the output finds one object in it, whether the command line, a file or a check is at fault. */
static void failures_as_json(void **state)
{
    (void)state;
    static const struct {
        const char *line;
        int code;
        const char *said;
    } cases[] = {
        {"run --context 3 --json", MISUSED, "--context is 3"},
        {"run --json --no-such-option", MISUSED, "--no-such-option"},
        {"plan show absent.json --json", BAD_FILE, "absent.json"},
        {"bench --device teapot --json", NO_DEVICE, "teapot"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        const command_result *answer = run_command("%s", cases[i].line);
        expect(cases[i].code, answer, cases[i].said);
        cJSON *root = cJSON_Parse(answer->output);
        if (!root)
            fail_msg("%s prints no JSON: %s", cases[i].line, answer->output);
        assert_int_equal(cJSON_GetObjectItem(root, "exit_code")->valueint, cases[i].code);
        assert_non_null(strstr(cJSON_GetObjectItem(root, "error")->valuestring, cases[i].said));
        cJSON_Delete(root);
    }
    cJSON *root = cJSON_Parse(run_command("conformance --filter nothing-has-this-name --json")->output);
    assert_true(cJSON_IsNumber(cJSON_GetObjectItem(root, "passed")));
    assert_null(cJSON_GetObjectItem(root, "error"));
    cJSON_Delete(root);
}

/* What is no file is not written to, nor does a file take its place. */
static void outputs_that_are_no_files(void **state)
{
    (void)state;
    scratch s;
    struct stat info;
    assert_int_equal(scratch_open(&s), 0);
    const char *path = scratch_path(&s, "pipe");
    assert_int_equal(mkfifo(path, 0600), 0);
    expect(BAD_FILE, run_command("conformance --quick --filter 'select.*@generic' --report %s", path), path,
           "not a regular file");
    expect(BAD_FILE, run_command("bench --tune --phase decode --keys 64 --heads 1 --kv-heads 1 --head-dim 4 --rounds 1 "
                                 "--write %s", path), path, "not a regular file");
    assert_int_equal(stat(path, &info), 0);
    assert_true(S_ISFIFO(info.st_mode));
    assert_int_equal(scratch_count(&s, 0), 1);
    scratch_close(&s);
}

static void devices(void **state)
{
    (void)state;
    expect(NO_DEVICE, run_command("run --context 1024 --device teapot"), "teapot");
    expect(NO_DEVICE, run_command("conformance --device cpu:7"), "cpu:7");
    cJSON *list = cJSON_Parse(run_command("devices --json")->output);
    assert_non_null(list);
    assert_non_null(strstr(run_command("devices")->output, "cpu:0"));
    cJSON_Delete(list);
}

/* ---- Files ------------------------------------------------------------------------------------------------------- */

static void write_text(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

/* A plan of two layers with `rest` in the place of its anchors and maps. */
static void check_plan(scratch *s, const char *rest, const char *said)
{
    char text[1024];
    snprintf(
        text, sizeof(text),
        "{\"version\": 1, \"layers\": 2, \"heads\": 4, \"kv_heads\": 2, \"tile\": 32, \"topk\": {\"fraction\": 0.1},"
        " %s}",
        rest);
    const char *path = scratch_path(s, "plan.json");
    write_text(path, text);
    expect(BAD_FILE, run_command("plan check %s", path), "plan.json", said);
}

static void plans(void **state)
{
    (void)state;
    scratch s;
    assert_int_equal(scratch_open(&s), 0);
    expect(DONE,
           run_command("plan check --model %s/models/pico-qwen3 %s/plans/pico-qwen3.json", KASCADE_SOURCE_DIR,
                       KASCADE_SOURCE_DIR),
           "");
    cJSON *verdict = cJSON_Parse(run_command("plan check --json %s/plans/pico-qwen3.json", KASCADE_SOURCE_DIR)->output);
    assert_true(cJSON_IsTrue(cJSON_GetObjectItem(verdict, "valid")));
    cJSON_Delete(verdict);
    check_plan(&s, "\"anchors\": [1], \"head_map\": [[0, 1], [0, 1]]", "anchors");
    check_plan(&s, "\"anchors\": [0, 0], \"head_map\": [[0, 1], [0, 1]]", "anchors");
    check_plan(&s, "\"anchors\": [0, 2], \"head_map\": [[0, 1], [0, 1]]", "anchors");
    check_plan(&s, "\"anchors\": [0], \"head_map\": [[0, 1], [0, 2]]", "head_map");
    check_plan(&s, "\"anchors\": [0], \"head_map\": [[0, 1]]", "head_map");
    check_plan(&s, "\"head_map\": [[0, 1], [0, 1]]", "anchors");
    const char *path = scratch_path(&s, "plan.json");
    write_text(path, "{\"version\": 1, \"layers\": 2, \"heads\": 4, \"kv_heads\": 2, \"anchors\": [0], \"topm\": 1}");
    expect(DONE, run_command("plan check %s", path), "\"topm\", which is unknown and ignored", "a valid plan");
    write_text(path, "{\"version\": 7}");
    expect(BAD_FILE, run_command("plan check %s", path), "version", "7");
    write_text(path, "not json");
    expect(BAD_FILE, run_command("plan check %s", path), "plan.json");
    expect(BAD_FILE, run_command("plan check %s/absent.json", s.folder), "absent.json");
    expect(BAD_FILE, run_command("plan check %s", s.folder), s.folder);
    scratch_close(&s);
}

static void deep_plan(void **state)
{
    (void)state;
    scratch s;
    assert_int_equal(scratch_open(&s), 0);
    const char *path = scratch_path(&s, "deep.json");
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    char *brackets = malloc(1 << 20);
    memset(brackets, '[', 1 << 20);
    for (int i = 0; i < 100; i++)
        fwrite(brackets, 1, 1 << 20, file);
    free(brackets);
    assert_int_equal(fclose(file), 0);
    expect(BAD_FILE, run_command("plan check %s", path), "deep.json");
    scratch_close(&s);
}

static void models(void **state)
{
    (void)state;
    scratch s;
    assert_int_equal(scratch_open(&s), 0);
    const char *plan = KASCADE_SOURCE_DIR "/plans/pico-qwen3.json";
    expect(BAD_FILE, run_command("run --model %s/absent --plan %s --context 1024", s.folder, plan), "absent");
    expect(BAD_FILE, run_command("run --model %s --plan %s --context 1024", s.folder, plan), s.folder);
    expect(BAD_FILE, run_command("run --context 1024 --text %s/absent.txt", s.folder), "absent.txt");
    char line[1024];
    snprintf(line, sizeof(line), "cp %s/models/pico-qwen3/config.json %s/", KASCADE_SOURCE_DIR, s.folder);
    assert_int_equal(system(line), 0);
    snprintf(line, sizeof(line), "head -c 5000 %s/models/pico-qwen3/model.safetensors >%s/model.safetensors",
             KASCADE_SOURCE_DIR, s.folder);
    assert_int_equal(system(line), 0);
    expect(BAD_FILE, run_command("run --model %s --plan %s --context 1024", s.folder, plan), "model.safetensors");
    snprintf(line, sizeof(line), "printf '\\377\\377\\377\\377\\377\\377\\377\\177{}' >%s/model.safetensors", s.folder);
    assert_int_equal(system(line), 0);
    expect(BAD_FILE, run_command("run --model %s --plan %s --context 1024", s.folder, plan), "model.safetensors");
    write_text(scratch_path(&s, "other.json"),
               "{\"version\": 1, \"layers\": 2, \"heads\": 4, \"kv_heads\": 2, \"tile\": 32, \"anchors\": [0],"
               " \"head_map\": [[0, 1], [0, 1]]}");
    const command_result *result = run_command("run --plan %s/other.json --context 1024", s.folder);
    assert_true(result->code == MISUSED || result->code == BAD_FILE);
    assert_non_null(strstr(result->output, "layers"));
    scratch_close(&s);
}

static void run_prints_json(void **state)
{
    (void)state;
    static const char *const fields[] = {
        "bits_per_byte", "recall", "recall_decoded", "prefill_attention_ms", "decode_attention_ms_per_token",
        "keys_attended"};
    cJSON *root = cJSON_Parse(run_command("run --context 1024 --values 2 --json 2>/dev/null")->output);
    assert_non_null(root);
    static const char *const sides[] = {"dense", "kascade"};
    for (size_t side = 0; side < 2; side++)
        for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
            const cJSON *value = cJSON_GetObjectItem(cJSON_GetObjectItem(root, sides[side]), fields[i]);
            if (!cJSON_IsNumber(value))
                fail_msg("%s.%s is no number", sides[side], fields[i]);
        }
    assert_true(cJSON_IsNumber(cJSON_GetObjectItem(root, "speedup_prefill")));
    assert_true(cJSON_IsNumber(cJSON_GetObjectItem(root, "speedup_decode")));
    const cJSON *dense = cJSON_GetObjectItem(root, "dense"), *kascade = cJSON_GetObjectItem(root, "kascade");
    double loss = cJSON_GetObjectItem(dense, "bits_per_byte")->valuedouble;
    assert_true(loss > 0.3 && loss < 3.0);
    assert_true(cJSON_GetObjectItem(kascade, "keys_attended")->valuedouble <
                cJSON_GetObjectItem(dense, "keys_attended")->valuedouble);
    cJSON_Delete(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(help),
        cmocka_unit_test(manual_page),
        cmocka_unit_test(option_values),
        cmocka_unit_test(devices),
        cmocka_unit_test(tuned_rows),
        cmocka_unit_test(outputs_that_are_no_files),
        cmocka_unit_test(failures_as_json),
        cmocka_unit_test(plans),
        cmocka_unit_test(deep_plan),
        cmocka_unit_test(models),
        cmocka_unit_test(run_prints_json),
    };
    return cmocka_run_group_tests_name("tools.command", tests, NULL, NULL);
}
