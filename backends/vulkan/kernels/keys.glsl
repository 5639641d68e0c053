/*
 * keys.glsl - which keys a work group visits and where their rows lie: a range of positions, or a list followed by own
 * keys. Kernels that read lists define KAS_LISTS. After common.glsl and element.glsl.
 */
KAS_READ(KAS_SLOT_K, KAS_ELEMENT, k_data)
KAS_READ(KAS_SLOT_PAGES, int, pages)
#ifdef KAS_VALUES
KAS_READ(KAS_SLOT_V, KAS_ELEMENT, v_data)
#endif
#ifdef KAS_LISTS
KAS_READ(KAS_SLOT_LISTS, int, lists)
#endif

/* Entries begin .. end - 1 of: list_count entries of a list, then positions from own_begin on. */
struct key_range {
    uint begin;
    uint end;
    uint list_at;
    uint list_count;
    uint candidates; /* list entries below this are keys, others are absent */
    uint own_begin;
};

key_range positions(uint begin, uint end)
{
    return key_range(begin, end, 0u, 0u, 0u, 0u);
}

/* Part `split` of the entries. */
key_range split_range(key_range r, uint split)
{
    r.begin = kas_min2(split * call.split_keys, r.end);
    r.end = kas_min2(r.begin + call.split_keys, r.end);
    return r;
}

/* What stands in an entry of the list, to be understood by position_from: a read that nothing waits for yet. */
int fetch_entry(key_range r, uint entry)
{
#ifdef KAS_LISTS
    if (entry < kas_min2(r.end, r.list_count))
        return lists[r.list_at + entry];
#endif
    return -1;
}

/* The position of an entry that was fetched, KAS_NONE past the end and for absent ones. */
uint position_from(key_range r, uint entry, int listed)
{
    if (entry >= r.end)
        return KAS_NONE;
#ifdef KAS_LISTS
    if (entry < r.list_count) {
        if (listed >= 0 && uint(listed) < r.candidates)
            return uint(listed);
        if (listed != -1 && has_flag(KAS_CALL_LISTS_GIVEN))
            report(KAS_CHECK_LIST);
        return KAS_NONE;
    }
#endif
    return r.own_begin + (entry - r.list_count);
}

uint position_of(key_range r, uint entry)
{
    return position_from(r, entry, fetch_entry(r, entry));
}

/* Where a key lies: sequence or page, and token within it. */
struct key_place {
    bool present;
    uint outer;
    uint token;
};

/* An absent key has the place of one that is there: kernels may load it, and must drop what they load. */
key_place place_of(uint position)
{
    bool listed = position != KAS_NONE;
    if (PAGE_SIZE == 0u)
        return key_place(listed, gl_WorkGroupID.z, listed ? position : 0u);
    if (!listed)
        return key_place(false, 0u, 0u);
    const uint size = PAGE_SIZE == 0u ? 1u : PAGE_SIZE;
    int page = pages[sequence_index() * call.page_table_stride + position / size];
    if (page >= 0 && uint(page) < call.page_count)
        return key_place(true, uint(page), position % size);
    report(KAS_CHECK_PAGE);
    return key_place(false, 0u, 0u);
}

/* The first element of the key's, and of the value's, row. */
uint k_row(key_place p, uint kv_head)
{
    return call.k_base + p.outer * call.k_stride_seq + p.token * call.k_stride_token + kv_head * call.k_stride_head;
}

uint v_row(key_place p, uint kv_head)
{
    return call.v_base + p.outer * call.v_stride_seq + p.token * call.v_stride_token + kv_head * call.v_stride_head;
}
