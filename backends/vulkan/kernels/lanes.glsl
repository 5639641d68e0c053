/*
 * lanes.glsl - decode by subgroups, without matrices: a group of lanes shares the rows of its keys, 16 bytes a lane and
 * load, and holds the query rows of a kv head in registers. A subgroup takes runs of as many keys as it has lanes: each
 * lane looks one of them up, and the list entries of the run after the next are read by then. The groups work through
 * a run in turns. Every group keeps softmax and sums of its own; they meet at the end. 16-bit storage types, head
 * dimensions in steps of 8. After rows.glsl and keys.glsl.
 *
 * Logits are in units of log 2, so that weights are exp2 of differences. A softmax is kept against a base, which
 * follows the greatest logit only when one rises more than HEADROOM above it: sums are seldom scaled, and stay finite.
 */
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_vote : require
#extension GL_KHR_shader_subgroup_shuffle : require
#include "core/kernel/softmax.h"
#include "vectors.glsl"

layout(constant_id = KAS_CONSTANT_SUBGROUP) const uint SUBGROUP = 32;

const uint VECTORS = HEAD_DIM / 8u; /* of 8 elements in a row */
const uint MOST_LANES = SUBGROUP < 32u ? SUBGROUP : 32u;
const uint FEW_LANES = VECTORS >= 8u ? 8u : (VECTORS >= 4u ? 4u : 2u);
const uint WANTED_LANES = VECTORS >= 32u ? 32u : (VECTORS >= 16u ? 16u : FEW_LANES);
const uint GROUP_LANES = WANTED_LANES < MOST_LANES ? WANTED_LANES : MOST_LANES; /* lanes that share a key */
const uint VECTORS_EACH = (VECTORS + GROUP_LANES - 1u) / GROUP_LANES;
const uint DIMS = VECTORS_EACH * 8u;           /* head dimensions of a lane */
const uint GROUPS = INVOCATIONS / GROUP_LANES; /* in the work group */
const uint SUBGROUPS = INVOCATIONS / SUBGROUP;
const uint HELD_ROWS = GROUP >= 5u ? 8u : (GROUP >= 3u ? 4u : GROUP); /* query rows in registers, a power of two */
const uint HELD_KEYS = GROUP_LANES < 4u ? GROUP_LANES : 4u;           /* keys a group works on at once */
const uint HELD_VECTORS = HELD_KEYS * VECTORS_EACH;
const uint RUN_KEYS = SUBGROUP;                            /* that a subgroup looks up at once */
const uint TURN_KEYS = SUBGROUP / GROUP_LANES * HELD_KEYS; /* that it works on at once, a whole part of a run */
const uint STEP = SUBGROUPS * RUN_KEYS;                    /* from a subgroup's run to its next */
const uint LOGITS = HELD_ROWS * HELD_KEYS;
const uint HOLDERS = LOGITS < GROUP_LANES ? LOGITS : GROUP_LANES; /* lanes among which a group's logits end up */
const uint OWN = LOGITS / HOLDERS;                                /* logits of one of them */
const uint REPLICAS = GROUP_LANES / HOLDERS;                      /* lanes that hold the same */
const float LOG2_E = 1.4426950408889634;
const float LN_2 = 0.6931471805599453;
/* Below every logit of a key and yet finite, so that no difference is a NaN of infinities. */
const float LEAST = -3.402823466e38;
const float HEADROOM = 32.0;

uint group_in_subgroup()
{
    return gl_SubgroupInvocationID / GROUP_LANES;
}

uint group_index()
{
    return gl_SubgroupID * (SUBGROUP / GROUP_LANES) + group_in_subgroup();
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

/* The same where it exists, otherwise the last. */
uint loaded_vector(uint c)
{
    return kas_min2(my_vector(c), VECTORS - 1u);
}

vec2 widen_pair(uint pair)
{
#ifdef ELEMENT_F16
    return unpackHalf2x16(pair);
#else
    return vec2(uintBitsToFloat(pair << 16), uintBitsToFloat(pair & 0xffff0000u));
#endif
}

/* ---- Keys ------------------------------------------------------------------------------------------------------- */

/* What stands in the list for this lane's key of the run to be looked up next. */
int far_entry;
/* This lane's key of the next run and of the present one: KAS_NONE when absent, and where it lies. */
uint next_position;
uint next_k;
uint near_position;
uint near_k;
/* Vectors of the turn's keys. */
uvec4 held_k[HELD_VECTORS];
#ifdef KAS_VALUES
uint next_v;
uint near_v;
uvec4 held_v[HELD_VECTORS];
#endif

void fetch_run(key_range range, uint first)
{
    far_entry = fetch_entry(range, first + gl_SubgroupInvocationID);
}

void place_run(key_range range, uint first, uint kv_head)
{
    uint position = position_from(range, first + gl_SubgroupInvocationID, far_entry);
    key_place place = place_of(position);
    next_position = place.present ? position : KAS_NONE;
    next_k = k_row(place, kv_head);
#ifdef KAS_VALUES
    next_v = v_row(place, kv_head);
#endif
}

void enter_run()
{
    near_position = next_position;
    near_k = next_k;
#ifdef KAS_VALUES
    near_v = next_v;
#endif
}

/* The lane that looked up this group's key k of the turn that begins with key `base` of the run. */
uint key_lane(uint base, uint k)
{
    return base + group_in_subgroup() * HELD_KEYS + k;
}

/* Loads the turn's rows of k or v, which begin where `row` says. */
#define LOAD_TURN(name, row, base, aligned, held)                                                                      \
    {                                                                                                                  \
        uint at[HELD_VECTORS];                                                                                         \
        [[unroll]] for (uint k = 0u; k < HELD_KEYS; k++) {                                                             \
            uint begin = subgroupShuffle(row, key_lane(base, k));                                                      \
            [[unroll]] for (uint c = 0u; c < VECTORS_EACH; c++)                                                        \
                at[k * VECTORS_EACH + c] = begin + loaded_vector(c) * 8u;                                              \
        }                                                                                                              \
        LOAD_VECTORS(name, HELD_VECTORS, at, aligned, held)                                                            \
    }

/* ---- Query rows ------------------------------------------------------------------------------------------------- */

float held_q[HELD_ROWS * DIMS];
uint held_limit[HELD_ROWS]; /* keys that a row sees */
float greatest[HELD_ROWS];  /* the base of a row's softmax */
#ifdef KAS_VALUES
float sums[HELD_ROWS * DIMS];
#endif
/* Of the logits that end up with this lane: the base, and the sum of the weights. */
float own_base[OWN];
float own_total[OWN];

/* Which of a turn's logits is this lane's j-th: row i % HELD_ROWS of key i / HELD_ROWS. */
uint own_logit(uint j)
{
    return group_lane() / REPLICAS * OWN + j;
}

/* Logit i, or what became of it, from the lane that owns it. */
#define SPREAD(own, i) subgroupShuffle(own[(i) % OWN], gl_SubgroupInvocationID - group_lane() + (i) / OWN * REPLICAS)

void hold_rows(row_block rows, kas_sequence s)
{
    float scale = session.scale * LOG2_E;
    [[unroll]] for (uint r = 0u; r < HELD_ROWS; r++) {
        query_row row = row_of(rows, s, r);
        uint at = row.exists ? q_row(row) : 0u;
        held_limit[r] = row.exists ? kas_causal_keys(s, row.query) : 0u;
        greatest[r] = LEAST;
        [[unroll]] for (uint c = 0u; c < VECTORS_EACH; c++)
            [[unroll]] for (uint i = 0u; i < 8u; i++) {
                bool there = row.exists && my_vector(c) < VECTORS;
                held_q[r * DIMS + c * 8u + i] = there ? scale * LOAD_ELEMENT(q_data, at + my_vector(c) * 8u + i) : 0.0;
#ifdef KAS_VALUES
                sums[r * DIMS + c * 8u + i] = 0.0;
#endif
            }
    }
    [[unroll]] for (uint j = 0u; j < OWN; j++) {
        own_base[j] = LEAST;
        own_total[j] = 0.0;
    }
}

/* Keys below this are seen by every row of the kv head that is written. */
uint common_limit(kas_sequence s)
{
    return s.queries < call.queries ? 0u : kas_causal_keys(s, 0u);
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
                    uint n = k * HELD_ROWS + r;
                    logit[n] = fma(held_q[q + 1u], pair.y, fma(held_q[q], pair.x, logit[n]));
                }
            }
    }
}

/*
 * Sums the lanes' parts. At each step a lane keeps half of the values and hands the other half to the lane opposite, so
 * that values get fewer as lanes go; what is left is the lane's own.
 */
void reduce_logits(float logit[LOGITS], out float own[OWN])
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
    [[unroll]] for (uint j = 0u; j < OWN; j++)
        own[j] = logit[j];
}

/* Keys that a row does not see have no weight. `position` is the lane's key of the run. */
void hide_keys(inout float own[OWN], uint position, uint base)
{
    [[unroll]] for (uint j = 0u; j < OWN; j++) {
        uint i = own_logit(j);
        uint key = subgroupShuffle(position, key_lane(base, i / HELD_ROWS));
        uint limit = held_limit[0];
        [[unroll]] for (uint r = 1u; r < HELD_ROWS; r++)
            limit = i % HELD_ROWS == r ? held_limit[r] : limit;
        if (key >= limit)
            own[j] = KAS_NEGATIVE_INFINITY;
    }
}

/* Makes the greatest logits so far the bases. */
void move_bases(float own[OWN])
{
    [[unroll]] for (uint r = 0u; r < HELD_ROWS; r++) {
        float most = greatest[r];
        [[unroll]] for (uint k = 0u; k < HELD_KEYS; k++)
            most = max(most, SPREAD(own, k * HELD_ROWS + r));
        float factor = exp2(greatest[r] - most);
        greatest[r] = most;
        [[unroll]] for (uint j = 0u; j < OWN; j++)
            if (own_logit(j) % HELD_ROWS == r) {
                own_base[j] = most;
                own_total[j] *= factor;
            }
#ifdef KAS_VALUES
        [[unroll]] for (uint d = 0u; d < DIMS; d++)
            sums[r * DIMS + d] *= factor;
#endif
    }
}

/* Logits to weights. */
void weigh(inout float own[OWN])
{
    bool rises = false;
    [[unroll]] for (uint j = 0u; j < OWN; j++)
        rises = rises || own[j] > own_base[j] + HEADROOM;
    if (subgroupAny(rises))
        move_bases(own);
    [[unroll]] for (uint j = 0u; j < OWN; j++) {
        own[j] = exp2(own[j] - own_base[j]);
        own_total[j] += own[j];
    }
}

#ifdef KAS_VALUES
/* No weight makes nothing of a NaN: what absent keys left is dropped. `position` is the lane's key of the run. */
void drop_absent(uint position, uint base)
{
    [[unroll]] for (uint k = 0u; k < HELD_KEYS; k++)
        if (subgroupShuffle(position, key_lane(base, k)) == KAS_NONE)
            [[unroll]] for (uint c = 0u; c < VECTORS_EACH; c++)
                held_v[k * VECTORS_EACH + c] = uvec4(0u);
}

void add_values(float own[OWN])
{
    [[unroll]] for (uint k = 0u; k < HELD_KEYS; k++) {
        float weight[HELD_ROWS];
        [[unroll]] for (uint r = 0u; r < HELD_ROWS; r++)
            weight[r] = SPREAD(own, k * HELD_ROWS + r);
        [[unroll]] for (uint c = 0u; c < VECTORS_EACH; c++)
            [[unroll]] for (uint i = 0u; i < 4u; i++) {
                vec2 pair = widen_pair(held_v[k * VECTORS_EACH + c][i]);
                [[unroll]] for (uint r = 0u; r < HELD_ROWS; r++) {
                    uint at = r * DIMS + c * 8u + 2u * i;
                    sums[at] = fma(weight[r], pair.x, sums[at]);
                    sums[at + 1u] = fma(weight[r], pair.y, sums[at + 1u]);
                }
            }
    }
}
#endif

/* ---- The end: groups meet --------------------------------------------------------------------------------------- */

shared float group_greatest[GROUPS];
shared float group_total[GROUPS];
shared kas_softmax row_softmax;
#ifdef KAS_VALUES
shared float group_sums[GROUPS * HEAD_DIM];
#endif

/* The group's sum of row r's weights. */
float row_total(uint r)
{
    float sum = 0.0;
    [[unroll]] for (uint k = 0u; k < HELD_KEYS; k++)
        sum += SPREAD(own_total, k * HELD_ROWS + r);
    return sum;
}

/* Row r of all groups becomes row_softmax and, with values, one unnormalised output in group_sums[0 ..]. */
void meet(uint r)
{
    barrier();
    float sum_of_weights = row_total(r);
    if (group_lane() == 0u) {
        group_greatest[group_index()] = greatest[r];
        group_total[group_index()] = sum_of_weights;
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
