// Runs the blocks of a launch on the calling host thread.
#pragma once
#include "abi.h"
#include <string>
#include <vector>

struct Launch {
    std::string name;
    void (*entry)(const void *arguments);
    dim3 grid, block;
    u32 dynamic_shared;
    // Where the kernel's module keeps its `__shared__` variables: thread-local ones of the shared object.
    size_t tls_module, tls_bytes;
    std::vector<u64> arguments;
};

// A fault of the kernel is told to stderr and fails the device.
void run(const Launch &launch);
