/*
 * matrix.glsl - what the rows on cooperative matrices share: products of 16 x 16 x 16 f16 values with f32 sums in the
 * scope of a subgroup, blocks of keys staged in shared memory, and a strip of shared memory for each subgroup, in which
 * it sees a matrix as rows. In prefill subgroups share the block's 32 keys and have rows of their own; with
 * KAS_OWN_KEYS, for decode, they share 16 rows and have keys of their own. After vectors.glsl.
 *
 * Which invocation holds which element of a matrix is the driver's choice, but the same for all matrices of a type: a
 * matrix of indices tells. Logits are in units of log 2, so that weights are exp2 of differences.
 */
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_vote : require
#extension GL_KHR_shader_subgroup_shuffle : require

layout(constant_id = KAS_CONSTANT_SUBGROUP) const uint SUBGROUP = 32;

const uint SIDE = 16u; /* of a matrix */
const uint SUBGROUPS = INVOCATIONS / SUBGROUP;
#ifdef KAS_OWN_KEYS
const uint STRIP_KEYS = SUBGROUP / 2u; /* that a subgroup works on at once */
const uint KEYS = SUBGROUPS * STRIP_KEYS;
#else
const uint STRIP_KEYS = 32u;
const uint KEYS = STRIP_KEYS; /* in a block */
#endif
const uint SLICES = HEAD_DIM / SIDE;
const uint VECTORS = HEAD_DIM / 8u; /* of 8 elements in a row */
const uint STRIDE = VECTORS + 1u;   /* of a staged row: the odd vector spreads rows over the banks */
const uint LOADS = (KEYS * VECTORS + INVOCATIONS - 1u) / INVOCATIONS;
const float LOG2_E = 1.4426950408889634;
const float LN_2 = 0.6931471805599453;
/* Below every logit of a key and yet finite, so that no difference is a NaN of infinities. */
const float LEAST = -3.402823466e38;

layout(set = 0, binding = KAS_SLOT_Q, std430) readonly buffer q_vector_block
{
    uvec4 q_vectors[];
};
LOAD_VECTOR(load_q, q_data, q_vectors)

#define MATRIX_A coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseA>
#define MATRIX_B coopmat<float16_t, gl_ScopeSubgroup, 16, 16, gl_MatrixUseB>
#define MATRIX_SUM coopmat<float, gl_ScopeSubgroup, 16, 16, gl_MatrixUseAccumulator>
#define ROW_MAJOR gl_CooperativeMatrixLayoutRowMajor
#define COLUMN_MAJOR gl_CooperativeMatrixLayoutColumnMajor

/* Rows that fit the stage: of q, or of k and v. */
#ifdef KAS_VALUES
const uint STAGED_ROWS = 2u * KEYS;
#else
const uint STAGED_ROWS = KEYS < KAS_STAGED_ROWS ? KAS_STAGED_ROWS : KEYS;
#endif
const uint VALUES_AT = KEYS * STRIDE; /* of the values, behind the keys */

shared uvec4 stage[STAGED_ROWS * STRIDE];
shared uint key_position[KEYS]; /* KAS_NONE: absent */
/* Whether some row does not see some key of the block; by turns, so that one can be cleared while the other is read. */
shared uint block_hides[2];

/* ---- Strips ----------------------------------------------------------------------------------------------------- */

/* 16 rows of 32 floats, or of 32 halves in the first half of a row. */
const uint STRIP_STRIDE = 9u;
const uint STRIP = SIDE * STRIP_STRIDE;
const uint ROW_LANES = SUBGROUP / SIDE; /* that share a row of the strip */
const uint LANE_KEYS = STRIP_KEYS / ROW_LANES;

shared uvec4 strips[SUBGROUPS * STRIP];

/* The subgroup's rows are those from my_rows() on of the work group's, its keys those from my_keys() on of the block. */
uint my_rows()
{
#ifdef KAS_OWN_KEYS
    return 0u;
#else
    return gl_SubgroupID * SIDE;
#endif
}

uint my_keys()
{
#ifdef KAS_OWN_KEYS
    return gl_SubgroupID * STRIP_KEYS;
#else
    return 0u;
#endif
}

uint strip_at()
{
    return gl_SubgroupID * STRIP;
}

/* This invocation's row of the strip, and its part of it. */
uint strip_row()
{
    return gl_SubgroupInvocationID % SIDE;
}

uint strip_part()
{
    return gl_SubgroupInvocationID / SIDE;
}

float strip_value(uint row, uint column)
{
    return uintBitsToFloat(strips[strip_at() + row * STRIP_STRIDE + column / 4u][column % 4u]);
}

/* Makes what the subgroup's invocations wrote to shared memory visible to each other. */
void subgroup_meet()
{
    controlBarrier(gl_ScopeSubgroup, gl_ScopeSubgroup, gl_StorageSemanticsShared,
                   gl_SemanticsAcquireRelease | gl_SemanticsMakeAvailable | gl_SemanticsMakeVisible);
}

/* Element i stands for row index / 16, column index % 16. */
MATRIX_SUM make_indices()
{
    for (uint i = gl_SubgroupInvocationID; i < SIDE * SIDE / 4u; i += SUBGROUP) {
        vec4 numbers = vec4(4u * i) + vec4(0.0, 1.0, 2.0, 3.0);
        strips[strip_at() + i / 4u * STRIP_STRIDE + i % 4u] = floatBitsToUint(numbers);
    }
    subgroup_meet();
    MATRIX_SUM indices;
    coopMatLoad(indices, strips, strip_at(), STRIP_STRIDE, ROW_MAJOR);
    subgroup_meet();
    return indices;
}

/* ---- Staging ---------------------------------------------------------------------------------------------------- */

/* Query rows first .. first + count - 1 of the block become staged rows 0 .. count - 1. All invocations. */
void stage_rows(row_block rows, kas_sequence s, uint first, uint count)
{
    bool aligned = is_aligned(call.q_base, call.q_stride_seq, call.q_stride_token, call.q_stride_head);
    barrier();
    for (uint i = lane(); i < count * VECTORS; i += INVOCATIONS) {
        query_row row = row_of(rows, s, first + i / VECTORS);
        uvec4 elements = uvec4(0u);
        if (row.exists) {
            uint at = q_row(row) + i % VECTORS * 8u;
            elements = aligned ? load_q_vector(at) : load_q_elements(at);
        }
        stage[i / VECTORS * STRIDE + i % VECTORS] = elements;
    }
    barrier();
}

/* Between loading and staging, a block waits in registers. */
uvec4 held_k[LOADS];
#ifdef KAS_VALUES
uvec4 held_v[LOADS];
#endif
uint held_position[LOADS];
uint next_position[LOADS];

uint held_key(uint i)
{
    return (i * INVOCATIONS + lane()) / VECTORS;
}

uint held_vector(uint i)
{
    return (i * INVOCATIONS + lane()) % VECTORS;
}

/* Looks up entries first .. first + KEYS - 1, the block to be loaded next; those past the end of the range are absent. */
void place_block(key_range range, uint first)
{
    [[unroll]] for (uint i = 0u; i < LOADS; i++)
        next_position[i] = held_key(i) < KEYS ? position_of(range, first + held_key(i)) : KAS_NONE;
}

/* Loads the block that place_block looked up: a list is read long before the keys that it names. */
void load_block(uint kv_head)
{
    bool k_aligned = is_aligned(call.k_base, call.k_stride_seq, call.k_stride_token, call.k_stride_head);
#ifdef KAS_VALUES
    bool v_aligned = is_aligned(call.v_base, call.v_stride_seq, call.v_stride_token, call.v_stride_head);
#endif
    uint k_at[LOADS];
    uint v_at[LOADS];
    [[unroll]] for (uint i = 0u; i < LOADS; i++) {
        key_place place = place_of(next_position[i]);
        held_position[i] = place.present ? next_position[i] : KAS_NONE;
        k_at[i] = k_row(place, kv_head) + held_vector(i) * 8u;
        v_at[i] = v_row(place, kv_head) + held_vector(i) * 8u;
    }
    LOAD_VECTORS(load_k, LOADS, k_at, k_aligned, held_k)
#ifdef KAS_VALUES
    LOAD_VECTORS(load_v, LOADS, v_at, v_aligned, held_v)
#endif
}

/* Stages the block that waits. Keys below `limit` are seen by every row. */
void stage_block(uint limit, uint turn)
{
    [[unroll]] for (uint i = 0u; i < LOADS; i++) {
        uint key = held_key(i);
        if (key >= KEYS)
            continue;
        stage[key * STRIDE + held_vector(i)] = held_k[i];
#ifdef KAS_VALUES
        /* No weight makes nothing of a NaN: what an absent key left is dropped here. */
        stage[VALUES_AT + key * STRIDE + held_vector(i)] = held_position[i] == KAS_NONE ? uvec4(0u) : held_v[i];
#endif
        if (held_vector(i) == 0u) {
            key_position[key] = held_position[i];
            if (held_position[i] >= limit)
                atomicOr(block_hides[turn], 1u);
        }
    }
}

void clear_hides()
{
    if (lane() < 2u)
        block_hides[lane()] = 0u;
}
