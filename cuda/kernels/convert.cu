// y = x, from one type to another.
// Types: X_T of x, Y_T of y; packs of VEC.
#include "prelude.cuh"

KERNEL convert(const X_T *x, Y_T *y, u64 n) {
    u64 stride = (u64)gridDim.x * blockDim.x * VEC;
    for (u64 i = ((u64)blockIdx.x * blockDim.x + threadIdx.x) * VEC; i < n; i += stride) {
        auto in = load<VEC>(x + i);
        Pack<Y_T, VEC> out;
        for (int j = 0; j < VEC; j++) narrow(out.of[j], real(in.of[j]));
        store(y + i, out);
    }
}
ENTRY(convert)
