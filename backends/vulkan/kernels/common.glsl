/*
 * common.glsl - what every kernel begins with: the argument blocks, the lengths of a sequence, its tiles, and the
 * status word. Kernels declare further buffers with KAS_READ and KAS_WRITE.
 */
#extension GL_EXT_shader_16bit_storage : require
#extension GL_EXT_control_flow_attributes : require

#define KAS_GLSL
#include "core/kernel/tile.h"
#include "constants.h"

/* SPIR-V 1.6 states a size by constant in a way that asks for a feature of its own: kernels in it have a fixed one. */
#ifdef KAS_GROUP_SIZE
layout(local_size_x = KAS_GROUP_SIZE) in;
#else
layout(local_size_x_id = KAS_CONSTANT_INVOCATIONS) in;
#endif
layout(constant_id = KAS_CONSTANT_INVOCATIONS) const uint INVOCATIONS = 128;
layout(constant_id = KAS_CONSTANT_HEAD_DIM) const uint HEAD_DIM = 128;
layout(constant_id = KAS_CONSTANT_GROUP) const uint GROUP = 4;
layout(constant_id = KAS_CONSTANT_TILE) const uint TILE = 32;
layout(constant_id = KAS_CONSTANT_PAGE_SIZE) const uint PAGE_SIZE = 0;

layout(push_constant, std430) uniform call_block
{
    kas_call call;
};

#define KAS_READ(slot, type, name)                                                                                     \
    layout(set = 0, binding = slot, std430) readonly buffer name##_block                                               \
    {                                                                                                                  \
        type name[];                                                                                                   \
    };
#define KAS_WRITE(slot, type, name)                                                                                    \
    layout(set = 0, binding = slot, std430) buffer name##_block                                                        \
    {                                                                                                                  \
        type name[];                                                                                                   \
    };

layout(set = 0, binding = KAS_SLOT_SESSION, std430) readonly buffer session_block
{
    kas_session_block session;
    uint words[];
};
KAS_READ(KAS_SLOT_Q_LENS, int, q_lens)
KAS_READ(KAS_SLOT_KV_LENS, int, kv_lens)
KAS_READ(KAS_SLOT_Q_STARTS, int, q_starts)
KAS_WRITE(KAS_SLOT_STATUS, uint, status_word)

#define KAS_NONE 0xffffffffu

bool has_flag(uint flag)
{
    return (call.flags & flag) != 0u;
}

void report(uint bit)
{
    atomicOr(status_word[0], bit);
}

uint lane()
{
    return gl_LocalInvocationIndex;
}

/* The sequence within the call, and within the launch. */
uint sequence_index()
{
    return call.seq_begin + gl_WorkGroupID.z;
}

kas_sequence load_sequence()
{
    uint b = sequence_index();
    int queries = has_flag(KAS_CALL_Q_LENS) ? q_lens[b] : int(call.queries);
    int keys = has_flag(KAS_CALL_KV_LENS) ? kv_lens[b] : int(call.keys);
    kas_sequence s = kas_sequence_make(queries, keys, call.queries, call.keys);
    if (has_flag(KAS_CALL_Q_STARTS))
        s = kas_sequence_within(s, q_starts[b], call.q_stride_seq / KAS_ROWS_UNIT);
    if (!s.valid && lane() == 0u)
        report(KAS_CHECK_LENGTH);
    return s;
}

/* The row of lists and scores that axis y (of `heads_each` entries a row) stands for. */
uint active_row(uint y)
{
    return words[session.active_rows_at + call.layer * session.list_rows + y];
}
