/* A libcuda.so.1 without a card: enough for cuDNN to choose, compile and finalise plans for a device that is only
 * described. Whoever asks for an entry point gets one that succeeds and does nothing, but for those that must answer. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

static int nothing(void) { return 0; }
static int init(unsigned flags) { (void)flags; return 0; }
static int driver_version(int *version) { *version = 13000; return 0; }
static int device_count(int *count) { *count = 1; return 0; }
static int device(int *device, int ordinal) { *device = ordinal; return 0; }
static int name(char *name, int length, int device) { (void)device; snprintf(name, length, "NVIDIA H200"); return 0; }
static int memory(size_t *bytes, int device) { (void)device; *bytes = 150000000000; return 0; }
static int id(char id[16], int device) { (void)device; memset(id, 1, 16); return 0; }
static int context(void **context) { *context = (void *)(uintptr_t)16; return 0; }
static int primary(void **context, int device) { (void)device; *context = (void *)(uintptr_t)16; return 0; }
static int primary_state(int device, unsigned *flags, int *active) { (void)device; *flags = 0; *active = 1; return 0; }
static int context_device(int *device) { *device = 0; return 0; }
/* NVRTC looks into the driver's private tables. The first word of each is its size: these have no entries. */
static const size_t empty[1] = {sizeof empty};
static int table(const void **table, const void *id) { (void)id; *table = empty; return 0; }
static int error(int code, const char **text) { (void)code; *text = "an error"; return 0; }

/* Modules, kernels and links are handles: something that is not null. */
static int handle(void **handle) { *handle = (void *)(uintptr_t)16; return 0; }
static int clusters(int *size) { *size = 8; return 0; }
static int link(void **out, size_t *bytes) { static char image[64]; *out = image; *bytes = sizeof image; return 0; }

/* The attributes that an H200 has, as CUdevice_attribute numbers them. */
static int attribute(int *value, int which, int device) {
    static const struct { int which, value; } all[] = {
        {1, 1024}, {2, 1024}, {3, 1024}, {4, 64}, {5, 2147483647}, {6, 65535}, {7, 65535}, {8, 49152}, {10, 32},
        {12, 65536}, {13, 1980000}, {16, 132}, {31, 1}, {36, 3201000}, {37, 6144}, {38, 62914560}, {39, 2048},
        {40, 2}, {41, 1}, {75, 9}, {76, 0}, {81, 233472}, {82, 65536}, {83, 1}, {95, 1}, {97, 232448}, {106, 32},
        {111, 1024}, {115, 1},
    };
    (void)device;
    *value = 0;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (all[i].which == which) *value = all[i].value;
    return 0;
}

static int proc_address(const char *symbol, void **entry, int version, uint64_t flags, int *status);

static const struct { const char *symbol; void *entry; } entries[] = {
    {"cuInit", init}, {"cuDriverGetVersion", driver_version}, {"cuDeviceGetCount", device_count},
    {"cuDeviceGet", device}, {"cuDeviceGetName", name}, {"cuDeviceTotalMem", memory}, {"cuDeviceGetUuid", id},
    {"cuDeviceGetAttribute", attribute}, {"cuCtxGetCurrent", context}, {"cuCtxGetDevice", context_device},
    {"cuDevicePrimaryCtxRetain", primary}, {"cuDevicePrimaryCtxGetState", primary_state},
    {"cuGetExportTable", table}, {"cuGetProcAddress", proc_address}, {"cuGetErrorString", error},
    {"cuGetErrorName", error},
};

static int proc_address(const char *symbol, void **entry, int version, uint64_t flags, int *status) {
    (void)version, (void)flags;
    if (status) *status = 0;
    *entry = nothing;
    for (size_t i = 0; i < sizeof entries / sizeof *entries; i++)
        if (!strcmp(entries[i].symbol, symbol)) *entry = entries[i].entry;
    if (getenv("STUB_LOG")) fprintf(stderr, "asked for %s\n", symbol);
    return 0;
}

/* What is looked up by name in the library itself. Those that answer forward to the functions above. */
int cuGetProcAddress_v2(const char *s, void **e, int v, uint64_t f, int *t) { return proc_address(s, e, v, f, t); }
int cuGetProcAddress(const char *s, void **e, int v, uint64_t f) { return proc_address(s, e, v, f, NULL); }
int cuInit(unsigned flags) { return init(flags); }
int cuDriverGetVersion(int *version) { return driver_version(version); }
int cuDeviceGetCount(int *count) { return device_count(count); }
int cuDeviceGet(int *d, int ordinal) { return device(d, ordinal); }
int cuDeviceGetAttribute(int *value, int which, int d) { return attribute(value, which, d); }
int cuCtxGetCurrent(void **c) { return context(c); }
int cuCtxGetDevice(int *d) { return context_device(d); }
int cuGetExportTable(const void **t, const void *id) { return table(t, id); }
int cuGetErrorName(int code, const char **text) { return error(code, text); }
int cuGetErrorString(int code, const char **text) { return error(code, text); }

int cuLibraryLoadData(void **library) { return handle(library); }
int cuLibraryLoadFromFile(void **library) { return handle(library); }
int cuKernelGetFunction(void **function) { return handle(function); }
int cuLibraryGetKernel(void **kernel) { return handle(kernel); }
int cuModuleLoadData(void **module) { return handle(module); }
int cuModuleGetFunction(void **function) { return handle(function); }
int cuLinkCreate_v2(unsigned n, void *o, void *v, void **state) { (void)n, (void)o, (void)v; return handle(state); }
int cuLinkCreate(unsigned n, void *o, void *v, void **state) { (void)n, (void)o, (void)v; return handle(state); }
int cuLinkComplete(void *state, void **out, size_t *bytes) { (void)state; return link(out, bytes); }
int cuOccupancyMaxPotentialClusterSize(int *size) { return clusters(size); }

#define NOTHING(name) int name(void) { return nothing(); }
NOTHING(cuCtxGetLimit) NOTHING(cuCtxPopCurrent) NOTHING(cuCtxPushCurrent) NOTHING(cuStreamGetCtx)
NOTHING(cuKernelGetAttribute) NOTHING(cuKernelSetAttribute) NOTHING(cuLibraryUnload)
NOTHING(cuLaunchCooperativeKernel) NOTHING(cuLaunchKernel) NOTHING(cuLaunchKernelEx)
NOTHING(cuModuleUnload) NOTHING(cuTensorMapEncodeIm2col) NOTHING(cuTensorMapEncodeTiled)
NOTHING(cuLinkAddData) NOTHING(cuLinkDestroy)
