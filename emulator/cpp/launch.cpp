// Launches on the host thread of a stream: a block to run them with, and what happens when a kernel faults.
#include "scheduler.h"
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <iterator>
#include <memory>
#include <mutex>
#include <ucontext.h>

namespace {

// Blocks of several streams run at a time, but not more than this: each has many stacks.
struct Blocks {
    std::mutex lock;
    std::condition_variable changed;
    std::vector<Block *> unused;
    u32 left = 4;

    Block *take() {
        std::unique_lock guard(lock);
        changed.wait(guard, [this] { return left > 0 || !unused.empty(); });
        if (unused.empty()) {
            left--;
            return new Block;
        }
        Block *block = unused.back();
        unused.pop_back();
        return block;
    }
    void give(Block *block) {
        std::lock_guard guard(lock);
        unused.push_back(block);
        changed.notify_one();
    }
} &blocks = *new Blocks;

thread_local std::unique_ptr<char[]> fault_stack;
const int FAULTS[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
struct sigaction earlier[std::size(FAULTS)];

// A kernel did what faults on a card too: tell where, give it up, and go on as the host thread. Elsewhere the fault is not
// ours, and meets whoever handled it before.
void on_fault(int signal, siginfo_t *info, void *context) {
    if (!here || here->now == &here->host) {
        for (size_t i = 0; i < std::size(FAULTS); i++)
            if (FAULTS[i] == signal) sigaction(signal, &earlier[i], nullptr);
        return;
    }
    char why[128];
    const char *what = "an access that is not allowed";
    if (here->stacks.is_guard(info->si_addr)) what = "more stack than a thread has";
    // The compiler has put this instruction where it found an address of too few zeros.
    if (signal == SIGILL) what = "an address that is not aligned";
    std::snprintf(why, sizeof why, "%s (%s at %p)", what, strsignal(signal), info->si_addr);
    print_place(why);
    here->fault = signal == SIGILL ? CUDA_ERROR_MISALIGNED_ADDRESS : CUDA_ERROR_ILLEGAL_ADDRESS;
    auto &registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    registers[REG_RSP] = (greg_t)here->host.saved;
    registers[REG_RIP] = (greg_t)emulator_resume;
}

// Fibers have little room, so faults are handled on a stack of the host thread's.
void handle_faults() {
    static std::once_flag once;
    std::call_once(once, [] {
        struct sigaction action = {};
        action.sa_sigaction = on_fault;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK;
        for (size_t i = 0; i < std::size(FAULTS); i++) sigaction(FAULTS[i], &action, &earlier[i]);
    });
    if (fault_stack) return;
    stack_t stack = {};
    stack.ss_size = 64 << 10;
    fault_stack = std::make_unique<char[]>(stack.ss_size);
    stack.ss_sp = fault_stack.get();
    sigaltstack(&stack, nullptr);
}

// As __tls_get_addr takes it.
struct TlsIndex {
    size_t module, offset;
};
extern "C" void *__tls_get_addr(TlsIndex *);

} // namespace

void run(const Launch &launch) {
    handle_faults();
    Block &block = *blocks.take();
    here = &block;
    block.begin(launch);
    TlsIndex index = {launch.tls_module, 0};
    void *shared = launch.tls_bytes ? __tls_get_addr(&index) : nullptr;
    dim3 grid = launch.grid;
    u64 count = (u64)grid.x * grid.y * grid.z, offset = block.shuffled ? draw(block.random) % count : 0;
    for (u64 i = 0; i < count && !block.fault; i++) {
        u64 at = (i + offset) % count;
        // A block finds nothing that another has left.
        if (shared) std::memset(shared, 0xff, launch.tls_bytes);
        std::memset(emulator_now.shared, 0xff, launch.dynamic_shared);
        block.run_block({(u32)(at % grid.x), (u32)(at / grid.x % grid.y), (u32)(at / grid.x / grid.y)});
    }
    if (block.fault) {
        block.stacks.give_all();
        device_failed(block.fault);
    }
    here = nullptr;
    blocks.give(&block);
}
