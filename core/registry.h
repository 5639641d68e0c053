/* registry.h - the backends of this build and the devices they found, probed once a process. */
#ifndef KAS_REGISTRY_H
#define KAS_REGISTRY_H

#include "backend.h"

/* Splits "name:index" (no number: 0) and finds the backend. Errors: NO_DEVICE with the reason, INVALID_ARGUMENT. */
kas_status kas_registry_find(const char *device, const kas_backend **backend, uint32_t *index);

/* Fills a device's description, its name included. */
kas_status kas_registry_device_info(const kas_backend *backend, uint32_t index, kas_device_info *info);

/* Adds a backend behind the built-in ones; for tests, before other threads exist. False when the table is full. */
bool kas_registry_add(const kas_backend *backend);

#endif
