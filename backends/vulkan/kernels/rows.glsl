/*
 * rows.glsl - the query rows of a work group: which head and query token each stands for, and where q lies. After
 * common.glsl and element.glsl.
 */
KAS_READ(KAS_SLOT_Q, KAS_ELEMENT, q_data)

/* Rows first .. first + count - 1 of: head_begin's query tokens from query_begin on, then the next head's. */
struct row_block {
    uint head_begin;
    uint query_begin;
    uint queries_each; /* rows of a head */
    uint first;
    uint count;
};

struct query_row {
    uint head;
    uint query;
    bool exists; /* the block has the row and the sequence the query */
};

query_row row_of(row_block rows, kas_sequence s, uint n)
{
    uint index = rows.first + n;
    query_row r;
    r.head = rows.head_begin + index / rows.queries_each;
    r.query = rows.query_begin + index % rows.queries_each;
    r.exists = n < rows.count && r.query < s.queries;
    return r;
}

/* The row of token `query` when every sequence has `stride_seq` elements, or among packed tokens. */
uint token_at(uint query, uint stride_seq, uint stride_token)
{
    uint b = sequence_index();
    if (has_flag(KAS_CALL_Q_STARTS))
        return (uint(q_starts[b]) + query) * stride_token;
    return b * stride_seq + query * stride_token;
}

uint q_row(query_row r)
{
    return call.q_base + token_at(r.query, call.q_stride_seq, call.q_stride_token) + r.head * call.q_stride_head;
}

uint out_row(query_row r)
{
    return call.out_base + token_at(r.query, call.out_stride_seq, call.out_stride_token) +
           r.head * call.out_stride_head;
}

uint lse_at(query_row r)
{
    return (sequence_index() * session.heads + r.head) * call.lse_stride + r.query;
}
