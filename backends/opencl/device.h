/* device.h - the OpenCL devices of this machine, all platforms in one list, and what kas_device_info says of one. */
#ifndef KAS_OPENCL_DEVICE_H
#define KAS_OPENCL_DEVICE_H

#include "driver.h"

/* Lists the devices, once a process; their number, or 0 with a sentence in `reason`. */
uint32_t kas_cl_devices_find(char *reason, size_t reason_size);

/* Device `index` of the list. */
cl_device_id kas_cl_device(uint32_t index);

/* Every field but struct_size and name. */
kas_status kas_cl_device_describe(cl_device_id device, kas_device_info *info);

/* Most work items of a group of a compiled kernel, by the kernel's own word or, where that is worth nothing, the
   device's. */
cl_int kas_cl_most_items(cl_device_id device, cl_kernel kernel, size_t *items);

/* A text property of a device, "" where the driver gives none. */
void kas_cl_device_text(cl_device_id device, cl_device_info name, char *text, size_t size);

#endif
