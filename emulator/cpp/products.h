// Matrix products on a CPU: packed panels, and a tile of sums that stays in registers.
#pragma once
#include "runtime.h"
#include <cstring>
#include <vector>

enum class Type { F32, F64, F16, BF16 };

inline size_t size_of(Type type) { return type == Type::F64 ? 8 : type == Type::F32 ? 4 : 2; }

template <class To, class From> To bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

// One number in memory, as what products are summed in.
template <class Sum> Sum read(Type type, const char *from) {
    u16 half;
    switch (type) {
    case Type::F32: return (Sum) * (const float *)from;
    case Type::F64: return (Sum) * (const double *)from;
    case Type::F16: return (Sum) * (const _Float16 *)from;
    default: std::memcpy(&half, from, 2); return (Sum)bits<float>((u32)half << 16);
    }
}

template <class Sum> void write(Type type, char *to, Sum x) {
    u32 word;
    switch (type) {
    case Type::F32: *(float *)to = (float)x; return;
    case Type::F64: *(double *)to = (double)x; return;
    case Type::F16: *(_Float16 *)to = (_Float16)(float)x; return;
    default:
        word = bits<u32>((float)x);
        *(u16 *)to = x != x ? (u16)0x7fff : (u16)((word + 0x7fff + (word >> 16 & 1)) >> 16);
    }
}

// To the 10 bits that a tensor core keeps of a float: to the nearest, and of two as near away from zero.
inline float to_tf32(float x) { return x != x ? x : bits<float>((bits<u32>(x) + 0x1000) & 0xffffe000u); }
inline double to_tf32(double x) { return x; }

// A matrix by columns, as stored.
struct Matrix {
    Type type;
    const char *at;
    u64 ld;
    bool transposed;
};

// Panels of WIDTH rows of op(X), or columns of it with `by_columns`: for each step of the inner dimension WIDTH neighbours.
template <class Sum, u32 WIDTH>
void pack(std::vector<Sum> &to, const Matrix &x, bool by_columns, u64 outer, u64 inner, bool tf32) {
    u64 panels = (outer + WIDTH - 1) / WIDTH, bytes = size_of(x.type);
    to.assign(panels * inner * WIDTH, 0);
    // Whether neighbours in memory are outer ones.
    bool along = x.transposed == by_columns;
    for (u64 i = 0; i < (along ? inner : outer); i++) {
        for (u64 j = 0; j < (along ? outer : inner); j++) {
            u64 o = along ? j : i, p = along ? i : j;
            Sum value = read<Sum>(x.type, x.at + (i * x.ld + j) * bytes);
            to[(o / WIDTH * inner + p) * WIDTH + o % WIDTH] = tf32 ? to_tf32(value) : value;
        }
    }
}

// sums[j][i] = the sum over p of a[p][i] b[p][j].
template <class Sum, u32 ROWS, u32 COLUMNS> void tile(Sum (&sums)[COLUMNS][ROWS], const Sum *a, const Sum *b, u64 inner) {
    typedef Sum Vector __attribute__((vector_size(32)));
    const u32 LANES = 32 / sizeof(Sum), VECTORS = ROWS / LANES;
    Vector total[COLUMNS][VECTORS] = {};
    for (u64 p = 0; p < inner; p++, a += ROWS, b += COLUMNS) {
        Vector rows[VECTORS];
        std::memcpy(rows, a, sizeof rows);
        for (u32 j = 0; j < COLUMNS; j++)
            for (u32 v = 0; v < VECTORS; v++) total[j][v] += rows[v] * b[j];
    }
    std::memcpy(sums, total, sizeof sums);
}

struct Product {
    u64 rows, columns, inner;
    Matrix a, b;
    // C and D have one type.
    Type type;
    const char *c;
    u64 c_ld;
    char *d;
    u64 d_ld;
    double alpha, beta;
    bool tf32;
};

// D = alpha op(A) op(B) + beta C. C is not read where beta is zero, nor A and B where alpha is.
template <class Sum> void multiply(const Product &product) {
    const u32 ROWS = 64 / sizeof(Sum), COLUMNS = 6;
    u64 inner = product.alpha == 0 ? 0 : product.inner, bytes = size_of(product.type);
    std::vector<Sum> a, b;
    pack<Sum, ROWS>(a, product.a, false, product.rows, inner, product.tf32);
    pack<Sum, COLUMNS>(b, product.b, true, product.columns, inner, product.tf32);
    Sum alpha = (Sum)product.alpha, beta = (Sum)product.beta;
    for (u64 column = 0; column < product.columns; column += COLUMNS) {
        for (u64 row = 0; row < product.rows; row += ROWS) {
            Sum sums[COLUMNS][ROWS];
            tile<Sum, ROWS, COLUMNS>(sums, a.data() + row * inner, b.data() + column * inner, inner);
            for (u64 j = 0; j < COLUMNS && column + j < product.columns; j++) {
                for (u64 i = 0; i < ROWS && row + i < product.rows; i++) {
                    Sum value = alpha * sums[j][i];
                    if (beta != 0) value += beta * read<Sum>(product.type, product.c + ((column + j) * product.c_ld + row + i) * bytes);
                    write<Sum>(product.type, product.d + ((column + j) * product.d_ld + row + i) * bytes, value);
                }
            }
        }
    }
}
