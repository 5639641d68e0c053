/* program.c - compiles the embedded kernel texts and keeps their binaries in the caller's cache. */
#include "program.h"

#include "device.h"
#include <stdio.h>
#include <string.h>

#include "core/platform.h"

#define LOG_LIMIT 65536 /* characters of a compiler's log that are looked at */
#define SENTENCE_LIMIT 300

/* ---- Options --------------------------------------------------------------------------------------------------- */

/* Numbers that the kernels share with the public header. */
static const struct {
    const char *name;
    uint32_t value;
} constants[] = {
    {"KAS_DTYPE_F32", KAS_DTYPE_F32},
    {"KAS_DTYPE_F16", KAS_DTYPE_F16},
    {"KAS_DTYPE_BF16", KAS_DTYPE_BF16},
    {"KAS_ENGINE_ROWS", KAS_CL_ENGINE_ROWS},
    {"KAS_ENGINE_SERIAL", KAS_CL_ENGINE_SERIAL},
    {"KAS_ENGINE_TILED", KAS_CL_ENGINE_TILED},
    {"KAS_ENGINE_FEW", KAS_CL_ENGINE_FEW},
    {"KAS_CHECK_LENGTH", KAS_CHECK_LENGTH},
    {"KAS_CHECK_PAGE", KAS_CHECK_PAGE},
    {"KAS_CHECK_LIST", KAS_CHECK_LIST},
};

static void define(char *options, size_t size, const char *name, uint32_t value)
{
    size_t used = strlen(options);
    snprintf(options + used, size - used, " -D%s=%uu", name, value);
}

void kas_cl_program_options(const kas_variant *variant, const kas_kernel_spec *spec, char *options, size_t size)
{
    const kas_cl_code *code = variant->code;
    snprintf(options, size, "-cl-std=CL1.2%s%s", code->options ? " " : "", code->options ? code->options : "");
    for (size_t i = 0; i < KAS_COUNT(constants); i++)
        define(options, size, constants[i].name, constants[i].value);
    define(options, size, "KAS_ENGINE", code->engine);
    define(options, size, "KAS_ITEMS", code->items);
    define(options, size, "KAS_BLOCK_QUERIES", variant->block_queries);
    define(options, size, "KAS_BLOCK_KEYS", variant->block_keys);
    define(options, size, "KAS_PER_HEAD", variant->per_head);
    if (code->by & KAS_CL_BY_DTYPE)
        define(options, size, "KAS_DTYPE", spec->dtype);
    if (code->by & KAS_CL_BY_HEAD_DIM)
        define(options, size, "KAS_HEAD_DIM", spec->head_dim);
    if (code->by & KAS_CL_BY_GROUP)
        define(options, size, "KAS_GROUP", spec->group);
    if (code->by & KAS_CL_BY_TILE)
        define(options, size, "KAS_TILE", spec->tile);
    if (code->by & KAS_CL_BY_PAGE)
        define(options, size, "KAS_PAGE_SIZE", spec->page_size);
}

/* ---- The cache of binaries ------------------------------------------------------------------------------------- */

/* FNV-1a over a text and its terminating zero. */
static uint64_t hash_text(uint64_t hash, const char *text)
{
    size_t length = strlen(text) + 1;
    for (size_t i = 0; i < length; i++)
        hash = (hash ^ (unsigned char)text[i]) * 0x100000001b3ull;
    return hash;
}

/* Names everything a binary depends on: text, options, device and driver. */
static void cache_key(cl_device_id device, const kas_variant *variant, const char *options, char *key, size_t size)
{
    static const cl_device_info properties[] = {CL_DEVICE_NAME, CL_DEVICE_VENDOR, CL_DEVICE_VERSION, CL_DRIVER_VERSION};
    const kas_cl_code *code = variant->code;
    uint64_t halves[2] = {0xcbf29ce484222325ull, 0x84222325cbf29ce4ull};
    for (int half = 0; half < 2; half++) {
        uint64_t hash = hash_text(hash_text(halves[half], (const char *)code->text), options);
        for (size_t i = 0; i < KAS_COUNT(properties); i++) {
            char text[256];
            kas_cl_device_text(device, properties[i], text, sizeof(text));
            hash = hash_text(hash, text);
        }
        halves[half] = hash;
    }
    snprintf(key, size, "opencl-%s-%s-%016llx%016llx", kas_op_name(variant->op), variant->name,
             (unsigned long long)halves[0], (unsigned long long)halves[1]);
}

/* The cached program, built, or NULL: an entry that the driver refuses is as good as none. */
static cl_program load_cached(cl_context context, cl_device_id device, const kas_cache *cache, const char *key,
                              const char *options)
{
    size_t size = cache->load ? cache->load(cache->user, key, NULL, 0) : 0;
    unsigned char *binary = size > 0 ? kas_alloc(1, size) : NULL;
    cl_program program = NULL;
    if (binary && cache->load(cache->user, key, binary, size) == size) {
        const unsigned char *binaries = binary;
        cl_int verdict = CL_SUCCESS, error = CL_SUCCESS;
        program = kas_cl.CreateProgramWithBinary(context, 1, &device, &size, &binaries, &verdict, &error);
        if (program && kas_cl.BuildProgram(program, 1, &device, options, NULL, NULL) != CL_SUCCESS) {
            kas_cl.ReleaseProgram(program);
            program = NULL;
        }
        if (!program)
            kas_log(KAS_LOG_WARNING, "opencl: the driver refused the cached binary %s; it is compiled anew", key);
    }
    kas_release(binary);
    return program;
}

/* The program belongs to one device, the one it was built for, even in a context of several. */
static void store_cached(cl_program program, cl_device_id device, const kas_cache *cache, const char *key)
{
    enum { MOST = 64 };
    cl_uint count = 0;
    cl_device_id devices[MOST];
    size_t sizes[MOST];
    unsigned char *binaries[MOST] = {NULL};
    if (!cache->store ||
        kas_cl.GetProgramInfo(program, CL_PROGRAM_NUM_DEVICES, sizeof(count), &count, NULL) != CL_SUCCESS ||
        count > MOST ||
        kas_cl.GetProgramInfo(program, CL_PROGRAM_DEVICES, count * sizeof(devices[0]), devices, NULL) != CL_SUCCESS ||
        kas_cl.GetProgramInfo(program, CL_PROGRAM_BINARY_SIZES, count * sizeof(sizes[0]), sizes, NULL) != CL_SUCCESS)
        return;
    for (cl_uint i = 0; i < count; i++) {
        if (devices[i] != device || sizes[i] == 0)
            continue; /* a NULL pointer skips the device */
        binaries[i] = kas_alloc(1, sizes[i]);
        if (binaries[i] && kas_cl.GetProgramInfo(program, CL_PROGRAM_BINARIES, count * sizeof(binaries[0]), binaries,
                                                 NULL) == CL_SUCCESS)
            cache->store(cache->user, key, binaries[i], sizes[i]);
        kas_release(binaries[i]);
        return;
    }
}

/* ---- Compiling ------------------------------------------------------------------------------------------------- */

static kas_status fail_build(cl_program program, cl_device_id device, const kas_variant *variant, cl_int error)
{
    char *log = kas_alloc(1, LOG_LIMIT);
    size_t size = 0;
    if (!log)
        return kas_fail_memory();
    if (kas_cl.GetProgramBuildInfo(program, device, CL_PROGRAM_BUILD_LOG, LOG_LIMIT - 1, log, &size) != CL_SUCCESS)
        snprintf(log, LOG_LIMIT, "the driver gives no log, or one of more than %d characters", LOG_LIMIT);
    kas_log(KAS_LOG_ERROR, "opencl: row %s of %s does not compile: %s: %s", variant->name, kas_op_name(variant->op),
            kas_cl_error_name(error), log);
    kas_status status =
        kas_fail(KAS_ERROR_UNSUPPORTED, "the OpenCL driver cannot compile row %s of %s: %s: %.*s", variant->name,
                 kas_op_name(variant->op), kas_cl_error_name(error), SENTENCE_LIMIT, log);
    kas_release(log);
    return status;
}

static kas_status compile(cl_context context, cl_device_id device, const kas_variant *variant, const char *options,
                          cl_program *program)
{
    const kas_cl_code *code = variant->code;
    const char *text = (const char *)code->text;
    cl_int error = CL_SUCCESS;
    cl_program made = kas_cl.CreateProgramWithSource(context, 1, &text, NULL, &error);
    if (!made)
        return kas_cl_fail(error, "handing a kernel's text to OpenCL");
    kas_log(KAS_LOG_INFO, "opencl: compiling row %s of %s (%s)", variant->name, kas_op_name(variant->op), options);
    uint64_t begin = kas_clock();
    error = kas_cl.BuildProgram(made, 1, &device, options, NULL, NULL);
    if (error != CL_SUCCESS) {
        kas_status status = fail_build(made, device, variant, error);
        kas_cl.ReleaseProgram(made);
        return status;
    }
    kas_log(KAS_LOG_DEBUG, "opencl: row %s of %s compiled in %u ms", variant->name, kas_op_name(variant->op),
            (unsigned)((kas_clock() - begin) / 1000000));
    *program = made;
    return KAS_OK;
}

kas_status kas_cl_program_build(cl_context context, cl_device_id device, const kas_cache *cache,
                                const kas_variant *variant, const char *options, cl_program *program)
{
    char key[128];
    cache_key(device, variant, options, key, sizeof(key));
    cl_program cached = load_cached(context, device, cache, key, options);
    if (cached) {
        *program = cached;
        return KAS_OK;
    }
    KAS_TRY(compile(context, device, variant, options, program));
    store_cached(*program, device, cache, key);
    return KAS_OK;
}
