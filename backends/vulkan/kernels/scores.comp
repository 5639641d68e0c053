#version 450
/*
 * scores.comp - pooled scores of 128 candidates of a tile: the sum of exp(logit - log-sum-exp) over the heads of the
 * row and the queries of the tile.
 */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "element.glsl"
#include "tiles.glsl"
#include "rows.glsl"
#include "keys.glsl"
#include "block.glsl"
#include "core/kernel/softmax.h"
KAS_READ(KAS_SLOT_LSE, float, lse_data)
KAS_WRITE(KAS_SLOT_SCORES, float, scores)

const uint BLOCKS = 4u; /* of KEYS keys, makes block_keys */

shared float row_lse[ROWS];
shared float pooled_rows[ROWS * KEYS];
float pooled[BLOCKS * KEYS_EACH];

float pooled_weight(float logit, float lse)
{
    float weight = kas_softmax_weight(logit, lse);
    return has_flag(KAS_CALL_ESTIMATED) && weight > 4.0 ? 4.0 : weight;
}

void load_lse(row_block rows, kas_sequence s)
{
    if (lane() < ROWS) {
        query_row r = row_of(rows, s, lane());
        row_lse[lane()] = r.exists ? lse_data[lse_at(r)] : KAS_NEGATIVE_INFINITY;
    }
    barrier();
}

void pool_rows(row_block rows, kas_sequence s, key_range range, uint kv_head)
{
    load_rows(rows, s);
    load_lse(rows, s);
    for (uint b = 0u; b < BLOCKS; b++) {
        float logit[KEYS_EACH];
        load_keys(range, range.begin + b * KEYS, kv_head);
        block_logits(logit);
        for (uint c = 0u; c < KEYS_EACH; c++)
            pooled[b * KEYS_EACH + c] += pooled_weight(logit[c], row_lse[my_row()]);
    }
    barrier();
}

void pool_kv_head(kas_sequence s, kas_tile t, key_range range, uint kv_head)
{
    uint queries = t.query_end - t.query_begin;
    uint row_count = GROUP * queries;
    for (uint first = 0u; first < row_count; first += ROWS)
        pool_rows(row_block(kv_head * GROUP, t.query_begin, queries, first, kas_min2(ROWS, row_count - first)), s,
                  range, kv_head);
}

/* Adds up the rows' parts and writes one block of scores. */
void write_block(uint at, uint b, uint first, uint end)
{
    for (uint c = 0u; c < KEYS_EACH; c++)
        pooled_rows[my_row() * KEYS + my_key(c)] = pooled[b * KEYS_EACH + c];
    barrier();
    if (lane() < KEYS && first + lane() < end) {
        float total = 0.0;
        for (uint n = 0u; n < ROWS; n++)
            total += pooled_rows[n * KEYS + lane()];
        scores[at + first + lane()] = total;
    }
    barrier();
}

void main()
{
    kas_sequence s = load_sequence();
    uint u = gl_WorkGroupID.x % call.tile_count;
    kas_tile t = load_tile(s, u);
    uint begin = gl_WorkGroupID.x / call.tile_count * BLOCKS * KEYS;
    if (t.query_begin == t.query_end || begin >= t.candidates)
        return;
    if (has_flag(KAS_CALL_SKIP_DENSE) && kas_tile_is_dense(t))
        return;
    for (uint i = 0u; i < BLOCKS * KEYS_EACH; i++)
        pooled[i] = 0.0;
    uint row = active_row(gl_WorkGroupID.y);
    uint end = row + session.pool_heads;
    for (uint g = row; g < end; g++)
        pool_kv_head(s, t, positions(begin, t.candidates), g);
    uint at = ((gl_WorkGroupID.z * gl_NumWorkGroups.y + gl_WorkGroupID.y) * call.tile_count + u) * call.score_stride;
    for (uint b = 0u; b < BLOCKS; b++)
        write_block(at, b, begin + b * KEYS, t.candidates);
}
