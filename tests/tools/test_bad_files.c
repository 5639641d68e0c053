/*
 * test_bad_files.c - files that are truncated, lie or contradict one another, given to `kascade run`, `attend` and
 * `plan`: one line that names the file, the value and the bound, an exit code, and no file that was not there before.
 */
#define _DEFAULT_SOURCE
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "npy.h"
#include "run.h"
#include "tiny_model.h"

enum { DONE = 0, MISUSED = 2, BAD_FILE = 3 };

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* ---- Files ------------------------------------------------------------------------------------------------------- */

static void write_bytes(scratch *s, const char *name, const void *bytes, size_t size)
{
    FILE *file = fopen(scratch_path(s, name), "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

static void write_text(scratch *s, const char *name, const char *text)
{
    write_bytes(s, name, text, strlen(text));
}

static unsigned char *read_bytes(scratch *s, const char *name, size_t *size)
{
    FILE *file = fopen(scratch_path(s, name), "rb");
    assert_non_null(file);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    *size = (size_t)ftell(file);
    rewind(file);
    unsigned char *bytes = malloc(*size + 1);
    assert_non_null(bytes);
    assert_int_equal(fread(bytes, 1, *size, file), *size);
    fclose(file);
    return bytes;
}

/* A .npy file of version 1.0 with this header and `size` bytes of data, all zero. */
static void write_npy(scratch *s, const char *name, const char *header, size_t size)
{
    const size_t padded = (10 + strlen(header) + 1 + 63) / 64 * 64;
    unsigned char *bytes = calloc(1, padded + size);
    assert_non_null(bytes);
    memset(bytes, ' ', padded);
    memcpy(bytes, "\x93NUMPY\1", 8);
    bytes[8] = (unsigned char)(padded - 10);
    bytes[9] = (unsigned char)((padded - 10) >> 8);
    memcpy(bytes + 10, header, strlen(header));
    bytes[padded - 1] = '\n';
    write_bytes(s, name, bytes, padded + size);
    free(bytes);
}

/* A .safetensors file with this header and `size` bytes of data, all zero. */
static void write_safetensors(scratch *s, const char *name, const char *header, size_t size)
{
    const size_t length = strlen(header);
    unsigned char *bytes = calloc(1, 8 + length + size);
    assert_non_null(bytes);
    tensor_file_length(length, bytes);
    memcpy(bytes + 8, header, length);
    write_bytes(s, name, bytes, 8 + length + size);
    free(bytes);
}

/* 100 MB of opened brackets behind `begin`. */
static void write_nest(scratch *s, const char *name, const char *begin)
{
    FILE *file = fopen(scratch_path(s, name), "wb");
    char *brackets = malloc(1 << 20);
    assert_non_null(file);
    assert_non_null(brackets);
    memset(brackets, '[', 1 << 20);
    fputs(begin, file);
    for (int i = 0; i < 100; i++)
        assert_int_equal(fwrite(brackets, 1, 1 << 20, file), 1 << 20);
    free(brackets);
    assert_int_equal(fclose(file), 0);
}

/* ---- What a refusal looks like ------------------------------------------------------------------------------------
 */

static void check_refused(scratch *s, int files, const command_result *got, int code, const char *said,
                          const char *also)
{
    if (got->code != code)
        fail_msg("ended with %d, not %d: %s", got->code, code, got->output);
    const char *end = strchr(got->output, '\n');
    if (strncmp(got->output, "kascade ", 8) != 0 || !end || end[1] != '\0')
        fail_msg("not one line of its own: %s", got->output);
    if (!strstr(got->output, said) || !strstr(got->output, also))
        fail_msg("does not say '%s' and '%s': %s", said, also, got->output);
    if (scratch_count(s, 0) != files)
        fail_msg("files were left behind or taken away: %s", got->output);
}

/* The command ends with `code`, says both texts in its one line and changes no file of the folder `s`. */
#define refused(s, code, said, also, ...)                                                                              \
    do {                                                                                                               \
        int files_before = scratch_count(s, 0);                                                                        \
        check_refused(s, files_before, run_command(__VA_ARGS__), code, said, also);                                    \
    } while (0)

/* ---- run: models ---------------------------------------------------------------------------------------------------
 */

static const tiny_shape model_shape = {32, 2, 4, 2, 8, 24, 256, 10000, 1e-5, 0, 0, 0, 0, false, true};
#define MODEL_CONFIG ",\"num_key_value_heads\":2"
#define PLAN_SHAPE "\"version\":1,\"layers\":2,\"heads\":4,\"kv_heads\":2"
#define GOOD_PLAN "{" PLAN_SHAPE ",\"anchors\":[0],\"head_map\":[[0,1],[1,0]]}"

typedef struct model_folder {
    scratch files;
    tiny_model tiny;
    unsigned char *weights; /* of the good file */
    size_t size;
} model_folder;

/* Puts the good model, plan and text in place. */
static void restore_model(model_folder *m)
{
    m->tiny.shape = model_shape;
    scratch_count(&m->files, 1);
    assert_int_equal(tiny_model_save_weights(&m->tiny, &m->files, TENSOR_F16, 1), 0);
    assert_int_equal(tiny_model_save_config(&m->tiny, &m->files, MODEL_CONFIG), 0);
    write_text(&m->files, "plan.json", GOOD_PLAN);
    char text[2048];
    for (size_t i = 0; i < sizeof(text); i++)
        text[i] = (char)('a' + i * i % 23);
    write_bytes(&m->files, "text.txt", text, sizeof(text));
}

static void open_model(model_folder *m)
{
    assert_int_equal(scratch_open(&m->files), 0);
    tiny_model_make(&m->tiny, &model_shape);
    restore_model(m);
    m->weights = read_bytes(&m->files, "model.safetensors", &m->size);
}

static void close_model(model_folder *m)
{
    tiny_model_release(&m->tiny);
    free(m->weights);
    scratch_close(&m->files);
}

#define RUN_LINE "run --model %s --plan %s/plan.json --text %s/text.txt --context 1024 --values 2"

static void run_refused(model_folder *m, int code, const char *said, const char *also)
{
    const char *f = m->files.folder;
    refused(&m->files, code, said, also, RUN_LINE, f, f, f);
}

/* The others differ from this by the one thing that they are about. */
static void the_good_model_runs(void **state)
{
    (void)state;
    model_folder m;
    open_model(&m);
    const char *f = m.files.folder;
    const command_result *got = run_command(RUN_LINE " --json", f, f, f);
    if (got->code != DONE || !strstr(got->output, "\"speedup_prefill\""))
        fail_msg("ended with %d: %s", got->code, got->output);
    close_model(&m);
}

static void truncated_weights(void **state)
{
    (void)state;
    model_folder m;
    open_model(&m);
    const size_t header = 8 + m.weights[0] + 256 * m.weights[1],
                 cuts[] = {0, 1, 7, 8, 9, header / 2, header, m.size - 1};
    for (size_t i = 0; i < COUNT(cuts); i++) {
        write_bytes(&m.files, "model.safetensors", m.weights, cuts[i]);
        run_refused(&m, BAD_FILE, "/model.safetensors: ", cuts[i] < 8 ? "at least 8" : "byte");
    }
    m.weights[m.size] = 0;
    write_bytes(&m.files, "model.safetensors", m.weights, m.size + 1);
    run_refused(&m, BAD_FILE, "/model.safetensors: ", "bytes of data");
    close_model(&m);
}

static void lying_weights(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        size_t data;
        const char *said;
    } cases[] = {
        {"nonsense", 0, "malformed at byte 0 of 8"},
        {"{\"a\":1,", 0, "malformed at byte"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,4]}}", 4, "more than 2^53"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,999999]}}", 4,
         "tensor 'a' ends at byte 999999 of the data, but the file holds 4"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,0]}}", 4, "data_offsets of tensor 'a' is 0"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,4]}}", 4, "takes 12 bytes by its shape"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
         "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}",
         12, "overlaps"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]},"
         "\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
         8, "listed twice"},
        {"{\"a\":{\"dtype\":\"F4096\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "has dtype 'F4096'"},
        {"{}", 0, "holds no tensor 'model.embed_tokens.weight'"},
    };
    model_folder m;
    open_model(&m);
    for (size_t i = 0; i < COUNT(cases); i++) {
        write_safetensors(&m.files, "model.safetensors", cases[i].header, cases[i].data);
        run_refused(&m, BAD_FILE, m.files.folder, cases[i].said);
    }
    memset(m.weights, 0xff, 7);
    write_bytes(&m.files, "model.safetensors", m.weights, m.size);
    run_refused(&m, BAD_FILE, "/model.safetensors: the header's length is", "the most is 16777216");
    write_nest(&m.files, "model.safetensors", "xxxxxxxx{");
    run_refused(&m, BAD_FILE, "/model.safetensors: the header's length is", "the most is 16777216");
    write_safetensors(
        &m.files, "model.safetensors",
        "{\"model.embed_tokens.weight\":{\"dtype\":\"F64\",\"shape\":[256,32],\"data_offsets\":[0,65536]}}", 65536);
    run_refused(&m, MISUSED, "/model.safetensors: tensor 'model.embed_tokens.weight' has dtype F64",
                "F32, F16 and BF16");
    close_model(&m);
}

static void missing_files(void **state)
{
    (void)state;
    static const char *const names[] = {"config.json", "model.safetensors", "plan.json", "text.txt"};
    model_folder m;
    open_model(&m);
    for (size_t i = 0; i < COUNT(names); i++) {
        restore_model(&m);
        remove(scratch_path(&m.files, names[i]));
        run_refused(&m, BAD_FILE, names[i], "No such file");
    }
    restore_model(&m);
    write_text(&m.files, "model.safetensors.index.json", "{\"weight_map\":{\"a\":\"absent.safetensors\"}}");
    run_refused(&m, BAD_FILE, "/absent.safetensors: ", "No such file");
    write_nest(&m.files, "model.safetensors.index.json", "{\"weight_map\":");
    run_refused(&m, BAD_FILE, "/model.safetensors.index.json: holds", "the most is 16777216");
    write_text(&m.files, "model.safetensors.index.json", "{\"weight_map\":[[[[[[[[[[");
    run_refused(&m, BAD_FILE, "/model.safetensors.index.json: ", "malformed at byte");
    close_model(&m);
}

static void bad_configs(void **state)
{
    (void)state;
    static const struct {
        const char *more;
        int code;
        const char *said;
    } cases[] = {
        {MODEL_CONFIG ",", BAD_FILE, "malformed at byte"},
        {",\"num_key_value_heads\":3", BAD_FILE, "num_attention_heads is 4: it must be a multiple"},
        {",\"num_key_value_heads\":0", BAD_FILE, "num_key_value_heads is 0: it must be"},
        {MODEL_CONFIG ",\"head_dim\":16", BAD_FILE, "has shape [32, 32], by config.json it is [64, 32]"},
        {MODEL_CONFIG ",\"head_dim\":0", BAD_FILE, "head_dim is 0: it must be"},
        {MODEL_CONFIG ",\"rope_scaling\":{\"rope_type\":\"yarn\"}", MISUSED,
         "rope_type is yarn, which is not supported"},
        {MODEL_CONFIG ",\"attention_bias\":true", MISUSED, "attention_bias is true, which is not supported"},
    };
    model_folder m;
    open_model(&m);
    for (size_t i = 0; i < COUNT(cases); i++) {
        assert_int_equal(tiny_model_save_config(&m.tiny, &m.files, cases[i].more), 0);
        run_refused(&m, cases[i].code, m.files.folder, cases[i].said);
    }
    m.tiny.shape.tied = false;
    assert_int_equal(tiny_model_save_config(&m.tiny, &m.files, MODEL_CONFIG), 0);
    run_refused(&m, BAD_FILE, m.files.folder, "holds no tensor 'lm_head.weight'");
    write_nest(&m.files, "config.json", "");
    run_refused(&m, BAD_FILE, "/config.json: holds", "the most is 1048576");
    close_model(&m);
}

static void bad_texts(void **state)
{
    (void)state;
    model_folder m;
    open_model(&m);
    const char *f = m.files.folder;
    write_text(&m.files, "text.txt", "");
    run_refused(&m, BAD_FILE, "/text.txt: holds no text", "");
    write_text(&m.files, "text.txt", "too short");
    run_refused(&m, MISUSED, "/text.txt: holds 9 bytes", "1024 tokens need");
    refused(&m.files, MISUSED, "--context is 100", "it must be at least",
            "run --model %s --plan %s/plan.json --text %s/text.txt --context 100", f, f, f);
    close_model(&m);
}

/* ---- run and plan: plans -------------------------------------------------------------------------------------------
 */

static const struct {
    const char *text, *said;
} bad_plans[] = {
    {"", "not valid JSON"},
    {"{\"version\":1,", "not valid JSON"},
    {GOOD_PLAN "{}", "goes on behind the end"},
    {"[]", "object"},
    {"{\"layers\":2}", "version is missing"},
    {"{\"version\":2,\"layers\":2}", "version is 2: this library reads version 1"},
    {"{" PLAN_SHAPE "}", "anchors"},
    {"{" PLAN_SHAPE ",\"anchors\":[]}", "anchors"},
    {"{" PLAN_SHAPE ",\"anchors\":[1]}", "anchors[0] is 1"},
    {"{" PLAN_SHAPE ",\"anchors\":[0,0]}", "anchors[1] is 0"},
    {"{" PLAN_SHAPE ",\"anchors\":[0,2]}", "anchors[1] is 2"},
    {"{\"version\":1,\"layers\":3,\"heads\":4,\"kv_heads\":2,\"anchors\":[0,2,1]}", "anchors[2] is 1"},
    {"{" PLAN_SHAPE ",\"anchors\":[0.5]}", "anchors[0] is 0.5"},
    {"{" PLAN_SHAPE ",\"anchors\":[0],\"head_map\":[[0,1],[0,2]]}", "head_map[1][1] is 2"},
    {"{" PLAN_SHAPE ",\"anchors\":[0],\"head_map\":[[0,1],[0,-1]]}", "head_map[1][1] is -1"},
    {"{" PLAN_SHAPE ",\"anchors\":[0],\"head_map\":[[0,1]]}", "head_map"},
    {"{" PLAN_SHAPE ",\"anchors\":[0],\"head_map\":[[0,1],[0]]}", "head_map[1]"},
    {"{\"version\":1,\"layers\":0,\"heads\":4,\"kv_heads\":2,\"anchors\":[0]}", "layers is 0"},
    {"{\"version\":1,\"layers\":2,\"heads\":4,\"kv_heads\":3,\"anchors\":[0]}", "kv_heads"},
    {"{\"version\":1,\"layers\":2,\"heads\":4294967297,\"kv_heads\":2,\"anchors\":[0]}", "heads is 4294967297"},
    {"{" PLAN_SHAPE ",\"anchors\":[0],\"tile\":48}", "tile is 48"},
    {"{" PLAN_SHAPE ",\"anchors\":[0],\"topk\":{\"fraction\":-1}}", "topk.fraction is -1"},
    {"{" PLAN_SHAPE ",\"anchors\":[0],\"topk\":{\"fraction\":1e999}}", "topk.fraction is inf"},
    {"{" PLAN_SHAPE ",\"anchors\":[0],\"topk\":{\"min\":4294967296}}", "topk.min is 4294967296"},
    {"{" PLAN_SHAPE ",\"anchors\":[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", "nests deeper than 32 levels"},
};

static void refuse_plan(model_folder *m, const char *said)
{
    const char *f = m->files.folder;
    refused(&m->files, BAD_FILE, "/plan.json: ", said, "plan check %s/plan.json", f);
    refused(&m->files, BAD_FILE, "/plan.json: ", said, "plan show %s/plan.json", f);
    run_refused(m, BAD_FILE, "/plan.json: ", said);
}

static void plans(void **state)
{
    (void)state;
    model_folder m;
    open_model(&m);
    for (size_t i = 0; i < COUNT(bad_plans); i++) {
        write_text(&m.files, "plan.json", bad_plans[i].text);
        refuse_plan(&m, bad_plans[i].said);
    }
    write_nest(&m.files, "plan.json", "");
    refuse_plan(&m, "bytes");
    close_model(&m);
}

/* A plan that is right by itself, but not for the model. */
static void plans_of_other_models(void **state)
{
    (void)state;
    static const struct {
        const char *text, *said;
    } cases[] = {
        {"{\"version\":1,\"layers\":3,\"heads\":4,\"kv_heads\":2,\"anchors\":[0]}", "layers"},
        {"{\"version\":1,\"layers\":2,\"heads\":8,\"kv_heads\":2,\"anchors\":[0]}", "heads"},
        {"{\"version\":1,\"layers\":2,\"heads\":4,\"kv_heads\":4,\"anchors\":[0]}", "kv"},
    };
    model_folder m;
    open_model(&m);
    const char *f = m.files.folder;
    for (size_t i = 0; i < COUNT(cases); i++) {
        write_text(&m.files, "plan.json", cases[i].text);
        run_refused(&m, BAD_FILE, "/plan.json: ", cases[i].said);
        refused(&m.files, BAD_FILE, "/plan.json: ", cases[i].said, "plan check --model %s %s/plan.json", f, f);
    }
    close_model(&m);
}

/* ---- plan import
 * ----------------------------------------------------------------------------------------------------- */

static void head_maps(void **state)
{
    (void)state;
    static const struct {
        const char *name, *header;
        size_t data;
        int code;
        const char *said;
    } cases[] = {
        {"m_layers_0.npy", "{'descr': '<i4', 'fortran_order': False, 'shape': (2, 2)}", 15, BAD_FILE, "bytes"},
        {"m_layers_0.npy", "{'descr': '<i4', 'fortran_order': False, 'shape': (2, 2)}", 17, BAD_FILE, "bytes"},
        {"m_layers_0.npy", "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2)}", 16, BAD_FILE, "<i4 (layers"},
        {"m_layers_0.npy", "{'descr': '<i4', 'fortran_order': False, 'shape': (4,)}", 16, BAD_FILE, "<i4 (layers"},
        {"m_layers_0.npy", "{'descr': '<i4', 'fortran_order': False, 'shape': (0, 2)}", 0, BAD_FILE, "layers is 0"},
        {"m_layers_0.npy", "{'descr': '<i4', 'fortran_order': False, 'shape': (0, 9223372036854775807)}", 0, BAD_FILE,
         "no models of that size"},
        {"m_layers_0.npy", "{'descr': '<i4', 'fortran_order': False, 'shape': (4294967296, 4294967296)}", 16, BAD_FILE,
         "m_layers_0.npy: "},
        {"m_layers_0_2.npy", "{'descr': '<i4', 'fortran_order': False, 'shape': (2, 2)}", 16, BAD_FILE,
         "anchors[1] is 2"},
        {"m_layers_1.npy", "{'descr': '<i4', 'fortran_order': False, 'shape': (2, 2)}", 16, BAD_FILE,
         "anchors[0] is 1"},
        {"m_layers_0_1_1.npy", "{'descr': '<i4', 'fortran_order': False, 'shape': (2, 2)}", 16, BAD_FILE,
         "anchors has 3 entries: there are 2 layers"},
        {"m.npy", "{'descr': '<i4', 'fortran_order': False, 'shape': (2, 2)}", 16, BAD_FILE,
         "does not tell the anchors"},
        {"m_layers_.npy", "{'descr': '<i4', 'fortran_order': False, 'shape': (2, 2)}", 16, BAD_FILE,
         "tell the anchors"},
    };
    scratch s;
    assert_int_equal(scratch_open(&s), 0);
    for (size_t i = 0; i < COUNT(cases); i++) {
        write_npy(&s, cases[i].name, cases[i].header, cases[i].data);
        refused(&s, cases[i].code, cases[i].name, cases[i].said, "plan import --heads 4 %s/%s -o %s/plan.json",
                s.folder, cases[i].name, s.folder);
        remove(scratch_path(&s, cases[i].name));
    }
    const uint64_t shape[] = {2, 2};
    const int32_t map[] = {0, 1, 0, 2}, negative[] = {0, 1, -1, 0};
    assert_int_equal(npy_save(scratch_path(&s, "m_layers_0.npy"), NPY_I4, shape, 2, map), KAS_OK);
    refused(&s, BAD_FILE, "m_layers_0.npy: ", "head_map[1][1] is 2",
            "plan import --heads 4 %s/m_layers_0.npy -o %s/plan.json", s.folder, s.folder);
    assert_int_equal(npy_save(scratch_path(&s, "m_layers_0.npy"), NPY_I4, shape, 2, negative), KAS_OK);
    refused(&s, BAD_FILE, "m_layers_0.npy: ", "[1][0] is -1", "plan import --heads 4 %s/m_layers_0.npy -o %s/plan.json",
            s.folder, s.folder);
    refused(&s, BAD_FILE, "absent_layers_0.npy: ", "No such file", "plan import %s/absent_layers_0.npy -o %s/plan.json",
            s.folder, s.folder);

    write_npy(&s, "m_layers_0.npy", "{'descr': '<i4', 'fortran_order': False, 'shape': (2, 2)}", 16);
    refused(&s, BAD_FILE, "/nowhere/plan.json", "", "plan import --heads 4 %s/m_layers_0.npy -o %s/nowhere/plan.json",
            s.folder, s.folder);
    refused(&s, BAD_FILE, s.folder, "", "plan import --heads 4 %s/m_layers_0.npy -o %s", s.folder, s.folder);
    scratch_close(&s);
}

/* ---- attend
 * ------------------------------------------------------------------------------------------------------------ */

enum { BATCH = 2, QUERIES = 5, KEYS = 40, HEADS = 4, KV_HEADS = 2, DIM = 8, LISTED = 6 };

/* The good inputs of a prefill of 5 queries at positions 35 to 39, tiles of 32: one tile, 32 candidates. */
static void write_arrays(scratch *s)
{
    static float values[BATCH * KEYS * HEADS * DIM];
    static int32_t lists[BATCH * KV_HEADS * LISTED];
    for (size_t i = 0; i < COUNT(values); i++)
        values[i] = (float)(i * 37 % 101) / 50 - 1;
    for (size_t i = 0; i < COUNT(lists); i++)
        lists[i] = (int32_t)(i % LISTED * 5);
    const uint64_t q[] = {BATCH, QUERIES, HEADS, DIM}, kv[] = {BATCH, KEYS, KV_HEADS, DIM},
                   l[] = {BATCH, KV_HEADS, 1, LISTED};
    assert_int_equal(npy_save(scratch_path(s, "q.npy"), NPY_F4, q, 4, values), KAS_OK);
    assert_int_equal(npy_save(scratch_path(s, "k.npy"), NPY_F4, kv, 4, values + 1), KAS_OK);
    assert_int_equal(npy_save(scratch_path(s, "v.npy"), NPY_F4, kv, 4, values + 2), KAS_OK);
    assert_int_equal(npy_save(scratch_path(s, "lists.npy"), NPY_I4, l, 4, lists), KAS_OK);
}

#define REUSE_LINE                                                                                                     \
    "attend --phase prefill --role reuse --q %s/q.npy --k %s/k.npy --v %s/v.npy --indices %s/lists.npy --out "         \
    "%s/out.npy"

static void attend_refused(scratch *s, int code, const char *said, const char *also)
{
    const char *f = s->folder;
    refused(s, code, said, also, REUSE_LINE, f, f, f, f, f);
}

/* What can be wrong with any .npy file, whichever array it holds. */
static void bad_arrays(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        size_t data;
        int code;
        const char *said;
    } cases[] = {
        {"", 0, BAD_FILE, "malformed"},
        {"{'descr': '<f4', 'fortran_order': False}", 0, BAD_FILE, "lacks shape"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 5, 4, 8)}", 1279, BAD_FILE, "1280"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 5, 4, 8)}", 1281, BAD_FILE, "1280"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (9223372036854775807, 9223372036854775807, 4, 8)}", 64,
         BAD_FILE, "9223372036854775807"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296, 1, 1)}", 64, BAD_FILE,
         "4294967296"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (18446744073709551617,)}", 64, BAD_FILE, "extent"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 0, 4, 8)}", 0, BAD_FILE, "extent 1 is 0"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 5, 4, 0)}", 0, BAD_FILE, "extent 3 is 0"},
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (8,)}", 32, BAD_FILE, "it must be"},
        {"{'descr': '<f8', 'fortran_order': False, 'shape': (2, 5, 4, 8)}", 2560, BAD_FILE, "<f8"},
        {"{'descr': '>f4', 'fortran_order': False, 'shape': (2, 5, 4, 8)}", 1280, MISUSED, "big-endian"},
        {"{'descr': '<c8', 'fortran_order': False, 'shape': (2, 5, 4, 8)}", 2560, MISUSED, "<c8"},
        {"{'descr': '<f4', 'fortran_order': True, 'shape': (2, 5, 4, 8)}", 1280, MISUSED, "fortran_order"},
    };
    static const char *const arrays[] = {"q.npy", "k.npy", "v.npy", "lists.npy"};
    scratch s;
    assert_int_equal(scratch_open(&s), 0);
    for (size_t array = 0; array < COUNT(arrays); array++) {
        write_arrays(&s);
        size_t size;
        unsigned char *good = read_bytes(&s, arrays[array], &size);
        for (size_t i = 0; i < COUNT(cases); i++) {
            /* Where the type is wrong before the extents are, the sentence is about the type. */
            bool of_lists = array == 3 && strstr(cases[i].said, "extent ");
            write_npy(&s, arrays[array], cases[i].header, cases[i].data);
            attend_refused(&s, cases[i].code, arrays[array], of_lists ? "<i4" : cases[i].said);
        }
        const size_t cuts[] = {0, 1, 9, 11, 64, 127, size - 1};
        for (size_t i = 0; i < COUNT(cuts); i++) {
            write_bytes(&s, arrays[array], good, cuts[i]);
            attend_refused(&s, BAD_FILE, arrays[array], "bytes");
        }
        memset(good + 8, 0xff, 2);
        write_bytes(&s, arrays[array], good, size);
        attend_refused(&s, BAD_FILE, arrays[array], "65535");
        remove(scratch_path(&s, arrays[array]));
        attend_refused(&s, BAD_FILE, arrays[array], "No such file");
        assert_int_equal(mkfifo(scratch_path(&s, arrays[array]), 0600), 0);
        attend_refused(&s, BAD_FILE, arrays[array], "not a regular file");
        remove(scratch_path(&s, arrays[array]));
        free(good);
    }
    scratch_close(&s);
}

/* Arrays that are right by themselves and contradict each other. */
static void contradicting_arrays(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        npy_dtype dtype;
        uint64_t shape[4];
        const char *said;
    } cases[] = {
        {"q.npy", NPY_F4, {2, 5, 3, 8}, "3 heads, no multiple of the 2 kv heads"},
        {"q.npy", NPY_F4, {2, 41, 4, 8}, "41 query tokens"},
        {"q.npy", NPY_F4, {1, 5, 4, 8}, "the first extent is 1"},
        {"q.npy", NPY_F4, {2, 5, 4, 4}, "the last 4"},
        {"q.npy", NPY_F2, {2, 5, 4, 8}, "the type of q"},
        {"q.npy", NPY_I4, {2, 5, 4, 8}, "<f2 or <f4"},
        {"k.npy", NPY_F4, {2, 39, 2, 8}, "the shapes must be the same"},
        {"k.npy", NPY_F4, {3, 40, 2, 8}, "the first extent is 2"},
        {"v.npy", NPY_F4, {2, 40, 1, 8}, "the shapes must be the same"},
        {"v.npy", NPY_F2, {2, 40, 2, 8}, "the type of q"},
        {"lists.npy", NPY_I4, {1, 2, 1, 6}, "2 sequences, 2 kv heads and 1 tiles"},
        {"lists.npy", NPY_I4, {2, 1, 1, 6}, "2 sequences, 2 kv heads and 1 tiles"},
        {"lists.npy", NPY_I4, {2, 2, 2, 6}, "2 sequences, 2 kv heads and 1 tiles"},
        {"lists.npy", NPY_I8, {2, 2, 1, 6}, "<i4"},
        {"lists.npy", NPY_I4, {2, 2, 1, 2}, "lists must ascend"},
    };
    static char zeros[2 * 41 * 4 * 8 * 4];
    scratch s;
    assert_int_equal(scratch_open(&s), 0);
    for (size_t i = 0; i < COUNT(cases); i++) {
        write_arrays(&s);
        assert_int_equal(npy_save(scratch_path(&s, cases[i].name), cases[i].dtype, cases[i].shape, 4, zeros), KAS_OK);
        attend_refused(&s, BAD_FILE, ".npy: ", cases[i].said);
    }
    const uint64_t wide[] = {2, 5, 4, 257}, wide_kv[] = {2, 5, 2, 257};
    char *large = calloc(2 * 5 * 4 * 257, sizeof(float));
    assert_non_null(large);
    assert_int_equal(npy_save(scratch_path(&s, "q.npy"), NPY_F4, wide, 4, large), KAS_OK);
    assert_int_equal(npy_save(scratch_path(&s, "k.npy"), NPY_F4, wide_kv, 4, large), KAS_OK);
    assert_int_equal(npy_save(scratch_path(&s, "v.npy"), NPY_F4, wide_kv, 4, large), KAS_OK);
    free(large);
    attend_refused(&s, BAD_FILE, "/q.npy: the head dimension is 257", "the most is 256");
    scratch_close(&s);
}

/* An output that was there before stays what it was, and one that was not is not there afterwards. */
static void outputs(void **state)
{
    (void)state;
    scratch s;
    assert_int_equal(scratch_open(&s), 0);
    write_arrays(&s);
    write_text(&s, "out.npy", "kept");
    const char *f = s.folder;
#define ANCHOR_LINE "attend --phase prefill --role anchor --q %s/q.npy --k %s/k.npy --v %s/v.npy "
    refused(&s, BAD_FILE, "/nowhere/scores.npy", "", ANCHOR_LINE "--out %s/out.npy --out-scores %s/nowhere/scores.npy",
            f, f, f, f, f);
    refused(&s, BAD_FILE, "/nowhere/lists.npy", "",
            ANCHOR_LINE "--out %s/new.npy --out-scores %s/scores.npy --out-indices %s/nowhere/lists.npy", f, f, f, f, f,
            f);
    refused(&s, BAD_FILE, f, "is not a regular file", ANCHOR_LINE "--out %s", f, f, f, f);
    refused(&s, MISUSED, "two outputs", "out.npy", ANCHOR_LINE "--out %s/out.npy --out-scores %s/out.npy", f, f, f, f,
            f);
    refused(&s, MISUSED, "k.npy' is named as an output and is the input", f,
            ANCHOR_LINE "--out %s/out.npy --out-scores %s/./k.npy", f, f, f, f, f);
    refused(&s, MISUSED, "tile", "48", ANCHOR_LINE "--out %s/out.npy --tile 48", f, f, f, f);
    refused(&s, MISUSED, "variant", "teapot", ANCHOR_LINE "--out %s/out.npy --variant teapot", f, f, f, f);
    refused(&s, MISUSED, "--topk", "'0'", ANCHOR_LINE "--out %s/out.npy --topk 0", f, f, f, f);
    const command_result *all_keys =
        run_command(ANCHOR_LINE "--out %s/new.npy --topk 1.5 --variant generic", f, f, f, f);
    if (all_keys->code != DONE || all_keys->output[0] != '\0')
        fail_msg("ended with %d: %s", all_keys->code, all_keys->output);
    refused(&s, MISUSED, "--role reuse needs --indices", "",
            "attend --phase prefill --role reuse --q %s/q.npy --k %s/k.npy --v %s/v.npy --out %s/out.npy", f, f, f, f);
    size_t size;
    unsigned char *kept = read_bytes(&s, "out.npy", &size);
    assert_true(size == 4 && memcmp(kept, "kept", 4) == 0);
    free(kept);
    scratch_close(&s);
}

enum { OUTPUTS = BATCH * QUERIES * HEADS * DIM };

static void run_reuse(scratch *s, float values[OUTPUTS], const char *said)
{
    const char *f = s->folder;
    npy_array out;
    const command_result *got = run_command(REUSE_LINE, f, f, f, f, f);
    if (got->code != DONE || !strstr(got->output, said))
        fail_msg("ended with %d, not with '%s': %s", got->code, said, got->output);
    assert_int_equal(npy_open(scratch_path(s, "out.npy"), &out), KAS_OK);
    assert_int_equal(out.count, OUTPUTS);
    memcpy(values, out.data, OUTPUTS * sizeof(*values));
    npy_close(&out);
}

/* Entries that are no candidate are left out, with a word about it, as if they were -1. */
static void lists_out_of_range(void **state)
{
    (void)state;
    static const int32_t far[] = {3, 31, 32, 40, 1000000, INT32_MAX}, near[] = {3, 31, -1, -1, -1, -1};
    const uint64_t shape[] = {BATCH, KV_HEADS, 1, LISTED};
    int32_t lists[BATCH * KV_HEADS][LISTED];
    float wanted[OUTPUTS], got[OUTPUTS];
    scratch s;
    assert_int_equal(scratch_open(&s), 0);
    write_arrays(&s);
    for (int row = 0; row < BATCH * KV_HEADS; row++)
        memcpy(lists[row], near, sizeof(near));
    assert_int_equal(npy_save(scratch_path(&s, "lists.npy"), NPY_I4, shape, 4, lists), KAS_OK);
    run_reuse(&s, wanted, "");
    for (int row = 0; row < BATCH * KV_HEADS; row++)
        memcpy(lists[row], far, sizeof(far));
    assert_int_equal(npy_save(scratch_path(&s, "lists.npy"), NPY_I4, shape, 4, lists), KAS_OK);
    run_reuse(&s, got, "/lists.npy: entries that are no candidate of their tile were left out");
    assert_memory_equal(got, wanted, sizeof(got));
    scratch_close(&s);
}

/* NaN and infinity in k or v of one sequence's kv head reach the heads that attend to it and no other. */
static void not_a_number(void **state)
{
    (void)state;
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    static const char *const arrays[] = {"k.npy", "v.npy"};
    float clean[OUTPUTS], got[OUTPUTS];
    scratch s;
    assert_int_equal(scratch_open(&s), 0);
    write_arrays(&s);
    run_reuse(&s, clean, "");
    for (size_t i = 0; i < COUNT(bad) * COUNT(arrays); i++) {
        write_arrays(&s);
        size_t size;
        unsigned char *bytes = read_bytes(&s, arrays[i % 2], &size);
        float *values = (float *)(void *)(bytes + size - sizeof(float[BATCH][KEYS][KV_HEADS][DIM]));
        /* Sequence 1, key 5 (which the lists name), kv head 1, the third component. */
        values[((1 * KEYS + 5) * KV_HEADS + 1) * DIM + 2] = bad[i / 2];
        write_bytes(&s, arrays[i % 2], bytes, size);
        free(bytes);
        run_reuse(&s, got, "");
        uint32_t changed = 0;
        for (uint32_t at = 0; at < OUTPUTS; at++) {
            uint32_t sequence = at / (QUERIES * HEADS * DIM), head = at / DIM % HEADS;
            bool reached = sequence == 1 && head / (HEADS / KV_HEADS) == 1;
            changed += !(got[at] == clean[at]);
            if (!reached && memcmp(&got[at], &clean[at], sizeof(float)) != 0)
                fail_msg("%s: sequence %u, head %u is %g, not %g", arrays[i % 2], sequence, head, got[at], clean[at]);
        }
        if (changed == 0)
            fail_msg("%g in %s changes nothing", bad[i / 2], arrays[i % 2]);
    }
    scratch_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_good_model_runs),
        cmocka_unit_test(truncated_weights),
        cmocka_unit_test(lying_weights),
        cmocka_unit_test(missing_files),
        cmocka_unit_test(bad_configs),
        cmocka_unit_test(bad_texts),
        cmocka_unit_test(plans),
        cmocka_unit_test(plans_of_other_models),
        cmocka_unit_test(head_maps),
        cmocka_unit_test(bad_arrays),
        cmocka_unit_test(contradicting_arrays),
        cmocka_unit_test(outputs),
        cmocka_unit_test(lists_out_of_range),
        cmocka_unit_test(not_a_number),
    };
    return cmocka_run_group_tests_name("tools.bad_files", tests, NULL, NULL);
}
