/* safetensors.c - headers, indices and tensors of checkpoints; see safetensors.h. */
#include "safetensors.h"

#include "../half.h"
#include "json.h"
#include "mapped_file.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LENGTH_BYTES 8
#define MAX_HEADER (16u << 20) /* real headers are some hundred KiB; parsing costs many times the header */
#define MAX_WHOLE (UINT64_C(1) << 53)
#define MAX_PATH 4096

struct lm_shard {
    char *file;
    lm_tensor *tensors; /* by name */
    uint32_t count;
};

typedef struct dtype_row {
    const char *name;
    uint32_t bytes;
    lm_dtype dtype;
} dtype_row;

/* The types of the format that fill whole bytes, so that the byte ranges of tensors the host never reads are checked too. */
static const dtype_row dtype_rows[] = {
    {"F32", 4, LM_DTYPE_F32},       {"F16", 2, LM_DTYPE_F16},   {"BF16", 2, LM_DTYPE_BF16},
    {"BOOL", 1, LM_DTYPE_OTHER},    {"U8", 1, LM_DTYPE_OTHER},  {"I8", 1, LM_DTYPE_OTHER},
    {"F8_E4M3", 1, LM_DTYPE_OTHER}, {"F8_E5M2", 1, LM_DTYPE_OTHER}, {"F8_E8M0", 1, LM_DTYPE_OTHER},
    {"U16", 2, LM_DTYPE_OTHER},     {"I16", 2, LM_DTYPE_OTHER}, {"U32", 4, LM_DTYPE_OTHER},
    {"I32", 4, LM_DTYPE_OTHER},     {"U64", 8, LM_DTYPE_OTHER}, {"I64", 8, LM_DTYPE_OTHER},
    {"F64", 8, LM_DTYPE_OTHER},     {"C64", 8, LM_DTYPE_OTHER},
};

static char *copy_text(const char *text)
{
    size_t size = strlen(text) + 1;
    char *copy = malloc(size);
    if (copy)
        memcpy(copy, text, size);
    return copy;
}

/* ---- One file -------------------------------------------------------------------------------------------------- */

static const dtype_row *find_dtype(const char *name)
{
    for (size_t i = 0; i < sizeof(dtype_rows) / sizeof(dtype_rows[0]); i++)
        if (strcmp(dtype_rows[i].name, name) == 0)
            return &dtype_rows[i];
    return NULL;
}

/* JSON lets a name stand twice and readers then disagree about which of the values counts. */
static kas_status check_fields(const char *file, const cJSON *entry, const char *tensor)
{
    const cJSON *field;
    if (!cJSON_IsObject(entry))
        return tool_fail(KAS_ERROR_FORMAT, "%s: the entry of tensor '%.80s' is not an object", file, tensor);
    cJSON_ArrayForEach(field, entry)
    {
        if (cJSON_GetObjectItemCaseSensitive(entry, field->string) != field)
            return tool_fail(KAS_ERROR_FORMAT, "%s: tensor '%.80s' has %.20s twice", file, tensor, field->string);
        if (strcmp(field->string, "dtype") && strcmp(field->string, "shape") && strcmp(field->string, "data_offsets"))
            return tool_fail(KAS_ERROR_FORMAT, "%s: tensor '%.80s' has '%.20s' besides dtype, shape and data_offsets",
                             file, tensor, field->string);
    }
    return KAS_OK;
}

static kas_status read_dtype(const char *file, const cJSON *entry, lm_tensor *tensor, uint32_t *bytes)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(entry, "dtype");
    if (!cJSON_IsString(item))
        return tool_fail(KAS_ERROR_FORMAT, "%s: tensor '%.80s' has no dtype", file, tensor->name);
    const dtype_row *row = find_dtype(item->valuestring);
    if (!row)
        return tool_fail(KAS_ERROR_FORMAT, "%s: tensor '%.80s' has dtype '%.20s', which is not known", file,
                         tensor->name, item->valuestring);
    tensor->dtype = row->dtype;
    tensor->dtype_name = row->name;
    *bytes = row->bytes;
    return KAS_OK;
}

/* Reads the shape and multiplies it up to the tensor's bytes. */
static kas_status read_shape(const char *file, const cJSON *entry, lm_tensor *tensor, uint64_t *bytes)
{
    const cJSON *shape = cJSON_GetObjectItemCaseSensitive(entry, "shape");
    if (!cJSON_IsArray(shape))
        return tool_fail(KAS_ERROR_FORMAT, "%s: tensor '%.80s' has no shape", file, tensor->name);
    char field[128];
    snprintf(field, sizeof(field), "shape of tensor '%.80s'", tensor->name);
    const cJSON *item;
    cJSON_ArrayForEach(item, shape)
    {
        if (tensor->rank == LM_MAX_RANK)
            return tool_fail(KAS_ERROR_FORMAT, "%s: tensor '%.80s' has more than %d dimensions", file, tensor->name,
                             LM_MAX_RANK);
        uint64_t extent;
        TOOL_TRY(lm_json_whole(file, field, item, 0, MAX_WHOLE, &extent));
        if (extent != 0 && *bytes > MAX_WHOLE / extent)
            return tool_fail(KAS_ERROR_FORMAT, "%s: the shape of tensor '%.80s' multiplies to more than 2^53 bytes",
                             file, tensor->name);
        *bytes *= extent;
        tensor->shape[tensor->rank++] = extent;
    }
    return KAS_OK;
}

static kas_status read_offsets(const char *file, const cJSON *entry, uint64_t data_size, lm_tensor *tensor)
{
    const cJSON *offsets = cJSON_GetObjectItemCaseSensitive(entry, "data_offsets");
    if (!cJSON_IsArray(offsets) || cJSON_GetArraySize(offsets) != 2)
        return tool_fail(KAS_ERROR_FORMAT, "%s: tensor '%.80s' has no data_offsets of two numbers", file, tensor->name);
    char field[128];
    snprintf(field, sizeof(field), "data_offsets of tensor '%.80s'", tensor->name);
    TOOL_TRY(lm_json_whole(file, field, cJSON_GetArrayItem(offsets, 0), 0, MAX_WHOLE, &tensor->begin));
    TOOL_TRY(lm_json_whole(file, field, cJSON_GetArrayItem(offsets, 1), tensor->begin, MAX_WHOLE, &tensor->end));
    if (tensor->end > data_size)
        return tool_fail(KAS_ERROR_FORMAT, "%s: tensor '%.80s' ends at byte %" PRIu64 " of the data, but the file holds %"
                         PRIu64 " of them", file, tensor->name, tensor->end, data_size);
    return KAS_OK;
}

static kas_status read_tensor(const char *file, const cJSON *entry, const unsigned char *data, uint64_t data_size,
                              lm_tensor *tensor)
{
    tensor->name = copy_text(entry->string);
    if (!tensor->name)
        return tool_fail_memory();
    TOOL_TRY(check_fields(file, entry, tensor->name));
    uint32_t element = 0;
    TOOL_TRY(read_dtype(file, entry, tensor, &element));
    uint64_t bytes = element;
    TOOL_TRY(read_shape(file, entry, tensor, &bytes));
    TOOL_TRY(read_offsets(file, entry, data_size, tensor));
    if (tensor->end - tensor->begin != bytes)
        return tool_fail(KAS_ERROR_FORMAT,
                         "%s: tensor '%.80s' takes %" PRIu64 " bytes by its shape, but its data_offsets span %" PRIu64,
                         file, tensor->name, bytes, tensor->end - tensor->begin);
    tensor->data = data + tensor->begin;
    return KAS_OK;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(((const lm_tensor *)a)->name, ((const lm_tensor *)b)->name);
}

static int compare_offsets(const void *a, const void *b)
{
    const lm_tensor *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    return (x->end > y->end) - (x->end < y->end);
}

/* The tensors must cover the data exactly: no two share a byte, none is left over. */
static kas_status check_cover(lm_shard *shard, uint64_t data_size)
{
    qsort(shard->tensors, shard->count, sizeof(*shard->tensors), compare_offsets);
    uint64_t covered = 0;
    for (uint32_t i = 0; i < shard->count; i++) {
        const lm_tensor *tensor = &shard->tensors[i];
        if (tensor->begin < covered)
            return tool_fail(KAS_ERROR_FORMAT, "%s: tensor '%.80s' begins at byte %" PRIu64
                             " and overlaps tensor '%.80s', which ends at %" PRIu64, shard->file, tensor->name,
                             tensor->begin, shard->tensors[i - 1].name, covered);
        if (tensor->begin > covered)
            return tool_fail(KAS_ERROR_FORMAT, "%s: tensor '%.80s' begins at byte %" PRIu64
                             ", but the data before it ends at %" PRIu64, shard->file, tensor->name, tensor->begin,
                             covered);
        covered = tensor->end;
    }
    if (covered != data_size)
        return tool_fail(KAS_ERROR_FORMAT, "%s: the tensors end at byte %" PRIu64 ", but the file holds %" PRIu64
                         " bytes of data", shard->file, covered, data_size);
    return KAS_OK;
}

static kas_status sort_by_name(lm_shard *shard)
{
    qsort(shard->tensors, shard->count, sizeof(*shard->tensors), compare_names);
    for (uint32_t i = 1; i < shard->count; i++)
        if (strcmp(shard->tensors[i - 1].name, shard->tensors[i].name) == 0)
            return tool_fail(KAS_ERROR_FORMAT, "%s: tensor '%.80s' is listed twice", shard->file,
                             shard->tensors[i].name);
    return KAS_OK;
}

static kas_status read_tensors(lm_shard *shard, const cJSON *root, const unsigned char *data, uint64_t data_size)
{
    shard->tensors = calloc((size_t)cJSON_GetArraySize(root) + 1, sizeof(*shard->tensors));
    if (!shard->tensors)
        return tool_fail_memory();
    const cJSON *entry;
    cJSON_ArrayForEach(entry, root)
    {
        if (strcmp(entry->string, "__metadata__") != 0)
            TOOL_TRY(read_tensor(shard->file, entry, data, data_size, &shard->tensors[shard->count++]));
    }
    TOOL_TRY(check_cover(shard, data_size));
    return sort_by_name(shard);
}

static kas_status read_header(lm_shard *shard, const unsigned char *data, size_t size)
{
    if (size < LENGTH_BYTES)
        return tool_fail(KAS_ERROR_FORMAT, "%s: holds %zu bytes, a safetensors file at least %d", shard->file, size,
                         LENGTH_BYTES);
    uint64_t length = 0;
    for (int i = LENGTH_BYTES - 1; i >= 0; i--)
        length = length << 8 | data[i];
    if (length > MAX_HEADER)
        return tool_fail(KAS_ERROR_FORMAT, "%s: the header's length is %" PRIu64 " bytes: the most is %u", shard->file,
                         length, MAX_HEADER);
    if (length > size - LENGTH_BYTES)
        return tool_fail(KAS_ERROR_FORMAT, "%s: the header's length is %" PRIu64 " bytes, but only %zu follow",
                         shard->file, length, size - LENGTH_BYTES);
    cJSON *root;
    TOOL_TRY(lm_json_parse(shard->file, (const char *)data + LENGTH_BYTES, length, &root));
    kas_status status = read_tensors(shard, root, data + LENGTH_BYTES + length, size - LENGTH_BYTES - length);
    cJSON_Delete(root);
    return status;
}

kas_status lm_shard_parse(const char *file, const unsigned char *data, size_t size, lm_shard **shard)
{
    lm_shard *made = calloc(1, sizeof(*made));
    if (!made)
        return tool_fail_memory();
    made->file = copy_text(file);
    kas_status status = made->file ? read_header(made, data, size) : tool_fail_memory();
    if (status != KAS_OK) {
        lm_shard_destroy(made);
        return status;
    }
    *shard = made;
    return KAS_OK;
}

void lm_shard_destroy(lm_shard *shard)
{
    if (!shard)
        return;
    for (uint32_t i = 0; i < shard->count; i++)
        free(shard->tensors[i].name);
    free(shard->tensors);
    free(shard->file);
    free(shard);
}

uint32_t lm_shard_count(const lm_shard *shard)
{
    return shard->count;
}

const lm_tensor *lm_shard_tensor(const lm_shard *shard, uint32_t index)
{
    return &shard->tensors[index];
}

static const lm_tensor *find_tensor(const lm_shard *shard, const char *name)
{
    const lm_tensor key = {.name = (char *)name};
    return bsearch(&key, shard->tensors, shard->count, sizeof(key), compare_names);
}

/* ---- Checkpoints ----------------------------------------------------------------------------------------------- */

typedef struct part {
    char *name; /* the file's name in the folder */
    lm_mapped_file file;
    lm_shard *shard;
} part;

/* Which part the index puts a tensor in. */
typedef struct placement {
    char *tensor;
    uint32_t part;
} placement;

struct lm_checkpoint {
    char *folder;
    part *parts;
    uint32_t part_count;
    placement *placements; /* by tensor name; NULL without an index: everything is in the only part */
    uint32_t placement_count;
};

static kas_status join_path(const char *folder, const char *name, char path[MAX_PATH])
{
    if (snprintf(path, MAX_PATH, "%s/%s", folder, name) >= MAX_PATH)
        return tool_fail(KAS_ERROR_IO, "%.60s...: the path is longer than %d bytes", folder, MAX_PATH - 1);
    return KAS_OK;
}

/* parts has room for one more. */
static kas_status open_part(lm_checkpoint *checkpoint, const char *name)
{
    char path[MAX_PATH];
    TOOL_TRY(join_path(checkpoint->folder, name, path));
    part *added = &checkpoint->parts[checkpoint->part_count++];
    added->name = copy_text(name);
    if (!added->name)
        return tool_fail_memory();
    TOOL_TRY(lm_map_file(path, &added->file));
    return lm_shard_parse(path, added->file.data, added->file.size, &added->shard);
}

static kas_status open_single(lm_checkpoint *checkpoint)
{
    checkpoint->parts = calloc(1, sizeof(*checkpoint->parts));
    if (!checkpoint->parts)
        return tool_fail_memory();
    return open_part(checkpoint, "model.safetensors");
}

static int compare_placements(const void *a, const void *b)
{
    return strcmp(((const placement *)a)->tensor, ((const placement *)b)->tensor);
}

static kas_status check_part_name(const char *index, const cJSON *entry)
{
    if (!cJSON_IsString(entry))
        return tool_fail(KAS_ERROR_FORMAT, "%s: the file of tensor '%.80s' is not a string", index, entry->string);
    const char *name = entry->valuestring;
    if (name[0] == 0 || strchr(name, '/') || strcmp(name, "..") == 0 || strcmp(name, ".") == 0)
        return tool_fail(KAS_ERROR_FORMAT, "%s: tensor '%.80s' is put in '%.80s', which is not a file's name", index,
                         entry->string, name);
    return KAS_OK;
}

/* Opens the part on first use. The linear search is over files, of which there are few, newest first. */
static kas_status find_or_open_part(lm_checkpoint *checkpoint, const char *name, uint32_t *index)
{
    for (uint32_t i = checkpoint->part_count; i-- > 0;)
        if (strcmp(checkpoint->parts[i].name, name) == 0) {
            *index = i;
            return KAS_OK;
        }
    part *grown = realloc(checkpoint->parts, (checkpoint->part_count + 1) * sizeof(*grown));
    if (!grown)
        return tool_fail_memory();
    checkpoint->parts = grown;
    checkpoint->parts[checkpoint->part_count] = (part){0};
    *index = checkpoint->part_count;
    return open_part(checkpoint, name);
}

static kas_status read_placements(lm_checkpoint *checkpoint, const char *index, const cJSON *map)
{
    checkpoint->placements = calloc((size_t)cJSON_GetArraySize(map) + 1, sizeof(*checkpoint->placements));
    if (!checkpoint->placements)
        return tool_fail_memory();
    const cJSON *entry;
    cJSON_ArrayForEach(entry, map)
    {
        placement *added = &checkpoint->placements[checkpoint->placement_count];
        TOOL_TRY(check_part_name(index, entry));
        TOOL_TRY(find_or_open_part(checkpoint, entry->valuestring, &added->part));
        if (!find_tensor(checkpoint->parts[added->part].shard, entry->string))
            return tool_fail(KAS_ERROR_FORMAT, "%s: tensor '%.80s' is put in %.80s, which does not hold it", index,
                             entry->string, entry->valuestring);
        added->tensor = copy_text(entry->string);
        if (!added->tensor)
            return tool_fail_memory();
        checkpoint->placement_count++;
    }
    qsort(checkpoint->placements, checkpoint->placement_count, sizeof(*checkpoint->placements), compare_placements);
    for (uint32_t i = 1; i < checkpoint->placement_count; i++)
        if (compare_placements(&checkpoint->placements[i - 1], &checkpoint->placements[i]) == 0)
            return tool_fail(KAS_ERROR_FORMAT, "%s: tensor '%.80s' is listed twice", index,
                             checkpoint->placements[i].tensor);
    return KAS_OK;
}

static kas_status open_index(lm_checkpoint *checkpoint, const char *path, const lm_mapped_file *file)
{
    if (file->size > MAX_HEADER)
        return tool_fail(KAS_ERROR_FORMAT, "%s: holds %zu bytes: the most is %u", path, file->size, MAX_HEADER);
    cJSON *root;
    TOOL_TRY(lm_json_parse(path, (const char *)file->data, file->size, &root));
    const cJSON *map = NULL;
    kas_status status = lm_json_object(path, root, "weight_map", &map);
    if (status == KAS_OK && !map)
        status = tool_fail(KAS_ERROR_FORMAT, "%s: weight_map is missing", path);
    if (status == KAS_OK)
        status = read_placements(checkpoint, path, map);
    cJSON_Delete(root);
    return status;
}

static bool file_exists(const char *path)
{
    FILE *file = fopen(path, "rb");
    if (file)
        fclose(file);
    return file != NULL;
}

static kas_status open_checkpoint(lm_checkpoint *checkpoint, const char *folder)
{
    checkpoint->folder = copy_text(folder);
    if (!checkpoint->folder)
        return tool_fail_memory();
    char path[MAX_PATH];
    TOOL_TRY(join_path(folder, "model.safetensors.index.json", path));
    if (!file_exists(path))
        return open_single(checkpoint);
    lm_mapped_file index;
    TOOL_TRY(lm_map_file(path, &index));
    kas_status status = open_index(checkpoint, path, &index);
    lm_unmap_file(&index);
    return status;
}

kas_status lm_checkpoint_open(const char *folder, lm_checkpoint **checkpoint)
{
    lm_checkpoint *made = calloc(1, sizeof(*made));
    if (!made)
        return tool_fail_memory();
    kas_status status = open_checkpoint(made, folder);
    if (status != KAS_OK) {
        lm_checkpoint_destroy(made);
        return status;
    }
    *checkpoint = made;
    return KAS_OK;
}

void lm_checkpoint_destroy(lm_checkpoint *checkpoint)
{
    if (!checkpoint)
        return;
    for (uint32_t i = 0; i < checkpoint->part_count; i++) {
        lm_shard_destroy(checkpoint->parts[i].shard);
        lm_unmap_file(&checkpoint->parts[i].file);
        free(checkpoint->parts[i].name);
    }
    for (uint32_t i = 0; i < checkpoint->placement_count; i++)
        free(checkpoint->placements[i].tensor);
    free(checkpoint->placements);
    free(checkpoint->parts);
    free(checkpoint->folder);
    free(checkpoint);
}

static const lm_tensor *locate(const lm_checkpoint *checkpoint, const char *name, const char **file)
{
    uint32_t index = 0;
    if (checkpoint->placements) {
        const placement key = {.tensor = (char *)name};
        const placement *found = bsearch(&key, checkpoint->placements, checkpoint->placement_count, sizeof(key),
                                         compare_placements);
        if (!found)
            return NULL;
        index = found->part;
    }
    const lm_shard *shard = checkpoint->parts[index].shard;
    *file = shard->file;
    return find_tensor(shard, name);
}

int lm_checkpoint_has(const lm_checkpoint *checkpoint, const char *name)
{
    const char *file;
    return locate(checkpoint, name, &file) != NULL;
}

static void print_shape(uint32_t rank, const uint64_t *shape, char *text, size_t capacity)
{
    size_t used = 0;
    text[0] = 0;
    for (uint32_t i = 0; i < rank && used < capacity; i++)
        used += (size_t)snprintf(text + used, capacity - used, "%s%" PRIu64, i ? ", " : "", shape[i]);
}

static void convert(const lm_tensor *tensor, float *values)
{
    if (tensor->dtype == LM_DTYPE_F32) {
        memcpy(values, tensor->data, tensor->end - tensor->begin);
        return;
    }
    uint64_t count = (tensor->end - tensor->begin) / 2;
    for (uint64_t i = 0; i < count; i++) {
        uint16_t bits;
        memcpy(&bits, tensor->data + 2 * i, sizeof(bits));
        values[i] = tensor->dtype == LM_DTYPE_F16 ? half_to_float(bits) : bfloat_to_float(bits);
    }
}

kas_status lm_checkpoint_read(const lm_checkpoint *checkpoint, const char *name, uint32_t rank, const uint64_t *shape,
                              float *values)
{
    const char *file;
    const lm_tensor *tensor = locate(checkpoint, name, &file);
    if (!tensor)
        return tool_fail(KAS_ERROR_FORMAT, "%s: the checkpoint holds no tensor '%s'", checkpoint->folder, name);
    if (tensor->rank != rank || memcmp(tensor->shape, shape, rank * sizeof(*shape)) != 0) {
        char have[192], want[192];
        print_shape(tensor->rank, tensor->shape, have, sizeof(have));
        print_shape(rank, shape, want, sizeof(want));
        return tool_fail(KAS_ERROR_FORMAT, "%s: tensor '%s' has shape [%s], by config.json it is [%s]", file, name,
                         have, want);
    }
    if (tensor->dtype == LM_DTYPE_OTHER)
        return tool_fail(KAS_ERROR_UNSUPPORTED, "%s: tensor '%s' has dtype %s: F32, F16 and BF16 can be read", file,
                         name, tensor->dtype_name);
    convert(tensor, values);
    return KAS_OK;
}
