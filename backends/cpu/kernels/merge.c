/* merge.c - the partial results of decode's splits to one output row and its log-sum-exp. */
#include "convert.h"
#include "core/kernel/softmax.h"
#include "sequence.h"

#include "../variants.h"

/* Row y counts heads, so that y * queries + i is the query row of heads y = kv row * group + r. */
static uint64_t partial_row(const cell *c, uint32_t head, uint32_t i)
{
    return (((uint64_t)c->z * c->session->heads + head) * c->call->queries + i) * c->call->splits;
}

static void merge_outputs(const cell *c, const float *ml, const float *parts, kas_softmax whole, float *out)
{
    uint32_t dim = c->session->head_dim;
    memset(out, 0, dim * sizeof(*out));
    for (uint32_t split = 0; split < c->call->splits; split++) {
        if (ml[2 * split + 1] == 0.0f)
            continue;
        float weight = ml[2 * split + 1] * kas_softmax_weight(ml[2 * split], whole.greatest) / whole.sum;
        for (uint32_t d = 0; d < dim; d++)
            out[d] += weight * parts[(uint64_t)split * dim + d];
    }
}

static void run(const kas_cpu_job *job, uint32_t x, uint32_t y, uint32_t z, void *scratch)
{
    cell c = cell_of(job, z);
    if (x >= c.sequence.queries)
        return;
    uint64_t row = partial_row(&c, y, x);
    const float *ml = (const float *)job->slot[KAS_SLOT_PART_ML] + row * 2;
    kas_softmax whole = kas_softmax_none();
    for (uint32_t split = 0; split < c.call->splits; split++)
        whole = kas_softmax_merge(whole, (kas_softmax){ml[2 * split], ml[2 * split + 1]});
    if (c.call->flags & KAS_CALL_LSE)
        ((float *)job->slot[KAS_SLOT_LSE])[lse_element(&c, x, y)] = kas_softmax_lse(whole);
    if (!(c.call->flags & KAS_CALL_OUT))
        return;
    const float *parts = (const float *)job->slot[KAS_SLOT_PART_O] + row * c.session->head_dim;
    merge_outputs(&c, ml, parts, whole, scratch);
    kas_store_row(job->slot[KAS_SLOT_OUT], out_element(&c, x, y), scratch, c.session->head_dim, job->dtype);
}

const kas_cpu_code kas_cpu_merge = {run};
