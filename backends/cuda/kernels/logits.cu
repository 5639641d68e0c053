/* logits.cu - decode: scaled logits of one split of an anchor's keys, and the split's partial softmax sums. */
#include "generic.cuh"
#include "split.cuh"

template <class T, int D> KAS_CU void logits_generic(const kas_work &w, unsigned char *memory)
{
    const kas_session_block &session = kas_session_of(w);
    const generic_memory m = generic_layout<D>(memory);
    const kas_sequence s = kas_load_sequence(w);
    const kas_u32 y = blockIdx.y;
    const kas_u32 g = kas_active_row(w, y / session.pool_heads) + y % session.pool_heads;
    const kas_keys keys = kas_keys_all(s.keys);
    const split_range range = split_range_of(w, blockIdx.x, keys.total);
    const kas_u32 rows = session.group * w.call.queries;
    for (kas_u32 first = 0; first < rows; first += GENERIC_ROWS) {
        const kas_u32 row = first + generic_row();
        const kas_u32 head = g * session.group + row / w.call.queries;
        const kas_u32 i = row % w.call.queries;
        const bool exists = row < rows && i < s.queries;
        const kas_u32 visible = exists ? kas_causal_keys(s, i) : 0u;
        float *target = kas_slot<float>(w, KAS_SLOT_LOGITS) +
                        kas_query_row_index(w, gridDim.y, y, row) * w.call.score_stride;
        generic_state<D> state;
        generic_begin(state);
        generic_load_query<T, D>(m, exists ? kas_q_row<T>(w, i, head) : nullptr, (int)session.head_dim);
        for (kas_u32 e = range.begin; e < range.end; e += GENERIC_KEYS) {
            float logits[GENERIC_KEYS / GENERIC_SHARE];
            generic_find_keys(w, m, keys, e, range.end);
            generic_load_rows<T, D>(m, kas_slot<const T>(w, KAS_SLOT_K), kas_k_rows(w, g), (int)session.head_dim);
            generic_logits<D>(m, session.scale, visible, logits);
            if (exists && kas_has(w, KAS_CALL_STORE_LOGITS))
#pragma unroll
                for (int x = 0; x < GENERIC_KEYS / GENERIC_SHARE; x++) {
                    kas_u32 key = e + generic_part() + GENERIC_SHARE * x;
                    if (key < range.end)
                        target[key] = logits[x];
                }
            generic_weigh(state, logits);
        }
        kas_softmax result = generic_result(state);
        if (row < rows && generic_part() == 0) {
            float *ml = kas_slot<float>(w, KAS_SLOT_PART_ML) +
                        kas_partial_index(w, gridDim.y, y, row, blockIdx.x) * 2;
            ml[0] = result.greatest;
            ml[1] = result.sum;
        }
        __syncthreads();
    }
}

GENERIC_KERNELS(logits, logits_generic)
