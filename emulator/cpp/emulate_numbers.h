// Numbers as CUDA C++ has them: short vectors, functions of the maths, bits, atomics.
#pragma once

extern "C" {
int printf(const char *, ...);
void *memcpy(void *, const void *, unsigned long) noexcept;
void *memset(void *, int, unsigned long) noexcept;
#define EMULATOR_MATHS(name)         \
    float name##f(float) noexcept;   \
    double name(double) noexcept;
EMULATOR_MATHS(exp)
EMULATOR_MATHS(exp2)
EMULATOR_MATHS(expm1)
EMULATOR_MATHS(log)
EMULATOR_MATHS(log2)
EMULATOR_MATHS(log10)
EMULATOR_MATHS(log1p)
EMULATOR_MATHS(tanh)
EMULATOR_MATHS(erf)
EMULATOR_MATHS(sqrt)
EMULATOR_MATHS(cbrt)
EMULATOR_MATHS(sin)
EMULATOR_MATHS(cos)
EMULATOR_MATHS(fabs)
EMULATOR_MATHS(floor)
EMULATOR_MATHS(ceil)
EMULATOR_MATHS(trunc)
EMULATOR_MATHS(rint)
EMULATOR_MATHS(nearbyint)
EMULATOR_MATHS(round)
#undef EMULATOR_MATHS
#define EMULATOR_MATHS(name)                \
    float name##f(float, float) noexcept;   \
    double name(double, double) noexcept;
EMULATOR_MATHS(pow)
EMULATOR_MATHS(fmod)
EMULATOR_MATHS(fmin)
EMULATOR_MATHS(fmax)
EMULATOR_MATHS(copysign)
#undef EMULATOR_MATHS
float fmaf(float, float, float) noexcept;
double fma(double, double, double) noexcept;
float ldexpf(float, int) noexcept;
double ldexp(double, int) noexcept;
}
#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")

#define EMULATOR_VECTOR(T, name, size2, size4)                                            \
    struct alignas(size2) name##2 { T x, y; };                                            \
    struct name##3 { T x, y, z; };                                                        \
    struct alignas(size4) name##4 { T x, y, z, w; };                                      \
    inline name##2 make_##name##2(T x, T y) { return {x, y}; }                            \
    inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }                    \
    inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
EMULATOR_VECTOR(float, float, 8, 16)
EMULATOR_VECTOR(double, double, 16, 16)
EMULATOR_VECTOR(int, int, 8, 16)
EMULATOR_VECTOR(u32, uint, 8, 16)
EMULATOR_VECTOR(u16, ushort, 4, 8)
#undef EMULATOR_VECTOR

inline float rsqrtf(float x) { return 1 / sqrtf(x); }
inline double rsqrt(double x) { return 1 / sqrt(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1 / x; }
inline float __fsqrt_rn(float x) { return sqrtf(x); }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline bool isnan(float x) { return x != x; }
inline bool isnan(double x) { return x != x; }
inline bool isinf(float x) { return __builtin_isinf(x); }
inline bool isinf(double x) { return __builtin_isinf(x); }
inline bool isfinite(float x) { return __builtin_isfinite(x); }
inline bool isfinite(double x) { return __builtin_isfinite(x); }
// Of a number and a NaN, the number.
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }
template <class A, class B> inline auto min(A a, B b) -> decltype(true ? a : b) { return a < b ? a : b; }
template <class A, class B> inline auto max(A a, B b) -> decltype(true ? a : b) { return a > b ? a : b; }

inline int __popc(u32 x) { return __builtin_popcount(x); }
inline int __popcll(u64 x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz((u32)x) : 32; }
inline int __clzll(i64 x) { return x ? __builtin_clzll((u64)x) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline u32 __umulhi(u32 a, u32 b) { return (u32)((u64)a * b >> 32); }
inline u64 __umul64hi(u64 a, u64 b) { return (u64)((unsigned __int128)a * b >> 64); }

namespace emulator {
template <class To, class From> inline To bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "as many bits");
    To to;
    __builtin_memcpy(&to, &from, sizeof to);
    return to;
}
} // namespace emulator

inline float bits_to_float(u32 bits) { return emulator::bits<float>(bits); }
inline u32 float_to_bits(float x) { return emulator::bits<u32>(x); }
inline float __uint_as_float(u32 bits) { return bits_to_float(bits); }
inline u32 __float_as_uint(float x) { return float_to_bits(x); }
inline float __int_as_float(int bits) { return emulator::bits<float>(bits); }
inline int __float_as_int(float x) { return emulator::bits<int>(x); }
inline double __longlong_as_double(i64 bits) { return emulator::bits<double>(bits); }
inline i64 __double_as_longlong(double x) { return emulator::bits<i64>(x); }

// The kernel defines these types after this file; so what looks into them is a template, which is read later.
struct bf16;
struct f16;
namespace emulator {
template <class T> struct IfHalf {};
template <> struct IfHalf<f16> {
    typedef float type;
};
} // namespace emulator
template <class T> inline typename emulator::IfHalf<T>::type widen(T x) { return (float)emulator::bits<_Float16>(x.bits); }
// As on a card, any NaN becomes this one.
template <class T = f16> inline T to_f16(float x) { return T{x != x ? (u16)0x7fff : emulator::bits<u16>((_Float16)x)}; }
template <class T = bf16> inline T to_bf16(float x) {
    u32 bits = float_to_bits(x);
    // To the nearest, and of two as near to the even one.
    return T{x != x ? (u16)0x7fff : (u16)((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

// Kernels of other streams may run at the same time, so these are atomic indeed.
namespace emulator {
template <class T> inline T add(T *at, T x) { return __atomic_fetch_add(at, x, __ATOMIC_RELAXED); }
template <class T, class Bits> inline T add_real(T *at, T x) {
    Bits old = __atomic_load_n((Bits *)at, __ATOMIC_RELAXED), next;
    do next = bits<Bits>(bits<T>(old) + x);
    while (!__atomic_compare_exchange_n((Bits *)at, &old, next, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
    return bits<T>(old);
}
template <class T> inline T extreme(T *at, T x, bool greatest) {
    T old = __atomic_load_n(at, __ATOMIC_RELAXED);
    while ((greatest ? x > old : x < old) && !__atomic_compare_exchange_n(at, &old, x, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return old;
}
} // namespace emulator
inline int atomicAdd(int *at, int x) { return emulator::add(at, x); }
inline u32 atomicAdd(u32 *at, u32 x) { return emulator::add(at, x); }
inline u64 atomicAdd(u64 *at, u64 x) { return emulator::add(at, x); }
inline float atomicAdd(float *at, float x) { return emulator::add_real<float, u32>(at, x); }
inline double atomicAdd(double *at, double x) { return emulator::add_real<double, u64>(at, x); }
#define EMULATOR_ATOMIC(T)                                                                     \
    inline T atomicMax(T *at, T x) { return emulator::extreme(at, x, true); }                  \
    inline T atomicMin(T *at, T x) { return emulator::extreme(at, x, false); }                 \
    inline T atomicExch(T *at, T x) { return __atomic_exchange_n(at, x, __ATOMIC_RELAXED); }   \
    inline T atomicOr(T *at, T x) { return __atomic_fetch_or(at, x, __ATOMIC_RELAXED); }       \
    inline T atomicAnd(T *at, T x) { return __atomic_fetch_and(at, x, __ATOMIC_RELAXED); }     \
    inline T atomicCAS(T *at, T old, T x) {                                                    \
        __atomic_compare_exchange_n(at, &old, x, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);   \
        return old;                                                                            \
    }
EMULATOR_ATOMIC(int)
EMULATOR_ATOMIC(u32)
EMULATOR_ATOMIC(u64)
#undef EMULATOR_ATOMIC
