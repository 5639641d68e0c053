/*
 * topk.h - how many keys are kept, and the order in which scores compete. The one meaning of both for all devices.
 */
#ifndef KAS_TOPK_H
#define KAS_TOPK_H

#include "blocks.h"

/* min(n, roundup(max(k_min, floor(fraction * length)), k_round)), without overflow for lengths to 2^31. */
KAS_FN kas_u32 kas_topk_rule(kas_u32 n, kas_u32 length, kas_u32 fraction, kas_u32 k_min, kas_u32 k_round, kas_u32 all)
{
    kas_u32 k = kas_max2(kas_mulhi(length, fraction), k_min);
    if (all != 0u || k >= n)
        return n;
    k = kas_ceil_div(k, k_round) * k_round;
    return kas_min2(n, k);
}

/* k of n candidates in a session, whose sequence ends with final_len keys; more than lists have room for counts as
   max_keys, because final_len may come from device memory. */
#define KAS_TOPK(session, n, final_len)                                                                                \
    kas_topk_rule(n, (session).topk_fixed != 0u ? kas_min2(final_len, (session).max_keys) : (n),                       \
                  (session).topk_fraction, (session).topk_min, (session).topk_round, (session).topk_all)

/*
 * An integer that grows with the score: -0.0 equals +0.0, NaN lies below -inf. Scores with equal keys compete by
 * position, the lower one wins.
 */
KAS_FN kas_u32 kas_sort_key(kas_u32 score_bits)
{
    kas_u32 magnitude = score_bits & 0x7fffffffu;
    kas_u32 key = (score_bits & 0x80000000u) != 0u ? ~score_bits : score_bits | 0x80000000u;
    key = magnitude == 0u ? 0x80000000u : key;
    return magnitude > 0x7f800000u ? 0u : key;
}

/* The lowest bit of digit 0, 1 or 2 of a sort key; see KAS_SELECT_DIGITS. The last digit takes along a bit of the one
   before, which is the same in all keys that are counted by it. */
KAS_FN kas_u32 kas_digit_shift(kas_u32 digit)
{
    return digit == 0u ? 21u : digit == 1u ? 10u : 0u;
}

/* Whether a key begins, above the bit `shift`, like `prefix`. */
KAS_FN kas_bool kas_begins_with(kas_u32 key, kas_u32 prefix, kas_u32 shift)
{
    return shift >= 32u || key >> shift == prefix >> shift;
}

#endif
