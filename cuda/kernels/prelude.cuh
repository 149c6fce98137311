// What every kernel begins with: types of numbers, packs of them, sums over a warp and a block.
//
// No header of CUDA is needed. Kernels are compiled for given types: `REAL` is what they compute in, and each tensor has a
// macro of its own that names the type it is stored in, `X_T` of x. So every tensor may have another, and "storage is rounding" as on
// the CPU: `real` widens what is read, `narrow` rounds what is written.
//
// PTX stands in this file and in `mma.cuh` alone. With EMULATED the same kernels are C++ for a CPU, see the crate `emulator`.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

struct bf16 { u16 bits; };
struct f16 { u16 bits; };

#ifndef EMULATED
#define KERNEL extern "C" __global__ void
// Names a kernel to the emulator; nothing on a card.
#define ENTRY(name)
#define DEVICE __device__ __forceinline__
// Memory of a block whose size the launch says.
#define DYNAMIC_SHARED(T, name)                                   \
    extern __shared__ __align__(128) unsigned char dynamic_shared[]; \
    T *name = (T *)dynamic_shared

DEVICE float bits_to_float(u32 bits) { return __int_as_float((int)bits); }
DEVICE u32 float_to_bits(float x) { return (u32)__float_as_int(x); }
DEVICE float widen(f16 x) {
    float y;
    asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
    return y;
}
DEVICE f16 to_f16(float x) {
    f16 y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}
DEVICE bf16 to_bf16(float x) {
    bf16 y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
    return y;
}
// Two neighbours, the first in the low half: one conversion makes both.
DEVICE u32 to_bf16_pair(float x, float y) {
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(y), "f"(x));
    return pair;
}
DEVICE u32 to_f16_pair(float x, float y) {
    u32 pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(y), "f"(x));
    return pair;
}
// 2^x to two units in the last place, what is too small for a float as zero.
DEVICE float exp2_quick(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
// 1 / x, to one unit in the last place; of what overflows, zero.
DEVICE float inverse_quick(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
#else
DEVICE u32 to_bf16_pair(float x, float y) { return to_bf16(x).bits | (u32)to_bf16(y).bits << 16; }
DEVICE u32 to_f16_pair(float x, float y) { return to_f16(x).bits | (u32)to_f16(y).bits << 16; }
DEVICE float exp2_quick(float x) { return exp2f(x); }
DEVICE float inverse_quick(float x) { return 1 / x; }
#endif

DEVICE float widen(bf16 x) { return bits_to_float((u32)x.bits << 16); }
DEVICE float widen(float x) { return x; }
DEVICE double widen(double x) { return x; }

#ifndef REAL
#define REAL float
#endif
// What a kernel computes in: float, or double where tensors are f64.
typedef REAL real_t;

template <class T> DEVICE real_t real(T x) { return (real_t)widen(x); }
DEVICE void narrow(float &to, double x) { to = (float)x; }
DEVICE void narrow(double &to, double x) { to = x; }
DEVICE void narrow(bf16 &to, float x) { to = to_bf16(x); }
DEVICE void narrow(f16 &to, float x) { to = to_f16(x); }

// The functions of the maths, by the type they are given.
DEVICE float exp_of(float x) { return expf(x); }
DEVICE double exp_of(double x) { return exp(x); }
DEVICE float log_of(float x) { return logf(x); }
DEVICE double log_of(double x) { return log(x); }
DEVICE float tanh_of(float x) { return tanhf(x); }
DEVICE double tanh_of(double x) { return tanh(x); }
DEVICE float erf_of(float x) { return erff(x); }
DEVICE double erf_of(double x) { return erf(x); }
DEVICE float sqrt_of(float x) { return sqrtf(x); }
DEVICE double sqrt_of(double x) { return sqrt(x); }
// Where many are needed: a few instructions each. tanh by way of exp, so near zero its error is that of 1.
DEVICE double inverse_quick(double x) { return 1 / x; }
DEVICE float exp_quick(float x) { return exp2_quick(x * 1.4426950408889634f); }
DEVICE double exp_quick(double x) { return exp(x); }
DEVICE float tanh_quick(float x) { return 1 - 2 * inverse_quick(1 + exp_quick(2 * x)); }
DEVICE double tanh_quick(double x) { return tanh(x); }
template <class T> DEVICE T max_of(T a, T b) { return a > b ? a : b; }
// One instruction; of a NaN and a number, the number.
DEVICE float max_of(float a, float b) { return fmaxf(a, b); }
DEVICE double max_of(double a, double b) { return fmax(a, b); }
template <class T> DEVICE T min_of(T a, T b) { return a < b ? a : b; }

// N neighbours, read and written in one go: N * sizeof(T) is at most 16 bytes where that is to be one instruction.
template <class T, int N> struct alignas(sizeof(T) * N > 16 ? 16 : sizeof(T) * N) Pack {
    T of[N];
};
template <int N, class T> DEVICE Pack<T, N> load(const T *from) { return *(const Pack<T, N> *)from; }
template <int N, class T> DEVICE void store(T *to, const Pack<T, N> &x) { *(Pack<T, N> *)to = x; }

// All numbers of a pack. Pairs of bf16 and f16 are one word, which is taken apart and put together as such.
DEVICE void widen_pair(const bf16 *from, float &x, float &y) {
    u32 pair;
    memcpy(&pair, from, 4);
    x = bits_to_float(pair << 16);
    y = bits_to_float(pair & 0xffff0000u);
}
template <class T, class R> DEVICE void widen_pair(const T *from, R &x, R &y) {
    x = (R)widen(from[0]);
    y = (R)widen(from[1]);
}
DEVICE void narrow_pair(bf16 *to, float x, float y) {
    u32 pair = to_bf16_pair(x, y);
    memcpy(to, &pair, 4);
}
DEVICE void narrow_pair(f16 *to, float x, float y) {
    u32 pair = to_f16_pair(x, y);
    memcpy(to, &pair, 4);
}
template <class T, class R> DEVICE void narrow_pair(T *to, R x, R y) {
    narrow(to[0], x);
    narrow(to[1], y);
}
template <class T, int N> DEVICE void widen(const Pack<T, N> &from, real_t (&x)[N]) {
    for (int i = 0; i + 1 < N; i += 2) widen_pair(from.of + i, x[i], x[i + 1]);
    if (N % 2 == 1) x[N - 1] = real(from.of[N - 1]);
}
template <class T, int N> DEVICE void narrow(Pack<T, N> &to, const real_t (&x)[N]) {
    for (int i = 0; i + 1 < N; i += 2) narrow_pair(to.of + i, x[i], x[i + 1]);
    if (N % 2 == 1) narrow(to.of[N - 1], x[N - 1]);
}

const u32 WARP = 32;
const u32 ALL = 0xffffffffu;

template <class T> DEVICE T warp_sum(T x) {
    for (int d = 16; d > 0; d /= 2) x += __shfl_xor_sync(ALL, x, d);
    return x;
}
template <class T> DEVICE T warp_max(T x) {
    for (int d = 16; d > 0; d /= 2) x = max_of(x, __shfl_xor_sync(ALL, x, d));
    return x;
}

// The sum over a block of whole warps, for all its threads; `room` is shared memory for 32 numbers that nobody uses
// meanwhile. The order of the sum follows from the size of the block.
template <class T> DEVICE T block_sum(T x, T *room) {
    x = warp_sum(x);
    __syncthreads();
    if (threadIdx.x % WARP == 0) room[threadIdx.x / WARP] = x;
    __syncthreads();
    x = threadIdx.x % WARP < blockDim.x / WARP ? room[threadIdx.x % WARP] : (T)0;
    return warp_sum(x);
}
template <class T> DEVICE T block_max(T x, T *room) {
    x = warp_max(x);
    __syncthreads();
    if (threadIdx.x % WARP == 0) room[threadIdx.x / WARP] = x;
    __syncthreads();
    x = room[threadIdx.x % (blockDim.x / WARP)];
    return warp_max(x);
}
