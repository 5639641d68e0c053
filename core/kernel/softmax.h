/*
 * softmax.h - the online softmax: what a partial result is, and how two of them become one.
 */
#ifndef KAS_SOFTMAX_H
#define KAS_SOFTMAX_H

#include "dialect.h"

/* The greatest logit and the sum of exp(logit - greatest); no key at all: -inf and 0. */
KAS_STRUCT(kas_softmax)
{
    kas_f32 greatest;
    kas_f32 sum;
};

KAS_FN kas_softmax kas_softmax_none(void)
{
    kas_softmax p;
    p.greatest = KAS_NEGATIVE_INFINITY;
    p.sum = 0.0f;
    return p;
}

/* exp(logit - greatest), 0 where nothing was greater than -inf: without the test -inf - -inf would make a NaN. */
KAS_FN kas_f32 kas_softmax_weight(kas_f32 logit, kas_f32 greatest)
{
    return greatest == KAS_NEGATIVE_INFINITY ? 0.0f : kas_exp(logit - greatest);
}

/* The larger of two logits; a NaN wins, so that it reaches every sum it belongs to. */
KAS_FN kas_f32 kas_softmax_max(kas_f32 a, kas_f32 b)
{
    return kas_is_nan(a) || a > b ? a : b;
}

KAS_FN kas_softmax kas_softmax_merge(kas_softmax a, kas_softmax b)
{
    kas_softmax p;
    p.greatest = kas_softmax_max(a.greatest, b.greatest);
    p.sum = a.sum * kas_softmax_weight(a.greatest, p.greatest) + b.sum * kas_softmax_weight(b.greatest, p.greatest);
    return p;
}

KAS_FN kas_f32 kas_softmax_lse(kas_softmax p)
{
    return p.sum == 0.0f ? KAS_NEGATIVE_INFINITY : p.greatest + kas_log_e(p.sum);
}

#endif
