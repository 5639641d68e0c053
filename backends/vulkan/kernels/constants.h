/* constants.h - the specialization constants of every kernel, by number; included by C and by GLSL. */
#ifndef KAS_VULKAN_CONSTANTS_H
#define KAS_VULKAN_CONSTANTS_H

#define KAS_CONSTANT_INVOCATIONS 0
#define KAS_CONSTANT_HEAD_DIM 1
#define KAS_CONSTANT_GROUP 2
#define KAS_CONSTANT_TILE 3
#define KAS_CONSTANT_PAGE_SIZE 4
#define KAS_CONSTANT_SUBGROUP 5
/* Sides of the device's cooperative matrices: M x K times K x N. */
#define KAS_CONSTANT_MATRIX_M 6
#define KAS_CONSTANT_MATRIX_N 7
#define KAS_CONSTANT_MATRIX_K 8
#define KAS_CONSTANT_COUNT 9

#endif
