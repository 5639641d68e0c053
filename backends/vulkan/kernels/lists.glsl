/* lists.glsl - a tile's list and own keys as a range of entries. After tiles.glsl and keys.glsl. */

/* What queries before `end` of the tile may attend to; of a dense tile every key, without reading the list. */
key_range list_and_own(kas_sequence s, kas_tile t, uint row, uint u, uint end)
{
    uint own_end = kas_causal_end(s, end);
    if (is_dense(t))
        return positions(0u, own_end);
    uint entries = has_flag(KAS_CALL_LISTS_GIVEN) ? call.list_width : t.keep;
    uint own = own_end > t.start ? own_end - t.start : 0u;
    return key_range(0u, entries + own, list_begin(s, t, row, u), entries, t.candidates, t.start);
}

/* The list row that a kv head reads. */
uint mapped_row(uint kv_head)
{
    return words[session.head_map_at + call.layer * session.kv_heads + kv_head];
}
