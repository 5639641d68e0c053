/*
 * matrix_block.glsl - prefill on cooperative matrices: query rows of a kv head against blocks of keys that the whole
 * work group stages in shared memory, each subgroup's rows being those from my_rows() on. The including kernel defines
 * cover_rows. After matrix.glsl.
 */
#ifdef KAS_VALUES
const uint KEYS = STRIP_KEYS; /* in a block */
const uint BUFFERS = 1u;      /* blocks that are staged: that which is read, and where there are two the next one */
const uint ROW_STRIPS = 1u;   /* matrices of rows that a subgroup takes */
#else
const uint KEYS = 64u;
const uint BUFFERS = 2u;
const uint ROW_STRIPS = 2u;
#endif
const uint ROWS = SUBGROUPS * ROW_STRIPS * SIDE_M;
const uint QUERY_MATRICES = ROW_STRIPS * DIM_STEPS;
const uint LOADS = (KEYS * VECTORS + INVOCATIONS - 1u) / INVOCATIONS;
const uint STAGED_ROWS = 2u * KEYS; /* of q, of k and v, or of two blocks of k */
const uint VALUES_AT = KEYS * STRIDE; /* of the values, behind the keys */

#ifdef KAS_MATRIX2
const uint STAGE_LEAST = SUBGROUPS * SIDE_M * OUTPUT_STRIDE; /* outputs take the stage's place */
#else
const uint STAGE_LEAST = 0u;
#endif

shared uvec4 stage[STAGED_ROWS * STRIDE > STAGE_LEAST ? STAGED_ROWS * STRIDE : STAGE_LEAST];
shared uint key_position[BUFFERS * KEYS]; /* KAS_NONE: absent */
/* Whether some row does not see some key of the block; by turns, so that one can be cleared while others are read and
   set. */
const uint TURNS = BUFFERS + 1u;
shared uint block_hides[TURNS];
shared uint row_limit[ROWS]; /* keys that the row sees: positions below */

uint my_rows()
{
    return gl_SubgroupID * ROW_STRIPS * SIDE_M;
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

/* The subgroup's rows as factors. */
void load_queries(row_block rows, kas_sequence s, out MATRIX_A q[QUERY_MATRICES])
{
    for (uint first = 0u; first < ROWS; first += STAGED_ROWS) {
        stage_rows(rows, s, first, kas_min2(ROWS - first, STAGED_ROWS));
        uint mine = my_rows() - first;
        if (mine < STAGED_ROWS) {
            [[unroll]] for (uint t = 0u; t < ROW_STRIPS; t++)
                [[unroll]] for (uint c = 0u; c < DIM_STEPS; c++)
                    coopMatLoad(q[t * DIM_STEPS + c], stage, (mine + t * SIDE_M) * STRIDE + c * (SIDE_K / 8u), STRIDE,
                                ROW_MAJOR);
        }
    }
    for (uint n = lane(); n < ROWS; n += INVOCATIONS) {
        query_row row = row_of(rows, s, n);
        row_limit[n] = row.exists ? kas_causal_keys(s, row.query) : 0u;
    }
}

/* Between loading and staging, a block waits in registers. */
uvec4 held_k[LOADS];
#ifdef KAS_VALUES
uvec4 held_v[LOADS];
#endif
uint held_position[LOADS];
int next_entry[LOADS];

/* Where whole rows make a load of the work group, an invocation has the same vector in all of its loads. */
const bool WHOLE_ROWS = INVOCATIONS % VECTORS == 0u;

uint held_key(uint i)
{
    return WHOLE_ROWS ? i * (INVOCATIONS / VECTORS) + lane() / VECTORS : (i * INVOCATIONS + lane()) / VECTORS;
}

uint held_vector(uint i)
{
    return (WHOLE_ROWS ? lane() : i * INVOCATIONS + lane()) % VECTORS;
}

/* Reads entries first .. first + KEYS - 1 of a list, long before load_block looks at them: a branch on an entry at once
   would wait for memory. */
void fetch_block(key_range range, uint first)
{
    [[unroll]] for (uint i = 0u; i < LOADS; i++)
        next_entry[i] = fetch_entry(range, first + held_key(i));
}

/* Loads the block from entry `first` on, which was fetched; entries past the end of the range are absent. */
void load_block(key_range range, uint first, uint kv_head)
{
    bool k_aligned = keys_aligned();
#ifdef KAS_VALUES
    bool v_aligned = values_aligned();
#endif
    uint k_at[LOADS];
    uint v_at[LOADS];
    [[unroll]] for (uint i = 0u; i < LOADS; i++) {
        uint position = position_from(range, first + held_key(i), next_entry[i]);
        key_place place = place_of(position);
        held_position[i] = place.present ? position : KAS_NONE;
        k_at[i] = k_row(place, kv_head) + held_vector(i) * 8u;
        v_at[i] = v_row(place, kv_head) + held_vector(i) * 8u;
    }
    LOAD_VECTORS(load_k, LOADS, k_at, k_aligned, held_k)
#ifdef KAS_VALUES
    LOAD_VECTORS(load_v, LOADS, v_at, v_aligned, held_v)
#endif
}

/* The staged row of the first key of block `turn`. */
uint block_at(uint turn)
{
    return turn % BUFFERS * KEYS;
}

/* Stages the block that waits. Keys below `limit` are seen by every row. */
void stage_block(uint limit, uint turn)
{
    uint last = 0u;
    [[unroll]] for (uint i = 0u; i < LOADS; i++) {
        uint key = held_key(i);
        if (key >= KEYS)
            continue;
        stage[(block_at(turn) + key) * STRIDE + held_vector(i)] = held_k[i];
#ifdef KAS_VALUES
        /* No weight makes nothing of a NaN: what an absent key left is dropped here. */
        stage[VALUES_AT + key * STRIDE + held_vector(i)] = held_position[i] == KAS_NONE ? uvec4(0u) : held_v[i];
#endif
        if (held_vector(i) == 0u)
            key_position[block_at(turn) + key] = held_position[i];
        last = max(last, held_position[i]);
    }
    if (last >= limit)
        atomicOr(block_hides[turn % TURNS], 1u);
}

/*
 * Blocks in their order: begin_blocks, then next_block for each, with `turn` counting them. While the subgroup works on
 * one, the next one loads, and the list's entries of the one after it.
 */
void begin_blocks(key_range range, uint kv_head, uint limit)
{
    if (lane() < TURNS)
        block_hides[lane()] = 0u;
    fetch_block(range, range.begin);
    load_block(range, range.begin, kv_head);
    fetch_block(range, range.begin + KEYS);
    if (BUFFERS == 2u) {
        barrier();
        stage_block(limit, 0u);
        load_block(range, range.begin + KEYS, kv_head);
        fetch_block(range, range.begin + 2u * KEYS);
    }
}

/* Makes block `turn` the one to work on; whether some row does not see some key of it. */
bool next_block(key_range range, uint kv_head, uint limit, uint turn)
{
    uint next = range.begin + (turn + BUFFERS) * KEYS;
    barrier();
    stage_block(limit, turn + BUFFERS - 1u);
    if (BUFFERS == 1u)
        barrier();
    bool hides = block_hides[turn % TURNS] != 0u;
    if (lane() == 0u)
        block_hides[(turn + BUFFERS) % TURNS] = 0u;
    load_block(range, next, kv_head);
    fetch_block(range, next + KEYS);
    return hides;
}

/* Rows 0 .. ROWS - 1 of the block. Positions below `limit` are seen by all of them. */
void cover_rows(row_block rows, kas_sequence s, key_range range, uint kv_head, uint limit);

/* Queries begin .. end - 1 of all heads of a kv head. */
void cover_queries(kas_sequence s, key_range range, uint kv_head, uint begin, uint end)
{
    uint row_count = GROUP * (end - begin);
    for (uint first = 0u; first < row_count; first += ROWS) {
        row_block rows = row_block(kv_head * GROUP, begin, end - begin, first, kas_min2(ROWS, row_count - first));
        cover_rows(rows, s, range, kv_head, kas_causal_keys(s, begin));
    }
}
