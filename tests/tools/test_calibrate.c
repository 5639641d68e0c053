/*
 * test_calibrate.c - `kascade calibrate` as a user runs it: plans that `kascade plan check` accepts, both objectives, the
 * report, and everything that a command line can get wrong. Texts are short: what is chosen is not judged here.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "run.h"
#include "scratch.h"

#include <cJSON.h>
#include <stdbool.h>
#include <unistd.h>

#define PATH_ROOM 600

static scratch folder;
static char text[PATH_ROOM], plan[PATH_ROOM], other[PATH_ROOM];

static char *read_whole(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (!file)
        return NULL;
    char *bytes = calloc(1, 1 << 20);
    size_t size = fread(bytes, 1, (1 << 20) - 1, file);
    bytes[size] = 0;
    fclose(file);
    return bytes;
}

static bool exists(const char *path)
{
    return access(path, F_OK) == 0;
}

static void expect(int code, const command_result *result, const char *words)
{
    if (result->code != code || !strstr(result->output, words))
        fail_msg("code %d, expected %d and \"%s\": %s", result->code, code, words, result->output);
}

/* Lines that differ, so that attention has something to tell apart. */
static int make_text(void **state)
{
    (void)state;
    if (scratch_open(&folder) != 0)
        return -1;
    snprintf(text, sizeof(text), "%s", scratch_path(&folder, "text.py"));
    snprintf(plan, sizeof(plan), "%s", scratch_path(&folder, "plan.json"));
    snprintf(other, sizeof(other), "%s", scratch_path(&folder, "other"));
    FILE *file = fopen(text, "w");
    for (unsigned i = 0; i < 200; i++)
        fprintf(file, "def step_%u(value):\n    return value * %u + %u\n\n", i * 7919 % 1000, i % 13, i * 31 % 101);
    return fclose(file);
}

static int remove_text(void **state)
{
    (void)state;
    static const char *const reports[] = {"other", "report"};
    for (size_t i = 0; i < sizeof(reports) / sizeof(reports[0]); i++) {
        scratch report = {0};
        snprintf(report.folder, sizeof(report.folder), "%.240s/%s", folder.folder, reports[i]);
        scratch_close(&report);
    }
    scratch_close(&folder);
    return 0;
}

static cJSON *read_plan(const char *path)
{
    char *bytes = read_whole(path);
    assert_non_null(bytes);
    cJSON *root = cJSON_Parse(bytes);
    free(bytes);
    assert_non_null(root);
    return root;
}

static void by_similarity(void **state)
{
    (void)state;
    expect(0, run_command("calibrate --text %s --objective similarity --anchors 3 --prompts 2 --length 300 -o %s", text,
                          plan), "anchors");
    expect(0, run_command("plan check %s", plan), "");
    cJSON *root = read_plan(plan);
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(root, "anchors")), 3);
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(root, "head_map")), 12);
    assert_string_equal(cJSON_GetObjectItem(root, "model")->valuestring, "pico-qwen3");
    cJSON_Delete(root);
    /* The same again: the same bytes. */
    char *first = read_whole(plan);
    expect(0, run_command("calibrate --text %s --objective similarity --anchors 3 --prompts 2 --length 300 -o %s", text,
                          plan), "anchors");
    char *second = read_whole(plan);
    assert_string_equal(first, second);
    free(first);
    free(second);
}

static void by_loss_with_a_report(void **state)
{
    (void)state;
    char path[PATH_ROOM + 32];
    expect(0, run_command("calibrate --text %s --objective loss --anchors 2 --prompts 1 --length 400 --search-texts 1 "
                          "--finalists 2 --held-out 1 --held-out-length 600 --values 2 --topk-min 32 --topk-round 16 "
                          "--normalizer estimated --each --report %s --threads 1 -o %s", text, other, plan),
           "<- kept");
    expect(0, run_command("plan check %s", plan), "");
    cJSON *root = read_plan(plan);
    assert_string_equal(cJSON_GetObjectItem(root, "normalizer")->valuestring, "estimated");
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(root, "normalizer_map")), 1);
    cJSON_Delete(root);
    assert_true(exists(scratch_path(&folder, "plan-1.json")));

    snprintf(path, sizeof(path), "%s/calibration.json", other);
    root = read_plan(path);
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(root, "plans")), 2);
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(root, "layer_similarity")), 12);
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(root, "coverage")), 12);
    assert_true(cJSON_GetArraySize(cJSON_GetObjectItem(root, "fractions")) > 2);
    cJSON_Delete(root);
    snprintf(path, sizeof(path), "%s/calibration.html", other);
    char *page = read_whole(path);
    assert_non_null(page);
    static const char *const parts[] = {"<svg", "Importance of the layers", "Sparsity of the layers", "Quality against the number", "top-k fraction",
                                        "Head map", "</html>"};
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
        if (!strstr(page, parts[i]))
            fail_msg("the page lacks \"%s\"", parts[i]);
    /* Nothing from elsewhere: the only address is the name of the drawings' language. */
    for (const char *at = page; (at = strstr(at, "http")); at++)
        assert_true(strncmp(at, "http://www.w3.org/2000/svg", 26) == 0);
    assert_null(strstr(page, "nan"));
    free(page);
}

static void automatic(void **state)
{
    (void)state;
    const command_result *result =
        run_command("calibrate --text %s --objective similarity --prompts 1 --length 300 --held-out 1 --values 2 "
                    "--max-loss 1000%% --min-recall 0 --json -o %s", text, plan);
    cJSON *root = cJSON_Parse(result->output);
    if (!root)
        fail_msg("no JSON: %s", result->output);
    /* Any loss will do: one anchor. */
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(root, "plans")), 1);
    assert_int_equal(cJSON_GetObjectItem(root, "chosen")->valueint, 0);
    cJSON_Delete(root);
}

/* The fewest anchors that keep what they must: the last of the table, and no other. */
static uint32_t expect_fewest(cJSON *root, double max_loss, double min_recall)
{
    cJSON *plans = cJSON_GetObjectItem(root, "plans");
    const int count = cJSON_GetArraySize(plans);
    const double recall = cJSON_GetObjectItem(cJSON_GetObjectItem(root, "dense"), "recall")->valuedouble;
    assert_int_equal(cJSON_GetObjectItem(root, "chosen")->valueint, count - 1);
    for (int i = 0; i < count; i++) {
        cJSON *row = cJSON_GetArrayItem(plans, i);
        const bool keeps = cJSON_GetObjectItem(row, "change")->valuedouble <= max_loss &&
                           cJSON_GetObjectItem(row, "recall")->valuedouble >= min_recall * recall;
        assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(row, "anchors")), i + 1);
        assert_int_equal(keeps, i == count - 1);
    }
    return (uint32_t)count;
}

static void automatic_by_loss(void **state)
{
    (void)state;
    const command_result *result =
        run_command("calibrate --text %s --objective loss --prompts 1 --length 300 --search-texts 1 --finalists 1 "
                    "--held-out 1 --held-out-length 600 --values 2 --topk-min 32 --topk-round 16 --max-loss 60%% "
                    "--threads 1 --json -o %s", text, plan);
    cJSON *root = cJSON_Parse(result->output);
    if (!root)
        fail_msg("no JSON: %s", result->output);
    /* One anchor forgets the values. */
    assert_in_range(expect_fewest(root, 0.6, 1), 2, 6);
    cJSON_Delete(root);
    expect(0, run_command("plan check %s", plan), "");
}

/* Where nothing is good enough, the table goes on to all layers, and the command says so. */
static void every_layer_an_anchor(void **state)
{
    (void)state;
    expect(0, run_command("calibrate --text %s --objective similarity --prompts 1 --length 300 --held-out 1 "
                          "--held-out-length 600 --values 2 --topk-min 16 --topk-round 16 --max-loss 0 --threads 1 -o %s",
                          text, plan),
           "no number of anchors keeps the loss within 0%");
    cJSON *root = read_plan(plan);
    assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(root, "anchors")), 12);
    cJSON_Delete(root);
}

static void misuse(void **state)
{
    (void)state;
    unlink(plan);
    expect(2, run_command("calibrate -o %s", plan), "--text");
    expect(2, run_command("calibrate --text %s", text), "-o");
    expect(2, run_command("calibrate --text %s -o %s --anchors 0", text, plan), "--anchors is '0'");
    expect(2, run_command("calibrate --text %s -o %s --anchors many", text, plan), "--anchors is 'many'");
    expect(2, run_command("calibrate --text %s -o %s --objective similarity --prompts 1 --length 300 --anchors 13", text,
                          plan), "12 layers");
    expect(2, run_command("calibrate --text %s -o %s --max-loss 5x", text, plan), "--max-loss is '5x'");
    expect(2, run_command("calibrate --text %s -o %s --max-loss -1%%", text, plan), "--max-loss");
    expect(2, run_command("calibrate --text %s -o %s --tile 48", text, plan), "--tile is '48'");
    expect(2, run_command("calibrate --text %s -o %s --objective best", text, plan), "best");
    expect(2, run_command("calibrate --text %s -o %s --length 100", text, plan), "--length is 100");
    expect(2, run_command("calibrate --text %s -o %s --prompts 100", text, plan), "need");
    expect(3, run_command("calibrate --text %s/none -o %s", other, plan), "none");
    expect(3, run_command("calibrate --model %s --text %s -o %s", other, text, plan), other);
    expect(4, run_command("calibrate --text %s -o %s --device cuda:99", text, plan), "cuda");
    assert_false(exists(plan));
    expect(3, run_command("calibrate --text %s -o %s/no/p.json", text, other), "p.json");
    expect(3, run_command("calibrate --text %s -o %s --report %s/report", text, plan, text), "report");
}

/* A run that is interrupted leaves the plan that was there, and nothing beside it. */
static void interrupted(void **state)
{
    (void)state;
    enum { TIMED_OUT = 124 };
    static const char *const ends[] = {"INT 0.3", "TERM 1", "INT 1.5"};
    static const char earlier[] = "an earlier plan\n";
    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
        char line[4 * PATH_ROOM];
        FILE *file = fopen(plan, "w");
        assert_true(fputs(earlier, file) >= 0 && fclose(file) == 0);
        snprintf(line, sizeof(line),
                 "timeout -s %s %s calibrate --text %s --prompts 2 --length 1000 --held-out 1 --held-out-length 1500 "
                 "--values 2 --anchors 12 --report %s -o %s >/dev/null 2>&1",
                 ends[i], KASCADE_COMMAND, text, scratch_path(&folder, "report"), plan);
        const int code = system(line);
        assert_true(WIFEXITED(code));
        assert_int_equal(WEXITSTATUS(code), TIMED_OUT);
        char *found = read_whole(plan);
        assert_string_equal(found, earlier);
        free(found);
        snprintf(line, sizeof(line), "ls %s %s/report | grep -E 'part|calibration'", folder.folder, folder.folder);
        assert_int_not_equal(system(line), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(by_similarity),     cmocka_unit_test(by_loss_with_a_report),
        cmocka_unit_test(automatic),         cmocka_unit_test(automatic_by_loss),
        cmocka_unit_test(every_layer_an_anchor),
        cmocka_unit_test(misuse),            cmocka_unit_test(interrupted),
    };
    return cmocka_run_group_tests(tests, make_text, remove_text);
}
