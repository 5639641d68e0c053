/*
 * matrix.glsl - what the rows on cooperative matrices share: products of f16 matrices, M x K times K x N as the device
 * has them, with f32 sums in the scope of a subgroup, staged query rows, and a strip of shared memory for each
 * subgroup, in which it sees a matrix as rows. In prefill subgroups share blocks of keys and have rows of their own
 * (matrix_block.glsl); with KAS_OWN_KEYS, for decode, they share M rows and have keys of their own
 * (matrix_stream.glsl). With KAS_MATRIX2 rows of matrices are reduced where they are, and only what is written passes
 * through a strip (matrix2_online.glsl). After vectors.glsl.
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
/* Powers of two from 8 to 32, M no more than SUBGROUP. */
layout(constant_id = KAS_CONSTANT_MATRIX_M) const uint SIDE_M = 16;
layout(constant_id = KAS_CONSTANT_MATRIX_N) const uint SIDE_N = 16;
layout(constant_id = KAS_CONSTANT_MATRIX_K) const uint SIDE_K = 16;

const uint SIDE_NK = SIDE_N > SIDE_K ? SIDE_N : SIDE_K;
const uint SUBGROUPS = INVOCATIONS / SUBGROUP;
const uint ROW_LANES = SUBGROUP / SIDE_M; /* that share a row of the strip */
/* Keys that a subgroup works on at once: where a strip holds weights, eight halves at least for each lane of a row. */
#if defined(KAS_MATRIX2)
const uint WANTED_KEYS = 64u;
#elif defined(KAS_OWN_KEYS)
const uint WANTED_KEYS = 8u * ROW_LANES;
#elif defined(KAS_NARROW_STRIPS)
const uint WANTED_KEYS = 32u;
#else
const uint WANTED_KEYS = 8u * ROW_LANES > 32u ? 8u * ROW_LANES : 32u;
#endif
const uint STRIP_KEYS = WANTED_KEYS > SIDE_NK ? WANTED_KEYS : SIDE_NK;
const uint LANE_KEYS = STRIP_KEYS / ROW_LANES;
const uint KEY_TILES = STRIP_KEYS / SIDE_N; /* matrices of logits side by side in a strip */
const uint DIM_STEPS = HEAD_DIM / SIDE_K;   /* products that make a matrix of logits */
const uint KEY_STEPS = STRIP_KEYS / SIDE_K; /* products that add a strip's values to a matrix of outputs */
const uint DIM_TILES = HEAD_DIM / SIDE_N;   /* matrices of outputs side by side */
const uint VECTORS = HEAD_DIM / 8u;         /* of 8 elements in a row */
const uint STRIDE = VECTORS | 1u;           /* of a staged row: the odd vector spreads rows over the banks */
#ifdef KAS_MATRIX2
const uint OUTPUT_STRIDE = SIDE_N / 4u | 1u; /* of a row of results on its way out, likewise */
#endif
const float LOG2_E = 1.4426950408889634;
const float LN_2 = 0.6931471805599453;
/* Below every logit of a key and yet finite, so that no difference is a NaN of infinities. */
const float LEAST = -3.402823466e38;

layout(set = 0, binding = KAS_SLOT_Q, std430) readonly buffer q_vector_block
{
    uvec4 q_vectors[];
};
LOAD_VECTOR(load_q, q_data, q_vectors)

#define MATRIX_A coopmat<float16_t, gl_ScopeSubgroup, SIDE_M, SIDE_K, gl_MatrixUseA>
#define MATRIX_B coopmat<float16_t, gl_ScopeSubgroup, SIDE_K, SIDE_N, gl_MatrixUseB>
#define MATRIX_SUM coopmat<float, gl_ScopeSubgroup, SIDE_M, SIDE_N, gl_MatrixUseAccumulator>
#define ROW_MAJOR gl_CooperativeMatrixLayoutRowMajor
#define COLUMN_MAJOR gl_CooperativeMatrixLayoutColumnMajor

/* Makes what the subgroup's invocations wrote to shared memory visible to each other. */
void subgroup_meet()
{
    controlBarrier(gl_ScopeSubgroup, gl_ScopeSubgroup, gl_StorageSemanticsShared,
                   gl_SemanticsAcquireRelease | gl_SemanticsMakeAvailable | gl_SemanticsMakeVisible);
}

/* ---- Query rows ------------------------------------------------------------------------------------------------- */

/* What makes products of k and query_vector() logits in units of log 2. Never negative: a greatest product is a
   greatest logit. */
float logit_scale()
{
    return abs(session.scale) * LOG2_E;
}

/* Vector `v` of query row `n` with the sign of the scale, zero where there is none. */
uvec4 query_vector(row_block rows, kas_sequence s, uint n, uint v, bool aligned)
{
    query_row row = row_of(rows, s, n);
    if (!row.exists)
        return uvec4(0u);
    uint at = q_row(row) + v * 8u;
    uvec4 vector = aligned ? load_q_vector(at) : load_q_elements(at);
    return session.scale < 0.0 ? vector ^ 0x80008000u : vector;
}

bool queries_aligned()
{
    return is_aligned(call.q_base, call.q_stride_seq, call.q_stride_token, call.q_stride_head);
}

/* ---- Rows of a matrix that a subgroup sees in shared memory ------------------------------------------------------ */

/* This invocation's row, and its part of it. */
uint strip_row()
{
    return gl_SubgroupInvocationID % SIDE_M;
}

uint strip_part()
{
    return gl_SubgroupInvocationID / SIDE_M;
}

/* The log-sum-exp of a row whose weights have the sum `total` and are exp2 of differences to `base`. */
float lse_of(float base, float total)
{
    return total == 0.0 ? KAS_NEGATIVE_INFINITY : (base + log2(total)) * LN_2;
}

#ifndef KAS_MATRIX2
/* ---- Strips ----------------------------------------------------------------------------------------------------- */

/* Rows of STRIP_KEYS floats, and behind them in decode as many halves; in prefill halves take the floats' place. Narrow
   ones are for kernels without values, and hold one matrix of sums or two of factors. */
#ifdef KAS_OWN_KEYS
const uint HALVES_AT = STRIP_KEYS / 4u;
const uint STRIP_STRIDE = (STRIP_KEYS / 4u + STRIP_KEYS / 8u) | 1u;
#elif defined(KAS_NARROW_STRIPS)
const uint HALVES_AT = 0u;
const uint STRIP_STRIDE = SIDE_NK / 4u | 1u;
#else
const uint HALVES_AT = 0u;
const uint STRIP_STRIDE = STRIP_KEYS / 4u | 1u;
#endif
const uint STRIP = SIDE_M * STRIP_STRIDE;

shared uvec4 strips[SUBGROUPS * STRIP];

uint strip_at()
{
    return gl_SubgroupID * STRIP;
}

float strip_value(uint row, uint column)
{
    return uintBitsToFloat(strips[strip_at() + row * STRIP_STRIDE + column / 4u][column % 4u]);
}

#ifndef KAS_NARROW_STRIPS
/* Makes this invocation's LANE_KEYS values halves of the strip. */
void store_halves(float value[LANE_KEYS])
{
    uint at = strip_at() + strip_row() * STRIP_STRIDE + HALVES_AT + strip_part() * LANE_KEYS / 8u;
    [[unroll]] for (uint i = 0u; i < LANE_KEYS; i += 8u)
        strips[at + i / 8u] =
            uvec4(packHalf2x16(vec2(value[i], value[i + 1u])), packHalf2x16(vec2(value[i + 2u], value[i + 3u])),
                  packHalf2x16(vec2(value[i + 4u], value[i + 5u])), packHalf2x16(vec2(value[i + 6u], value[i + 7u])));
}
#endif

/* Element i stands for row index / N, column index % N. */
MATRIX_SUM make_indices()
{
    for (uint i = gl_SubgroupInvocationID; i < SIDE_M * SIDE_N / 4u; i += SUBGROUP) {
        vec4 numbers = vec4(4u * i) + vec4(0.0, 1.0, 2.0, 3.0);
        strips[strip_at() + i / (SIDE_N / 4u) * STRIP_STRIDE + i % (SIDE_N / 4u)] = floatBitsToUint(numbers);
    }
    subgroup_meet();
    MATRIX_SUM indices;
    coopMatLoad(indices, strips, strip_at(), STRIP_STRIDE, ROW_MAJOR);
    subgroup_meet();
    return indices;
}

/* A row's factors, for elements of a matrix that know their row by index. */
shared float strip_factors[SUBGROUPS * SIDE_M];

void set_factor(float factor)
{
    if (strip_part() == 0u)
        strip_factors[gl_SubgroupID * SIDE_M + strip_row()] = factor;
}

float factor_of(float index)
{
    return strip_factors[gl_SubgroupID * SIDE_M + uint(index) / SIDE_N];
}
#endif
