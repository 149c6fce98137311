// A block of CUDA threads on one host thread. Each thread that has to wait is a fiber with a stack of its own; one that
// never waits is a plain call on the stack of the one before. Which runs next is decided here alone, so a barrier that
// cannot be passed is seen at once and never hangs.
#include "scheduler.h"
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>
#include <utility>

// Saves the registers that a call preserves, and goes on where another fiber did so.
extern "C" void emulator_switch(void **from, void *to);
asm(R"(
    .text
    .hidden emulator_switch, emulator_resume
    .globl emulator_switch, emulator_resume
    .type emulator_switch, @function
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
emulator_resume:
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size emulator_switch, . - emulator_switch
)");
const u32 SAVED_WORDS = 6;

__thread emulator_place emulator_now;
thread_local Block *here = nullptr;

Block::Block() {
    shuffled = delays(random);
    size_t room = (SHARED_BYTES_OPT_IN + 4095) / 4096 * 4096;
    char *map = (char *)mmap(nullptr, room + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    shared_end = map + room;
    mprotect(shared_end, 4096, PROT_NONE);
}

// With delays in an order of warps and lanes that nobody can rely on.
void Block::queue_all(State state) {
    u32 order[MAX_THREADS / 32], warps = (total + 31) / 32, flip = 0;
    for (u32 i = 0; i < warps; i++) order[i] = i;
    if (shuffled) {
        for (u32 i = warps - 1; i > 0; i--) std::swap(order[i], order[draw(random) % (i + 1)]);
        flip = draw(random) % 32;
    }
    for (u32 i = 0; i < warps; i++) {
        for (u32 lane = 0; lane < 32; lane++) {
            u32 thread = order[i] * 32 + (lane ^ flip);
            if (thread >= total || threads[thread].state != state) continue;
            if (state == State::AtBarrier) threads[thread].state = State::Ready;
            push_back(thread);
        }
    }
}

void Block::check_barrier() {
    if (at_barrier == 0 || at_barrier + done < total) return;
    at_barrier = 0;
    queue_all(State::AtBarrier);
}

namespace {

[[noreturn]] void fiber() {
    while (true) {
        here->launch->entry(here->launch->arguments.data());
        here->finish();
    }
}

} // namespace

void Block::leave() {
    Thread *self = now;
    if (count == 0) stuck();
    Thread *next = pop();
    if (next == self) return;
    if (next->state == State::Fresh) {
        next->stack = stacks.take();
        // As if `fiber` had been called with nowhere to return to, and then switched away.
        void **top = (void **)next->stack - 2;
        top[0] = (void *)fiber;
        top[1] = nullptr;
        next->saved = top - SAVED_WORDS;
    }
    next->state = State::Ready;
    emulator_switch(&self->saved, next->saved);
}

void Block::finish() {
    Thread *self = now;
    self->state = State::Done;
    self->copies.clear();
    self->groups.clear();
    done++;
    check_barrier();
    if (count > 0 && threads[ready[first]].state == State::Fresh) {
        Thread *next = pop();
        next->state = State::Ready;
        next->stack = self->stack;
        return;
    }
    // Nobody takes the stack before this fiber has left it: the host thread is one.
    stacks.give(self->stack);
    if (done == total) emulator_switch(&self->saved, host.saved);
    leave();
}

void Block::begin(const Launch &of) {
    launch = &of;
    fault = CUDA_SUCCESS;
    total = of.block.x * of.block.y * of.block.z;
    emulator_now.block_dim = of.block;
    emulator_now.grid_dim = of.grid;
    emulator_now.shared = shared_end - (of.dynamic_shared + 127) / 128 * 128;
    u32 i = 0;
    for (u32 z = 0; z < of.block.z; z++)
        for (u32 y = 0; y < of.block.y; y++)
            for (u32 x = 0; x < of.block.x; x++) threads[i++].index = {x, y, z};
}

void Block::run_block(dim3 at) {
    first = count = done = at_barrier = 0;
    emulator_now.block = at;
    for (u32 warp = 0; warp < (total + 31) / 32; warp++) warps[warp].arrived = 0;
    for (u32 i = 0; i < total; i++) threads[i].state = State::Fresh;
    queue_all(State::Fresh);
    now = &host;
    leave();
    now = &host;
}

void Block::stuck() {
    u32 who = 0;
    while (who < total && threads[who].state != State::AtBarrier && threads[who].state != State::Meeting) who++;
    now = &threads[who];
    emulator_now.thread = now->index;
    char why[256];
    if (now->state == State::AtBarrier) {
        std::snprintf(why, sizeof why, "waits at the barrier of %s:%d that not all of the block reach", file, line);
    } else {
        u32 missing = now->mask & ~warps[who / 32].arrived;
        std::snprintf(why, sizeof why, "waits for lanes %#x of its warp that never come", missing);
    }
    emulator_fail(why);
}

void print_place(const char *why) {
    auto [thread, block, block_dim, grid_dim, shared] = emulator_now;
    std::fprintf(stderr, "emulator: kernel %s, block (%u, %u, %u), thread (%u, %u, %u): %s\n", here->launch->name.c_str(),
                 block.x, block.y, block.z, thread.x, thread.y, thread.z, why);
}

EXPORT void emulator_fail(const char *why) {
    print_place(why);
    std::abort();
}

EXPORT void emulator_barrier(const char *file, int line) {
    Block &block = *here;
    if (block.at_barrier == 0) {
        block.file = file;
        block.line = line;
    } else if (block.line != line || std::strcmp(block.file, file) != 0) {
        char why[256];
        std::snprintf(why, sizeof why, "is at the barrier of %s:%d while others wait at %s:%d", file, line, block.file, block.line);
        emulator_fail(why);
    }
    block.now->state = State::AtBarrier;
    block.at_barrier++;
    block.check_barrier();
    block.leave();
}

EXPORT void emulator_meet(u32 mask, void *mine, emulator_act act) {
    Block &block = *here;
    Thread &self = *block.now;
    u32 start = block.number(&self) / 32 * 32, lane = block.number(&self) % 32;
    Warp &warp = block.warps[start / 32];
    if (!(mask >> lane & 1)) emulator_fail("is not in the mask of its own warp operation");
    self.mask = mask;
    self.act = act;
    warp.mine[lane] = mine;
    warp.arrived |= 1u << lane;
    if ((warp.arrived & mask) != mask) {
        self.state = State::Meeting;
        block.leave();
        return;
    }
    for (u32 i = 0; i < 32; i++)
        if (mask >> i & 1 && (block.threads[start + i].mask != mask || block.threads[start + i].act != act))
            emulator_fail("meets other lanes of its mask at another warp operation, or with another mask");
    act(warp.mine, mask);
    warp.arrived &= ~mask;
    for (u32 i = 32; i-- > 0;) {
        if (!(mask >> i & 1) || i == lane) continue;
        block.threads[start + i].state = State::Ready;
        block.push_front(start + i);
    }
}

EXPORT void emulator_copy_async(void *shared, const void *global, u32 bytes, bool filled) {
    if ((u64)shared % bytes != 0 || (u64)global % bytes != 0) emulator_fail("copies from or to an address that is not aligned");
    here->now->copies.push_back({shared, global, bytes, filled});
}

EXPORT void emulator_copy_commit() {
    Thread &self = *here->now;
    u32 grouped = 0;
    for (u32 n : self.groups) grouped += n;
    self.groups.push_back((u32)self.copies.size() - grouped);
}

EXPORT void emulator_copy_wait(u32 left) {
    Thread &self = *here->now;
    while (self.groups.size() > left) {
        auto end = self.copies.begin() + self.groups.front();
        for (auto copy = self.copies.begin(); copy != end; copy++) {
            if (copy->filled) std::memcpy(copy->to, copy->from, copy->bytes);
            else std::memset(copy->to, 0, copy->bytes);
        }
        self.copies.erase(self.copies.begin(), end);
        self.groups.erase(self.groups.begin());
    }
}
