// libcublasLt.so.13 for a CPU: the description of a product, its checks, and products in the order of a stream.
//
// Where the library refuses a product, so does this; it is stricter where a card would compute nonsense or fault.
#include "products.h"
#include <algorithm>
#include <cstdio>

#define EXPORT extern "C" __attribute__((visibility("default")))

// Of libcuda.so.1.
extern "C" int emulator_enqueue(void *stream, void (*run)(void *), void *data);
extern "C" int emulator_in_device(const void *at, size_t bytes);

enum cublasStatus_t : int {
    CUBLAS_STATUS_SUCCESS = 0,
    CUBLAS_STATUS_NOT_INITIALIZED = 1,
    CUBLAS_STATUS_INVALID_VALUE = 7,
    CUBLAS_STATUS_EXECUTION_FAILED = 13,
    CUBLAS_STATUS_NOT_SUPPORTED = 15,
};

namespace {

const int COMPUTE_32F = 68, COMPUTE_32F_FAST_TF32 = 77, COMPUTE_64F = 70;
// By cudaDataType.
const int R_32F = 0, R_64F = 1, R_16F = 2, R_16BF = 14;

struct Handle {
    u64 unused = 0;
};

struct MatmulDesc {
    int compute, scale;
    int pointer_mode = 0, transpose_a = 0, transpose_b = 0, epilogue = 1;
};

struct Layout {
    u32 type;
    u64 rows, columns;
    i64 ld;
    int order = 0, batch = 1;
    i64 stride = 0;
};

struct Preference {
    u64 workspace = 0;
    u32 alignment[4] = {256, 256, 256, 256};
};

// What cublasLtMatmulAlgo_t holds: eight words that the caller copies.
struct Algorithm {
    u64 magic, workspace;
    u32 alignment[4];
    u64 unused[4];
};
const u64 MAGIC = 0x7465647562617469ull;

struct Heuristic {
    Algorithm algorithm;
    size_t workspace;
    cublasStatus_t state;
    float waves;
    int reserved[4];
};
static_assert(sizeof(Algorithm) == 64 && sizeof(Heuristic) == 96, "the layout of the library");

// An attribute's field, and how many bytes it must be given.
cublasStatus_t set(void *field, size_t wanted, const void *from, size_t bytes) {
    if (!from || bytes != wanted) return CUBLAS_STATUS_INVALID_VALUE;
    std::memcpy(field, from, bytes);
    return CUBLAS_STATUS_SUCCESS;
}
#define SET(field) set(&(field), sizeof(field), from, bytes)

bool type_of(u32 number, Type &type) {
    switch (number) {
    case R_32F: type = Type::F32; return true;
    case R_64F: type = Type::F64; return true;
    case R_16F: type = Type::F16; return true;
    case R_16BF: type = Type::BF16; return true;
    default: return false;
    }
}

struct Shape {
    u64 rows, columns, inner;
    Type ab, cd;
};

cublasStatus_t say(cublasStatus_t status, const char *why) {
    std::fprintf(stderr, "emulator: cublasLt refuses a product: %s\n", why);
    return status;
}

// Whether the library has such a product, whatever the addresses.
cublasStatus_t check(const MatmulDesc *desc, const Layout *a, const Layout *b, const Layout *c, const Layout *d, Shape &shape) {
    if (!desc || !a || !b || !c || !d) return say(CUBLAS_STATUS_INVALID_VALUE, "a descriptor is null");
    Type types[4];
    const Layout *layouts[4] = {a, b, c, d};
    for (int i = 0; i < 4; i++) {
        const Layout &x = *layouts[i];
        if (!type_of(x.type, types[i])) return say(CUBLAS_STATUS_NOT_SUPPORTED, "a type of number");
        if (x.rows == 0 || x.columns == 0) return say(CUBLAS_STATUS_INVALID_VALUE, "a matrix of nothing");
        if (x.ld < (i64)x.rows) return say(CUBLAS_STATUS_INVALID_VALUE, "a leading dimension below the rows");
        if (x.order != 0) return say(CUBLAS_STATUS_NOT_SUPPORTED, "an order other than by columns");
        if (x.batch < 1 || x.batch != d->batch) return say(CUBLAS_STATUS_INVALID_VALUE, "batches of different counts");
    }
    if (desc->pointer_mode != 0 || desc->epilogue != 1 || desc->transpose_a > 1 || desc->transpose_b > 1)
        return say(CUBLAS_STATUS_NOT_SUPPORTED, "a pointer mode, an epilogue or an operation");
    if (types[0] != types[1] || types[2] != types[3]) return say(CUBLAS_STATUS_NOT_SUPPORTED, "A and B, or C and D, of different types");
    bool is_half = types[0] == Type::F16 || types[0] == Type::BF16, known = false;
    if (desc->compute == COMPUTE_64F) known = desc->scale == R_64F && types[0] == Type::F64 && types[2] == Type::F64;
    if (desc->compute == COMPUTE_32F)
        known = desc->scale == R_32F && types[0] != Type::F64 && (types[2] == types[0] || (is_half && types[2] == Type::F32));
    if (desc->compute == COMPUTE_32F_FAST_TF32) known = desc->scale == R_32F && types[0] == Type::F32 && types[2] == Type::F32;
    if (!known) return say(CUBLAS_STATUS_NOT_SUPPORTED, "types that do not go together");
    bool ta = desc->transpose_a, tb = desc->transpose_b;
    shape = {ta ? a->columns : a->rows, tb ? b->rows : b->columns, ta ? a->rows : a->columns, types[0], types[2]};
    if ((tb ? b->columns : b->rows) != shape.inner || c->rows != shape.rows || c->columns != shape.columns ||
        d->rows != shape.rows || d->columns != shape.columns)
        return say(CUBLAS_STATUS_INVALID_VALUE, "shapes that do not fit");
    return CUBLAS_STATUS_SUCCESS;
}

// From the first to the last byte of all matrices of a batch.
size_t extent(const Layout &x, size_t bytes) {
    i64 last = (i64)(x.columns - 1) * x.ld + (i64)x.rows + (x.batch - 1) * x.stride;
    return (size_t)last * bytes;
}

struct Job {
    Product product;
    int batch;
    size_t strides[4];
    void *workspace;
    size_t workspace_bytes;
};

void run(void *data) {
    Job &job = *(Job *)data;
    // Nobody may rely on what lies there. Its ends tell as much as all of it, which takes longer than a small product.
    if (job.workspace) {
        size_t end = std::min(job.workspace_bytes, (size_t)16 << 10);
        std::memset(job.workspace, 0xff, end);
        std::memset((char *)job.workspace + job.workspace_bytes - end, 0xff, end);
    }
    for (int i = 0; i < job.batch; i++) {
        Product &x = job.product;
        if (x.a.type == Type::F64) multiply<double>(x);
        else multiply<float>(x);
        x.a.at += job.strides[0];
        x.b.at += job.strides[1];
        if (x.c) x.c += job.strides[2];
        x.d += job.strides[3];
    }
    delete &job;
}

} // namespace

EXPORT size_t cublasLtGetVersion() { return 130000; }

EXPORT cublasStatus_t cublasLtCreate(Handle **handle) {
    if (!handle) return CUBLAS_STATUS_INVALID_VALUE;
    *handle = new Handle;
    return CUBLAS_STATUS_SUCCESS;
}

EXPORT cublasStatus_t cublasLtDestroy(Handle *handle) {
    delete handle;
    return CUBLAS_STATUS_SUCCESS;
}

EXPORT cublasStatus_t cublasLtMatmulDescCreate(MatmulDesc **desc, int compute, int scale) {
    if (!desc) return CUBLAS_STATUS_INVALID_VALUE;
    *desc = new MatmulDesc{compute, scale};
    return CUBLAS_STATUS_SUCCESS;
}

EXPORT cublasStatus_t cublasLtMatmulDescDestroy(MatmulDesc *desc) {
    delete desc;
    return CUBLAS_STATUS_SUCCESS;
}

EXPORT cublasStatus_t cublasLtMatmulDescSetAttribute(MatmulDesc *desc, int attribute, const void *from, size_t bytes) {
    if (!desc) return CUBLAS_STATUS_INVALID_VALUE;
    switch (attribute) {
    case 0: return SET(desc->compute);
    case 1: return SET(desc->scale);
    case 2: return SET(desc->pointer_mode);
    case 3: return SET(desc->transpose_a);
    case 4: return SET(desc->transpose_b);
    case 7: return SET(desc->epilogue);
    default: return CUBLAS_STATUS_NOT_SUPPORTED;
    }
}

EXPORT cublasStatus_t cublasLtMatrixLayoutCreate(Layout **layout, u32 type, u64 rows, u64 columns, i64 ld) {
    if (!layout) return CUBLAS_STATUS_INVALID_VALUE;
    *layout = new Layout{type, rows, columns, ld};
    return CUBLAS_STATUS_SUCCESS;
}

EXPORT cublasStatus_t cublasLtMatrixLayoutDestroy(Layout *layout) {
    delete layout;
    return CUBLAS_STATUS_SUCCESS;
}

EXPORT cublasStatus_t cublasLtMatrixLayoutSetAttribute(Layout *layout, int attribute, const void *from, size_t bytes) {
    if (!layout) return CUBLAS_STATUS_INVALID_VALUE;
    switch (attribute) {
    case 0: return SET(layout->type);
    case 1: return SET(layout->order);
    case 2: return SET(layout->rows);
    case 3: return SET(layout->columns);
    case 4: return SET(layout->ld);
    case 5: return SET(layout->batch);
    case 6: return SET(layout->stride);
    default: return CUBLAS_STATUS_NOT_SUPPORTED;
    }
}

EXPORT cublasStatus_t cublasLtMatmulPreferenceCreate(Preference **preference) {
    if (!preference) return CUBLAS_STATUS_INVALID_VALUE;
    *preference = new Preference;
    return CUBLAS_STATUS_SUCCESS;
}

EXPORT cublasStatus_t cublasLtMatmulPreferenceDestroy(Preference *preference) {
    delete preference;
    return CUBLAS_STATUS_SUCCESS;
}

EXPORT cublasStatus_t cublasLtMatmulPreferenceSetAttribute(Preference *preference, int attribute, const void *from, size_t bytes) {
    if (!preference) return CUBLAS_STATUS_INVALID_VALUE;
    if (attribute == 1) return SET(preference->workspace);
    if (attribute >= 5 && attribute <= 8) return SET(preference->alignment[attribute - 5]);
    // The others choose among algorithms, of which there is one.
    return from ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
}

EXPORT cublasStatus_t cublasLtMatmulAlgoGetHeuristic(Handle *handle, MatmulDesc *desc, Layout *a, Layout *b, Layout *c, Layout *d,
                                                    Preference *preference, int wanted, Heuristic *results, int *count) {
    if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
    if (!preference || !results || !count || wanted < 1) return CUBLAS_STATUS_INVALID_VALUE;
    *count = 0;
    Shape shape;
    if (auto status = check(desc, a, b, c, d, shape)) return status;
    const u64 SIZES[3] = {0, (u64)1 << 20, (u64)4 << 20};
    for (u64 size : SIZES) {
        if (size > preference->workspace || *count == wanted) break;
        Algorithm algorithm = {MAGIC, size, {}, {}};
        std::copy_n(preference->alignment, 4, algorithm.alignment);
        results[(*count)++] = {algorithm, (size_t)size, CUBLAS_STATUS_SUCCESS, 1, {}};
    }
    return CUBLAS_STATUS_SUCCESS;
}

EXPORT cublasStatus_t cublasLtMatmul(Handle *handle, MatmulDesc *desc, const void *alpha, const void *a, Layout *a_layout,
                                     const void *b, Layout *b_layout, const void *beta, const void *c, Layout *c_layout, void *d,
                                     Layout *d_layout, const Algorithm *algorithm, void *workspace, size_t workspace_bytes,
                                     void *stream) {
    if (!handle) return CUBLAS_STATUS_NOT_INITIALIZED;
    Shape shape;
    if (auto status = check(desc, a_layout, b_layout, c_layout, d_layout, shape)) return status;
    if (!alpha || !beta || !a || !b || !d) return say(CUBLAS_STATUS_INVALID_VALUE, "an address is null");
    Type scale = desc->scale == R_64F ? Type::F64 : Type::F32;
    double by = read<double>(scale, (const char *)alpha), keep = read<double>(scale, (const char *)beta);
    if (keep == 0) c = nullptr;
    else if (!c) return say(CUBLAS_STATUS_INVALID_VALUE, "C is null and beta is not zero");
    if (c == d && c_layout->ld != d_layout->ld) return say(CUBLAS_STATUS_INVALID_VALUE, "C is D but for its leading dimension");
    Layout *layouts[4] = {a_layout, b_layout, c_layout, d_layout};
    const void *at[4] = {a, b, c, d};
    for (int i = 0; i < 4; i++) {
        size_t bytes = size_of(i < 2 ? shape.ab : shape.cd), align = std::max((size_t)(algorithm ? algorithm->alignment[i] : 1), bytes);
        // More than 16 bytes make no difference to the library either.
        if ((u64)at[i] % std::min(align, (size_t)16) != 0)
            return say(CUBLAS_STATUS_INVALID_VALUE, "an address is less aligned than was said");
        if (at[i] && !emulator_in_device(at[i], extent(*layouts[i], bytes)))
            return say(CUBLAS_STATUS_EXECUTION_FAILED, "a matrix reaches outside of its allocation");
    }
    if (workspace && workspace_bytes && !emulator_in_device(workspace, workspace_bytes))
        return say(CUBLAS_STATUS_EXECUTION_FAILED, "the workspace reaches outside of its allocation");
    if ((u64)workspace % 16 != 0) return say(CUBLAS_STATUS_INVALID_VALUE, "the workspace is not aligned");
    if (algorithm && algorithm->magic != MAGIC) return say(CUBLAS_STATUS_INVALID_VALUE, "an algorithm that the heuristic did not give");
    if (algorithm && (algorithm->workspace > workspace_bytes || (algorithm->workspace && !workspace)))
        return say(CUBLAS_STATUS_INVALID_VALUE, "the algorithm wants more workspace");
    Matrix left = {shape.ab, (const char *)a, (u64)a_layout->ld, desc->transpose_a == 1};
    Matrix right = {shape.ab, (const char *)b, (u64)b_layout->ld, desc->transpose_b == 1};
    Product product = {shape.rows, shape.columns, shape.inner, left, right, shape.cd, (const char *)c, (u64)c_layout->ld,
                       (char *)d, (u64)d_layout->ld, by, keep, desc->compute == COMPUTE_32F_FAST_TF32};
    auto job = new Job{product, d_layout->batch, {}, workspace, workspace_bytes};
    for (int i = 0; i < 4; i++) job->strides[i] = (size_t)layouts[i]->stride * size_of(i < 2 ? shape.ab : shape.cd);
    if (emulator_enqueue(stream, run, job) == 0) return CUBLAS_STATUS_SUCCESS;
    delete job;
    return CUBLAS_STATUS_EXECUTION_FAILED;
}
