// Memory of the device: pages of the process, each allocation between pages that fault.
#include "memory.h"
#include "stream.h"
#include <cstdio>
#include <cstring>
#include <iterator>
#include <map>
#include <mutex>
#include <sys/mman.h>
#include <vector>

namespace {

const size_t PAGE = 4096, ALIGN = 256, GUARD = 1 << 20;

size_t round_up(size_t bytes, size_t to) { return (bytes + to - 1) / to * to; }

// Ranges of addresses, by their first.
struct Ranges {
    std::mutex lock;
    std::map<u64, size_t> sizes;
    size_t total = 0;

    bool hold(u64 at, size_t bytes) {
        std::lock_guard guard(lock);
        auto after = sizes.upper_bound(at);
        if (after == sizes.begin()) return false;
        auto [start, size] = *std::prev(after);
        return at - start <= size && bytes <= size - (at - start);
    }
    // Zero where there is no room below `limit`.
    u64 add(size_t bytes, size_t limit) {
        std::lock_guard guard(lock);
        size_t room = round_up(bytes, ALIGN), pages = round_up(room, PAGE);
        if (bytes > limit || total + room > limit) return 0;
        void *map = mmap(nullptr, GUARD + pages + GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (map == MAP_FAILED) return 0;
        char *start = (char *)map + GUARD;
        if (mprotect(start, pages, PROT_READ | PROT_WRITE) != 0) return 0;
        // The end lies where faults begin, so that the first access behind it shows.
        u64 at = (u64)start + pages - room;
        sizes[at] = bytes;
        total += room;
        return at;
    }
    bool remove(u64 at) {
        std::lock_guard guard(lock);
        auto found = sizes.find(at);
        if (found == sizes.end()) return false;
        size_t room = round_up(found->second, ALIGN);
        munmap((char *)(at / PAGE * PAGE) - GUARD, GUARD + round_up(room, PAGE) + GUARD);
        total -= room;
        sizes.erase(found);
        return true;
    }
};

// Never destroyed: threads of streams may outlive `main`.
Ranges &device = *new Ranges, &pinned = *new Ranges;

CUresult outside(const char *call, CUdeviceptr at, size_t bytes) {
    std::fprintf(stderr, "emulator: %s of %zu bytes at %#llx is outside of any allocation\n", call, bytes, at);
    return CUDA_ERROR_INVALID_VALUE;
}

// Copies now what the host may change after the call; pinned memory is read when the device gets there.
CUresult to_device(const char *call, CUdeviceptr to, const void *from, size_t bytes, CUstream stream) {
    if (bytes == 0) return CUDA_SUCCESS;
    if (!from) return CUDA_ERROR_INVALID_VALUE;
    if (!in_device(to, bytes)) return outside(call, to, bytes);
    if (in_pinned(from, bytes)) return enqueue(stream, [=] { std::memcpy((void *)to, from, bytes); });
    std::vector<char> copy((const char *)from, (const char *)from + bytes);
    return enqueue(stream, [to, copy = std::move(copy)] { std::memcpy((void *)to, copy.data(), copy.size()); });
}

CUresult to_host(const char *call, void *to, CUdeviceptr from, size_t bytes, CUstream stream) {
    if (bytes == 0) return CUDA_SUCCESS;
    if (!to) return CUDA_ERROR_INVALID_VALUE;
    if (!in_device(from, bytes)) return outside(call, from, bytes);
    return enqueue(stream, [=] { std::memcpy(to, (const void *)from, bytes); });
}

} // namespace

bool in_device(CUdeviceptr at, size_t bytes) { return device.hold(at, bytes); }
bool in_pinned(const void *at, size_t bytes) { return pinned.hold((u64)at, bytes); }

EXPORT CUresult cuMemGetInfo_v2(size_t *free, size_t *total) {
    ENTER;
    if (!free || !total) return CUDA_ERROR_INVALID_VALUE;
    std::lock_guard guard(device.lock);
    *free = DEVICE_BYTES - device.total;
    *total = DEVICE_BYTES;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuMemAlloc_v2(CUdeviceptr *at, size_t bytes) {
    ENTER;
    if (!at || bytes == 0) return CUDA_ERROR_INVALID_VALUE;
    u64 start = device.add(bytes, DEVICE_BYTES);
    if (!start) return CUDA_ERROR_OUT_OF_MEMORY;
    // NaN in every floating type: what is read before it is written shows.
    std::memset((void *)start, 0xff, bytes);
    *at = start;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuMemFree_v2(CUdeviceptr at) {
    ENTER;
    wait_for_all();
    return device.remove(at) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

EXPORT CUresult cuMemHostAlloc(void **at, size_t bytes, u32) {
    ENTER;
    if (!at || bytes == 0) return CUDA_ERROR_INVALID_VALUE;
    u64 start = pinned.add(bytes, (size_t)1 << 40);
    if (!start) return CUDA_ERROR_OUT_OF_MEMORY;
    *at = (void *)start;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuMemFreeHost(void *at) {
    ENTER;
    wait_for_all();
    return pinned.remove((u64)at) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

EXPORT CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes, CUstream stream) {
    ENTER;
    return to_device("cuMemcpyHtoDAsync", to, from, bytes, stream);
}

EXPORT CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes, CUstream stream) {
    ENTER;
    return to_host("cuMemcpyDtoHAsync", to, from, bytes, stream);
}

EXPORT CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
    ENTER;
    if (bytes == 0) return CUDA_SUCCESS;
    if (!in_device(to, bytes)) return outside("cuMemcpyDtoDAsync", to, bytes);
    if (!in_device(from, bytes)) return outside("cuMemcpyDtoDAsync", from, bytes);
    return enqueue(stream, [=] { std::memmove((void *)to, (const void *)from, bytes); });
}

EXPORT CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t bytes) {
    ENTER;
    CUresult result = to_device("cuMemcpyHtoD", to, from, bytes, nullptr);
    return result ? result : wait_for(nullptr);
}

EXPORT CUresult cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t bytes) {
    ENTER;
    CUresult result = to_host("cuMemcpyDtoH", to, from, bytes, nullptr);
    return result ? result : wait_for(nullptr);
}

EXPORT CUresult cuMemsetD8Async(CUdeviceptr to, u8 value, size_t count, CUstream stream) {
    ENTER;
    if (count == 0) return CUDA_SUCCESS;
    if (!in_device(to, count)) return outside("cuMemsetD8Async", to, count);
    return enqueue(stream, [=] { std::memset((void *)to, value, count); });
}

EXPORT CUresult cuMemsetD8_v2(CUdeviceptr to, u8 value, size_t count) {
    if (!in_device(to, count)) return outside("cuMemsetD8_v2", to, count);
    std::memset((void *)to, value, count);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuMemsetD32Async(CUdeviceptr to, u32 value, size_t count, CUstream stream) {
    ENTER;
    if (count == 0) return CUDA_SUCCESS;
    if (to % 4 != 0) return CUDA_ERROR_INVALID_VALUE;
    if (count > DEVICE_BYTES || !in_device(to, count * 4)) return outside("cuMemsetD32Async", to, count * 4);
    return enqueue(stream, [=] { for (size_t i = 0; i < count; i++) ((u32 *)to)[i] = value; });
}

// For libcublasLt: whether the library may touch these bytes.
EXPORT int emulator_in_device(const void *at, size_t bytes) { return in_device((CUdeviceptr)at, bytes); }
