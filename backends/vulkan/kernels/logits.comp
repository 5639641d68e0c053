#version 450
/* logits.comp - decode: scaled logits of a kv head's query rows over one split of the keys, and their partial sums. */
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "element.glsl"
#include "rows.glsl"
#include "keys.glsl"
#include "block.glsl"
#include "online.glsl"
#include "partial.glsl"
KAS_WRITE(KAS_SLOT_LOGITS, float, logits)

void store_logits(float logit[KEYS_EACH], query_row r, uint at, uint first, uint end)
{
    if (!r.exists)
        return;
    for (uint c = 0u; c < KEYS_EACH; c++)
        if (first + my_key(c) < end)
            logits[at + first + my_key(c)] = logit[c];
}

void cover_rows(kas_sequence s, row_block rows, key_range range, uint kv_head)
{
    uint entry = (gl_WorkGroupID.z * gl_NumWorkGroups.y + gl_WorkGroupID.y) * GROUP * call.queries;
    uint at = (entry + rows.first + my_row()) * call.score_stride;
    query_row r = row_of(rows, s, my_row());
    load_rows(rows, s);
    begin_rows();
    for (uint e = range.begin; e < range.end; e += KEYS) {
        float logit[KEYS_EACH];
        load_keys(range, e, kv_head);
        block_logits(logit);
        if (has_flag(KAS_CALL_STORE_LOGITS))
            store_logits(logit, r, at, e, range.end);
        add_block(logit);
    }
    end_rows();
    if (lane() < rows.count)
        store_part(part_at(gl_NumWorkGroups.y, gl_WorkGroupID.y, rows.first + lane()) + gl_WorkGroupID.x,
                   row_softmax[lane()]);
}

void main()
{
    kas_sequence s = load_sequence();
    uint kv_head = active_row(gl_WorkGroupID.y / session.pool_heads) + gl_WorkGroupID.y % session.pool_heads;
    key_range range = split_range(positions(0u, s.keys), gl_WorkGroupID.x);
    uint row_count = GROUP * call.queries;
    for (uint first = 0u; first < row_count; first += ROWS)
        cover_rows(s, row_block(kv_head * GROUP, 0u, call.queries, first, kas_min2(ROWS, row_count - first)), range,
                   kv_head);
}
