/*
 * matrix_stream.glsl - decode on cooperative matrices: a subgroup takes every SUBGROUPS-th run of STRIP_KEYS keys
 * through a stage of its own, so that subgroups need not wait for each other before the end, where their parts of a
 * row's softmax meet. The work is bound by memory: while one run is worked on the next one loads, and the list entries
 * of the one after it. After matrix.glsl with KAS_OWN_KEYS.
 */
#include "core/kernel/softmax.h"
#include "partial.glsl"

const uint RUN_VECTORS = STRIP_KEYS * VECTORS;
const uint LOADS = (RUN_VECTORS + SUBGROUP - 1u) / SUBGROUP;
const uint STAGE = STRIP_KEYS * STRIDE;     /* of the keys, and again of the values, of a subgroup */
const uint OUTPUT_STRIDE = HEAD_DIM / 4u;   /* of a row of outputs, which at the end take the stages' place */
#ifdef KAS_VALUES
const uint STAGES = 2u * SUBGROUPS * STAGE;
const uint STAGE_SIZE = STAGES > SIDE_M * OUTPUT_STRIDE ? STAGES : SIDE_M * OUTPUT_STRIDE;
#else
const uint STAGE_SIZE = SUBGROUPS * STAGE;
#endif

shared uvec4 stage[STAGE_SIZE];
shared uvec4 q_stage[SIDE_M * STRIDE];
shared float subgroup_greatest[SUBGROUPS * SIDE_M];
shared float subgroup_total[SUBGROUPS * SIDE_M];
shared kas_softmax row_softmax[SIDE_M];

/* What the subgroups take in a turn. All of them take every turn, also of keys past the end: Mesa's processor device
   makes a meeting of a subgroup one of the work group. */
const uint TURN_KEYS = SUBGROUPS * STRIP_KEYS;

/* The subgroup's keys are those from my_keys() on of the turn's. */
uint my_keys()
{
    return gl_SubgroupID * STRIP_KEYS;
}

uint stage_at()
{
#ifdef KAS_VALUES
    return 2u * gl_SubgroupID * STAGE;
#else
    return gl_SubgroupID * STAGE;
#endif
}

/* Rows 0 .. M - 1 of the block. All invocations. */
void stage_rows(row_block rows, kas_sequence s)
{
    bool aligned = queries_aligned();
    barrier();
    for (uint i = lane(); i < SIDE_M * VECTORS; i += INVOCATIONS)
        q_stage[i / VECTORS * STRIDE + i % VECTORS] = query_vector(rows, s, i / VECTORS, i % VECTORS, aligned);
    barrier();
}

/* ---- Runs ------------------------------------------------------------------------------------------------------- */

/* The entry of this invocation's key in the run after the next, not yet looked at. */
int far_entry;
/* This invocation's key of the run that loads: KAS_NONE when absent, and where it lies. */
uint near_position;
uint near_k;
uint near_v;
/* What loads, or waits to be staged: vector i * SUBGROUP + invocation of the run. */
uvec4 held_k[LOADS];
#ifdef KAS_VALUES
uvec4 held_v[LOADS];
#endif

uint held_key(uint i)
{
    return kas_min2((i * SUBGROUP + gl_SubgroupInvocationID) / VECTORS, STRIP_KEYS - 1u);
}

uint held_vector(uint i)
{
    return (i * SUBGROUP + gl_SubgroupInvocationID) % VECTORS;
}

void fetch_entries(key_range range, uint first)
{
    uint entry = first + gl_SubgroupInvocationID;
    far_entry = gl_SubgroupInvocationID < STRIP_KEYS ? fetch_entry(range, entry) : -1;
}

void place_run(key_range range, uint first, uint kv_head)
{
    uint position = gl_SubgroupInvocationID < STRIP_KEYS
                        ? position_from(range, first + gl_SubgroupInvocationID, far_entry)
                        : KAS_NONE;
    key_place place = place_of(position);
    near_position = place.present ? position : KAS_NONE;
    near_k = k_row(place, kv_head);
#ifdef KAS_VALUES
    near_v = v_row(place, kv_head);
#endif
}

#define LOAD_RUN(name, row, aligned, held)                                                                             \
    {                                                                                                                  \
        uint at[LOADS];                                                                                                \
        [[unroll]] for (uint i = 0u; i < LOADS; i++)                                                                   \
            at[i] = subgroupShuffle(row, held_key(i)) + held_vector(i) * 8u;                                           \
        LOAD_VECTORS(name, LOADS, at, aligned, held)                                                                   \
    }

void stage_keys()
{
    [[unroll]] for (uint i = 0u; i < LOADS; i++)
        if (i * SUBGROUP + gl_SubgroupInvocationID < RUN_VECTORS)
            stage[stage_at() + held_key(i) * STRIDE + held_vector(i)] = held_k[i];
}

#ifdef KAS_VALUES
/* No weight makes nothing of a NaN: what absent keys left is dropped. `position` is the invocation's key of the run. */
void stage_values(uint position, bool absent)
{
    [[unroll]] for (uint i = 0u; i < LOADS; i++) {
        if (absent && subgroupShuffle(position, held_key(i)) == KAS_NONE)
            held_v[i] = uvec4(0u);
        if (i * SUBGROUP + gl_SubgroupInvocationID < RUN_VECTORS)
            stage[stage_at() + STAGE + held_key(i) * STRIDE + held_vector(i)] = held_v[i];
    }
}
#endif

/* Logits of the staged keys to the strip, not yet scaled. */
void multiply_keys()
{
    MATRIX_SUM logits[KEY_TILES];
    [[unroll]] for (uint n = 0u; n < KEY_TILES; n++)
        logits[n] = MATRIX_SUM(0.0);
    [[unroll]] for (uint c = 0u; c < DIM_STEPS; c++) {
        MATRIX_A q;
        coopMatLoad(q, q_stage, c * (SIDE_K / 8u), STRIDE, ROW_MAJOR);
        [[unroll]] for (uint n = 0u; n < KEY_TILES; n++) {
            MATRIX_B k;
            coopMatLoad(k, stage, stage_at() + n * SIDE_N * STRIDE + c * (SIDE_K / 8u), STRIDE, COLUMN_MAJOR);
            logits[n] = coopMatMulAdd(q, k, logits[n]);
        }
    }
    [[unroll]] for (uint n = 0u; n < KEY_TILES; n++)
        coopMatStore(logits[n], strips, strip_at() + n * (SIDE_N / 4u), STRIP_STRIDE, ROW_MAJOR);
}

/* Whether some row does not see some key of the run. Keys below `limit` are seen by every row. */
bool run_hides(uint position, uint limit)
{
    return subgroupAny(gl_SubgroupInvocationID < STRIP_KEYS && position >= limit);
}

/* ---- The end ---------------------------------------------------------------------------------------------------- */

/*
 * The softmax of this invocation's row over the subgroup's keys becomes a part of row_softmax, to be read after the
 * next barrier; what sums of the subgroup are to be multiplied with.
 */
float meet(float greatest, float total)
{
    if (strip_part() == 0u) {
        subgroup_greatest[gl_SubgroupID * SIDE_M + strip_row()] = greatest;
        subgroup_total[gl_SubgroupID * SIDE_M + strip_row()] = total;
    }
    barrier();
    float most = LEAST;
    for (uint g = 0u; g < SUBGROUPS; g++)
        most = max(most, subgroup_greatest[g * SIDE_M + strip_row()]);
    float whole = 0.0;
    for (uint g = 0u; g < SUBGROUPS; g++)
        whole += subgroup_total[g * SIDE_M + strip_row()] * exp2(subgroup_greatest[g * SIDE_M + strip_row()] - most);
    if (gl_SubgroupID == 0u && strip_part() == 0u)
        row_softmax[strip_row()] = kas_softmax(whole == 0.0 ? KAS_NEGATIVE_INFINITY : most * LN_2, whole);
    return exp2(greatest - most);
}
