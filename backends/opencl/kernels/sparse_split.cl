/* sparse_split.cl - decode: one split of the list's entries and the own keys for the rows of a kv head. */
#include "engine.clh"

KAS_KERNEL(kas_sparse_split, engine_memory)
{
    kas_u32 g = KAS_U32(get_group_id(1));
    kas_sequence s = kas_load_sequence(w);
    kas_keys keys = kas_keys_all(0u);
    if (s.queries > 0u)
        keys = kas_keys_of_tile(w, s, kas_load_tile(w, s, 0u), 0u, g, s.keys);
    attend_split_rows(w, m, s, &keys);
}
