/* lists.c - the lists an operation reads or writes: the session's packed ones, or rectangles of the caller's. */
#include "work.h"

kas_list_view kas_view_published(const kas_work *work)
{
    const kas_session *session = work->session;
    bool decode = work->phase == KAS_PHASE_DECODE;
    kas_list_view view = {.packed = true, .flags = KAS_CALL_PACKED, .slice = session->lists.slice};
    view.slice.offset += decode ? session->list_bytes_prefill : 0;
    view.size = decode ? session->list_bytes_decode : session->list_bytes_prefill;
    return view;
}

kas_status kas_view_given(const kas_work *work, const kas_lists *lists, uint32_t width, kas_list_view *view)
{
    KAS_TRY(kas_require("lists", lists));
    if (lists->tiles < work->tiles)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "lists.tiles is %u, the call has %u", lists->tiles, work->tiles);
    if (lists->width < width || lists->width == 0 || lists->width > KAS_MOST_KEYS)
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "lists.width is %u, needed is %u to %u", lists->width,
                        width ? width : 1, KAS_MOST_KEYS);
    uint64_t rectangle = (uint64_t)lists->tiles * lists->width, size;
    if (!kas_multiply((uint64_t)work->batch * work->session->block.list_rows, rectangle, sizeof(int32_t), &size))
        return kas_fail(KAS_ERROR_INVALID_ARGUMENT, "lists: tiles %u times width %u is too large", lists->tiles,
                        lists->width);
    KAS_TRY(kas_work_check_slice(work, "lists.indices", &lists->indices, size));
    *view = (kas_list_view){.slice = lists->indices, .size = size, .tiles = lists->tiles, .width = lists->width};
    return KAS_OK;
}
