// A block of CUDA threads on one host thread, and who of them runs.
#pragma once
#include "block.h"
#include "stacks.h"

struct Copy {
    void *to;
    const void *from;
    u32 bytes;
    bool filled;
};

enum class State { Fresh, Ready, AtBarrier, Meeting, Done };

struct Thread {
    State state;
    dim3 index;
    void *saved, *stack;
    // Of the meeting it waits for.
    u32 mask;
    emulator_act act;
    std::vector<Copy> copies;
    // How many copies each group under way ends with, oldest first.
    std::vector<u32> groups;
};

struct Warp {
    u32 arrived;
    void *mine[32];
};

struct Block {
    const Launch *launch;
    Stacks stacks;
    Thread threads[MAX_THREADS];
    Warp warps[MAX_THREADS / 32];
    // Threads that can go on, as a ring.
    u16 ready[MAX_THREADS];
    u32 first, count;
    u32 total, done, at_barrier;
    const char *file;
    int line;
    Thread *now;
    // The host thread, which waits like one of them until all are done.
    Thread host;
    bool shuffled;
    CUresult fault;
    u64 random;
    // Dynamic shared memory ends at a page that faults.
    char *shared_end;

    Block();
    u32 number(const Thread *thread) { return (u32)(thread - threads); }
    void push_front(u32 thread) {
        first = (first + MAX_THREADS - 1) % MAX_THREADS;
        ready[first] = (u16)thread;
        count++;
    }
    void push_back(u32 thread) { ready[(first + count++) % MAX_THREADS] = (u16)thread; }
    Thread *pop() {
        Thread *thread = &threads[ready[first]];
        first = (first + 1) % MAX_THREADS;
        count--;
        now = thread;
        emulator_now.thread = thread->index;
        return thread;
    }

    void begin(const Launch &of);
    void run_block(dim3 at);
    // Goes on with another thread; returns when the current one may go on.
    void leave();
    // The current thread has returned. Returns where the next one may begin on the same stack.
    void finish();
    // Lets all go on that wait for the barrier, if all have come or exited.
    void check_barrier();
    // Lets all go on that are in a state.
    void queue_all(State state);
    [[noreturn]] void stuck();
};

// The block that the host thread runs.
extern thread_local Block *here;

void print_place(const char *why);

// Goes on where a fiber has left by `emulator_switch`, with the stack pointer that it saved.
extern "C" void emulator_resume();
