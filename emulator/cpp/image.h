// How the emulated compiler hands a shared object to the emulated driver, which is told no length.
#pragma once
#include "runtime.h"

#define IMAGE_MAGIC "EMULATED"

struct ImageHeader {
    char magic[8];
    // Of the shared object that follows.
    u64 bytes;
};
