/*
 * matrix_block.glsl - prefill on cooperative matrices: blocks of keys that the whole work group stages in shared
 * memory, each subgroup's rows being those from my_rows() on. After matrix.glsl.
 */
const uint KEYS = STRIP_KEYS; /* in a block */
const uint LOADS = (KEYS * VECTORS + INVOCATIONS - 1u) / INVOCATIONS;
#ifdef KAS_VALUES
const uint STAGED_ROWS = 2u * KEYS; /* that fit the stage: of q, or of k and v */
#else
const uint STAGED_ROWS = KEYS < KAS_STAGED_ROWS ? KAS_STAGED_ROWS : KEYS;
#endif
const uint VALUES_AT = KEYS * STRIDE; /* of the values, behind the keys */

#ifdef KAS_MATRIX2
const uint STAGE_LEAST = SUBGROUPS * SIDE_M * OUTPUT_STRIDE; /* outputs take the stage's place */
#else
const uint STAGE_LEAST = 0u;
#endif

shared uvec4 stage[STAGED_ROWS * STRIDE > STAGE_LEAST ? STAGED_ROWS * STRIDE : STAGE_LEAST];
shared uint key_position[KEYS]; /* KAS_NONE: absent */
/* Whether some row does not see some key of the block; by turns, so that one can be cleared while the other is read. */
shared uint block_hides[2];

uint my_rows()
{
    return gl_SubgroupID * SIDE_M;
}

/* Query rows first .. first + count - 1 of the block become staged rows 0 .. count - 1. All invocations. */
void stage_rows(row_block rows, kas_sequence s, uint first, uint count)
{
    bool aligned = queries_aligned();
    barrier();
    for (uint i = lane(); i < count * VECTORS; i += INVOCATIONS)
        stage[i / VECTORS * STRIDE + i % VECTORS] = query_vector(rows, s, first + i / VECTORS, i % VECTORS, aligned);
    barrier();
}

/* Between loading and staging, a block waits in registers. */
uvec4 held_k[LOADS];
#ifdef KAS_VALUES
uvec4 held_v[LOADS];
#endif
uint held_position[LOADS];
uint next_position[LOADS];

uint held_key(uint i)
{
    return (i * INVOCATIONS + lane()) / VECTORS;
}

uint held_vector(uint i)
{
    return (i * INVOCATIONS + lane()) % VECTORS;
}

/* Looks up entries first .. first + KEYS - 1, the block to be loaded next; those past the end of the range are absent. */
void place_block(key_range range, uint first)
{
    [[unroll]] for (uint i = 0u; i < LOADS; i++)
        next_position[i] = held_key(i) < KEYS ? position_of(range, first + held_key(i)) : KAS_NONE;
}

/* Loads the block that place_block looked up: a list is read long before the keys that it names. */
void load_block(uint kv_head)
{
    bool k_aligned = is_aligned(call.k_base, call.k_stride_seq, call.k_stride_token, call.k_stride_head);
#ifdef KAS_VALUES
    bool v_aligned = is_aligned(call.v_base, call.v_stride_seq, call.v_stride_token, call.v_stride_head);
#endif
    uint k_at[LOADS];
    uint v_at[LOADS];
    [[unroll]] for (uint i = 0u; i < LOADS; i++) {
        key_place place = place_of(next_position[i]);
        held_position[i] = place.present ? next_position[i] : KAS_NONE;
        k_at[i] = k_row(place, kv_head) + held_vector(i) * 8u;
        v_at[i] = v_row(place, kv_head) + held_vector(i) * 8u;
    }
    LOAD_VECTORS(load_k, LOADS, k_at, k_aligned, held_k)
#ifdef KAS_VALUES
    LOAD_VECTORS(load_v, LOADS, v_at, v_aligned, held_v)
#endif
}

/* Stages the block that waits. Keys below `limit` are seen by every row. */
void stage_block(uint limit, uint turn)
{
    [[unroll]] for (uint i = 0u; i < LOADS; i++) {
        uint key = held_key(i);
        if (key >= KEYS)
            continue;
        stage[key * STRIDE + held_vector(i)] = held_k[i];
#ifdef KAS_VALUES
        /* No weight makes nothing of a NaN: what an absent key left is dropped here. */
        stage[VALUES_AT + key * STRIDE + held_vector(i)] = held_position[i] == KAS_NONE ? uvec4(0u) : held_v[i];
#endif
        if (held_vector(i) == 0u) {
            key_position[key] = held_position[i];
            if (held_position[i] >= limit)
                atomicOr(block_hides[turn], 1u);
        }
    }
}

void clear_hides()
{
    if (lane() < 2u)
        block_hides[lane()] = 0u;
}
