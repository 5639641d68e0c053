/* tiles.glsl - the tile of a work group and the length of its list. After common.glsl. */
KAS_READ(KAS_SLOT_FINAL_LENS, int, final_lens)

uint final_length()
{
    return has_flag(KAS_CALL_FINAL_LENS) ? uint(final_lens[sequence_index()]) : call.final_len;
}

/* Tile `u` of the launch, or the one tile of a sequence in decode. */
kas_tile load_tile(kas_sequence s, uint u)
{
    kas_tile t;
    if (has_flag(KAS_CALL_DECODE))
        t = kas_tile_decode(s);
    else
        t = kas_tile_prefill(s, call.tile_begin + u, TILE);
    t.keep = KAS_TOPK(session, t.candidates, final_length());
    return t;
}

/* Whether the tile attends to every candidate; the caller's lists never say so. */
bool is_dense(kas_tile t)
{
    return kas_tile_is_dense(t) && !has_flag(KAS_CALL_LISTS_GIVEN);
}

/* The first entry of the list of `row` for tile `u` of the launch. */
uint list_begin(kas_sequence s, kas_tile t, uint row, uint u)
{
    uint list_row = sequence_index() * session.list_rows + row;
    if (!has_flag(KAS_CALL_PACKED))
        return (list_row * call.list_tiles + (has_flag(KAS_CALL_DECODE) ? 0u : call.tile_begin + u)) * call.list_width;
    if (has_flag(KAS_CALL_DECODE))
        return list_row * session.list_capacity_decode;
    uint first = words[session.tile_offsets_at + s.offset / TILE];
    return list_row * session.list_capacity + kas_packed_entry(words[session.tile_offsets_at + t.index], first);
}
