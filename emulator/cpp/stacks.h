// Stacks for the threads of a block, each above a page that faults.
#pragma once
#include "abi.h"
#include <sys/mman.h>
#include <vector>

class Stacks {
    static const size_t SIZE = 64 << 10, GUARD = 4096;
    char *map;
    std::vector<void *> unused;

  public:
    Stacks() {
        map = (char *)mmap(nullptr, MAX_THREADS * (SIZE + GUARD), PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        for (u32 i = 0; map != MAP_FAILED && i < MAX_THREADS; i++) mprotect(map + i * (SIZE + GUARD), GUARD, PROT_NONE);
        give_all();
    }
    void give_all() {
        unused.clear();
        for (u32 i = MAX_THREADS; i-- > 0;) {
            // The tops lie at different places of their pages, or they would all share a few lines of the cache.
            unused.push_back(map + (i + 1) * (SIZE + GUARD) - i % 32 * 128);
        }
    }
    // The end of a stack.
    void *take() {
        void *stack = unused.back();
        unused.pop_back();
        return stack;
    }
    void give(void *stack) { unused.push_back(stack); }
    bool is_guard(const void *at) const {
        size_t offset = (size_t)((const char *)at - map);
        return offset < MAX_THREADS * (SIZE + GUARD) && offset % (SIZE + GUARD) < GUARD;
    }
};
