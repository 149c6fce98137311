// Memory of the device, and host memory that the device reads by itself.
#pragma once
#include "abi.h"

// Whether all bytes lie in one allocation.
bool in_device(CUdeviceptr at, size_t bytes);
bool in_pinned(const void *at, size_t bytes);
