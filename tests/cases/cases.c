/* cases.c - the choice of cases: every operation, phase and storage type over shapes, and variations of them. */
#include "cases.h"

#include "../conformance/memory.h"
#include "../conformance/storage.h"

#include <string.h>

#define OPERATION(name) (1u << CASE_##name)
#define ATTENTION (OPERATION(ATTEND) | OPERATION(LISTS) | OPERATION(LAYERS))
#define KEYED (ATTENTION | OPERATION(LSE) | OPERATION(SCORES))
#define EVERY (KEYED | OPERATION(SELECT) | OPERATION(MASS))

#define PREFILL (1u << KAS_PHASE_PREFILL)
#define DECODE (1u << KAS_PHASE_DECODE)
#define BOTH (PREFILL | DECODE)

/* Half of what the short tier leaves of decode's keys: 256 of them and a few more make two splits. */
#define SHORT_DECODE_KEYS 128u

typedef struct shape {
    uint32_t kv_heads, group, head_dim, tile;
} shape;

/* The first shape is the one that takes every variation. */
static const shape quick_shapes[] = {{2, 4, 128, 32}, {2, 1, 64, 64}, {1, 8, 80, 16}, {3, 3, 37, 32}, {1, 2, 256, 16}};
static const shape small_shapes[] = {{2, 3, 32, 16}, {1, 1, 37, 32}, {1, 8, 16, 32}, {1, 16, 24, 16}};
static const shape full_shapes[] = {
    {2, 4, 128, 32},  {2, 1, 64, 64},  {1, 8, 80, 16},  {3, 3, 37, 32},  {2, 4, 128, 128}, {1, 16, 256, 16},
    {2, 2, 96, 128},  {2, 3, 40, 64},  {1, 1, 1, 32},   {4, 2, 16, 16},  {1, 7, 192, 32},  {2, 8, 64, 32},
    {1, 5, 112, 128}, {2, 8, 128, 64}, {2, 2, 256, 64}, {1, 4, 160, 32}, {1, 16, 128, 16}, {8, 1, 128, 32},
};

/* Sequences of a case. */
typedef enum lengths {
    LENGTHS_PLAIN,  /* one sequence, odd length */
    LENGTHS_OFFSET, /* two sequences, queries at an offset that is no multiple of the tile */
    LENGTHS_BATCH,  /* three alike */
    LENGTHS_RAGGED, /* unlike one another, some without queries or keys; lengths on the device */
    LENGTHS_HOLES,  /* the same with more empty ones */
    LENGTHS_KEYLESS, /* the same, some with queries and no keys */
    LENGTHS_ONE,    /* a single key */
    LENGTHS_LONG,   /* a single query and many keys */
    LENGTHS_CHUNKS, /* prefill in chunks of two tiles */
    LENGTHS_RESUMED /* likewise, after tokens that came before */
} lengths;

typedef struct variation {
    const char *name;
    uint32_t operations, phases;
    lengths lengths;
    uint32_t traits;
    uint32_t page_size;
    case_values values;
    case_nan nan;
    kas_pooling pooling;
    kas_normalizer normalizer;
    kas_topk topk; /* zero: the small rule below */
    float scale;
    bool slow;  /* full tier alone */
    bool small; /* in the small tier as well */
} variation;

/* Keeps few enough keys that short texts have sparse tiles. */
static const kas_topk small_rule = {.fraction = 0.1, .min = 16, .round = 8};

/* Of every shape and storage type. */
static const variation common[] = {
    {"plain", EVERY, BOTH, LENGTHS_PLAIN, .small = true},
    {"ragged", EVERY, BOTH, LENGTHS_RAGGED, CASE_PADDED | CASE_WITH_LSE, .small = true},
};

/* Of the first shape. */
static const variation special[] = {
    {"offset", EVERY, BOTH, LENGTHS_OFFSET, CASE_WITH_LSE},
    {"batch", EVERY, BOTH, LENGTHS_BATCH, CASE_WITH_LSE},
    {"one_key", KEYED, BOTH, LENGTHS_ONE, CASE_WITH_LSE},
    {"long", EVERY, BOTH, LENGTHS_LONG, CASE_WITH_LSE | CASE_REPEAT},
    {"repeat", KEYED, BOTH, LENGTHS_RAGGED, CASE_REPEAT},
    {"starts", ATTENTION | OPERATION(LSE), BOTH, LENGTHS_RAGGED, CASE_STARTS | CASE_WITH_LSE, .small = true},
    {"head_major", KEYED, BOTH, LENGTHS_OFFSET, CASE_HEAD_MAJOR | CASE_WITH_LSE, .small = true},
    {"misaligned", KEYED, BOTH, LENGTHS_OFFSET, CASE_MISALIGNED, .small = true},
    {"padded", KEYED, BOTH, LENGTHS_OFFSET, CASE_PADDED | CASE_MISALIGNED},
    {"segments", ATTENTION | OPERATION(LSE), BOTH, LENGTHS_RAGGED, CASE_SEGMENTS | CASE_WITH_LSE, .small = true},
    {"segments_alike", ATTENTION, BOTH, LENGTHS_BATCH, CASE_SEGMENTS | CASE_PADDED | CASE_MISALIGNED},
    {"default_keys", ATTENTION, BOTH, LENGTHS_RAGGED, CASE_DEFAULT_KEYS | CASE_ROOM},
    {"room", EVERY, BOTH, LENGTHS_OFFSET, CASE_ROOM},
    {"tight", OPERATION(LAYERS), BOTH, LENGTHS_RAGGED, CASE_TIGHT | CASE_WITH_LSE, .small = true},
    {"tight_alike", OPERATION(LAYERS), BOTH, LENGTHS_BATCH, CASE_TIGHT},
    {"tight_own", OPERATION(LAYERS), BOTH, LENGTHS_OFFSET, CASE_TIGHT | CASE_OWN_MEMORY},
    {"own_memory", EVERY, BOTH, LENGTHS_RAGGED, CASE_OWN_MEMORY, .small = true},
    {"bad_lengths", EVERY, BOTH, LENGTHS_HOLES, CASE_BAD_LENGTHS | CASE_WITH_LSE, .small = true},
    {"holes", EVERY, BOTH, LENGTHS_HOLES, CASE_WITH_LSE},
    {"keyless", EVERY, BOTH, LENGTHS_KEYLESS, CASE_WITH_LSE},
    {"keyless_page16", KEYED, BOTH, LENGTHS_KEYLESS, CASE_WITH_LSE, .page_size = 16, .slow = true},
    {"keyless_estimated", OPERATION(LAYERS), PREFILL, LENGTHS_KEYLESS, CASE_WITH_LSE,
     .normalizer = KAS_NORMALIZER_ESTIMATED},
    {"starts_bad", KEYED, BOTH, LENGTHS_HOLES, CASE_STARTS | CASE_BAD_STARTS | CASE_WITH_LSE},
    {"bad_lists", OPERATION(LISTS) | OPERATION(MASS), BOTH, LENGTHS_RAGGED, CASE_BAD_LISTS | CASE_WITH_LSE,
     .small = true},
    {"mapped", OPERATION(LISTS), BOTH, LENGTHS_OFFSET, CASE_MAPPED, .small = true},
    {"page16", KEYED, BOTH, LENGTHS_OFFSET, CASE_WITH_LSE, .page_size = 16},
    {"page16_bad", KEYED, BOTH, LENGTHS_RAGGED, CASE_BAD_PAGES | CASE_WITH_LSE, .page_size = 16},
    {"page7", KEYED, BOTH, LENGTHS_RAGGED, CASE_PADDED | CASE_MISALIGNED, .page_size = 7, .small = true},
    {"page1", KEYED, BOTH, LENGTHS_RAGGED, CASE_WITH_LSE, .page_size = 1, .slow = true},
    {"page64", KEYED, BOTH, LENGTHS_RAGGED, CASE_HEAD_MAJOR, .page_size = 64, .slow = true},
    {"page64_bad", KEYED, BOTH, LENGTHS_BATCH, CASE_BAD_PAGES | CASE_WITH_LSE, .page_size = 64, .slow = true},
    {"nan_q", KEYED, BOTH, LENGTHS_OFFSET, CASE_WITH_LSE, .nan = CASE_NAN_Q},
    {"nan_k", KEYED, BOTH, LENGTHS_OFFSET, CASE_WITH_LSE, .nan = CASE_NAN_K, .small = true},
    {"nan_v", ATTENTION, BOTH, LENGTHS_OFFSET, CASE_WITH_LSE, .nan = CASE_NAN_V, .small = true},
    {"coarse", EVERY, BOTH, LENGTHS_OFFSET, .values = CASE_COARSE, .small = true},
    {"equal", EVERY, BOTH, LENGTHS_OFFSET, .values = CASE_EQUAL},
    {"peaked", ATTENTION | OPERATION(LSE) | OPERATION(LAYERS), BOTH, LENGTHS_OFFSET, CASE_WITH_LSE, .values = CASE_PEAKED},
    {"special", OPERATION(SELECT), BOTH, LENGTHS_OFFSET, .values = CASE_SPECIAL},
    {"special_ragged", OPERATION(SELECT), BOTH, LENGTHS_RAGGED, .values = CASE_SPECIAL, .small = true},
    {"scale", OPERATION(ATTEND) | OPERATION(SCORES), BOTH, LENGTHS_OFFSET, .scale = 0.03f},
    {"all_heads", EVERY & ~(OPERATION(ATTEND) | OPERATION(LSE)), BOTH, LENGTHS_RAGGED, CASE_WITH_LSE,
     .pooling = KAS_POOLING_ALL_HEADS, .small = true},
    {"estimated", OPERATION(LAYERS), BOTH, LENGTHS_RAGGED, .normalizer = KAS_NORMALIZER_ESTIMATED, .small = true},
    {"estimated_tight", OPERATION(LAYERS), PREFILL, LENGTHS_OFFSET, CASE_TIGHT, .normalizer = KAS_NORMALIZER_ESTIMATED},
    {"estimated_all", OPERATION(LAYERS), PREFILL, LENGTHS_OFFSET, .normalizer = KAS_NORMALIZER_ESTIMATED,
     .pooling = KAS_POOLING_ALL_HEADS},
    {"estimated_page16", OPERATION(LAYERS), PREFILL, LENGTHS_OFFSET, .normalizer = KAS_NORMALIZER_ESTIMATED,
     .page_size = 16},
    {"chunks", OPERATION(LAYERS), PREFILL, LENGTHS_CHUNKS, CASE_WITH_LSE, .small = true},
    {"resumed", OPERATION(LAYERS), PREFILL, LENGTHS_RESUMED, CASE_PADDED},
    {"chunks_fixed", OPERATION(LAYERS), PREFILL, LENGTHS_CHUNKS, .topk = {0.1, 16, 8, KAS_TOPK_FIXED}},
    {"fixed", OPERATION(SELECT) | OPERATION(LAYERS), BOTH, LENGTHS_OFFSET, CASE_ROOM,
     .topk = {0.1, 16, 8, KAS_TOPK_FIXED}},
    {"final_lens", OPERATION(SELECT) | OPERATION(LAYERS), BOTH, LENGTHS_RAGGED, CASE_FINAL_LENS,
     .topk = {0.1, 16, 8, KAS_TOPK_FIXED}, .small = true},
    {"keep_all", EVERY, BOTH, LENGTHS_OFFSET, .topk = {1.0, 1, 1}, .small = true},
    {"keep_most", OPERATION(SELECT) | OPERATION(LAYERS), BOTH, LENGTHS_OFFSET, .topk = {0.999, 1, 1}},
    {"keep_one", OPERATION(SELECT) | OPERATION(LAYERS), BOTH, LENGTHS_OFFSET, .topk = {1e-9, 1, 1}},
    {"keep_quarter", OPERATION(SELECT) | OPERATION(LAYERS), BOTH, LENGTHS_RAGGED, .topk = {0.25, 3, 1}},
    {"keep_min", OPERATION(SELECT) | OPERATION(LAYERS), BOTH, LENGTHS_RAGGED, .topk = {0.01, 4096, 64}},
    {"keep_usual", OPERATION(SELECT) | OPERATION(LAYERS), BOTH, LENGTHS_RAGGED, .topk = {0.1, 128, 128}},
    {"together", OPERATION(LAYERS), BOTH, LENGTHS_RAGGED,
     CASE_STARTS | CASE_PADDED | CASE_MISALIGNED | CASE_WITH_LSE | CASE_ROOM | CASE_SEGMENTS, .small = true},
};

/* ---- Lengths --------------------------------------------------------------------------------------------------- */

static void add_sequence(conformance_case *c, uint32_t queries, uint32_t keys)
{
    c->q_len[c->batch] = queries;
    c->kv_len[c->batch] = keys;
    c->batch++;
}

static void set_prefill(conformance_case *c, lengths chosen)
{
    uint32_t tile = c->tile, text = 299 + 2 * tile;
    switch (chosen) {
    case LENGTHS_PLAIN:
        add_sequence(c, text, text);
        break;
    case LENGTHS_OFFSET:
        add_sequence(c, 97, 97 + 5 * tile + 14);
        add_sequence(c, 97, 97 + 5 * tile + 14);
        break;
    case LENGTHS_BATCH:
        for (int i = 0; i < 3; i++)
            add_sequence(c, 65, 65 + 4 * tile);
        break;
    case LENGTHS_RAGGED:
        add_sequence(c, tile + 1, tile + 1);
        add_sequence(c, 1, 257);
        add_sequence(c, 0, 19);
        add_sequence(c, 2 * tile, 2 * tile + 333);
        add_sequence(c, 0, 0);
        add_sequence(c, 31, 799);
        break;
    case LENGTHS_HOLES:
        add_sequence(c, 33, 33 + 3 * tile);
        add_sequence(c, 0, 0);
        add_sequence(c, 0, 0);
        add_sequence(c, 0, 0);
        add_sequence(c, 5, 300);
        add_sequence(c, 0, 0);
        add_sequence(c, 0, 0);
        break;
    case LENGTHS_KEYLESS:
        add_sequence(c, tile + 5, 0);
        add_sequence(c, 33, 33 + 5 * tile);
        add_sequence(c, 0, 0);
        add_sequence(c, 77, 0);
        add_sequence(c, 3, 200);
        break;
    case LENGTHS_ONE:
        add_sequence(c, 1, 1);
        break;
    case LENGTHS_LONG:
        add_sequence(c, 1, 1023);
        break;
    case LENGTHS_CHUNKS:
        add_sequence(c, 7 * tile + 9, 7 * tile + 9);
        add_sequence(c, 7 * tile + 9, 7 * tile + 9);
        c->chunk = 2 * tile;
        break;
    case LENGTHS_RESUMED:
        add_sequence(c, 3 * tile + 5, 9 * tile + 5);
        c->chunk = 2 * tile;
        break;
    }
}

/* The small tier: whatever is asked for, a few tiles or one long sequence among others. */
static void set_small(conformance_case *c, lengths chosen)
{
    uint32_t tile = c->tile;
    bool decode = c->phase == KAS_PHASE_DECODE;
    if (chosen == LENGTHS_RAGGED || chosen == LENGTHS_HOLES) {
        add_sequence(c, 1, 1);
        add_sequence(c, decode ? 3 : tile + 1, decode ? 33 : tile + 1);
        add_sequence(c, 0, 40);
        add_sequence(c, decode ? 8 : 7, decode ? 139 : 3 * tile + 9);
        add_sequence(c, 0, 0);
        add_sequence(c, 1, 211);
    } else if (chosen == LENGTHS_OFFSET) {
        for (int i = 0; i < 2; i++)
            add_sequence(c, decode ? 3 : tile + 5, 4 * tile + 9);
    } else if (chosen == LENGTHS_CHUNKS && !decode) {
        add_sequence(c, 4 * tile + 9, 4 * tile + 9);
        c->chunk = 2 * tile;
    } else {
        add_sequence(c, decode ? 1 : 2 * tile + 21, decode ? 333 : 2 * tile + 21);
    }
}

static void set_decode(conformance_case *c, lengths chosen)
{
    switch (chosen) {
    case LENGTHS_PLAIN:
        add_sequence(c, 1, 1023);
        break;
    case LENGTHS_OFFSET:
        add_sequence(c, 3, 500);
        add_sequence(c, 3, 500);
        break;
    case LENGTHS_BATCH:
        for (int i = 0; i < 3; i++)
            add_sequence(c, 1, 289);
        break;
    case LENGTHS_RAGGED:
        add_sequence(c, 1, 1);
        add_sequence(c, 3, 33);
        add_sequence(c, 0, 40);
        add_sequence(c, 8, 799);
        add_sequence(c, 1, 1023);
        add_sequence(c, 0, 0);
        add_sequence(c, 2, 31);
        break;
    case LENGTHS_HOLES:
        add_sequence(c, 1, 333);
        add_sequence(c, 0, 0);
        add_sequence(c, 0, 0);
        add_sequence(c, 0, 0);
        add_sequence(c, 2, 300);
        add_sequence(c, 0, 0);
        add_sequence(c, 0, 0);
        break;
    case LENGTHS_KEYLESS:
        add_sequence(c, 1, 0);
        add_sequence(c, 3, 700);
        add_sequence(c, 8, 0);
        add_sequence(c, 0, 0);
        add_sequence(c, 1, 500);
        add_sequence(c, 1, 0);
        break;
    case LENGTHS_ONE:
        add_sequence(c, 1, 1);
        break;
    default:
        add_sequence(c, 1, 4099);
        break;
    }
}

/* n less whole units, so that two are left: what is odd about a length stays. */
static uint32_t shortened(uint32_t n, uint32_t unit)
{
    return n > 2 * unit ? 2 * unit + n % unit : n;
}

/* The short tier: of several queries in prefill about two tiles after two others; in decode as many keys as still are
   split. Single queries cost little and keep their keys. */
static void shorten(conformance_case *c)
{
    bool decode = c->phase == KAS_PHASE_DECODE;
    for (uint32_t b = 0; b < c->batch; b++) {
        if (c->q_len[b] <= 1)
            continue;
        bool keyless = c->kv_len[b] == 0;
        uint32_t before = c->kv_len[b] - c->q_len[b];
        c->q_len[b] = decode ? c->q_len[b] : shortened(c->q_len[b], c->tile);
        c->kv_len[b] = keyless ? 0 : c->q_len[b] + shortened(before, decode ? SHORT_DECODE_KEYS : c->tile);
    }
}

/* ---- Names and seeds ------------------------------------------------------------------------------------------- */

static const char *operation_name(case_operation operation)
{
    static const char *const names[] = {"attend", "lse", "scores", "select", "lists", "mass", "layers", "far"};
    return names[operation];
}

static void set_name(conformance_case *c, const char *variation_name)
{
    snprintf(c->name, sizeof(c->name), "%s/%s/%s/d%u_g%u_r%u_t%u/%s", operation_name(c->operation),
             c->phase == KAS_PHASE_PREFILL ? "prefill" : "decode", storage_name(c->dtype), c->head_dim, c->kv_heads,
             c->group, c->tile, variation_name);
}

/* From the name, so that a case has the same numbers whichever others run. */
static uint64_t seed_of(const char *name, uint64_t seed)
{
    storage_random random = {seed};
    for (; *name; name++) {
        random.state ^= (uint64_t)(unsigned char)*name;
        random.state = storage_random_bits(&random);
    }
    return random.state;
}

/* ---- The list -------------------------------------------------------------------------------------------------- */

const char *case_tier_name(case_tier tier)
{
    static const char *const names[] = {"full", "quick", "short", "small"};
    return names[tier];
}

typedef struct case_list {
    conformance_case *cases;
    uint32_t count, room;
    case_tier tier;
    uint64_t seed;
} case_list;

static conformance_case *append(case_list *list)
{
    if (list->count == list->room) {
        uint32_t room = list->room ? 2 * list->room : 256;
        conformance_case *larger = memory_alloc(room, sizeof(*larger));
        if (list->count)
            memcpy(larger, list->cases, list->count * sizeof(*larger));
        free(list->cases);
        list->cases = larger;
        list->room = room;
    }
    return &list->cases[list->count++];
}

static bool is_ragged(lengths chosen)
{
    return chosen == LENGTHS_RAGGED || chosen == LENGTHS_HOLES || chosen == LENGTHS_KEYLESS;
}

static void add_case(case_list *list, const shape *s, kas_dtype dtype, kas_phase phase, case_operation operation,
                     const variation *v)
{
    conformance_case *c = append(list);
    *c = (conformance_case){
        .operation = operation,
        .phase = phase,
        .dtype = dtype,
        .kv_heads = s->kv_heads,
        .group = s->group,
        .head_dim = s->head_dim,
        .tile = s->tile,
        .topk = v->topk.fraction != 0.0 ? v->topk : small_rule,
        .pooling = v->pooling,
        .normalizer = v->normalizer,
        .scale = v->scale,
        .page_size = v->page_size,
        .traits = v->traits | (is_ragged(v->lengths) ? CASE_LENS : 0),
        .values = v->values,
        .nan = v->nan,
    };
    if (list->tier == CASE_TIER_SMALL)
        set_small(c, v->lengths);
    else if (phase == KAS_PHASE_PREFILL)
        set_prefill(c, v->lengths);
    else
        set_decode(c, v->lengths);
    if (list->tier == CASE_TIER_SHORT)
        shorten(c);
    set_name(c, v->name);
    c->seed = seed_of(c->name, list->seed);
}

static const kas_dtype dtypes[] = {KAS_DTYPE_F32, KAS_DTYPE_F16, KAS_DTYPE_BF16};
#define DTYPES 3

/* Which storage types a set of variations runs with. */
typedef enum dtype_choice {
    DTYPE_EACH,
    DTYPE_BY_CASE, /* one for each case, so that all of them have their share */
    DTYPE_BY_SET   /* one for all operations of a shape and variation: fewer kernels */
} dtype_choice;

static void add_operation(case_list *list, const shape *s, case_operation operation, const variation *v, size_t turn,
                          dtype_choice choice)
{
    for (size_t phase = KAS_PHASE_PREFILL; phase <= KAS_PHASE_DECODE; phase++)
        for (size_t d = 0; d < DTYPES && (v->phases & 1u << phase); d++)
            if (choice == DTYPE_EACH || d == (turn + phase) % DTYPES)
                add_case(list, s, dtypes[d], (kas_phase)phase, operation, v);
}

static void add_variations(case_list *list, const shape *s, const variation *variations, size_t count,
                           dtype_choice choice, size_t set)
{
    for (size_t n = 0; n < count; n++) {
        const variation *v = &variations[n];
        if ((v->slow && list->tier != CASE_TIER_FULL) || (!v->small && list->tier == CASE_TIER_SMALL))
            continue;
        for (size_t operation = CASE_ATTEND; operation <= CASE_LAYERS; operation++)
            if (v->operations & 1u << operation)
                add_operation(list, s, (case_operation)operation, v, n + (choice == DTYPE_BY_SET ? set : operation),
                              choice);
    }
}

/* Elements beyond 2^32: sequences of a contiguous cache, and pages. */
static void add_far(case_list *list)
{
    for (int paged = 0; paged <= 1; paged++) {
        conformance_case *c = append(list);
        *c = (conformance_case){.operation = CASE_FAR, .phase = KAS_PHASE_DECODE, .dtype = KAS_DTYPE_F16,
                                .kv_heads = 2, .group = 4, .head_dim = 128, .tile = 32, .topk = small_rule,
                                .page_size = paged ? 64 : 0};
        set_name(c, paged ? "page64" : "contiguous");
        c->seed = seed_of(c->name, list->seed);
    }
}

#define SHAPES(array) {array, sizeof(array) / sizeof(shape)}

conformance_case *cases_make(case_tier tier, uint64_t seed, uint32_t *count)
{
    static const struct {
        const shape *shapes;
        size_t count;
    } tiers[] = {[CASE_TIER_FULL] = SHAPES(full_shapes),
                 [CASE_TIER_QUICK] = SHAPES(quick_shapes),
                 [CASE_TIER_SHORT] = SHAPES(quick_shapes),
                 [CASE_TIER_SMALL] = SHAPES(small_shapes)};
    const shape *shapes = tiers[tier].shapes;
    case_list list = {.tier = tier, .seed = seed};
    for (size_t s = 0; s < tiers[tier].count; s++)
        add_variations(&list, &shapes[s], common, sizeof(common) / sizeof(common[0]),
                       tier == CASE_TIER_SMALL ? DTYPE_BY_SET : DTYPE_EACH, s);
    static const dtype_choice choices[] = {[CASE_TIER_FULL] = DTYPE_EACH,
                                           [CASE_TIER_QUICK] = DTYPE_BY_CASE,
                                           [CASE_TIER_SHORT] = DTYPE_BY_CASE,
                                           [CASE_TIER_SMALL] = DTYPE_BY_SET};
    add_variations(&list, &shapes[0], special, sizeof(special) / sizeof(special[0]), choices[tier], 0);
    if (tier == CASE_TIER_FULL)
        add_far(&list);
    *count = list.count;
    return list.cases;
}

const char *const *cases_operations(const conformance_case *c)
{
    static const char *const prefill[][7] = {
        [CASE_ATTEND] = {"attend"},
        [CASE_LSE] = {"lse"},
        [CASE_SCORES] = {"lse", "scores"},
        [CASE_SELECT] = {"select"},
        [CASE_LISTS] = {"sparse"},
        [CASE_MASS] = {"mass"},
        [CASE_LAYERS] = {"attend", "lse", "scores", "select", "sparse", "publish"},
    };
    static const char *const decode[][9] = {
        [CASE_ATTEND] = {"attend_split", "merge"},
        [CASE_LSE] = {"logits", "merge"},
        [CASE_SCORES] = {"logits", "pool"},
        [CASE_SELECT] = {"select", "select_split"},
        [CASE_LISTS] = {"sparse_split", "merge"},
        [CASE_MASS] = {"mass"},
        [CASE_LAYERS] = {"attend_split", "sparse_split", "merge", "logits", "pool", "select", "select_split",
                         "anchor"},
        [CASE_FAR] = {"sparse_split", "merge"},
    };
    return c->phase == KAS_PHASE_PREFILL ? prefill[c->operation] : decode[c->operation];
}
