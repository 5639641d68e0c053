/* constants.h - the specialization constants of every kernel, by number; included by C and by GLSL. */
#ifndef KAS_VULKAN_CONSTANTS_H
#define KAS_VULKAN_CONSTANTS_H

#define KAS_CONSTANT_INVOCATIONS 0
#define KAS_CONSTANT_HEAD_DIM 1
#define KAS_CONSTANT_GROUP 2
#define KAS_CONSTANT_TILE 3
#define KAS_CONSTANT_PAGE_SIZE 4
#define KAS_CONSTANT_SUBGROUP 5
#define KAS_CONSTANT_COUNT 6

#endif
