// The part of the ABI of the CUDA driver that all files of libcuda.so.1 need. Numbers are those of CUDA 13.0.
#pragma once
#include "runtime.h"
#include <cstddef>

#define EXPORT extern "C" __attribute__((visibility("default")))

typedef u64 CUdeviceptr;

enum CUresult : int {
    CUDA_SUCCESS = 0,
    CUDA_ERROR_INVALID_VALUE = 1,
    CUDA_ERROR_OUT_OF_MEMORY = 2,
    CUDA_ERROR_NOT_INITIALIZED = 3,
    CUDA_ERROR_INVALID_DEVICE = 101,
    CUDA_ERROR_INVALID_IMAGE = 200,
    CUDA_ERROR_INVALID_CONTEXT = 201,
    CUDA_ERROR_INVALID_HANDLE = 400,
    CUDA_ERROR_NOT_FOUND = 500,
    CUDA_ERROR_NOT_READY = 600,
    CUDA_ERROR_ILLEGAL_ADDRESS = 700,
    CUDA_ERROR_MISALIGNED_ADDRESS = 716,
    CUDA_ERROR_NOT_PERMITTED = 800,
    CUDA_ERROR_NOT_SUPPORTED = 801,
};

// What keeps the calling thread from any call: no cuInit, no context, or an earlier failure of the device.
CUresult entry_error();
#define ENTER \
    if (CUresult error = entry_error()) return error

// Every later call returns this error, as after a fault on a card.
void device_failed(CUresult error);
CUresult device_error();

// The seed of CUDA_EMULATOR_DELAYS, if it is set.
bool delays(u64 &seed);
// The next of a row of pseudo-random numbers.
inline u32 draw(u64 &state) {
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return (u32)(state >> 33);
}

const size_t DEVICE_BYTES = (size_t)4 << 30;
const u32 MAX_THREADS = 1024;
const u32 SHARED_BYTES = 49152, SHARED_BYTES_OPT_IN = 232448;
