// The card and its context, as far as programs ask: one device, described like a small Hopper.
#include "abi.h"
#include "stream.h"
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

std::atomic<bool> initialized = false;
std::atomic<int> failed = CUDA_SUCCESS;

typedef void *CUcontext;
char primary;
thread_local CUcontext current = nullptr;

struct Attribute {
    int number, value;
};
// By CUdevice_attribute.
const Attribute ATTRIBUTES[] = {
    {1, (int)MAX_THREADS},          // MAX_THREADS_PER_BLOCK
    {2, 1024},                      // MAX_BLOCK_DIM_X
    {3, 1024},                      // MAX_BLOCK_DIM_Y
    {4, 64},                        // MAX_BLOCK_DIM_Z
    {5, 0x7fffffff},                // MAX_GRID_DIM_X
    {6, 65535},                     // MAX_GRID_DIM_Y
    {7, 65535},                     // MAX_GRID_DIM_Z
    {8, (int)SHARED_BYTES},         // MAX_SHARED_MEMORY_PER_BLOCK
    {9, 65536},                     // TOTAL_CONSTANT_MEMORY
    {10, 32},                       // WARP_SIZE
    {12, 65536},                    // MAX_REGISTERS_PER_BLOCK
    {13, 1000000},                  // CLOCK_RATE, in kHz
    {15, 1},                        // GPU_OVERLAP
    {16, 8},                        // MULTIPROCESSOR_COUNT
    {18, 0},                        // INTEGRATED
    {19, 1},                        // CAN_MAP_HOST_MEMORY
    {20, 0},                        // COMPUTE_MODE
    {31, 1},                        // CONCURRENT_KERNELS
    {32, 0},                        // ECC_ENABLED
    {33, 0},                        // PCI_BUS_ID
    {34, 0},                        // PCI_DEVICE_ID
    {36, 1000000},                  // MEMORY_CLOCK_RATE, in kHz
    {37, 512},                      // GLOBAL_MEMORY_BUS_WIDTH, in bits
    {38, 4 << 20},                  // L2_CACHE_SIZE
    {39, 2048},                     // MAX_THREADS_PER_MULTIPROCESSOR
    {40, 2},                        // ASYNC_ENGINE_COUNT
    {41, 1},                        // UNIFIED_ADDRESSING
    {50, 0},                        // PCI_DOMAIN_ID
    {75, 9},                        // COMPUTE_CAPABILITY_MAJOR
    {76, 0},                        // COMPUTE_CAPABILITY_MINOR
    {78, 1},                        // STREAM_PRIORITIES_SUPPORTED
    {81, 233472},                   // MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
    {82, 65536},                    // MAX_REGISTERS_PER_MULTIPROCESSOR
    {83, 0},                        // MANAGED_MEMORY
    {95, 0},                        // COOPERATIVE_LAUNCH
    {97, (int)SHARED_BYTES_OPT_IN}, // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
    {106, 32},                      // MAX_BLOCKS_PER_MULTIPROCESSOR
    {111, 1024},                    // RESERVED_SHARED_MEMORY_PER_BLOCK
    {115, 0},                       // MEMORY_POOLS_SUPPORTED
};

struct Text {
    CUresult result;
    const char *name, *text;
};
const Text TEXTS[] = {
    {CUDA_SUCCESS, "CUDA_SUCCESS", "no error"},
    {CUDA_ERROR_INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {CUDA_ERROR_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {CUDA_ERROR_NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {CUDA_ERROR_INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {CUDA_ERROR_INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {CUDA_ERROR_INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {CUDA_ERROR_INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {CUDA_ERROR_NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {CUDA_ERROR_NOT_READY, "CUDA_ERROR_NOT_READY", "device not ready"},
    {CUDA_ERROR_ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {CUDA_ERROR_MISALIGNED_ADDRESS, "CUDA_ERROR_MISALIGNED_ADDRESS", "misaligned address"},
    {CUDA_ERROR_NOT_PERMITTED, "CUDA_ERROR_NOT_PERMITTED", "operation not permitted"},
    {CUDA_ERROR_NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
};

const Text *text_of(int result) {
    for (auto &text : TEXTS)
        if (text.result == result) return &text;
    return nullptr;
}

CUresult check_device(int device, const void *out) {
    if (!initialized) return CUDA_ERROR_NOT_INITIALIZED;
    if (device != 0) return CUDA_ERROR_INVALID_DEVICE;
    return out ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
#define CHECK_DEVICE(device, out) \
    if (CUresult error = check_device(device, out)) return error

} // namespace

CUresult entry_error() {
    if (!initialized) return CUDA_ERROR_NOT_INITIALIZED;
    if (in_host_function()) return CUDA_ERROR_NOT_PERMITTED;
    if (!current) return CUDA_ERROR_INVALID_CONTEXT;
    return device_error();
}

void device_failed(CUresult error) {
    int none = CUDA_SUCCESS;
    failed.compare_exchange_strong(none, error);
}

CUresult device_error() { return (CUresult)failed.load(); }

bool delays(u64 &seed) {
    const char *text = std::getenv("CUDA_EMULATOR_DELAYS");
    seed = text ? std::strtoull(text, nullptr, 10) : 0;
    return text && *text;
}

EXPORT CUresult cuInit(u32 flags) {
    if (flags != 0) return CUDA_ERROR_INVALID_VALUE;
    initialized = true;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDriverGetVersion(int *version) {
    if (!version) return CUDA_ERROR_INVALID_VALUE;
    *version = 13000;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGetCount(int *count) {
    CHECK_DEVICE(0, count);
    *count = 1;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGet(int *device, int ordinal) {
    CHECK_DEVICE(ordinal, device);
    *device = 0;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGetName(char *name, int length, int device) {
    CHECK_DEVICE(device, name);
    if (length <= 0) return CUDA_ERROR_INVALID_VALUE;
    std::snprintf(name, (size_t)length, "Emulated card");
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGetAttribute(int *value, int attribute, int device) {
    CHECK_DEVICE(device, value);
    for (auto &known : ATTRIBUTES) {
        if (known.number == attribute) {
            *value = known.value;
            return CUDA_SUCCESS;
        }
    }
    return CUDA_ERROR_INVALID_VALUE;
}

EXPORT CUresult cuDeviceTotalMem_v2(size_t *bytes, int device) {
    CHECK_DEVICE(device, bytes);
    *bytes = DEVICE_BYTES;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGetUuid(char *uuid, int device) {
    CHECK_DEVICE(device, uuid);
    std::memcpy(uuid, "emulated card  0", 16);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDeviceGetUuid_v2(char *uuid, int device) { return cuDeviceGetUuid(uuid, device); }

EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext *context, int device) {
    CHECK_DEVICE(device, context);
    *context = &primary;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuDevicePrimaryCtxRelease_v2(int device) { return check_device(device, &primary); }

EXPORT CUresult cuCtxSetCurrent(CUcontext context) {
    if (!initialized) return CUDA_ERROR_NOT_INITIALIZED;
    if (context && context != &primary) return CUDA_ERROR_INVALID_CONTEXT;
    current = context;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxGetCurrent(CUcontext *context) {
    CHECK_DEVICE(0, context);
    *context = current;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuCtxGetStreamPriorityRange(int *least, int *greatest) {
    ENTER;
    if (least) *least = 0;
    if (greatest) *greatest = -5;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuGetErrorName(int result, const char **name) {
    const Text *text = text_of(result);
    *name = text ? text->name : nullptr;
    return text ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

EXPORT CUresult cuGetErrorString(int result, const char **string) {
    const Text *text = text_of(result);
    *string = text ? text->text : nullptr;
    return text ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
