/* parts_lanes.glsl - the partial results of a query row, merged by a subgroup. After partial.glsl. */
layout(constant_id = KAS_CONSTANT_SUBGROUP) const uint SUBGROUP = 32;

/* The softmax over all splits, `at` being part_at of the row; every invocation of the subgroup gets it. */
kas_softmax merge_parts(uint at)
{
    kas_softmax whole = kas_softmax_none();
    /* All invocations take every turn: they must meet below. */
    for (uint first = 0u; first < call.splits; first += SUBGROUP) {
        uint i = first + gl_SubgroupInvocationID;
        kas_softmax part = load_part(at + kas_min2(i, call.splits - 1u));
        whole = kas_softmax_merge(whole, kas_softmax(i < call.splits ? part.greatest : KAS_NEGATIVE_INFINITY,
                                                     i < call.splits ? part.sum : 0.0));
    }
    [[unroll]] for (uint mask = 1u; mask < SUBGROUP; mask *= 2u) {
        kas_softmax other =
            kas_softmax(subgroupShuffleXor(whole.greatest, mask), subgroupShuffleXor(whole.sum, mask));
        whole = kas_softmax_merge(whole, other);
    }
    return whole;
}
