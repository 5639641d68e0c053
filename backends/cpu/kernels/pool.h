/* pool.h - pooled scores of decode: stored logits, normalised by the merged partial sums, summed over query rows. */

static kas_softmax merge_row(const cell *c, uint64_t row)
{
    const float *ml = (const float *)c->job->slot[KAS_SLOT_PART_ML] + row * c->call->splits * 2;
    kas_softmax whole = kas_softmax_none();
    for (uint32_t split = 0; split < c->call->splits; split++)
        whole = kas_softmax_merge(whole, (kas_softmax){ml[2 * split], ml[2 * split + 1]});
    return whole;
}

/* Adds a query row's weights of keys [begin, end). */
static void add_row(const cell *c, uint64_t row, uint32_t begin, uint32_t end, float *scores)
{
    kas_softmax whole = merge_row(c, row);
    if (whole.sum == 0.0f)
        return;
    const float *logits = (const float *)c->job->slot[KAS_SLOT_LOGITS] + row * c->call->score_stride;
    vector normaliser = splat(kas_softmax_lse(whole));
    uint32_t j = begin;
    for (; j + LANES <= end; j += LANES)
        store_vector(scores + j, load_vector(scores + j) + vector_exp(load_vector(logits + j) - normaliser));
    for (; j < end; j++)
        scores[j] += vector_exp(splat(logits[j]) - normaliser)[0];
}

static void pool(const kas_cpu_job *job, uint32_t x, uint32_t y, uint32_t z, void *scratch)
{
    (void)scratch;
    cell c = cell_of(job, z);
    uint32_t candidates = kas_tile_decode(c.sequence).candidates;
    uint32_t begin = kas_min_u32(candidates, x * KAS_CPU_POOL_KEYS), end = kas_min_u32(candidates, begin + KAS_CPU_POOL_KEYS);
    float *scores = (float *)job->slot[KAS_SLOT_SCORES] + ((uint64_t)z * job->rows + y) * c.call->score_stride;
    uint32_t pooled = c.session->pool_heads;
    if (begin == end)
        return;
    memset(scores + begin, 0, (end - begin) * sizeof(float));
    for (uint32_t n = 0; n < pooled * c.session->group; n++)
        for (uint32_t i = 0; i < c.sequence.queries; i++)
            add_row(&c, query_row(&c, job->rows * pooled, y * pooled + n / c.session->group, n % c.session->group, i),
                    begin, end, scores);
}
