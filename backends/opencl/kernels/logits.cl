/* logits.cl - decode: a split's logits for the rows of a kv head, and their greatest and sum of exponentials. */
#include "engine.clh"

KAS_KERNEL(kas_logits, engine_memory)
{
    kas_sequence s = kas_load_sequence(w);
    kas_u32 pooled = w->session->pool_heads;
    kas_u32 g = kas_active_row(w, KAS_U32(get_group_id(1)) / pooled) + KAS_U32(get_group_id(1)) % pooled;
    kas_keys keys = kas_keys_all(s.keys);
    logits_split_rows(w, m, s, g, &keys);
}
