/*
 * test_safetensors.c - .safetensors files and indices of shards, good and hostile: what is wrong is refused with a
 * sentence that names the file, the tensor, the value and the bound.
 */
#define _XOPEN_SOURCE 700
#include "lm/safetensors.h"
#include "scratch.h"
#include "tensor_file.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static void assert_sentence(const char *part)
{
    if (!strstr(tool_error(), part))
        fail_msg("\"%s\" expected in \"%s\"", part, tool_error());
}

/* ---- Files in memory ------------------------------------------------------------------------------------------- */

/* In a block of its own size, so that a checker of memory sees a read past its end. */
typedef struct file_bytes {
    unsigned char *bytes;
    size_t size;
} file_bytes;

static file_bytes make_file(uint64_t length, const void *header, size_t header_size, size_t data_size)
{
    file_bytes file = {.size = 8 + header_size + data_size};
    file.bytes = test_malloc(file.size);
    tensor_file_length(length, file.bytes);
    memcpy(file.bytes + 8, header, header_size);
    memset(file.bytes + 8 + header_size, 0, data_size);
    return file;
}

static void assert_rejected(const file_bytes *file, const char *sentence)
{
    lm_shard *shard = NULL;
    kas_status status = lm_shard_parse("FILE", file->bytes, file->size, &shard);
    if (status != KAS_ERROR_FORMAT)
        fail_msg("\"%s\": %s: %s", sentence, kas_status_text(status), tool_error());
    assert_null(shard);
    assert_sentence("FILE: ");
    assert_sentence(sentence);
}

static void reads_good_headers(void **state)
{
    (void)state;
    /* The order of names is not that of the data; an empty tensor takes no byte; spaces pad the header. */
    const char *header = "{\"__metadata__\":{\"format\":\"pt\"},"
                         "\"b\":{\"dtype\":\"F16\",\"shape\":[2,3],\"data_offsets\":[4,16]},"
                         "\"c\":{\"dtype\":\"I64\",\"shape\":[0,9007199254740992],\"data_offsets\":[16,16]},"
                         "\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}   ";
    file_bytes file = make_file(strlen(header), header, strlen(header), 16);
    lm_shard *shard = NULL;
    if (lm_shard_parse("FILE", file.bytes, file.size, &shard) != KAS_OK)
        fail_msg("%s", tool_error());
    assert_int_equal(lm_shard_count(shard), 3);
    const lm_tensor *a = lm_shard_tensor(shard, 0), *b = lm_shard_tensor(shard, 1), *c = lm_shard_tensor(shard, 2);
    assert_string_equal(a->name, "a");
    assert_true(a->dtype == LM_DTYPE_F32 && a->rank == 0 && a->end - a->begin == 4);
    assert_ptr_equal(a->data, file.bytes + 8 + strlen(header));
    assert_string_equal(b->name, "b");
    assert_true(b->dtype == LM_DTYPE_F16 && b->rank == 2 && b->shape[0] == 2 && b->shape[1] == 3);
    assert_ptr_equal(b->data, a->data + 4);
    assert_true(c->dtype == LM_DTYPE_OTHER && c->begin == c->end);
    lm_shard_destroy(shard);
    test_free(file.bytes);
    file = make_file(2, "{}", 2, 0);
    assert_int_equal(lm_shard_parse("FILE", file.bytes, file.size, &shard), KAS_OK);
    assert_int_equal(lm_shard_count(shard), 0);
    lm_shard_destroy(shard);
    test_free(file.bytes);
}

#define TENSOR(name, dtype, shape, offsets)                                                                            \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

static void rejects_bad_headers(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        size_t data;
        const char *sentence;
    } cases[] = {
        /* Not JSON, or not the JSON of a header. */
        {"", 0, "malformed at byte 0 of 0"},
        {"nonsense", 0, "malformed at byte 0 of 8"},
        {"{\"a\":1,", 0, "malformed at byte"},
        {"{\"a\":", 0, "malformed at byte"},
        {"{\"a", 0, "malformed at byte"},
        {"{\"a\\", 0, "malformed at byte"},
        {"{\"a\\u12", 0, "malformed at byte"},
        {"{} {}", 0, "the JSON ends at byte 3, but 2 bytes follow"},
        {"[]", 0, "the JSON is not an object"},
        {"7", 0, "the JSON is not an object"},
        {"{\"a\":7}", 0, "the entry of tensor 'a' is not an object"},
        {"{\"a\":[]}", 0, "the entry of tensor 'a' is not an object"},
        {"{\"a\":{}}", 0, "tensor 'a' has no dtype"},
        {"{\"a\":{\"dtype\":5}}", 0, "tensor 'a' has no dtype"},
        {"{\"a\":{\"dtype\":\"F32\"}}", 0, "tensor 'a' has no shape"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":4}}", 0, "tensor 'a' has no shape"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1]}}", 4, "tensor 'a' has no data_offsets of two numbers"},
        {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F16\"}}", 4, "tensor 'a' has dtype twice"},
        {"{\"a\":{\"colour\":1}}", 4, "tensor 'a' has 'colour' besides dtype, shape and data_offsets"},
        /* Types. */
        {"{" TENSOR("a", "f32", "[1]", "[0,4]") "}", 4, "tensor 'a' has dtype 'f32', which is not known"},
        {"{" TENSOR("a", "F12", "[1]", "[0,4]") "}", 4, "tensor 'a' has dtype 'F12', which is not known"},
        /* Shapes. */
        {"{" TENSOR("a", "F32", "[-1]", "[0,4]") "}", 4, "shape of tensor 'a' is -1: it must be a whole number from 0"},
        {"{" TENSOR("a", "F32", "[0.5]", "[0,4]") "}", 4, "shape of tensor 'a' is 0.5"},
        {"{" TENSOR("a", "F32", "[1e999]", "[0,4]") "}", 4, "shape of tensor 'a' is inf"},
        {"{" TENSOR("a", "F32", "[\"1\"]", "[0,4]") "}", 4, "shape of tensor 'a' is not a number"},
        {"{" TENSOR("a", "F32", "[[1]]", "[0,4]") "}", 4, "shape of tensor 'a' is not a number"},
        {"{" TENSOR("a", "F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]") "}", 4, "tensor 'a' has more than 8 dimensions"},
        {"{" TENSOR("a", "F32", "[4294967296,4294967296]", "[0,4]") "}", 4,
         "the shape of tensor 'a' multiplies to more than 2^53 bytes"},
        {"{" TENSOR("a", "F32", "[4294967296,4294967296,0]", "[0,0]") "}", 0,
         "the shape of tensor 'a' multiplies to more than 2^53 bytes"},
        {"{" TENSOR("a", "U8", "[65536,65536,65536,65536]", "[0,0]") "}", 0, "multiplies to more than 2^53 bytes"},
        {"{" TENSOR("a", "F32", "[9007199254740993]", "[0,4]") "}", 4, "multiplies to more than 2^53 bytes"},
        {"{" TENSOR("a", "F32", "[18446744073709551616]", "[0,4]") "}", 4, "to 9007199254740992"},
        /* Offsets. */
        {"{" TENSOR("a", "F32", "[1]", "[0,8]") "}", 4,
         "tensor 'a' ends at byte 8 of the data, but the file holds 4 of them"},
        {"{" TENSOR("a", "F32", "[1]", "[8,12]") "}", 8,
         "tensor 'a' ends at byte 12 of the data, but the file holds 8 of them"},
        {"{" TENSOR("a", "F32", "[1]", "[4,0]") "}", 8,
         "data_offsets of tensor 'a' is 0: it must be a whole number from 4 to 9007199254740992"},
        {"{" TENSOR("a", "F32", "[1]", "[-4,0]") "}", 8, "data_offsets of tensor 'a' is -4"},
        {"{" TENSOR("a", "F32", "[1]", "[9007199254740988,9007199254740992]") "}", 8,
         "tensor 'a' ends at byte 9007199254740992 of the data, but the file holds 8 of them"},
        {"{" TENSOR("a", "F32", "[1]", "[0,18446744073709551620]") "}", 8, "data_offsets of tensor 'a' is 1.8446744"},
        {"{" TENSOR("a", "F32", "[1]", "[0]") "}", 4, "tensor 'a' has no data_offsets of two numbers"},
        {"{" TENSOR("a", "F32", "[1]", "[0,4,4]") "}", 4, "tensor 'a' has no data_offsets of two numbers"},
        {"{" TENSOR("a", "F32", "[1]", "{\"0\":0,\"1\":4}") "}", 4, "tensor 'a' has no data_offsets of two numbers"},
        {"{" TENSOR("a", "F32", "[1]", "[0,\"4\"]") "}", 4, "data_offsets of tensor 'a' is not a number"},
        {"{" TENSOR("a", "F32", "[2]", "[0,4]") "}", 4,
         "tensor 'a' takes 8 bytes by its shape, but its data_offsets span 4"},
        {"{" TENSOR("a", "F16", "[2]", "[0,8]") "}", 8,
         "tensor 'a' takes 4 bytes by its shape, but its data_offsets span 8"},
        /* Ranges of several tensors. */
        {"{" TENSOR("a", "F32", "[2]", "[0,8]") "," TENSOR("b", "F32", "[2]", "[4,12]") "}", 12,
         "tensor 'b' begins at byte 4 and overlaps tensor 'a', which ends at 8"},
        {"{" TENSOR("a", "F32", "[2]", "[0,8]") "," TENSOR("b", "F32", "[2]", "[0,8]") "}", 8, "overlaps tensor"},
        {"{" TENSOR("a", "F32", "[2]", "[0,8]") "," TENSOR("b", "F32", "[0]", "[4,4]") "}", 8, "overlaps tensor"},
        {"{" TENSOR("a", "F32", "[1]", "[0,4]") "," TENSOR("b", "F32", "[1]", "[8,12]") "}", 12,
         "tensor 'b' begins at byte 8, but the data before it ends at 4"},
        {"{" TENSOR("a", "F32", "[1]", "[4,8]") "}", 8,
         "tensor 'a' begins at byte 4, but the data before it ends at 0"},
        {"{" TENSOR("a", "F32", "[1]", "[0,4]") "}", 9,
         "the tensors end at byte 4, but the file holds 9 bytes of data"},
        {"{}", 1, "the tensors end at byte 0, but the file holds 1 bytes of data"},
        /* Names. */
        {"{" TENSOR("a", "F32", "[1]", "[0,4]") "," TENSOR("a", "F32", "[1]", "[4,8]") "}", 8,
         "tensor 'a' is listed twice"},
        {"{" TENSOR("a", "F32", "[1]", "[0,4]") "," TENSOR("\\u0061", "F32", "[1]", "[4,8]") "}", 8,
         "tensor 'a' is listed twice"},
        {"{\"\\u001b[2J\":7}", 0, "the entry of tensor '?[2J' is not an object"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        file_bytes file = make_file(strlen(cases[i].header), cases[i].header, strlen(cases[i].header), cases[i].data);
        assert_rejected(&file, cases[i].sentence);
        test_free(file.bytes);
    }
}

/* The length in front of the header lies. */
static void rejects_bad_lengths(void **state)
{
    (void)state;
    static const struct {
        uint64_t length;
        const char *sentence;
    } cases[] = {
        {3, "the header's length is 3 bytes, but only 2 follow"},
        {1 << 24, "the header's length is 16777216 bytes, but only 2 follow"},
        {(1 << 24) + 1, "the header's length is 16777217 bytes: the most is 16777216"},
        {UINT64_C(1) << 63, "the header's length is 9223372036854775808 bytes: the most is"},
        {UINT64_MAX, "the header's length is 18446744073709551615 bytes: the most is"},
        {UINT64_MAX - 7, "the header's length is 18446744073709551608 bytes: the most is"},
        {1, "malformed at byte"},
        {0, "malformed at byte 0 of 0"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        file_bytes file = make_file(cases[i].length, "{}", 2, 0);
        assert_rejected(&file, cases[i].sentence);
        test_free(file.bytes);
    }
}

/* A good file cut at every length is refused at every length. */
static void rejects_every_cut(void **state)
{
    (void)state;
    const char *header = "{" TENSOR("a", "F32", "[1]", "[0,4]") "," TENSOR("b", "BF16", "[3]", "[4,10]") "}";
    file_bytes whole = make_file(strlen(header), header, strlen(header), 10);
    for (size_t size = 0; size < whole.size; size++) {
        file_bytes cut = {.bytes = test_malloc(size + (size == 0)), .size = size};
        memcpy(cut.bytes, whole.bytes, size);
        assert_rejected(&cut, size < 8 ? "a safetensors file at least 8" : "");
        test_free(cut.bytes);
    }
    lm_shard *shard = NULL;
    assert_int_equal(lm_shard_parse("FILE", whole.bytes, whole.size, &shard), KAS_OK);
    lm_shard_destroy(shard);
    test_free(whole.bytes);
}

/* As much of one thing as a header can hold. */
static void rejects_garbage_of_full_size(void **state)
{
    (void)state;
    static const struct {
        const char *begin, *repeated;
    } cases[] = {{"", "["}, {"{\"a\":", "["}, {"", "{\"a\":"}, {"{\"a\":{\"shape\":", "[[[["}, {"{\"", "a"}, {"", " "}};
    const size_t size = 1 << 20;
    for (size_t i = 0; i < COUNT(cases); i++) {
        char *header = malloc(size);
        size_t used = strlen(cases[i].begin), step = strlen(cases[i].repeated);
        assert_non_null(header);
        memset(header, ' ', size);
        memcpy(header, cases[i].begin, used);
        for (; used + step <= size; used += step)
            memcpy(header + used, cases[i].repeated, step);
        file_bytes file = make_file(size, header, size, 0);
        assert_rejected(&file, "malformed at byte");
        test_free(file.bytes);
        free(header);
    }
}

/* ---- Folders --------------------------------------------------------------------------------------------------- */

static void write_bytes(scratch *folder, const char *name, const void *bytes, size_t size)
{
    FILE *file = fopen(scratch_path(folder, name), "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

static void write_text(scratch *folder, const char *name, const char *text)
{
    write_bytes(folder, name, text, strlen(text));
}

/* A file with one F32 tensor of three values. */
static void write_shard(scratch *folder, const char *name, const char *tensor, double first)
{
    tensor_file file = {0};
    double values[] = {first, first + 1, first + 2};
    tensor_file_add(&file, tensor, TENSOR_F32, 0, 3, values);
    assert_int_equal(tensor_file_save(&file, scratch_path(folder, name)), 0);
}

#define INDEX "model.safetensors.index.json"

static void reads_shards_of_every_type(void **state)
{
    (void)state;
    scratch folder;
    assert_int_equal(scratch_open(&folder), 0);
    tensor_file file = {0};
    double f16[] = {1, -2.5, 65504, 6.0e-8}, bf16[] = {1, -0.5, 3e38, 1e-40}, f32[] = {0.1, -1e-44};
    const uint64_t shape[] = {2, 2}, two = 2;
    float values[4];
    tensor_file_add(&file, "odd", TENSOR_F32, 0, 1, (double[]){7});
    tensor_file_add(&file, "half", TENSOR_F16, 2, 2, f16);
    assert_int_equal(tensor_file_save(&file, scratch_path(&folder, "one.safetensors")), 0);
    tensor_file_add(&file, "brain", TENSOR_BF16, 2, 2, bf16);
    tensor_file_add(&file, "plain", TENSOR_F32, 0, 2, f32);
    assert_int_equal(tensor_file_save(&file, scratch_path(&folder, "two.safetensors")), 0);
    write_text(&folder, INDEX,
               "{\"metadata\":{\"total_size\":1},\"weight_map\":{\"plain\":\"two.safetensors\",\"half\":"
               "\"one.safetensors\",\"brain\":\"two.safetensors\",\"odd\":\"one.safetensors\"}}");
    lm_checkpoint *checkpoint = NULL;
    if (lm_checkpoint_open(folder.folder, &checkpoint) != KAS_OK)
        fail_msg("%s", tool_error());
    assert_true(lm_checkpoint_has(checkpoint, "half") && !lm_checkpoint_has(checkpoint, "hal"));
    assert_int_equal(lm_checkpoint_read(checkpoint, "half", 2, shape, values), KAS_OK);
    for (int i = 0; i < 4; i++)
        assert_true(values[i] == f16[i]);
    assert_int_equal(lm_checkpoint_read(checkpoint, "brain", 2, shape, values), KAS_OK);
    for (int i = 0; i < 4; i++)
        assert_true(values[i] == bf16[i]);
    assert_int_equal(lm_checkpoint_read(checkpoint, "plain", 1, &two, values), KAS_OK);
    assert_true(values[0] == f32[0] && values[1] == f32[1]);
    lm_checkpoint_destroy(checkpoint);
    scratch_close(&folder);
}

static void refuses_tensors_of_another_kind(void **state)
{
    (void)state;
    scratch folder;
    assert_int_equal(scratch_open(&folder), 0);
    const char *header = "{" TENSOR("a", "F32", "[2,3]", "[0,24]") "," TENSOR("b", "F64", "[1]", "[24,32]") "}";
    file_bytes file = make_file(strlen(header), header, strlen(header), 32);
    write_bytes(&folder, "model.safetensors", file.bytes, file.size);
    test_free(file.bytes);
    lm_checkpoint *checkpoint = NULL;
    if (lm_checkpoint_open(folder.folder, &checkpoint) != KAS_OK)
        fail_msg("%s", tool_error());
    const uint64_t turned[] = {3, 2}, six = 6, one = 1;
    float values[6];
    assert_int_equal(lm_checkpoint_read(checkpoint, "a", 2, turned, values), KAS_ERROR_FORMAT);
    assert_sentence("/model.safetensors: tensor 'a' has shape [2, 3], by config.json it is [3, 2]");
    assert_int_equal(lm_checkpoint_read(checkpoint, "a", 1, &six, values), KAS_ERROR_FORMAT);
    assert_sentence("by config.json it is [6]");
    assert_int_equal(lm_checkpoint_read(checkpoint, "b", 1, &one, values), KAS_ERROR_UNSUPPORTED);
    assert_sentence("/model.safetensors: tensor 'b' has dtype F64: F32, F16 and BF16 can be read");
    assert_int_equal(lm_checkpoint_read(checkpoint, "c", 1, &one, values), KAS_ERROR_FORMAT);
    assert_sentence("the checkpoint holds no tensor 'c'");
    assert_sentence(folder.folder);
    lm_checkpoint_destroy(checkpoint);
    scratch_close(&folder);
}

static void assert_unopened(scratch *folder, kas_status expected, const char *sentence)
{
    lm_checkpoint *checkpoint = NULL;
    kas_status status = lm_checkpoint_open(folder->folder, &checkpoint);
    if (status != expected)
        fail_msg("\"%s\": %s: %s", sentence, kas_status_text(status), tool_error());
    assert_null(checkpoint);
    assert_sentence(folder->folder);
    assert_sentence(sentence);
}

static void rejects_bad_indices(void **state)
{
    (void)state;
    static const struct {
        const char *index;
        kas_status status;
        const char *sentence;
    } cases[] = {
        {"", KAS_ERROR_FORMAT, INDEX ": the JSON is malformed"},
        {"[]", KAS_ERROR_FORMAT, INDEX ": the JSON is not an object"},
        {"{}", KAS_ERROR_FORMAT, INDEX ": weight_map is missing"},
        {"{\"weight_map\":[]}", KAS_ERROR_FORMAT, INDEX ": weight_map is not an object"},
        {"{\"weight_map\":{\"a\":1}}", KAS_ERROR_FORMAT, INDEX ": the file of tensor 'a' is not a string"},
        {"{\"weight_map\":{\"a\":\"\"}}", KAS_ERROR_FORMAT, "tensor 'a' is put in '', which is not a file's name"},
        {"{\"weight_map\":{\"a\":\"..\"}}", KAS_ERROR_FORMAT, "tensor 'a' is put in '..', which is not a file's name"},
        {"{\"weight_map\":{\"a\":\"../a.safetensors\"}}", KAS_ERROR_FORMAT, "which is not a file's name"},
        {"{\"weight_map\":{\"a\":\"/etc/passwd\"}}", KAS_ERROR_FORMAT, "which is not a file's name"},
        {"{\"weight_map\":{\"a\":\"absent.safetensors\"}}", KAS_ERROR_IO, "/absent.safetensors: cannot be opened"},
        {"{\"weight_map\":{\"a\":\"folder\"}}", KAS_ERROR_IO, "/folder: is not a regular file"},
        {"{\"weight_map\":{\"a\":\"a.safetensors\",\"b\":\"absent\"}}", KAS_ERROR_IO, "/absent: cannot be opened"},
        {"{\"weight_map\":{\"b\":\"a.safetensors\"}}", KAS_ERROR_FORMAT,
         INDEX ": tensor 'b' is put in a.safetensors, which does not hold it"},
        {"{\"weight_map\":{\"a\":\"a.safetensors\",\"a\":\"a.safetensors\"}}", KAS_ERROR_FORMAT,
         INDEX ": tensor 'a' is listed twice"},
        {"{\"weight_map\":{\"a\":\"cut.safetensors\"}}", KAS_ERROR_FORMAT, "/cut.safetensors: holds 5 bytes"},
        {"{\"weight_map\":{\"a\":\"empty\"}}", KAS_ERROR_FORMAT, "/empty: holds 0 bytes"},
    };
    scratch folder;
    assert_int_equal(scratch_open(&folder), 0);
    assert_int_equal(mkdir(scratch_path(&folder, "folder"), 0700), 0);
    write_shard(&folder, "a.safetensors", "a", 1);
    write_text(&folder, "cut.safetensors", "12345");
    write_text(&folder, "empty", "");
    for (size_t i = 0; i < COUNT(cases); i++) {
        write_text(&folder, INDEX, cases[i].index);
        assert_unopened(&folder, cases[i].status, cases[i].sentence);
    }
    rmdir(scratch_path(&folder, "folder"));
    scratch_close(&folder);
}

/* An index that is too large is not read; the file need not have the bytes. */
static void rejects_a_large_index(void **state)
{
    (void)state;
    scratch folder;
    assert_int_equal(scratch_open(&folder), 0);
    write_text(&folder, INDEX, "{}");
    assert_int_equal(truncate(scratch_path(&folder, INDEX), (1 << 24) + 1), 0);
    assert_unopened(&folder, KAS_ERROR_FORMAT, INDEX ": holds 16777217 bytes: the most is 16777216");
    scratch_close(&folder);
}

static void rejects_folders_without_a_checkpoint(void **state)
{
    (void)state;
    scratch folder;
    assert_int_equal(scratch_open(&folder), 0);
    assert_unopened(&folder, KAS_ERROR_IO, "/model.safetensors: cannot be opened: No such file");
    assert_int_equal(mkdir(scratch_path(&folder, "model.safetensors"), 0700), 0);
    assert_unopened(&folder, KAS_ERROR_IO, "/model.safetensors: is not a regular file");
    rmdir(scratch_path(&folder, "model.safetensors"));
    assert_int_equal(mkdir(scratch_path(&folder, INDEX), 0700), 0);
    assert_unopened(&folder, KAS_ERROR_IO, INDEX ": is not a regular file");
    rmdir(scratch_path(&folder, INDEX));
    char *long_name = malloc(5000);
    assert_non_null(long_name);
    memset(long_name, 'x', 4999);
    long_name[4999] = '\0';
    lm_checkpoint *checkpoint = NULL;
    assert_int_equal(lm_checkpoint_open(long_name, &checkpoint), KAS_ERROR_IO);
    assert_sentence("the path is longer than 4095 bytes");
    free(long_name);
    scratch_close(&folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_good_headers),
        cmocka_unit_test(rejects_bad_headers),
        cmocka_unit_test(rejects_bad_lengths),
        cmocka_unit_test(rejects_every_cut),
        cmocka_unit_test(rejects_garbage_of_full_size),
        cmocka_unit_test(reads_shards_of_every_type),
        cmocka_unit_test(refuses_tensors_of_another_kind),
        cmocka_unit_test(rejects_bad_indices),
        cmocka_unit_test(rejects_a_large_index),
        cmocka_unit_test(rejects_folders_without_a_checkpoint),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
