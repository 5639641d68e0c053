/* partial.glsl - where the partial results of a split lie. After common.glsl. */
KAS_WRITE(KAS_SLOT_PART_ML, float, part_ml)

/* Query row `row` of kv head entry `y` of `ys`, as a multiple of splits. */
uint part_at(uint ys, uint y, uint row)
{
    return ((gl_WorkGroupID.z * ys + y) * GROUP * call.queries + row) * call.splits;
}

void store_part(uint at, kas_softmax part)
{
    part_ml[at * 2u] = part.greatest;
    part_ml[at * 2u + 1u] = part.sum;
}

kas_softmax load_part(uint at)
{
    return kas_softmax(part_ml[at * 2u], part_ml[at * 2u + 1u]);
}
