// Modules and launches. The "CUBIN" of the emulated compiler is a shared object behind a small header, see nvrtc.cpp.
#include "block.h"
#include "image.h"
#include "stream.h"
#include <cstdio>
#include <cstring>
#include <dlfcn.h>
#include <link.h>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <sys/mman.h>
#include <unistd.h>

namespace {

struct Function {
    std::string name;
    void (*entry)(const void *);
    u64 argument_bytes;
    size_t tls_module, tls_bytes;
    int dynamic_limit = (int)SHARED_BYTES;
};

struct Module {
    void *library;
    size_t tls_module = 0, tls_bytes = 0;
    std::map<std::string, std::unique_ptr<Function>> functions;
};

std::mutex &lock = *new std::mutex;
std::set<Module *> &modules = *new std::set<Module *>;
std::set<Function *> &functions = *new std::set<Function *>;

// The file is kept open for good: the loader knows a library by its path, which holds the number of the file.
void *load(const char *bytes, u64 count) {
    int file = memfd_create("kernels", MFD_CLOEXEC);
    if (file < 0) return nullptr;
    for (u64 written = 0; written < count;) {
        ssize_t n = write(file, bytes + written, count - written);
        if (n <= 0) return nullptr;
        written += (u64)n;
    }
    return dlopen(("/proc/self/fd/" + std::to_string(file)).c_str(), RTLD_NOW | RTLD_LOCAL);
}

// How much thread-local memory the shared object has.
void find_tls(Module &module) {
    if (dlinfo(module.library, RTLD_DI_TLS_MODID, &module.tls_module) != 0 || module.tls_module == 0) return;
    dl_iterate_phdr(
        [](dl_phdr_info *info, size_t, void *data) {
            Module &module = *(Module *)data;
            if (info->dlpi_tls_modid != module.tls_module) return 0;
            for (int i = 0; i < info->dlpi_phnum; i++)
                if (info->dlpi_phdr[i].p_type == PT_TLS) module.tls_bytes = info->dlpi_phdr[i].p_memsz;
            return 1;
        },
        &module);
}

bool is_known(Function *function) {
    std::lock_guard guard(lock);
    return functions.count(function);
}

CUresult refused(const Function &function, const char *why) {
    std::fprintf(stderr, "emulator: the launch of %s is refused: %s\n", function.name.c_str(), why);
    return CUDA_ERROR_INVALID_VALUE;
}

} // namespace

EXPORT CUresult cuModuleLoadData(Module **handle, const void *image) {
    ENTER;
    if (!handle || !image) return CUDA_ERROR_INVALID_VALUE;
    ImageHeader header;
    // Text such as PTX may be shorter than a header, but it ends with a zero that differs.
    if (std::strncmp((const char *)image, IMAGE_MAGIC, sizeof header.magic) != 0) return CUDA_ERROR_INVALID_IMAGE;
    std::memcpy(&header, image, sizeof header);
    auto module = std::make_unique<Module>();
    module->library = load((const char *)image + sizeof header, header.bytes);
    if (!module->library) {
        std::fprintf(stderr, "emulator: a module does not load: %s\n", dlerror());
        return CUDA_ERROR_INVALID_IMAGE;
    }
    find_tls(*module);
    std::lock_guard guard(lock);
    *handle = module.release();
    modules.insert(*handle);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuModuleUnload(Module *module) {
    ENTER;
    wait_for_all();
    std::lock_guard guard(lock);
    if (!modules.erase(module)) return CUDA_ERROR_INVALID_HANDLE;
    for (auto &[name, function] : module->functions) functions.erase(function.get());
    dlclose(module->library);
    delete module;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuModuleGetFunction(Function **handle, Module *module, const char *name) {
    ENTER;
    if (!handle || !name || !*name) return CUDA_ERROR_INVALID_VALUE;
    std::lock_guard guard(lock);
    if (!modules.count(module)) return CUDA_ERROR_INVALID_HANDLE;
    auto &function = module->functions[name];
    if (!function) {
        std::string stem = name;
        void *entry = dlsym(module->library, (stem + "_entry").c_str());
        void *bytes = dlsym(module->library, (stem + "_argument_bytes").c_str());
        if (!entry || !bytes) {
            module->functions.erase(name);
            return CUDA_ERROR_NOT_FOUND;
        }
        function.reset(new Function{stem, (void (*)(const void *))entry, *(const u64 *)bytes, module->tls_module, module->tls_bytes});
        functions.insert(function.get());
    }
    *handle = function.get();
    return CUDA_SUCCESS;
}

// By CUfunction_attribute.
const int MAX_THREADS_PER_BLOCK = 0, SHARED_SIZE_BYTES = 1, CONST_SIZE_BYTES = 2, LOCAL_SIZE_BYTES = 3, NUM_REGS = 4, PTX_VERSION = 5,
          BINARY_VERSION = 6, MAX_DYNAMIC_SHARED_SIZE_BYTES = 8, PREFERRED_SHARED_MEMORY_CARVEOUT = 9;

EXPORT CUresult cuFuncSetAttribute(Function *function, int attribute, int value) {
    ENTER;
    if (!is_known(function)) return CUDA_ERROR_INVALID_HANDLE;
    if (attribute == PREFERRED_SHARED_MEMORY_CARVEOUT) return CUDA_SUCCESS;
    if (attribute != MAX_DYNAMIC_SHARED_SIZE_BYTES || value < 0 || (u32)value > SHARED_BYTES_OPT_IN) return CUDA_ERROR_INVALID_VALUE;
    function->dynamic_limit = value;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuFuncGetAttribute(int *value, int attribute, Function *function) {
    ENTER;
    if (!value) return CUDA_ERROR_INVALID_VALUE;
    if (!is_known(function)) return CUDA_ERROR_INVALID_HANDLE;
    switch (attribute) {
    case MAX_THREADS_PER_BLOCK: *value = (int)MAX_THREADS; return CUDA_SUCCESS;
    case SHARED_SIZE_BYTES: *value = (int)function->tls_bytes; return CUDA_SUCCESS;
    case CONST_SIZE_BYTES: *value = 0; return CUDA_SUCCESS;
    case LOCAL_SIZE_BYTES: *value = 0; return CUDA_SUCCESS;
    case NUM_REGS: *value = 32; return CUDA_SUCCESS;
    case PTX_VERSION: *value = 90; return CUDA_SUCCESS;
    case BINARY_VERSION: *value = 90; return CUDA_SUCCESS;
    case MAX_DYNAMIC_SHARED_SIZE_BYTES: *value = function->dynamic_limit; return CUDA_SUCCESS;
    default: return CUDA_ERROR_INVALID_VALUE;
    }
}

EXPORT CUresult cuLaunchKernel(Function *function, u32 grid_x, u32 grid_y, u32 grid_z, u32 block_x, u32 block_y, u32 block_z,
                               u32 dynamic_shared, CUstream stream, void **parameters, void **extra) {
    ENTER;
    if (!is_known(function)) return CUDA_ERROR_INVALID_HANDLE;
    if (parameters) return CUDA_ERROR_NOT_SUPPORTED;
    if (!grid_x || !grid_y || !grid_z || !block_x || !block_y || !block_z) return refused(*function, "a grid or a block of nothing");
    if (grid_x > 0x7fffffff || grid_y > 65535 || grid_z > 65535) return refused(*function, "too large a grid");
    if (block_x > 1024 || block_y > 1024 || block_z > 64 || (u64)block_x * block_y * block_z > MAX_THREADS)
        return refused(*function, "more threads than a block has");
    if (dynamic_shared > (u32)function->dynamic_limit) return refused(*function, "more shared memory than was asked for");
    const size_t END = 0, POINTER = 1, SIZE = 2;
    const void *arguments = nullptr;
    size_t bytes = 0;
    for (void **at = extra; at && (size_t)*at != END; at += 2) {
        if ((size_t)*at == POINTER) arguments = at[1];
        else if ((size_t)*at == SIZE) bytes = *(size_t *)at[1];
        else return CUDA_ERROR_INVALID_VALUE;
    }
    // A buffer may be filled up to whole words.
    u64 wanted = function->argument_bytes;
    if ((bytes != wanted && bytes != (wanted + 7) / 8 * 8) || (bytes && !arguments))
        return refused(*function, "the arguments have another size");
    Launch launch = {function->name, function->entry, {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, dynamic_shared,
                     function->tls_module, function->tls_bytes, std::vector<u64>((bytes + 7) / 8)};
    if (bytes) std::memcpy(launch.arguments.data(), arguments, bytes);
    return enqueue(stream, [launch = std::move(launch)] {
        if (!device_error()) run(launch);
    });
}
