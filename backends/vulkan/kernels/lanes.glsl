/*
 * lanes.glsl - decode by subgroups: a group of lanes shares the rows of its keys, 16 bytes a lane and load, and holds
 * the query rows of a kv head in registers. Every group keeps softmax and sums of its own; they meet at the end.
 * 16-bit storage types, head dimensions in steps of 8. After rows.glsl and keys.glsl.
 *
 * Logits are in units of log 2, so that weights are exp2 of differences.
 */
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_shuffle : require
#include "core/kernel/softmax.h"
#include "vectors.glsl"

layout(constant_id = KAS_CONSTANT_SUBGROUP) const uint SUBGROUP = 32;

const uint VECTORS = HEAD_DIM / 8u; /* of 8 elements in a row */
const uint MOST_LANES = SUBGROUP < 32u ? SUBGROUP : 32u;
const uint WANTED_LANES = VECTORS >= 32u ? 32u : (VECTORS >= 16u ? 16u : (VECTORS >= 8u ? 8u : (VECTORS >= 4u ? 4u : 2u)));
const uint GROUP_LANES = WANTED_LANES < MOST_LANES ? WANTED_LANES : MOST_LANES; /* lanes that share a key */
const uint VECTORS_EACH = (VECTORS + GROUP_LANES - 1u) / GROUP_LANES;
const uint DIMS = VECTORS_EACH * 8u;          /* head dimensions of a lane */
const uint GROUPS = INVOCATIONS / GROUP_LANES; /* in the work group */
const uint HELD_ROWS = GROUP >= 5u ? 8u : (GROUP >= 3u ? 4u : GROUP); /* query rows in registers, a power of two */
const uint HELD_KEYS = 4u;                    /* keys a group works on at once */
const uint SUBGROUP_KEYS = SUBGROUP / GROUP_LANES * HELD_KEYS;
const uint LOGITS = HELD_ROWS * HELD_KEYS;
const float LOG2_E = 1.4426950408889634;
const float LN_2 = 0.6931471805599453;
/* Below every logit of a key and yet finite, so that no difference is a NaN of infinities. */
const float LEAST = -3.402823466e38;

uint group_index()
{
    return gl_SubgroupID * (SUBGROUP / GROUP_LANES) + gl_SubgroupInvocationID / GROUP_LANES;
}

uint group_lane()
{
    return gl_SubgroupInvocationID % GROUP_LANES;
}

/* Vector c of this lane, in its row; VECTORS and more do not exist. */
uint my_vector(uint c)
{
    return group_lane() + c * GROUP_LANES;
}

vec2 widen_pair(uint pair)
{
#ifdef ELEMENT_F16
    return unpackHalf2x16(pair);
#else
    return vec2(uintBitsToFloat(pair << 16), uintBitsToFloat(pair & 0xffff0000u));
#endif
}

/* The same where it exists, otherwise the last. */
uint loaded_vector(uint c)
{
    return kas_min2(my_vector(c), VECTORS - 1u);
}

/* The keys that this lane's group works on: KAS_NONE for absent ones, and where they lie. */
const uint HELD_VECTORS = HELD_KEYS * VECTORS_EACH;

uint held_position[HELD_KEYS];
uint held_k_at[HELD_VECTORS];
uvec4 held_k[HELD_VECTORS];
#ifdef KAS_VALUES
uint held_v_at[HELD_VECTORS];
uvec4 held_v[HELD_VECTORS];
#endif

void place_keys(key_range range, uint first, uint kv_head)
{
    [[unroll]] for (uint k = 0u; k < HELD_KEYS; k++) {
        uint position = position_of(range, first + gl_SubgroupInvocationID / GROUP_LANES * HELD_KEYS + k);
        key_place place = place_of(position);
        held_position[k] = place.present ? position : KAS_NONE;
        [[unroll]] for (uint c = 0u; c < VECTORS_EACH; c++) {
            held_k_at[k * VECTORS_EACH + c] = k_row(place, kv_head) + loaded_vector(c) * 8u;
#ifdef KAS_VALUES
            held_v_at[k * VECTORS_EACH + c] = v_row(place, kv_head) + loaded_vector(c) * 8u;
#endif
        }
    }
}

float held_q[HELD_ROWS * DIMS];
uint held_limit[HELD_ROWS]; /* keys that a row sees */
float greatest[HELD_ROWS];
float total[HELD_ROWS];
#ifdef KAS_VALUES
float sums[HELD_ROWS * DIMS];
#endif

void hold_rows(row_block rows, kas_sequence s)
{
    float scale = session.scale * LOG2_E;
    [[unroll]] for (uint r = 0u; r < HELD_ROWS; r++) {
        query_row row = row_of(rows, s, r);
        uint at = row.exists ? q_row(row) : 0u;
        held_limit[r] = row.exists ? kas_causal_keys(s, row.query) : 0u;
        greatest[r] = LEAST;
        total[r] = 0.0;
        [[unroll]] for (uint c = 0u; c < VECTORS_EACH; c++)
            [[unroll]] for (uint i = 0u; i < 8u; i++) {
                bool there = row.exists && my_vector(c) < VECTORS;
                held_q[r * DIMS + c * 8u + i] = there ? scale * LOAD_ELEMENT(q_data, at + my_vector(c) * 8u + i) : 0.0;
#ifdef KAS_VALUES
                sums[r * DIMS + c * 8u + i] = 0.0;
#endif
            }
    }
}

/* This lane's part of the logits of the held keys. */
void dot_keys(out float logit[LOGITS])
{
    [[unroll]] for (uint k = 0u; k < HELD_KEYS; k++) {
        [[unroll]] for (uint r = 0u; r < HELD_ROWS; r++)
            logit[k * HELD_ROWS + r] = 0.0;
        [[unroll]] for (uint c = 0u; c < VECTORS_EACH; c++)
            [[unroll]] for (uint i = 0u; i < 4u; i++) {
                vec2 pair = widen_pair(held_k[k * VECTORS_EACH + c][i]);
                [[unroll]] for (uint r = 0u; r < HELD_ROWS; r++) {
                    uint q = r * DIMS + c * 8u + 2u * i;
                    logit[k * HELD_ROWS + r] += held_q[q] * pair.x + held_q[q + 1u] * pair.y;
                }
            }
    }
}

/*
 * Sums the lanes' parts. At each step a lane keeps half of the values and hands the other half to the lane opposite, so
 * that values get fewer as lanes go; what is left is handed to all lanes.
 */
void reduce_logits(inout float logit[LOGITS])
{
    uint count = LOGITS;
    [[unroll]] for (uint mask = GROUP_LANES / 2u; mask > 0u; mask /= 2u) {
        bool upper = (gl_SubgroupInvocationID & mask) != 0u;
        if (count > 1u) {
            count /= 2u;
            [[unroll]] for (uint i = 0u; i < LOGITS / 2u; i++)
                if (i < count) {
                    float kept = upper ? logit[i + count] : logit[i];
                    float given = upper ? logit[i] : logit[i + count];
                    logit[i] = kept + subgroupShuffleXor(given, mask);
                }
        } else {
            logit[0] += subgroupShuffleXor(logit[0], mask);
        }
    }
    float held[LOGITS];
    [[unroll]] for (uint i = 0u; i < LOGITS; i++)
        held[i] = logit[i];
    const uint holders = LOGITS < GROUP_LANES ? LOGITS : GROUP_LANES;
    const uint each = LOGITS / holders;
    uint first = gl_SubgroupInvocationID - group_lane();
    [[unroll]] for (uint i = 0u; i < LOGITS; i++)
        logit[i] = subgroupShuffle(held[i % each], first + i / each * (GROUP_LANES / holders));
}

/* Keys that a row does not see have no weight. */
void hide_keys(inout float logit[LOGITS], uint position[HELD_KEYS])
{
    [[unroll]] for (uint i = 0u; i < LOGITS; i++)
        if (position[i / HELD_ROWS] >= held_limit[i % HELD_ROWS])
            logit[i] = KAS_NEGATIVE_INFINITY;
}

#ifdef KAS_VALUES
void add_values(float weight[LOGITS], uint position[HELD_KEYS])
{
    [[unroll]] for (uint k = 0u; k < HELD_KEYS; k++)
        [[unroll]] for (uint c = 0u; c < VECTORS_EACH; c++)
            [[unroll]] for (uint i = 0u; i < 4u; i++) {
                /* No weight makes nothing of a NaN: what an absent key left is dropped here. */
                vec2 pair = widen_pair(position[k] == KAS_NONE ? 0u : held_v[k * VECTORS_EACH + c][i]);
                [[unroll]] for (uint r = 0u; r < HELD_ROWS; r++) {
                    sums[r * DIMS + c * 8u + 2u * i] += weight[k * HELD_ROWS + r] * pair.x;
                    sums[r * DIMS + c * 8u + 2u * i + 1u] += weight[k * HELD_ROWS + r] * pair.y;
                }
            }
}
#endif

/* Logits to weights, against the greatest so far. */
void weigh(inout float logit[LOGITS])
{
    [[unroll]] for (uint r = 0u; r < HELD_ROWS; r++) {
        float most = greatest[r];
        [[unroll]] for (uint k = 0u; k < HELD_KEYS; k++)
            most = max(most, logit[k * HELD_ROWS + r]);
        float factor = exp2(greatest[r] - most);
        greatest[r] = most;
        total[r] *= factor;
        [[unroll]] for (uint k = 0u; k < HELD_KEYS; k++) {
            float weight = exp2(logit[k * HELD_ROWS + r] - most);
            logit[k * HELD_ROWS + r] = weight;
            total[r] += weight;
        }
#ifdef KAS_VALUES
        [[unroll]] for (uint d = 0u; d < DIMS; d++)
            sums[r * DIMS + d] *= factor;
#endif
    }
}

/* ---- The end: groups meet --------------------------------------------------------------------------------------- */

shared float group_greatest[GROUPS];
shared float group_total[GROUPS];
shared kas_softmax row_softmax;
#ifdef KAS_VALUES
shared float group_sums[GROUPS * HEAD_DIM];
#endif

/* Row r of all groups becomes row_softmax and, with values, one unnormalised output in group_sums[0 ..]. */
void meet(uint r)
{
    barrier();
    if (group_lane() == 0u) {
        group_greatest[group_index()] = greatest[r];
        group_total[group_index()] = total[r];
    }
    barrier();
    float most = LEAST;
    for (uint g = 0u; g < GROUPS; g++)
        most = max(most, group_greatest[g]);
    float whole = 0.0;
    for (uint g = 0u; g < GROUPS; g++)
        whole += group_total[g] * exp2(group_greatest[g] - most);
    if (lane() == 0u)
        row_softmax = kas_softmax(whole == 0.0 ? KAS_NEGATIVE_INFINITY : most * LN_2, whole);
#ifdef KAS_VALUES
    float factor = exp2(greatest[r] - most);
    [[unroll]] for (uint c = 0u; c < VECTORS_EACH; c++)
        if (my_vector(c) < VECTORS)
            [[unroll]] for (uint i = 0u; i < 8u; i++)
                group_sums[group_index() * HEAD_DIM + my_vector(c) * 8u + i] = factor * sums[r * DIMS + c * 8u + i];
    barrier();
    for (uint d = lane(); d < HEAD_DIM; d += INVOCATIONS) {
        float sum = 0.0;
        for (uint g = 0u; g < GROUPS; g++)
            sum += group_sums[g * HEAD_DIM + d];
        group_sums[d] = sum;
    }
#endif
    barrier();
}
