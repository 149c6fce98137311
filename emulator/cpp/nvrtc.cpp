// libnvrtc.so.13 for a CPU: programs are C++ that the system's compiler turns into a shared object.
//
// What was compiled once is kept beside the library: tests of many processes compile the same kernels.
#include "image.h"
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <spawn.h>
#include <string>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

#define EXPORT extern "C" __attribute__((visibility("default")))
// The flags of the CPU that the library itself was built with.
#ifndef EMULATOR_MARCH
#define EMULATOR_MARCH "-march=x86-64"
#endif

namespace fs = std::filesystem;

enum nvrtcResult : int {
    NVRTC_SUCCESS = 0,
    NVRTC_ERROR_OUT_OF_MEMORY = 1,
    NVRTC_ERROR_PROGRAM_CREATION_FAILURE = 2,
    NVRTC_ERROR_INVALID_INPUT = 3,
    NVRTC_ERROR_INVALID_PROGRAM = 4,
    NVRTC_ERROR_INVALID_OPTION = 5,
    NVRTC_ERROR_COMPILATION = 6,
};

struct File {
    std::string name, text;
};

struct Program {
    File source;
    std::vector<File> headers;
    std::string log, image;
};

namespace {

const int ARCHITECTURES[] = {75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121};

// The folder of this library, which holds emulate.h and libcuda.so.1 too.
fs::path home() {
    Dl_info info;
    dladdr((const void *)&ARCHITECTURES, &info);
    return fs::absolute(info.dli_fname).parent_path();
}

std::string read(const fs::path &path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

void write(const fs::path &path, const std::string &text) {
    fs::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << text;
}

// FNV-1a, twice with different starts: enough to tell kernels apart.
struct Hash {
    u64 a = 0xcbf29ce484222325ull, b = 0x84222325cbf29ce4ull;

    void add(const std::string &text) {
        for (unsigned char byte : text + '\0') {
            a = (a ^ byte) * 0x100000001b3ull;
            b = (b ^ byte) * 0x100000001b3ull;
        }
    }
    std::string text() const {
        char text[33];
        std::snprintf(text, sizeof text, "%016llx%016llx", a, b);
        return text;
    }
};

// Runs a command with what it prints in `log`; true where it went well.
bool run(const std::vector<std::string> &command, const fs::path &log) {
    std::vector<char *> words;
    for (auto &word : command) words.push_back(const_cast<char *>(word.c_str()));
    words.push_back(nullptr);
    posix_spawn_file_actions_t files;
    posix_spawn_file_actions_init(&files);
    posix_spawn_file_actions_addopen(&files, 1, log.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    posix_spawn_file_actions_adddup2(&files, 1, 2);
    pid_t process;
    int error = posix_spawnp(&process, words[0], &files, nullptr, words.data(), environ);
    posix_spawn_file_actions_destroy(&files);
    int status = 0;
    if (error) {
        write(log, "no C++ compiler: " + command[0] + ": " + std::strerror(error) + "\n");
        return false;
    }
    while (waitpid(process, &status, 0) < 0 && errno == EINTR) {
    }
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

bool starts(const std::string &text, const char *with) { return text.rfind(with, 0) == 0; }

// The part of a command that depends on options alone; false where an option is wrong.
bool command_for(int count, const char *const *options, std::vector<std::string> &command, std::string &log) {
    const char *compiler = std::getenv("CXX");
    command = {compiler && *compiler ? compiler : "g++", "-std=c++17", "-O2", "-fPIC", "-shared", "-fvisibility=hidden"};
    // As on a card: products and sums fuse, but nothing else is rearranged, and an address that is not aligned is a fault.
    for (auto flag : {EMULATOR_MARCH, "-ffp-contract=fast", "-fno-strict-aliasing", "-fno-math-errno", "-fno-exceptions", "-fno-rtti",
                      "-fno-gnu-unique", "-fstack-clash-protection", "-mtls-dialect=gnu2", "-fsanitize=alignment",
                      "-fsanitize-undefined-trap-on-error", "-w", "-DEMULATED"})
        command.push_back(flag);
    std::string architecture = "75";
    for (int i = 0; i < count; i++) {
        std::string option = options[i];
        const char *value = i + 1 < count ? options[i + 1] : "";
        if (option == "-D" || option == "--define-macro") {
            command.push_back(std::string("-D") + value);
            i++;
        } else if (starts(option, "--define-macro=")) {
            command.push_back("-D" + option.substr(15));
        } else if (starts(option, "-D")) {
            command.push_back(option);
        } else if (starts(option, "--gpu-architecture=") || starts(option, "-arch=")) {
            std::string name = option.substr(option.find('=') + 1);
            if (!starts(name, "sm_") && !starts(name, "compute_")) {
                log = "nvrtc: error: invalid value for --gpu-architecture (-arch)\n";
                return false;
            }
            architecture = name.substr(name.find('_') + 1);
            while (!architecture.empty() && architecture.back() > '9') architecture.pop_back();
        }
    }
    command.push_back("-D__CUDA_ARCH__=" + architecture + "0");
    return true;
}

nvrtcResult compile(Program &program, std::vector<std::string> command) {
    Hash hash;
    for (auto &word : command) hash.add(word);
    hash.add(program.source.name);
    hash.add(program.source.text);
    for (auto &header : program.headers) {
        hash.add(header.name);
        hash.add(header.text);
    }
    fs::path kept = home() / "kernels" / hash.text();
    std::string object = read(kept);
    if (object.empty()) {
        std::string folder = (fs::temp_directory_path() / "emulated-XXXXXX").string();
        if (!mkdtemp(folder.data())) return NVRTC_ERROR_PROGRAM_CREATION_FAILURE;
        fs::path at = folder, source = at / "source" / program.source.name, result = at / "kernels.so";
        write(source, program.source.text);
        for (auto &header : program.headers) write(at / "source" / header.name, header.text);
        for (auto word : {"-include", "emulate.h", "-I"}) command.push_back(word);
        command.push_back(home().string());
        command.push_back("-I" + (at / "source").string());
        for (auto word : {"-x", "c++", source.c_str(), "-x", "none", "-o", result.c_str(), "-Wl,-z,now"}) command.push_back(word);
        command.push_back((home() / "libcuda.so.1").string());
        bool done = run(command, at / "log");
        program.log = read(at / "log");
        if (done) object = read(result);
        if (!object.empty()) {
            // Renamed into place, so that nobody reads half a file.
            fs::path part = kept.string() + "-" + std::to_string(getpid()) + "-" + fs::path(folder).filename().string();
            write(part, object);
            std::error_code ignored;
            fs::rename(part, kept, ignored);
        }
        std::error_code ignored;
        fs::remove_all(at, ignored);
        if (object.empty()) return NVRTC_ERROR_COMPILATION;
    }
    ImageHeader header;
    std::memcpy(header.magic, IMAGE_MAGIC, sizeof header.magic);
    header.bytes = object.size();
    program.image.assign((const char *)&header, sizeof header);
    program.image += object;
    return NVRTC_SUCCESS;
}

} // namespace

EXPORT nvrtcResult nvrtcVersion(int *major, int *minor) {
    if (!major || !minor) return NVRTC_ERROR_INVALID_INPUT;
    *major = 13;
    *minor = 0;
    return NVRTC_SUCCESS;
}

EXPORT nvrtcResult nvrtcGetNumSupportedArchs(int *count) {
    if (!count) return NVRTC_ERROR_INVALID_INPUT;
    *count = (int)std::size(ARCHITECTURES);
    return NVRTC_SUCCESS;
}

EXPORT nvrtcResult nvrtcGetSupportedArchs(int *architectures) {
    if (!architectures) return NVRTC_ERROR_INVALID_INPUT;
    std::memcpy(architectures, ARCHITECTURES, sizeof ARCHITECTURES);
    return NVRTC_SUCCESS;
}

EXPORT nvrtcResult nvrtcCreateProgram(Program **handle, const char *source, const char *name, int count, const char *const *headers,
                                      const char *const *names) {
    if (!handle || !source || count < 0 || (count > 0 && (!headers || !names))) return NVRTC_ERROR_INVALID_INPUT;
    auto program = new Program{{name && *name ? name : "default_program", source}, {}, {}, {}};
    for (int i = 0; i < count; i++) program->headers.push_back({names[i], headers[i]});
    *handle = program;
    return NVRTC_SUCCESS;
}

EXPORT nvrtcResult nvrtcDestroyProgram(Program **handle) {
    if (!handle || !*handle) return NVRTC_ERROR_INVALID_PROGRAM;
    delete *handle;
    *handle = nullptr;
    return NVRTC_SUCCESS;
}

EXPORT nvrtcResult nvrtcCompileProgram(Program *program, int count, const char *const *options) {
    if (!program) return NVRTC_ERROR_INVALID_PROGRAM;
    std::vector<std::string> command;
    program->log.clear();
    program->image.clear();
    if (!command_for(count, options, command, program->log)) return NVRTC_ERROR_INVALID_OPTION;
    try {
        return compile(*program, command);
    } catch (const std::exception &error) {
        program->log += std::string("emulator: ") + error.what() + "\n";
        return NVRTC_ERROR_PROGRAM_CREATION_FAILURE;
    }
}

EXPORT nvrtcResult nvrtcGetProgramLogSize(Program *program, size_t *bytes) {
    if (!program || !bytes) return NVRTC_ERROR_INVALID_INPUT;
    *bytes = program->log.size() + 1;
    return NVRTC_SUCCESS;
}

EXPORT nvrtcResult nvrtcGetProgramLog(Program *program, char *log) {
    if (!program || !log) return NVRTC_ERROR_INVALID_INPUT;
    std::memcpy(log, program->log.c_str(), program->log.size() + 1);
    return NVRTC_SUCCESS;
}

EXPORT nvrtcResult nvrtcGetCUBINSize(Program *program, size_t *bytes) {
    if (!program || !bytes) return NVRTC_ERROR_INVALID_INPUT;
    *bytes = program->image.size();
    return NVRTC_SUCCESS;
}

EXPORT nvrtcResult nvrtcGetCUBIN(Program *program, char *image) {
    if (!program || !image) return NVRTC_ERROR_INVALID_INPUT;
    std::memcpy(image, program->image.data(), program->image.size());
    return NVRTC_SUCCESS;
}

// There is no text between the source and the image.
EXPORT nvrtcResult nvrtcGetPTXSize(Program *, size_t *) { return NVRTC_ERROR_INVALID_PROGRAM; }
EXPORT nvrtcResult nvrtcGetPTX(Program *, char *) { return NVRTC_ERROR_INVALID_PROGRAM; }

EXPORT const char *nvrtcGetErrorString(nvrtcResult result) {
    switch (result) {
    case NVRTC_SUCCESS: return "NVRTC_SUCCESS";
    case NVRTC_ERROR_OUT_OF_MEMORY: return "NVRTC_ERROR_OUT_OF_MEMORY";
    case NVRTC_ERROR_PROGRAM_CREATION_FAILURE: return "NVRTC_ERROR_PROGRAM_CREATION_FAILURE";
    case NVRTC_ERROR_INVALID_INPUT: return "NVRTC_ERROR_INVALID_INPUT";
    case NVRTC_ERROR_INVALID_PROGRAM: return "NVRTC_ERROR_INVALID_PROGRAM";
    case NVRTC_ERROR_INVALID_OPTION: return "NVRTC_ERROR_INVALID_OPTION";
    case NVRTC_ERROR_COMPILATION: return "NVRTC_ERROR_COMPILATION";
    default: return "NVRTC_ERROR unknown";
    }
}
