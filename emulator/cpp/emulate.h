// CUDA C++ for a CPU: what a kernel needs of the language, included before everything when EMULATED is defined.
//
// Few headers of the system are included, so that a kernel compiles in a fraction of a second.
#pragma once
#include "runtime.h"

#define __host__
#define __device__
#define __global__
#define __constant__
// A block runs on one host thread, and each host thread has its own.
#define __shared__ static thread_local
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) __attribute__((aligned(n)))

#define KERNEL static void
#define DEVICE inline
#define DYNAMIC_SHARED(T, name) T *name = (T *)emulator_now.shared

#define threadIdx (emulator_now.thread)
#define blockIdx (emulator_now.block)
#define blockDim (emulator_now.block_dim)
#define gridDim (emulator_now.grid_dim)
static const int warpSize = 32;

namespace emulator {

// Takes arguments from a buffer where each lies at its natural alignment.
struct Reader {
    const u8 *at;
    u64 offset = 0;
    template <class T> T take() {
        offset = (offset + alignof(T) - 1) / alignof(T) * alignof(T);
        const T &value = *(const T *)(at + offset);
        offset += sizeof(T);
        return value;
    }
};
// Arguments within braces are evaluated in their order.
template <class... A> struct Call {
    Call(void (*kernel)(A...), A... arguments) { kernel(arguments...); }
};
template <class... A> inline void enter(void (*kernel)(A...), const void *arguments) {
    Reader reader{(const u8 *)arguments};
    Call<A...>{kernel, reader.take<A>()...};
}
template <class... A> constexpr u64 argument_bytes(void (*)(A...)) {
    u64 offset = 0;
    ((offset = (offset + alignof(A) - 1) / alignof(A) * alignof(A) + sizeof(A)), ...);
    return offset;
}

template <class A, class B> struct Same {
    static const bool value = false;
};
template <class A> struct Same<A, A> {
    static const bool value = true;
};

} // namespace emulator

// What cuModuleGetFunction looks for.
#define ENTRY(name)                                                                                  \
    extern "C" __attribute__((visibility("default"))) void name##_entry(const void *arguments) {     \
        emulator::enter(name, arguments);                                                            \
    }                                                                                                \
    extern "C" __attribute__((visibility("default"))) const u64 name##_argument_bytes =              \
        emulator::argument_bytes(name);

#include "emulate_numbers.h"
#include "emulate_warp.h"

// A barrier is known by its line, since compilers may copy a call.
inline void __syncthreads(const char *file = __builtin_FILE(), int line = __builtin_LINE()) { emulator_barrier(file, line); }
inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_block() {}
[[noreturn]] inline void __trap() { emulator_fail("reached a trap"); }
template <class T> inline T __ldg(const T *from) { return *from; }

#include "emulate_tensor.h"
