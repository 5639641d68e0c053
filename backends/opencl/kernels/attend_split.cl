/* attend_split.cl - decode: one split of all keys for the rows of a kv head. */
#include "engine.clh"

KAS_KERNEL(kas_attend_split, engine_memory)
{
    kas_sequence s = kas_load_sequence(w);
    kas_keys keys = kas_keys_all(s.keys);
    attend_split_rows(w, m, s, &keys);
}
