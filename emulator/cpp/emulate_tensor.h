// What `mma.cuh` does in PTX on a card: products of fragments, fragments from shared memory, copies in the background.
//
// Which lane holds which element is as the PTX ISA says of mma.m16n8k16 and ldmatrix with elements of 16 bits.
#pragma once

namespace emulator {

// The element in the lower or the upper half of a register.
template <class T> inline float half_of(u32 pair, u32 upper) {
    u16 bits = (u16)(pair >> 16 * upper);
    if (Same<T, bf16>::value) return bits_to_float((u32)bits << 16);
    return (float)emulator::bits<_Float16>(bits);
}

struct Product {
    float *c;
    const u32 *a, *b;
};
template <class T> inline void product(void *const *lanes, u32) {
    // Rows of B and C are vectors.
    typedef float Row __attribute__((vector_size(32)));
    float a[16][16];
    Row b[16], c[16];
    for (u32 lane = 0; lane < 32; lane++) {
        const Product &its = *(const Product *)lanes[lane];
        u32 group = lane / 4, pair = lane % 4 * 2;
        for (u32 half = 0; half < 2; half++) {
            for (u32 i = 0; i < 4; i++) a[group + i % 2 * 8][pair + i / 2 * 8 + half] = half_of<T>(its.a[i], half);
            for (u32 i = 0; i < 2; i++) b[pair + i * 8 + half][group] = half_of<T>(its.b[i], half);
            for (u32 i = 0; i < 2; i++) c[group + i * 8][pair + half] = its.c[i * 2 + half];
        }
    }
    for (u32 i = 0; i < 16; i++)
        for (u32 k = 0; k < 16; k++) c[i] += a[i][k] * b[k];
    for (u32 lane = 0; lane < 32; lane++) {
        const Product &its = *(const Product *)lanes[lane];
        u32 group = lane / 4, pair = lane % 4 * 2;
        for (u32 half = 0; half < 2; half++)
            for (u32 i = 0; i < 2; i++) its.c[i * 2 + half] = c[group + i * 8][pair + half];
    }
}

struct Matrices {
    u32 *to;
    const void *row;
};
// Lane 8 m + r gives the address of row r of the matrix m.
template <int COUNT, bool TRANSPOSED> inline void load_matrices(void *const *lanes, u32) {
    for (u32 lane = 0; lane < 32; lane++) {
        for (u32 m = 0; m < COUNT; m++) {
            u16 pair[2];
            for (u32 half = 0; half < 2; half++) {
                u32 row = lane / 4, column = lane % 4 * 2 + half;
                if (TRANSPOSED) {
                    u32 other = row;
                    row = column;
                    column = other;
                }
                pair[half] = ((const u16 *)((const Matrices *)lanes[m * 8 + row])->row)[column];
            }
            ((Matrices *)lanes[lane])->to[m] = (u32)pair[1] << 16 | pair[0];
        }
    }
}
template <int COUNT, bool TRANSPOSED> inline void ldmatrix(u32 *to, const void *row) {
    if (lane() < 8 * COUNT && (u64)row % 16 != 0) emulator_fail("loads a matrix from a row that is not aligned");
    Matrices mine{to, row};
    emulator_meet(0xffffffffu, &mine, load_matrices<COUNT, TRANSPOSED>);
}

} // namespace emulator

// C += A B for a warp: A is 16 x 16, B 16 x 8.
template <class T> inline void mma_16816(float (&c)[4], const u32 (&a)[4], const u32 (&b)[2]) {
    static_assert(emulator::Same<T, bf16>::value || emulator::Same<T, f16>::value, "fragments are of bf16 or f16");
    emulator::Product mine{c, a, b};
    emulator_meet(0xffffffffu, &mine, emulator::product<T>);
}

inline void ldmatrix_x4(u32 (&r)[4], const void *row) { emulator::ldmatrix<4, false>(r, row); }
inline void ldmatrix_x4_trans(u32 (&r)[4], const void *row) { emulator::ldmatrix<4, true>(r, row); }
inline void ldmatrix_x2(u32 (&r)[2], const void *row) { emulator::ldmatrix<2, false>(r, row); }
inline void ldmatrix_x2_trans(u32 (&r)[2], const void *row) { emulator::ldmatrix<2, true>(r, row); }

// Zeros where not `filled`. Nothing is copied before the wait, so that a missing one shows.
template <int BYTES> inline void copy_async(void *shared, const void *global, bool filled) {
    static_assert(BYTES == 4 || BYTES == 8 || BYTES == 16, "sizes of cp.async");
    emulator_copy_async(shared, global, BYTES, filled);
}
inline void copy_async_commit() { emulator_copy_commit(); }
template <int N> inline void copy_async_wait() { emulator_copy_wait(N); }
