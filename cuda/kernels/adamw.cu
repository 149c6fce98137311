// AdamW (Loshchilov & Hutter 2019, algorithm 2), decay scaled by the learning rate.
//
//   g <- clip g        m <- beta1 m + (1 - beta1) g        v <- beta2 v + (1 - beta2) g^2
//   p <- (1 - lr lambda) p - lr m^ / (sqrt(v^) + eps)      m^ = m / (1 - beta1^t), v^ = v / (1 - beta2^t)
//
// Types: G_T of g, P_T of p, M_T of m, V_T of v, C_T of the copy; packs of VEC.
#include "prelude.cuh"

// What is the same for all elements.
struct Step {
    bool taken;
    real_t clip, beta1, rest1, beta2, rest2, decay, eps, rate, root;
};

// g, norm (3) as `grad_norm` wrote it, hyper (4) = [lr, 1 - beta1^t, 1 - beta2^t, beta2] -> p, m, v in place, n packs; WITH_COPY: copy becomes p
KERNEL adamw(const G_T *g, const double *norm, const double *hyper, P_T *p, M_T *m, V_T *v, C_T *copy, u64 packs,
             double beta1, double eps, double weight_decay) {
    __shared__ Step step;
    u64 at = ((u64)blockIdx.x * blockDim.x + threadIdx.x) * VEC;
    bool here = at < packs * VEC;
    Pack<G_T, VEC> gs;
    Pack<P_T, VEC> ps;
    Pack<M_T, VEC> ms;
    Pack<V_T, VEC> vs;
    if (here) {
        gs = load<VEC>(g + at);
        ps = load<VEC>(p + at);
        ms = load<VEC>(m + at);
        vs = load<VEC>(v + at);
    }
    // In f64 by one thread, while those loads are under way.
    if (threadIdx.x == 0) {
        double lr = hyper[0], correction1 = hyper[1], correction2 = hyper[2], beta2 = hyper[3];
        step = {norm[2] != 0,
                (real_t)norm[1],
                (real_t)beta1,
                (real_t)(1 - beta1),
                (real_t)beta2,
                (real_t)(1 - beta2),
                (real_t)(1 - lr * weight_decay),
                (real_t)eps,
                (real_t)(lr / correction1),
                (real_t)(1 / sqrt(correction2))};
    }
    __syncthreads();
    Step s = step;
    if (!here || !s.taken) return;
    real_t gj[VEC], pj[VEC], mj[VEC], vj[VEC];
    widen(gs, gj);
    widen(ps, pj);
    widen(ms, mj);
    widen(vs, vj);
    for (int j = 0; j < VEC; j++) {
        real_t clipped = s.clip * gj[j];
        mj[j] = s.beta1 * mj[j] + s.rest1 * clipped;
        vj[j] = s.beta2 * vj[j] + s.rest2 * clipped * clipped;
        pj[j] = s.decay * pj[j] - s.rate * mj[j] / (sqrt_of(vj[j]) * s.root + s.eps);
    }
    narrow(ps, pj);
    narrow(ms, mj);
    narrow(vs, vj);
    store(p + at, ps);
    store(m + at, ms);
    store(v + at, vs);
    if (WITH_COPY) {
        Pack<C_T, VEC> cs;
        narrow(cs, pj);
        store(copy + at, cs);
    }
}
ENTRY(adamw)
