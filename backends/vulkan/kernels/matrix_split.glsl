/*
 * matrix_split.glsl - decode on cooperative matrices: where the subgroups' parts of a row's softmax meet. After
 * matrix.glsl with KAS_OWN_KEYS.
 */
#include "core/kernel/softmax.h"
#include "partial.glsl"

shared float subgroup_greatest[SUBGROUPS * SIDE];
shared float subgroup_total[SUBGROUPS * SIDE];
shared kas_softmax row_softmax[SIDE];

/*
 * The softmax of this invocation's row over the subgroup's keys becomes a part of row_softmax, to be read after the
 * next barrier; what sums of the subgroup are to be multiplied with.
 */
float meet(float greatest, float total)
{
    if (strip_part() == 0u) {
        subgroup_greatest[gl_SubgroupID * SIDE + strip_row()] = greatest;
        subgroup_total[gl_SubgroupID * SIDE + strip_row()] = total;
    }
    barrier();
    float most = LEAST;
    for (uint g = 0u; g < SUBGROUPS; g++)
        most = max(most, subgroup_greatest[g * SIDE + strip_row()]);
    float whole = 0.0;
    for (uint g = 0u; g < SUBGROUPS; g++)
        whole += subgroup_total[g * SIDE + strip_row()] * exp2(subgroup_greatest[g * SIDE + strip_row()] - most);
    if (gl_SubgroupID == 0u && strip_part() == 0u)
        row_softmax[strip_row()] = kas_softmax(whole == 0.0 ? KAS_NEGATIVE_INFINITY : most * LN_2, whole);
    return exp2(greatest - most);
}
