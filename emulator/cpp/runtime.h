// What a kernel and the machine that runs it know of each other: where the current thread is, and how threads meet.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

struct dim3 {
    u32 x, y, z;
};

// Where the CUDA thread that runs now is. All threads of a block share a host thread, so one copy for each is enough:
// the scheduler writes `thread` whenever it switches.
struct emulator_place {
    dim3 thread, block, block_dim, grid_dim;
    void *shared;
};
// Found at a fixed distance from the host thread's pointer, and of no constructor: an access is one load.
extern "C" __attribute__((visibility("default"), tls_model("initial-exec"))) __thread emulator_place emulator_now;

extern "C" {
// __syncthreads at a line of the source.
void emulator_barrier(const char *file, int line);
// The lanes of `mask` meet. The last to arrive calls `act` with what each has given, `lanes[i]` by the lane `i`; the others
// sleep meanwhile, so that what they gave may lie on their stacks.
typedef void (*emulator_act)(void *const *lanes, u32 mask);
void emulator_meet(u32 mask, void *mine, emulator_act act);
void emulator_copy_async(void *shared, const void *global, u32 bytes, bool filled);
void emulator_copy_commit();
// Returns once at most `left` groups of copies are under way.
void emulator_copy_wait(u32 left);
// Ends the process with the place of the current thread.
[[noreturn]] void emulator_fail(const char *why);
}
