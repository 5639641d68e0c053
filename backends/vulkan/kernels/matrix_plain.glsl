/*
 * matrix_plain.glsl - a quicker walk over the plain blocks at the beginning of a range: contiguous keys at successive
 * positions, all of which every row sees, loaded by vectors. Nothing is looked up and nothing hidden, so that between
 * barriers there are only stores. matrix_block.glsl walks the rest. It goes first: NVIDIA's compiler (driver 580) then
 * moves fewer sums between registers. After matrix_block.glsl.
 */
uint plain_k[LOADS]; /* the vectors that this invocation loads next */
#ifdef KAS_VALUES
uint plain_v[LOADS];
#endif

/* How many blocks are plain. Positions below `limit` are seen by every row. */
uint plain_blocks(key_range range, uint limit)
{
    bool aligned = keys_aligned();
#ifdef KAS_VALUES
    aligned = aligned && values_aligned();
#endif
    bool successive = (range.begin | range.list_count | range.own_begin) == 0u;
    return PAGE_SIZE == 0u && aligned && successive ? limit / KEYS : 0u;
}

/* Loads block `block`, for which the loads were prepared, and prepares those of the next one if there is any. */
void load_plain(uint block, uint count)
{
    bool more = block + 1u < count;
    [[unroll]] for (uint i = 0u; i < LOADS; i++) {
        held_k[i] = k_vectors[plain_k[i]];
        plain_k[i] += more ? KEYS * (call.k_stride_token / 8u) : 0u;
#ifdef KAS_VALUES
        held_v[i] = v_vectors[plain_v[i]];
        plain_v[i] += more ? KEYS * (call.v_stride_token / 8u) : 0u;
#endif
    }
}

void stage_plain(uint block)
{
    [[unroll]] for (uint i = 0u; i < LOADS; i++) {
        uint key = held_key(i);
        if (key >= KEYS)
            continue;
        stage[(block_at(block) + key) * STRIDE + held_vector(i)] = held_k[i];
#ifdef KAS_VALUES
        stage[VALUES_AT + key * STRIDE + held_vector(i)] = held_v[i];
#endif
    }
}

/* As begin_blocks and next_block, but for the loads: load_plain(turn + BUFFERS, count) is to follow next_plain. */
void begin_plain(uint count, uint kv_head)
{
    if (count == 0u)
        return;
    [[unroll]] for (uint i = 0u; i < LOADS; i++) {
        key_place place = place_of(kas_min2(held_key(i), KEYS - 1u));
        plain_k[i] = k_row(place, kv_head) / 8u + held_vector(i);
#ifdef KAS_VALUES
        plain_v[i] = v_row(place, kv_head) / 8u + held_vector(i);
#endif
    }
    load_plain(0u, count);
    if (BUFFERS == 2u) {
        barrier();
        stage_plain(0u);
        load_plain(1u, count);
    }
}

void next_plain(uint turn)
{
    barrier();
    stage_plain(turn + BUFFERS - 1u);
    if (BUFFERS == 1u)
        barrier();
}
