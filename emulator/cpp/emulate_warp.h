// Operations of a warp: its lanes meet, and the last one to come does the work of all.
#pragma once

inline void __syncwarp(u32 mask = 0xffffffffu) {
    emulator_meet(mask, nullptr, [](void *const *, u32) {});
}

namespace emulator {

// One lane's part of a shuffle; what comes from a lane outside of the mask is NaN, as undefined as on a card.
template <class T> struct Shuffle {
    T given, taken;
    int from;
};
template <class T> inline T shuffle(u32 mask, T x, int from) {
    Shuffle<T> mine{x, x, from};
    emulator_meet(mask, &mine, [](void *const *lanes, u32 mask) {
        for (u32 i = 0; i < 32; i++) {
            if (!(mask >> i & 1)) continue;
            auto &to = *(Shuffle<T> *)lanes[i];
            if (mask >> to.from & 1) to.taken = ((Shuffle<T> *)lanes[to.from])->given;
            else __builtin_memset((void *)&to.taken, 0xff, sizeof(T));
        }
    });
    return mine.taken;
}
inline int lane() {
    const emulator_place &now = emulator_now;
    return (int)((now.thread.x + now.block_dim.x * (now.thread.y + now.block_dim.y * now.thread.z)) % 32);
}

struct Vote {
    bool yes;
    u32 all;
};
inline u32 vote(u32 mask, bool yes) {
    Vote mine{yes, 0};
    emulator_meet(mask, &mine, [](void *const *lanes, u32 mask) {
        u32 all = 0;
        for (u32 i = 0; i < 32; i++)
            if (mask >> i & 1) all |= (u32)((Vote *)lanes[i])->yes << i;
        for (u32 i = 0; i < 32; i++)
            if (mask >> i & 1) ((Vote *)lanes[i])->all = all;
    });
    return mine.all;
}

} // namespace emulator

// `width` lanes, a power of two, exchange among themselves; a lane whose source lies outside of them keeps its own.
template <class T> inline T __shfl_sync(u32 mask, T x, int from, int width = 32) {
    int lane = emulator::lane();
    return emulator::shuffle(mask, x, (lane & -width) + (from & (width - 1)));
}
template <class T> inline T __shfl_xor_sync(u32 mask, T x, int flip, int width = 32) {
    int lane = emulator::lane(), from = lane ^ flip;
    return emulator::shuffle(mask, x, from < (lane & -width) + width ? from : lane);
}
template <class T> inline T __shfl_up_sync(u32 mask, T x, u32 by, int width = 32) {
    int lane = emulator::lane(), from = lane - (int)by;
    return emulator::shuffle(mask, x, from >= (lane & -width) ? from : lane);
}
template <class T> inline T __shfl_down_sync(u32 mask, T x, u32 by, int width = 32) {
    int lane = emulator::lane(), from = lane + (int)by;
    return emulator::shuffle(mask, x, from < (lane & -width) + width ? from : lane);
}

inline u32 __ballot_sync(u32 mask, int yes) { return emulator::vote(mask, yes != 0); }
inline int __any_sync(u32 mask, int yes) { return emulator::vote(mask, yes != 0) != 0; }
inline int __all_sync(u32 mask, int yes) { return emulator::vote(mask, yes != 0) == mask; }
