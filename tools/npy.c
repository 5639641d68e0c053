/* npy.c - reading and writing .npy files; see npy.h. */
#include "npy.h"

#include <inttypes.h>
#include <stdbool.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "npy.c hands little-endian data out as it lies in the file"
#endif

#define MAGIC "\x93NUMPY"
#define MAGIC_SIZE 6u
#define MAX_HEADER 65536u /* NumPy itself stops at 10,000 */
#define HEADER_ALIGNMENT 64u

static const struct {
    const char *descr;
    size_t size;
} dtypes[] = {
#define DTYPE_ROW(name, descr, bytes) [name] = {descr, bytes},
    NPY_DTYPE_LIST(DTYPE_ROW)
#undef DTYPE_ROW
};

#define DTYPE_COUNT (sizeof(dtypes) / sizeof(dtypes[0]))

size_t npy_dtype_size(npy_dtype dtype)
{
    return dtypes[dtype].size;
}

npy_text npy_describe(npy_dtype dtype, const uint64_t *shape, uint32_t dims)
{
    npy_text shown;
    size_t used = (size_t)snprintf(shown.text, sizeof(shown.text), "%s (", dtypes[dtype].descr);
    for (uint32_t i = 0; i < dims; i++)
        used += (size_t)snprintf(shown.text + used, sizeof(shown.text) - used, i == 0 ? "%" PRIu64 : ", %" PRIu64,
                                 shape[i]);
    snprintf(shown.text + used, sizeof(shown.text) - used, dims == 1 ? ",)" : ")");
    return shown;
}

/* Elements and bytes of a shape; false when the bytes do not fit 63 bits. */
static bool measure(npy_dtype dtype, const uint64_t *shape, uint32_t dims, uint64_t *count, uint64_t *bytes)
{
    const uint64_t most = INT64_MAX / dtypes[dtype].size;
    uint64_t product = 1;
    for (uint32_t i = 0; i < dims; i++)
        if (shape[i] == 0)
            product = 0;
    for (uint32_t i = 0; product != 0 && i < dims; i++) {
        if (product > most / shape[i])
            return false;
        product *= shape[i];
    }
    *count = product;
    *bytes = product * dtypes[dtype].size;
    return true;
}

/* ---- Reading the header: the literal of a Python dictionary ------------------------------------------------------ */

typedef struct cursor {
    const char *name; /* of the file */
    const char *start, *at, *end;
} cursor;

static kas_status malformed(const cursor *in, const char *expected)
{
    return tool_fail(KAS_ERROR_FORMAT, "%s: the header is malformed at its byte %zu: %s expected", in->name,
                     (size_t)(in->at - in->start), expected);
}

static void skip_space(cursor *in)
{
    while (in->at < in->end && (*in->at == ' ' || *in->at == '\t' || *in->at == '\n' || *in->at == '\r'))
        in->at++;
}

/* Takes `c` and the space before it, if it comes next. */
static bool take(cursor *in, char c)
{
    skip_space(in);
    if (in->at == in->end || *in->at != c)
        return false;
    in->at++;
    return true;
}

static bool take_word(cursor *in, const char *word)
{
    size_t length = strlen(word);
    skip_space(in);
    if ((size_t)(in->end - in->at) < length || memcmp(in->at, word, length) != 0)
        return false;
    in->at += length;
    return true;
}

static kas_status read_quoted(cursor *in, char *text, size_t capacity)
{
    char quote = take(in, '\'') ? '\'' : take(in, '"') ? '"' : '\0';
    if (!quote)
        return malformed(in, "a quoted name");
    size_t length = 0;
    while (in->at < in->end && *in->at != quote && length + 1 < capacity)
        text[length++] = *in->at++;
    text[length] = '\0';
    return take(in, quote) ? KAS_OK : malformed(in, "the end of a short quoted name");
}

static kas_status read_dtype(cursor *in, npy_array *array)
{
    char descr[32];
    skip_space(in);
    if (in->at < in->end && *in->at == '[')
        return tool_fail(KAS_ERROR_UNSUPPORTED, "%s: the elements are structures: they must be plain numbers",
                         in->name);
    TOOL_TRY(read_quoted(in, descr, sizeof(descr)));
    if (descr[0] == '>')
        return tool_fail(KAS_ERROR_UNSUPPORTED, "%s: type %s is big-endian: only little-endian is read", in->name,
                         descr);
    for (size_t i = 0; i < DTYPE_COUNT; i++) {
        bool order_is_free = dtypes[i].size == 1 && (descr[0] == '<' || descr[0] == '=');
        if (strcmp(descr, dtypes[i].descr) == 0 || (order_is_free && strcmp(descr + 1, dtypes[i].descr + 1) == 0)) {
            array->dtype = (npy_dtype)i;
            return KAS_OK;
        }
    }
#define DTYPE_NAME(name, descr, bytes) " " descr
    return tool_fail(KAS_ERROR_UNSUPPORTED, "%s: type %s is not read: it must be one of" NPY_DTYPE_LIST(DTYPE_NAME),
                     in->name, descr);
#undef DTYPE_NAME
}

static kas_status read_order(cursor *in)
{
    if (take_word(in, "False"))
        return KAS_OK;
    if (take_word(in, "True"))
        return tool_fail(KAS_ERROR_UNSUPPORTED, "%s: fortran_order is True: only C order is read", in->name);
    return malformed(in, "True or False");
}

static kas_status read_extent(cursor *in, uint64_t *extent)
{
    const char *first = in->at;
    uint64_t value = 0;
    for (; in->at < in->end && *in->at >= '0' && *in->at <= '9'; in->at++) {
        uint64_t digit = (uint64_t)(*in->at - '0');
        if (value > (INT64_MAX - digit) / 10)
            return tool_fail(KAS_ERROR_FORMAT, "%s: an extent of the shape is above %" PRId64, in->name, INT64_MAX);
        value = value * 10 + digit;
    }
    if (in->at == first)
        return malformed(in, "a whole number from 0");
    *extent = value;
    return KAS_OK;
}

static kas_status read_shape(cursor *in, npy_array *array)
{
    array->dims = 0;
    if (!take(in, '('))
        return malformed(in, "(");
    while (!take(in, ')')) {
        if (array->dims == NPY_MAX_DIMS)
            return tool_fail(KAS_ERROR_UNSUPPORTED, "%s: the shape has more than %d dimensions", in->name,
                             NPY_MAX_DIMS);
        TOOL_TRY(read_extent(in, &array->shape[array->dims++]));
        if (take(in, ','))
            continue;
        if (array->dims == 1 || !take(in, ')')) /* (3) is a number in Python, not a tuple */
            return malformed(in, "a comma");
        break;
    }
    return KAS_OK;
}

static kas_status read_dictionary(cursor *in, npy_array *array)
{
    static const char *const keys[] = {"descr", "fortran_order", "shape"};
    uint32_t seen = 0;
    if (!take(in, '{'))
        return malformed(in, "{");
    while (!take(in, '}')) {
        char key[32];
        TOOL_TRY(read_quoted(in, key, sizeof(key)));
        uint32_t which = 0;
        while (which < 3 && strcmp(key, keys[which]) != 0)
            which++;
        if (which == 3 || (seen & 1u << which))
            return tool_fail(KAS_ERROR_FORMAT, "%s: the header names \"%s\" %s", in->name, key,
                             which == 3 ? "besides descr, fortran_order and shape" : "twice");
        if (!take(in, ':'))
            return malformed(in, "a colon");
        skip_space(in);
        TOOL_TRY(which == 0 ? read_dtype(in, array) : which == 1 ? read_order(in) : read_shape(in, array));
        seen |= 1u << which;
        if (take(in, ','))
            continue;
        if (!take(in, '}'))
            return malformed(in, "a comma or }");
        break;
    }
    for (uint32_t which = 0; which < 3; which++)
        if (!(seen & 1u << which))
            return tool_fail(KAS_ERROR_FORMAT, "%s: the header lacks %s", in->name, keys[which]);
    skip_space(in);
    return in->at == in->end ? KAS_OK : malformed(in, "nothing more");
}

/* ---- Reading the file ------------------------------------------------------------------------------------------ */

/* Where the header's text lies: its start and length in bytes. */
static kas_status find_header(const char *name, const unsigned char *bytes, size_t size, size_t *start, size_t *length)
{
    if (size < MAGIC_SIZE + 2 || memcmp(bytes, MAGIC, MAGIC_SIZE) != 0)
        return tool_fail(KAS_ERROR_FORMAT, "%s: is not a .npy file (%zu bytes, no NumPy signature)", name, size);
    const unsigned major = bytes[6], minor = bytes[7];
    if (major < 1 || major > 3 || minor != 0)
        return tool_fail(KAS_ERROR_UNSUPPORTED, "%s: .npy version %u.%u is not read: it must be 1.0, 2.0 or 3.0", name,
                         major, minor);
    *start = major == 1 ? 10 : 12;
    if (size < *start)
        return tool_fail(KAS_ERROR_FORMAT, "%s: the file ends after %zu bytes, before its header", name, size);
    *length = (size_t)bytes[8] | (size_t)bytes[9] << 8;
    if (major > 1)
        *length |= (size_t)bytes[10] << 16 | (size_t)bytes[11] << 24;
    if (*length > MAX_HEADER)
        return tool_fail(KAS_ERROR_FORMAT, "%s: the header claims %zu bytes: it must be at most %u", name, *length,
                         MAX_HEADER);
    if (*length > size - *start)
        return tool_fail(KAS_ERROR_FORMAT, "%s: the header claims %zu bytes, the file has %zu left", name, *length,
                         size - *start);
    return KAS_OK;
}

/* The bytes behind the header must be those of the shape, no fewer and no more. */
static kas_status check_data(const char *name, size_t offset, size_t size, npy_array *array)
{
    const npy_text shown = npy_describe(array->dtype, array->shape, array->dims);
    uint64_t bytes = 0;
    if (!measure(array->dtype, array->shape, array->dims, &array->count, &bytes))
        return tool_fail(KAS_ERROR_FORMAT, "%s: %s is more than 2^63 bytes", name, shown.text);
    if (bytes != size - offset)
        return tool_fail(KAS_ERROR_FORMAT, "%s: %s is %" PRIu64 " bytes, the file has %zu behind its header", name,
                         shown.text, bytes, size - offset);
    if (offset % dtypes[array->dtype].size != 0)
        return tool_fail(KAS_ERROR_FORMAT, "%s: the data begins at byte %zu: it must be a multiple of %zu", name,
                         offset, dtypes[array->dtype].size);
    return KAS_OK;
}

kas_status npy_parse(const char *name, const void *bytes, size_t size, npy_array *array)
{
    npy_array found = {0};
    size_t start = 0, length = 0;
    TOOL_TRY(find_header(name, bytes, size, &start, &length));
    const char *text = (const char *)bytes + start;
    cursor in = {name, text, text, text + length};
    TOOL_TRY(read_dictionary(&in, &found));
    TOOL_TRY(check_data(name, start + length, size, &found));
    found.data = (const char *)bytes + start + length;
    *array = found;
    return KAS_OK;
}

kas_status npy_open(const char *path, npy_array *array)
{
    lm_mapped_file file = {0};
    TOOL_TRY(lm_map_file(path, &file));
    kas_status status = npy_parse(path, file.data, file.size, array);
    if (status == KAS_OK)
        array->file = file;
    else
        lm_unmap_file(&file);
    return status;
}

void npy_close(npy_array *array)
{
    lm_unmap_file(&array->file);
    *array = (npy_array){0};
}

/* ---- Writing --------------------------------------------------------------------------------------------------- */

/* The signature, version, length and text of a header, padded to the alignment; returns its size. */
static size_t make_header(npy_dtype dtype, const uint64_t *shape, uint32_t dims, char header[512])
{
    const npy_text shown = npy_describe(dtype, shape, dims);
    memcpy(header, MAGIC "\x01\x00", 8);
    size_t used = 10 + (size_t)snprintf(header + 10, 502, "{'descr': '%s', 'fortran_order': False, 'shape': %s, }",
                                        dtypes[dtype].descr, strchr(shown.text, '('));
    size_t size = (used / HEADER_ALIGNMENT + 1) * HEADER_ALIGNMENT;
    memset(header + used, ' ', size - used - 1);
    header[size - 1] = '\n';
    header[8] = (char)((size - 10) & 0xff);
    header[9] = (char)((size - 10) >> 8);
    return size;
}

kas_status npy_writer_open(npy_writer *writer, const char *path, npy_dtype dtype, const uint64_t *shape, uint32_t dims)
{
    npy_writer opened = {0};
    uint64_t count = 0;
    char header[512];
    if (dims > NPY_MAX_DIMS)
        return tool_fail(KAS_ERROR_INVALID_ARGUMENT, "%s: %u dimensions, at most %d are written", path, dims,
                         NPY_MAX_DIMS);
    if (!measure(dtype, shape, dims, &count, &opened.left))
        return tool_fail(KAS_ERROR_INVALID_ARGUMENT, "%s: %s is more than 2^63 bytes", path,
                         npy_describe(dtype, shape, dims).text);
    TOOL_TRY(out_file_open(&opened.file, path));
    size_t size = make_header(dtype, shape, dims, header);
    if (fwrite(header, 1, size, opened.file.stream) != size) {
        kas_status status = out_file_failed(&opened.file);
        npy_writer_abandon(&opened);
        return status;
    }
    *writer = opened;
    return KAS_OK;
}

kas_status npy_writer_append(npy_writer *writer, const void *data, uint64_t bytes)
{
    if (bytes > writer->left)
        return tool_fail(KAS_ERROR_INVALID_ARGUMENT, "%s: %" PRIu64 " bytes more, the shape has room for %" PRIu64,
                         writer->file.path, bytes, writer->left);
    if (bytes > 0 && fwrite(data, 1, bytes, writer->file.stream) != bytes)
        return out_file_failed(&writer->file);
    writer->left -= bytes;
    return KAS_OK;
}

kas_status npy_writer_finish(npy_writer *writer)
{
    kas_status status = KAS_OK;
    if (writer->left > 0)
        status = tool_fail(KAS_ERROR_STATE, "%s: %" PRIu64 " bytes of the shape were not written", writer->file.path,
                           writer->left);
    else
        status = out_file_finish(&writer->file);
    npy_writer_abandon(writer);
    return status;
}

void npy_writer_abandon(npy_writer *writer)
{
    out_file_abandon(&writer->file);
    *writer = (npy_writer){0};
}

kas_status npy_save(const char *path, npy_dtype dtype, const uint64_t *shape, uint32_t dims, const void *data)
{
    npy_writer writer = {0};
    TOOL_TRY(npy_writer_open(&writer, path, dtype, shape, dims));
    kas_status status = npy_writer_append(&writer, data, writer.left);
    if (status == KAS_OK)
        return npy_writer_finish(&writer);
    npy_writer_abandon(&writer);
    return status;
}
