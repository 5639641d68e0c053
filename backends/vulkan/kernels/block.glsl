/*
 * block.glsl - scaled logits of a block of 16 query rows and 32 keys by 128 invocations, in f32 through shared memory.
 * Eight invocations share a row; each has four of its keys. After keys.glsl and rows.glsl.
 *
 * Loops turn four or eight steps at once, and no more than that is unrolled: llvmpipe ends the loops of an invocation,
 * without a word, when they have turned 65,535 times together (docs/vulkan.md), and compiles long bodies slowly.
 */
const uint ROWS = 16u;
const uint KEYS = 32u;
const uint ROW_LANES = 8u;
const uint KEYS_EACH = 4u;
const uint SLICE = 32u; /* head dimensions staged at once */
const uint SLICE_STRIDE = SLICE + 1u;

shared float q_rows[ROWS * HEAD_DIM];
shared uint row_limit[ROWS]; /* keys that the row sees: positions below */
shared float k_slice[KEYS * SLICE_STRIDE];
shared uint key_position[KEYS]; /* KAS_NONE: absent */
shared uint key_k[KEYS];
shared uint key_v[KEYS];

/* This invocation's row, and its first key; the others follow at distances of ROW_LANES. */
uint my_row()
{
    return lane() / ROW_LANES;
}

uint my_key(uint c)
{
    return lane() % ROW_LANES + c * ROW_LANES;
}

void load_rows(row_block rows, kas_sequence s)
{
    barrier();
    for (uint i = lane(); i < ROWS * HEAD_DIM; i += INVOCATIONS) {
        query_row r = row_of(rows, s, i / HEAD_DIM);
        q_rows[i] = r.exists ? LOAD_ELEMENT(q_data, q_row(r) + i % HEAD_DIM) : 0.0;
    }
    if (lane() < ROWS) {
        query_row r = row_of(rows, s, lane());
        row_limit[lane()] = r.exists ? kas_causal_keys(s, r.query) : 0u;
    }
    barrier();
}

/* Entries first .. first + KEYS - 1 become the block's keys. */
void load_keys(key_range range, uint first, uint kv_head)
{
    barrier();
    if (lane() < KEYS) {
        uint position = position_of(range, first + lane());
        key_place place = place_of(position);
        key_position[lane()] = place.present ? position : KAS_NONE;
        key_k[lane()] = k_row(place, kv_head);
        key_v[lane()] = v_row(place, kv_head);
    }
    barrier();
}

void load_slice(uint d0)
{
    barrier();
    [[unroll]] for (uint n = 0u; n < KEYS * SLICE / INVOCATIONS; n++) {
        uint i = lane() + n * INVOCATIONS;
        uint key = i / SLICE;
        uint d = d0 + i % SLICE;
        bool there = d < HEAD_DIM && key_position[key] != KAS_NONE;
        k_slice[key * SLICE_STRIDE + i % SLICE] = there ? LOAD_ELEMENT(k_data, key_k[key] + d) : 0.0;
    }
    barrier();
}

void add_products(inout float logit[KEYS_EACH], uint d0, uint d)
{
    float q = q_rows[my_row() * HEAD_DIM + d0 + d];
    for (uint c = 0u; c < KEYS_EACH; c++)
        logit[c] += q * k_slice[my_key(c) * SLICE_STRIDE + d];
}

/* This invocation's logits, -inf where its row does not see the key. */
void block_logits(out float logit[KEYS_EACH])
{
    for (uint c = 0u; c < KEYS_EACH; c++)
        logit[c] = 0.0;
    [[dont_unroll]] for (uint d0 = 0u; d0 < HEAD_DIM; d0 += SLICE) {
        load_slice(d0);
        uint end = kas_min2(SLICE, HEAD_DIM - d0);
        [[dont_unroll]] for (uint d = 0u; d < end / 8u; d++)
            [[unroll]] for (uint i = 0u; i < 8u; i++)
                add_products(logit, d0, 8u * d + i);
        if (HEAD_DIM % 8u != 0u)
            [[dont_unroll]] for (uint d = end / 8u * 8u; d < end; d++)
                add_products(logit, d0, d);
    }
    for (uint c = 0u; c < KEYS_EACH; c++) {
        bool seen = key_position[my_key(c)] < row_limit[my_row()];
        logit[c] = seen ? logit[c] * session.scale : KAS_NEGATIVE_INFINITY;
    }
}
