// Tensor cores, and copies in the background: the instructions of PTX that C++ has no words for. The emulator has its own.
//
// Which lane has which element of a matrix (PTX ISA, mma.m16n8k16), with g = lane / 4 and p = 2 (lane % 4):
//   A (16, 16)  a[0] (g, p), (g, p + 1)   a[1] the same 8 rows below   a[2] 8 columns to the right of a[0]   a[3] of a[1]
//   B (16, 8)   b[0] (p, g), (p + 1, g)   b[1] the same 8 rows below
//   C (16, 8)   c[0], c[1] (g, p), (g, p + 1)   c[2], c[3] the same 8 rows below
// ldmatrix brings matrices of 8 x 8, whose rows are at the addresses that lanes 0 - 7, 8 - 15, ... give: lane has (g, p) and
// (g, p + 1) of each, or with `trans` (p, g) and (p + 1, g).
#pragma once
#include "prelude.cuh"

#ifndef EMULATED
// C += A B
template <class T> DEVICE void mma_16816(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]);
template <> DEVICE void mma_16816<bf16>(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <> DEVICE void mma_16816<f16>(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

DEVICE u32 shared_address(const void *at) { return (u32)__cvta_generic_to_shared(at); }
DEVICE void ldmatrix_x4(u32 (&r)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
DEVICE void ldmatrix_x4_trans(u32 (&r)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}
DEVICE void ldmatrix_x2(u32 (&r)[2], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}
DEVICE void ldmatrix_x2_trans(u32 (&r)[2], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}

// BYTES of global memory, aligned to as many, into shared memory, by the time that a group is waited for; zeros where not
// `filled`, and then nothing is read. 16 bytes go past the first cache, in which nobody would look for them again.
template <int BYTES> DEVICE void copy_async(void *shared, const void *global, bool filled) {
    u32 bytes = filled ? BYTES : 0;
    if (BYTES == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(bytes)
                     : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %2, %3;" ::"r"(shared_address(shared)), "l"(global), "n"(BYTES),
                     "r"(bytes)
                     : "memory");
}
// Ends a group of copies.
DEVICE void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until all groups of this thread but the last N have arrived.
template <int N> DEVICE void copy_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

// 2^x with 22 bits; 0 far below.
DEVICE float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
DEVICE float reciprocal_fast(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
// Two neighbours as a fragment has them.
template <class T> DEVICE u32 pair_of(float first, float second);
template <> DEVICE u32 pair_of<bf16>(float first, float second) {
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
    return pair;
}
template <> DEVICE u32 pair_of<f16>(float first, float second) {
    u32 pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(second), "f"(first));
    return pair;
}
#else
DEVICE float exp2_fast(float x) { return exp2f(x); }
DEVICE float reciprocal_fast(float x) { return 1 / x; }
template <class T> DEVICE u32 pair_of(float first, float second) {
    T pair[2];
    narrow(pair[0], first);
    narrow(pair[1], second);
    return (u32)pair[0].bits | (u32)pair[1].bits << 16;
}
#endif
