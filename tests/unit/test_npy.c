/*
 * test_npy.c - .npy files good and hostile, writing that leaves nothing half-done behind, half-precision numbers, and
 * the import of published head maps.
 */
#define _DEFAULT_SOURCE
#include "half.h"
#include "npy.h"
#include "plan_import.h"
#include "scratch.h"

#include <math.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <cmocka.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static void assert_sentence(const char *part)
{
    if (!strstr(tool_error(), part))
        fail_msg("\"%s\" expected in \"%s\"", part, tool_error());
}

/* ---- Files in memory ------------------------------------------------------------------------------------------- */

/* A file of version `major`.0: the header's text padded with spaces to a multiple of 16, then `size` data bytes. */
static unsigned char *make_file(int major, const char *header, size_t size, size_t *whole)
{
    const size_t start = major == 1 ? 10 : 12;
    const size_t offset = (start + strlen(header) + 1 + 15) / 16 * 16;
    const size_t length = offset - start;
    unsigned char *bytes = test_malloc(offset + size);
    memcpy(bytes, "\x93NUMPY", 6);
    bytes[6] = (unsigned char)major;
    bytes[7] = 0;
    memset(bytes + 8, 0, 4);
    bytes[8] = (unsigned char)length;
    bytes[9] = (unsigned char)(length >> 8);
    memset(bytes + start, ' ', length);
    memcpy(bytes + start, header, strlen(header));
    bytes[offset - 1] = '\n';
    for (size_t i = 0; i < size; i++)
        bytes[offset + i] = (unsigned char)i;
    *whole = offset + size;
    return bytes;
}

static void assert_rejected(const void *bytes, size_t size, kas_status expected, const char *sentence)
{
    npy_array array = {.dims = 99};
    kas_status status = npy_parse("FILE", bytes, size, &array);
    if (status != expected)
        fail_msg("\"%s\": %s: %s", sentence, kas_status_text(status), tool_error());
    assert_int_equal(array.dims, 99);
    assert_sentence("FILE: ");
    assert_sentence(sentence);
}

static void reads_good_headers(void **state)
{
    (void)state;
    static const struct {
        int major;
        const char *header;
        npy_dtype dtype;
        uint32_t dims;
        uint64_t shape[NPY_MAX_DIMS];
        size_t bytes;
    } cases[] = {
        {1, "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }", NPY_F4, 2, {2, 3}, 24},
        {2, "{'descr': '<f2', 'fortran_order': False, 'shape': (5,), }", NPY_F2, 1, {5}, 10},
        {3, "{\"shape\":(1,1,1,1,1,1,1,2),\"fortran_order\":False,\"descr\":\"<f8\"}", NPY_F8, 8,
         {1, 1, 1, 1, 1, 1, 1, 2}, 16},
        {1, " { 'shape' : ( 3 , 1 , ) ,\n'descr':'|u1','fortran_order':False}", NPY_U1, 2, {3, 1}, 3},
        {1, "{'descr': '<u1', 'fortran_order': False, 'shape': (4,)}", NPY_U1, 1, {4}, 4},
        {1, "{'descr': '<i4', 'fortran_order': False, 'shape': ()}", NPY_I4, 0, {0}, 4},
        {1, "{'descr': '<i8', 'fortran_order': False, 'shape': (0, 9223372036854775807)}", NPY_I8, 2, {0, INT64_MAX}, 0},
        {1, "{'descr': '<u2', 'fortran_order': False, 'shape': (1,)}", NPY_U2, 1, {1}, 2},
        {1, "{'descr': '<u4', 'fortran_order': False, 'shape': (1,)}", NPY_U4, 1, {1}, 4},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        size_t size = 0;
        unsigned char *bytes = make_file(cases[i].major, cases[i].header, cases[i].bytes, &size);
        npy_array array;
        if (npy_parse("FILE", bytes, size, &array) != KAS_OK)
            fail_msg("case %zu: %s", i, tool_error());
        assert_int_equal(array.dtype, cases[i].dtype);
        assert_int_equal(array.dims, cases[i].dims);
        assert_memory_equal(array.shape, cases[i].shape, sizeof(array.shape));
        assert_int_equal(array.count * npy_dtype_size(array.dtype), cases[i].bytes);
        assert_ptr_equal(array.data, bytes + size - cases[i].bytes);
        test_free(bytes);
    }
}

#define HEAD "{'descr': '<i4', 'fortran_order': False, 'shape': "

static void rejects_bad_headers(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        kas_status status;
        const char *sentence;
    } cases[] = {
        {"", KAS_ERROR_FORMAT, "malformed at its byte"},
        {"[]", KAS_ERROR_FORMAT, "{ expected"},
        {"{}", KAS_ERROR_FORMAT, "the header lacks descr"},
        {"{'descr': '<i4', 'shape': (4,)}", KAS_ERROR_FORMAT, "the header lacks fortran_order"},
        {"{'descr': '<i4', 'fortran_order': False}", KAS_ERROR_FORMAT, "the header lacks shape"},
        {"{'descr': '<i4', 'descr': '<i4'}", KAS_ERROR_FORMAT, "names \"descr\" twice"},
        {"{'descr': '<i4', 'colour': 1}", KAS_ERROR_FORMAT, "names \"colour\" besides"},
        {"{'descr': '>i4'}", KAS_ERROR_UNSUPPORTED, "type >i4 is big-endian"},
        {"{'descr': '<c8'}", KAS_ERROR_UNSUPPORTED, "type <c8 is not read: it must be one of <f2 <f4 <f8 <i4"},
        {"{'descr': '|O'}", KAS_ERROR_UNSUPPORTED, "type |O is not read"},
        {"{'descr': ''}", KAS_ERROR_UNSUPPORTED, "type  is not read"},
        {"{'descr': [('a', '<f4')]}", KAS_ERROR_UNSUPPORTED, "the elements are structures"},
        {"{'descr': <i4}", KAS_ERROR_FORMAT, "a quoted name expected"},
        {"{'descr': '<i4\"}", KAS_ERROR_FORMAT, "the end of a short quoted name expected"},
        {"{'0123456789012345678901234567890123456789': 1}", KAS_ERROR_FORMAT, "the end of a short quoted name"},
        {"{'descr' '<i4'}", KAS_ERROR_FORMAT, "a colon expected"},
        {"{'descr': '<i4' 'shape': (4,)}", KAS_ERROR_FORMAT, "a comma or } expected"},
        {"{'fortran_order': True}", KAS_ERROR_UNSUPPORTED, "fortran_order is True: only C order is read"},
        {"{'fortran_order': 0}", KAS_ERROR_FORMAT, "True or False expected"},
        {HEAD "(4,)} x", KAS_ERROR_FORMAT, "nothing more expected"},
        {HEAD "4}", KAS_ERROR_FORMAT, "( expected"},
        {HEAD "(4)}", KAS_ERROR_FORMAT, "a comma expected"},
        {HEAD "(4 4)}", KAS_ERROR_FORMAT, "a comma expected"},
        {HEAD "(,)}", KAS_ERROR_FORMAT, "a whole number from 0 expected"},
        {HEAD "(-1,)}", KAS_ERROR_FORMAT, "a whole number from 0 expected"},
        {HEAD "(4.0,)}", KAS_ERROR_FORMAT, "a comma expected"},
        {HEAD "(4,", KAS_ERROR_FORMAT, "a whole number from 0 expected"},
        {HEAD "(1,1,1,1,1,1,1,1,4)}", KAS_ERROR_UNSUPPORTED, "more than 8 dimensions"},
        {HEAD "(9223372036854775808,)}", KAS_ERROR_FORMAT, "an extent of the shape is above 9223372036854775807"},
        {HEAD "(99999999999999999999999999999,)}", KAS_ERROR_FORMAT, "an extent of the shape is above"},
        {HEAD "(9223372036854775807,)}", KAS_ERROR_FORMAT, "(9223372036854775807,) is more than 2^63 bytes"},
        {HEAD "(4294967296, 4294967296)}", KAS_ERROR_FORMAT, "is more than 2^63 bytes"},
        {HEAD "(4611686018427387904, 4)}", KAS_ERROR_FORMAT, "is more than 2^63 bytes"},
        {HEAD "(5,)}", KAS_ERROR_FORMAT, "<i4 (5,) is 20 bytes, the file has 16 behind its header"},
        {HEAD "(3,)}", KAS_ERROR_FORMAT, "<i4 (3,) is 12 bytes, the file has 16 behind its header"},
        {HEAD "(0,)}", KAS_ERROR_FORMAT, "is 0 bytes, the file has 16"},
        {HEAD "(1000000000,)}", KAS_ERROR_FORMAT, "is 4000000000 bytes, the file has 16"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        size_t size = 0;
        unsigned char *bytes = make_file(1, cases[i].header, 16, &size);
        assert_rejected(bytes, size, cases[i].status, cases[i].sentence);
        test_free(bytes);
    }
}

static void rejects_bad_prefixes(void **state)
{
    (void)state;
    size_t size = 0;
    unsigned char *bytes = make_file(2, HEAD "(4,)}", 16, &size);
    assert_rejected(NULL, 0, KAS_ERROR_FORMAT, "is not a .npy file (0 bytes");
    assert_rejected("PK\x03\x04....", 8, KAS_ERROR_FORMAT, "is not a .npy file (8 bytes");
    bytes[6] = 4;
    assert_rejected(bytes, size, KAS_ERROR_UNSUPPORTED, ".npy version 4.0 is not read: it must be 1.0, 2.0 or 3.0");
    bytes[6] = 0;
    assert_rejected(bytes, size, KAS_ERROR_UNSUPPORTED, "version 0.0");
    bytes[6] = 2;
    bytes[7] = 1;
    assert_rejected(bytes, size, KAS_ERROR_UNSUPPORTED, "version 2.1");
    bytes[7] = 0;
    bytes[11] = 0xff;
    assert_rejected(bytes, size, KAS_ERROR_FORMAT, "it must be at most 65536");
    bytes[11] = 0;
    bytes[9] = 0x80;
    assert_rejected(bytes, size, KAS_ERROR_FORMAT, "bytes, the file has");
    test_free(bytes);

    /* A header of 53 bytes puts four-byte numbers at an odd place. */
    unsigned char odd[10 + 53 + 4] = "\x93NUMPY\x01";
    odd[8] = 53;
    memset(odd + 10, ' ', 53);
    memcpy(odd + 10, HEAD "()}", sizeof(HEAD) + 2);
    assert_rejected(odd, sizeof(odd), KAS_ERROR_FORMAT, "the data begins at byte 63: it must be a multiple of 4");
}

/* Each prefix is copied into a block of its own size, so that a checker of memory sees a read past its end. */
static void rejects_every_truncation(void **state)
{
    (void)state;
    for (int major = 1; major <= 3; major++) {
        size_t size = 0;
        unsigned char *bytes = make_file(major, HEAD "(4,)}", 16, &size);
        for (size_t cut = 0; cut < size; cut++) {
            unsigned char *prefix = test_malloc(cut + (cut == 0));
            memcpy(prefix, bytes, cut);
            assert_rejected(prefix, cut, KAS_ERROR_FORMAT, "FILE: ");
            test_free(prefix);
        }
        test_free(bytes);
    }
}

/* ---- Files on disk --------------------------------------------------------------------------------------------- */

static void round_trips(void **state)
{
    (void)state;
    static const uint64_t shapes[][NPY_MAX_DIMS] = {{0}, {7}, {3, 5}, {0, 5}, {1, 2, 3, 1, 2, 1, 1, 3}};
    static const uint32_t dims[] = {0, 1, 2, 2, 8};
    unsigned char data[36 * 8];
    scratch folder;
    assert_int_equal(scratch_open(&folder), 0);
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (unsigned char)(i * 7 + 1);
    for (npy_dtype dtype = NPY_F2; dtype <= NPY_U4; dtype++) {
        for (size_t i = 0; i < COUNT(dims); i++) {
            const char *path = scratch_path(&folder, "array.npy");
            npy_array array;
            assert_int_equal(npy_save(path, dtype, shapes[i], dims[i], data), KAS_OK);
            assert_int_equal(npy_open(path, &array), KAS_OK);
            assert_int_equal(array.dtype, dtype);
            assert_int_equal(array.dims, dims[i]);
            assert_memory_equal(array.shape, shapes[i], dims[i] * sizeof(uint64_t));
            assert_int_equal((uintptr_t)array.data % 64, 0);
            assert_memory_equal(array.data, data, array.count * npy_dtype_size(dtype));
            npy_close(&array);
            npy_close(&array);
            assert_int_equal(scratch_count(&folder, 0), 1);
        }
    }
    scratch_close(&folder);
}

/* The bytes that NumPy 1.26 writes for numpy.save(f, numpy.array([[1, 2]], dtype="int32")). */
static void writes_what_numpy_writes(void **state)
{
    (void)state;
    static const char header[] = "\x93NUMPY\x01\x00\x76\x00{'descr': '<i4', 'fortran_order': False, 'shape': (1, 2), }";
    const uint64_t shape[] = {1, 2};
    const int32_t values[] = {1, 2};
    unsigned char expected[136], got[137];
    scratch folder;
    memset(expected, ' ', 128);
    memcpy(expected, header, sizeof(header) - 1);
    expected[127] = '\n';
    memcpy(expected + 128, values, 8);
    assert_int_equal(scratch_open(&folder), 0);
    assert_int_equal(npy_save(scratch_path(&folder, "a.npy"), NPY_I4, shape, 2, values), KAS_OK);
    FILE *file = fopen(folder.path, "rb");
    assert_non_null(file);
    assert_int_equal(fread(got, 1, sizeof(got), file), sizeof(expected));
    fclose(file);
    assert_memory_equal(got, expected, sizeof(expected));
    scratch_close(&folder);
}

static void writes_in_pieces(void **state)
{
    (void)state;
    const uint64_t shape[] = {3};
    const uint16_t values[] = {1, 2, 3};
    scratch folder;
    npy_writer writer = {0};
    npy_array array;
    assert_int_equal(scratch_open(&folder), 0);
    assert_int_equal(npy_writer_open(&writer, scratch_path(&folder, "a.npy"), NPY_U2, shape, 1), KAS_OK);
    assert_int_equal(npy_writer_append(&writer, values, 2), KAS_OK);
    assert_int_equal(npy_writer_append(&writer, values, 6), KAS_ERROR_INVALID_ARGUMENT);
    assert_sentence("a.npy: 6 bytes more, the shape has room for 4");
    assert_int_equal(npy_writer_append(&writer, values + 1, 4), KAS_OK);
    assert_int_not_equal(access(scratch_path(&folder, "a.npy"), F_OK), 0);
    assert_int_equal(npy_writer_finish(&writer), KAS_OK);
    assert_int_equal(npy_open(scratch_path(&folder, "a.npy"), &array), KAS_OK);
    assert_memory_equal(array.data, values, sizeof(values));
    npy_close(&array);

    /* Elements missing, or given up: nothing is left, and the old file stays. */
    assert_int_equal(npy_writer_open(&writer, folder.path, NPY_U2, shape, 1), KAS_OK);
    assert_int_equal(npy_writer_finish(&writer), KAS_ERROR_STATE);
    assert_sentence("6 bytes of the shape were not written");
    assert_int_equal(npy_writer_open(&writer, folder.path, NPY_U2, shape, 1), KAS_OK);
    npy_writer_abandon(&writer);
    npy_writer_abandon(&writer);
    assert_int_equal(scratch_count(&folder, 0), 1);
    assert_int_equal(npy_open(scratch_path(&folder, "a.npy"), &array), KAS_OK);
    npy_close(&array);
    scratch_close(&folder);
}

static void rejects_what_cannot_be_written(void **state)
{
    (void)state;
    const uint64_t large[] = {UINT64_MAX, 2}, many[9] = {1, 1, 1, 1, 1, 1, 1, 1, 1};
    scratch folder;
    assert_int_equal(scratch_open(&folder), 0);
    const char *path = scratch_path(&folder, "a.npy");
    assert_int_equal(npy_save(path, NPY_F4, large, 2, large), KAS_ERROR_INVALID_ARGUMENT);
    assert_sentence("is more than 2^63 bytes");
    assert_int_equal(npy_save(path, NPY_F4, many, 9, many), KAS_ERROR_INVALID_ARGUMENT);
    assert_sentence("9 dimensions, at most 8");
    assert_int_equal(npy_save(folder.folder, NPY_F4, many, 1, many), KAS_ERROR_IO);
    assert_sentence("is not a regular file");
    assert_int_equal(npy_save("/dev/null", NPY_F4, many, 1, many), KAS_ERROR_IO);
    struct stat info;
    assert_int_equal(stat("/dev/null", &info), 0);
    assert_true(S_ISCHR(info.st_mode));
    assert_int_equal(npy_save(scratch_path(&folder, "absent/a.npy"), NPY_F4, many, 1, many), KAS_ERROR_IO);
    assert_sentence("absent/a.npy: cannot be written: ");
    assert_int_equal(scratch_count(&folder, 0), 0);
    scratch_close(&folder);
}

/* The system refuses to let the file grow, in the middle of an append or at the end, when buffers are emptied. */
static void leaves_nothing_when_the_disk_is_full(void **state)
{
    (void)state;
    static char data[100000];
    static const uint64_t sizes[] = {sizeof(data), 1500};
    struct rlimit old, tight;
    scratch folder;
    assert_int_equal(scratch_open(&folder), 0);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    tight = old;
    tight.rlim_cur = 1000;
    for (size_t i = 0; i < COUNT(sizes); i++) {
        const char *path = scratch_path(&folder, "a.npy");
        setrlimit(RLIMIT_FSIZE, &tight);
        kas_status status = npy_save(path, NPY_U1, &sizes[i], 1, data);
        setrlimit(RLIMIT_FSIZE, &old);
        assert_int_equal(status, KAS_ERROR_IO);
        assert_sentence("a.npy: cannot be written: File too large");
        assert_int_equal(scratch_count(&folder, 0), 0);
    }
    signal(SIGXFSZ, handler);
    scratch_close(&folder);
}

static void rejects_files_that_cannot_be_read(void **state)
{
    (void)state;
    scratch folder;
    npy_array array = {.dims = 99};
    assert_int_equal(scratch_open(&folder), 0);
    assert_int_equal(npy_open(scratch_path(&folder, "absent.npy"), &array), KAS_ERROR_IO);
    assert_sentence("absent.npy");
    assert_int_equal(npy_open(folder.folder, &array), KAS_ERROR_IO);
    FILE *file = fopen(scratch_path(&folder, "empty.npy"), "wb");
    assert_non_null(file);
    fclose(file);
    assert_int_equal(npy_open(folder.path, &array), KAS_ERROR_FORMAT);
    assert_sentence("empty.npy: is not a .npy file (0 bytes");
    assert_int_equal(array.dims, 99);
    scratch_close(&folder);
}

/* ---- Half-precision numbers ------------------------------------------------------------------------------------ */

/* The value of a finite half, from its definition. */
static double half_value(uint32_t half)
{
    const int exponent = half >> 10 & 0x1f;
    const double fraction = half & 0x3ff;
    const double magnitude = exponent == 0 ? ldexp(fraction, -24) : ldexp(fraction + 1024, exponent - 25);
    return half & 0x8000 ? -magnitude : magnitude;
}

static void every_half_is_exact(void **state)
{
    (void)state;
    for (uint32_t half = 0; half < 0x10000; half++) {
        const float value = half_to_float((uint16_t)half);
        const uint32_t magnitude = half & 0x7fff;
        if (magnitude > 0x7c00) {
            assert_true(isnan(value));
            assert_true((half_from_float(value) & 0x7fff) > 0x7c00);
            assert_int_equal(half_from_float(value) & 0x8000, half & 0x8000);
            continue;
        }
        if (magnitude == 0x7c00)
            assert_true(isinf(value) && !!signbit(value) == (half > 0x8000));
        else
            assert_true((double)value == half_value(half) && !!signbit(value) == (half >= 0x8000));
        assert_int_equal(half_from_float(value), half);
    }
}

static void expect_half(float value, uint32_t expected)
{
    if (half_from_float(value) != expected || half_from_float(-value) != (expected | 0x8000))
        fail_msg("%a gives 0x%04x, not 0x%04x", value, half_from_float(value), expected);
}

/* Between each two neighbours: the middle goes to the even one, the floats beside the middle to the nearer one. */
static void floats_round_to_the_nearest_half(void **state)
{
    (void)state;
    for (uint32_t half = 0; half < 0x7c00; half++) {
        /* Above the greatest half stands the power of two that infinity replaces. */
        const double next = half + 1 == 0x7c00 ? 65536.0 : half_value(half + 1);
        const float middle = (float)((half_value(half) + next) / 2);
        expect_half(middle, half + (half & 1));
        expect_half(nextafterf(middle, 0), half);
        expect_half(nextafterf(middle, INFINITY), half + 1);
    }
    expect_half(3e38f, 0x7c00);
    expect_half(1e-45f, 0);
}

static void bfloats(void **state)
{
    (void)state;
    for (uint32_t bits = 0; bits < 0x10000; bits++) {
        const float value = bfloat_to_float((uint16_t)bits);
        if (isnan(value))
            assert_true(isnan(bfloat_to_float(bfloat_from_float(value))));
        else
            assert_int_equal(bfloat_from_float(value), bits);
    }
    for (uint32_t bits = 0; bits < 0x7f80; bits++) {
        const float middle = bits_float(bits << 16 | 0x8000);
        assert_int_equal(bfloat_from_float(middle), bits + (bits & 1));
        assert_int_equal(bfloat_from_float(-middle), (bits + (bits & 1)) | 0x8000);
        assert_int_equal(bfloat_from_float(bits_float(bits << 16 | 0x7fff)), bits);
        assert_int_equal(bfloat_from_float(bits_float(bits << 16 | 0x8001)), bits + 1);
    }
    /* A NaN whose payload lies in the bits that are dropped stays a NaN. */
    assert_true(isnan(bfloat_to_float(bfloat_from_float(bits_float(0x7f800001)))));
    assert_true(isnan(half_to_float(half_from_float(bits_float(0x7f800001)))));
}

/* ---- Import of head maps --------------------------------------------------------------------------------------- */

static const int32_t head_map[6][2] = {{0, 1}, {1, 1}, {0, 1}, {1, 0}, {0, 0}, {0, 1}};

static const char *save_map(scratch *folder, const char *name, npy_dtype dtype, uint64_t rows, uint64_t columns,
                            const void *data)
{
    const uint64_t shape[] = {rows, columns};
    const char *path = scratch_path(folder, name);
    assert_int_equal(npy_save(path, dtype, shape, 2, data), KAS_OK);
    return path;
}

static void imports_a_head_map(void **state)
{
    (void)state;
    scratch folder;
    kas_plan *plan = NULL;
    kas_plan_desc desc = {.struct_size = sizeof(desc)};
    assert_int_equal(scratch_open(&folder), 0);
    const char *path = save_map(&folder, "Some-1.5_layers_B_layers_0_2_5.npy", NPY_I4, 6, 2, head_map);
    assert_int_equal(plan_import(path, 8, &plan), KAS_OK);
    assert_int_equal(kas_plan_get_desc(plan, &desc), KAS_OK);
    assert_string_equal(desc.model, "Some-1.5_layers_B");
    assert_string_equal(desc.source, "Some-1.5_layers_B_layers_0_2_5.npy");
    assert_int_equal(desc.layers, 6);
    assert_int_equal(desc.heads, 8);
    assert_int_equal(desc.kv_heads, 2);
    assert_int_equal(desc.anchor_count, 3);
    assert_memory_equal(desc.anchors, ((uint32_t[]){0, 2, 5}), 12);
    assert_memory_equal(desc.head_map, head_map, sizeof(head_map));
    kas_plan_destroy(plan);
    assert_int_equal(plan_import(path, 0, &plan), KAS_OK);
    assert_int_equal(kas_plan_get_desc(plan, &desc), KAS_OK);
    assert_int_equal(desc.heads, 32);
    kas_plan_destroy(plan);
    scratch_close(&folder);
}

static void rejects_bad_names_of_head_maps(void **state)
{
    (void)state;
    static const char *const names[] = {"m.npy",           "m_layers_.npy",    "m_layers_0_.npy", "m_layers_0_x.npy",
                                        "m_layers_0,2.npy", "m_layers_0_2",     "m_layers_0_2.np", "m_layers_-1.npy",
                                        "m_layers_0__2.npy", "m_layers_0_99999999999.npy"};
    scratch folder;
    kas_plan *plan = NULL;
    assert_int_equal(scratch_open(&folder), 0);
    for (size_t i = 0; i < COUNT(names); i++) {
        const char *path = save_map(&folder, names[i], NPY_I4, 6, 2, head_map);
        assert_int_equal(plan_import(path, 0, &plan), KAS_ERROR_FORMAT);
        assert_sentence(names[i]);
        assert_sentence("the name does not tell the anchors");
    }
    assert_null(plan);
    scratch_close(&folder);
}

static void rejects_bad_head_maps(void **state)
{
    (void)state;
    static const int32_t negative[6][2] = {{0, 1}, {-2, 1}}, large[6][2] = {{0, 1}, {0, 2}};
    static const struct {
        const char *name;
        npy_dtype dtype;
        uint64_t rows, columns;
        const void *data;
        uint32_t heads;
        const char *sentence;
    } cases[] = {
        {"m_layers_0_2.npy", NPY_F4, 6, 2, head_map, 0, "holds <f4 (6, 2): a head map is <i4 (layers, kv heads)"},
        {"m_layers_0_2.npy", NPY_I4, 6, 2, negative, 0, "entry [1][0] is -2: it must be from 0"},
        {"m_layers_0_2.npy", NPY_I4, 6, 2, large, 0, "head_map[1][1] is 2: it must be below kv_heads = 2"},
        {"m_layers_0_6.npy", NPY_I4, 6, 2, head_map, 0, "anchors[1] is 6: it must be below layers = 6"},
        {"m_layers_1_2.npy", NPY_I4, 6, 2, head_map, 0, "the first anchor must be layer 0"},
        {"m_layers_0_2_2.npy", NPY_I4, 6, 2, head_map, 0, "anchors[2] is 2: it must be above"},
        {"m_layers_0.npy", NPY_I4, 0, 2, head_map, 0, "layers is 0: it must be from 1"},
        {"m_layers_0.npy", NPY_I4, 6, 0, head_map, 0, "kv_heads is 0: it must be from 1"},
        {"m_layers_0.npy", NPY_I4, UINT32_MAX + 1ull, 0, head_map, 0, "there are no models of that size"},
        {"m_layers_0.npy", NPY_I4, 6, 2, head_map, 3, "heads is 3: it must be a multiple of kv_heads = 2"},
        {"m_layers_0.npy", NPY_I4, 2, 6, head_map, 0, "heads is 32: it must be a multiple of kv_heads = 6"},
    };
    scratch folder;
    kas_plan *plan = NULL;
    assert_int_equal(scratch_open(&folder), 0);
    for (size_t i = 0; i < COUNT(cases); i++) {
        const char *path = save_map(&folder, cases[i].name, cases[i].dtype, cases[i].rows, cases[i].columns,
                                    cases[i].data);
        assert_int_equal(plan_import(path, cases[i].heads, &plan), KAS_ERROR_FORMAT);
        assert_sentence(cases[i].name);
        assert_sentence(cases[i].sentence);
    }
    const uint64_t shape[] = {12};
    assert_int_equal(npy_save(scratch_path(&folder, "m_layers_0.npy"), NPY_I4, shape, 1, head_map), KAS_OK);
    assert_int_equal(plan_import(folder.path, 0, &plan), KAS_ERROR_FORMAT);
    assert_sentence("holds <i4 (12,)");
    assert_int_equal(plan_import(scratch_path(&folder, "absent_layers_0.npy"), 0, &plan), KAS_ERROR_IO);
    assert_null(plan);
    scratch_close(&folder);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_good_headers),
        cmocka_unit_test(rejects_bad_headers),
        cmocka_unit_test(rejects_bad_prefixes),
        cmocka_unit_test(rejects_every_truncation),
        cmocka_unit_test(round_trips),
        cmocka_unit_test(writes_what_numpy_writes),
        cmocka_unit_test(writes_in_pieces),
        cmocka_unit_test(rejects_what_cannot_be_written),
        cmocka_unit_test(leaves_nothing_when_the_disk_is_full),
        cmocka_unit_test(rejects_files_that_cannot_be_read),
        cmocka_unit_test(every_half_is_exact),
        cmocka_unit_test(floats_round_to_the_nearest_half),
        cmocka_unit_test(bfloats),
        cmocka_unit_test(imports_a_head_map),
        cmocka_unit_test(rejects_bad_names_of_head_maps),
        cmocka_unit_test(rejects_bad_head_maps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
