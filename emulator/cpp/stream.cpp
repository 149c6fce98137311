// Streams and events. Jobs of a stream run one after another on its thread; with CUDA_EMULATOR_DELAYS each is preceded by
// a short random pause, so that a missing wait between two streams shows instead of hiding behind lucky timing.
#include "stream.h"
#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <set>
#include <thread>
#include <vector>

using Clock = std::chrono::steady_clock;

namespace {

const u32 NON_BLOCKING = 1, DISABLE_TIMING = 2;

// Up to a millisecond, often nothing.
void pause(u64 &state) {
    u32 n = draw(state);
    if (n % 4 == 0) std::this_thread::sleep_for(std::chrono::microseconds(n / 4 % 1000));
}

thread_local bool host_function = false;

// A point of a stream that is reached once.
struct Point {
    std::mutex lock;
    std::condition_variable changed;
    bool reached = false;
    Clock::time_point at;

    void reach() {
        std::lock_guard guard(lock);
        at = Clock::now();
        reached = true;
        changed.notify_all();
    }
    void wait() {
        std::unique_lock guard(lock);
        changed.wait(guard, [&] { return reached; });
    }
    bool is_reached() {
        std::lock_guard guard(lock);
        return reached;
    }
};

} // namespace

struct Stream {
    bool blocking;
    std::mutex lock;
    std::condition_variable changed;
    std::deque<std::function<void()>> jobs;
    u64 pushed = 0, done = 0;
    bool closed = false;

    void push(std::function<void()> job) {
        std::lock_guard guard(lock);
        jobs.push_back(std::move(job));
        pushed++;
        changed.notify_all();
    }
    void wait() {
        std::unique_lock guard(lock);
        changed.wait(guard, [this, mark = pushed] { return done >= mark; });
    }
    bool is_idle() {
        std::lock_guard guard(lock);
        return done == pushed;
    }
    // Ends with the last job after the stream was destroyed.
    void run(u64 *seed) {
        std::unique_lock guard(lock);
        while (true) {
            changed.wait(guard, [this] { return closed || !jobs.empty(); });
            if (jobs.empty()) return;
            auto job = std::move(jobs.front());
            jobs.pop_front();
            guard.unlock();
            if (seed) pause(*seed);
            job();
            job = nullptr;
            guard.lock();
            done++;
            changed.notify_all();
        }
    }
};

struct Event {
    bool timed;
    std::mutex lock;
    // The latest record; none before the first.
    std::shared_ptr<Point> point;

    std::shared_ptr<Point> latest() {
        std::lock_guard guard(lock);
        return point;
    }
};
typedef Event *CUevent;

namespace {

// All that exist. Never destroyed: threads of streams may outlive `main`.
struct All {
    std::mutex lock;
    std::set<std::shared_ptr<Stream>> streams;
    std::set<std::shared_ptr<Event>> events;
    u64 made = 0;
    std::shared_ptr<Stream> standard;
} &all = *new All;

// With `all.lock` held.
std::shared_ptr<Stream> make(bool blocking) {
    auto stream = std::make_shared<Stream>();
    stream->blocking = blocking;
    u64 number = ++all.made;
    std::thread([stream, number] {
        u64 seed;
        bool slow = delays(seed);
        seed += number * 0x9e3779b97f4a7c15ull;
        stream->run(slow ? &seed : nullptr);
    }).detach();
    all.streams.insert(stream);
    return stream;
}

template <class T> std::shared_ptr<T> find(const std::set<std::shared_ptr<T>> &among, T *handle) {
    for (auto &one : among)
        if (one.get() == handle) return one;
    return nullptr;
}

// Null and the two names of the legacy and the per-thread default are one stream here.
std::shared_ptr<Stream> stream_of(CUstream handle) {
    std::lock_guard guard(all.lock);
    if ((u64)handle > 2) return find(all.streams, handle);
    if (!all.standard) all.standard = make(true);
    return all.standard;
}

std::shared_ptr<Event> event_of(CUevent handle) {
    std::lock_guard guard(all.lock);
    return find(all.events, handle);
}

std::shared_ptr<Point> mark(Stream &stream) {
    auto point = std::make_shared<Point>();
    stream.push([point] { point->reach(); });
    return point;
}

// The default stream and the blocking ones run their jobs as if they were one stream: a job of either waits for what
// the other got before. Streams made with NON_BLOCKING, as all of ours should be, are not concerned.
void join_standard(Stream &stream) {
    std::vector<std::shared_ptr<Stream>> others;
    {
        std::lock_guard guard(all.lock);
        if (!stream.blocking || !all.standard) return;
        for (auto &other : all.streams)
            if (other->blocking && other.get() != &stream && (&stream == all.standard.get() || other == all.standard))
                others.push_back(other);
    }
    for (auto &other : others)
        if (!other->is_idle()) stream.push([point = mark(*other)] { point->wait(); });
}

} // namespace

CUresult enqueue(CUstream handle, std::function<void()> job) {
    auto stream = stream_of(handle);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    join_standard(*stream);
    stream->push(std::move(job));
    return CUDA_SUCCESS;
}

CUresult wait_for(CUstream handle) {
    auto stream = stream_of(handle);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    stream->wait();
    return device_error();
}

void wait_for_all() {
    std::unique_lock guard(all.lock);
    auto streams = all.streams;
    guard.unlock();
    for (auto &stream : streams) stream->wait();
}

bool in_host_function() { return host_function; }

// For libcublasLt.
EXPORT int emulator_enqueue(void *stream, void (*run)(void *), void *data) {
    ENTER;
    return enqueue((CUstream)stream, [=] { run(data); });
}

EXPORT CUresult cuStreamCreate(CUstream *handle, u32 flags) {
    ENTER;
    if (!handle || flags > NON_BLOCKING) return CUDA_ERROR_INVALID_VALUE;
    std::lock_guard guard(all.lock);
    *handle = make(flags != NON_BLOCKING).get();
    return CUDA_SUCCESS;
}

EXPORT CUresult cuStreamCreateWithPriority(CUstream *handle, u32 flags, int) { return cuStreamCreate(handle, flags); }

EXPORT CUresult cuStreamDestroy_v2(CUstream handle) {
    ENTER;
    std::lock_guard guard(all.lock);
    auto stream = find(all.streams, handle);
    if (!stream || stream == all.standard) return CUDA_ERROR_INVALID_HANDLE;
    std::lock_guard inner(stream->lock);
    stream->closed = true;
    stream->changed.notify_all();
    all.streams.erase(stream);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuStreamSynchronize(CUstream handle) {
    ENTER;
    return wait_for(handle);
}

EXPORT CUresult cuCtxSynchronize() {
    ENTER;
    wait_for_all();
    return device_error();
}

EXPORT CUresult cuStreamQuery(CUstream handle) {
    ENTER;
    auto stream = stream_of(handle);
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    return stream->is_idle() ? device_error() : CUDA_ERROR_NOT_READY;
}

EXPORT CUresult cuStreamWaitEvent(CUstream handle, CUevent event, u32) {
    ENTER;
    auto waited = event_of(event);
    if (!waited) return CUDA_ERROR_INVALID_HANDLE;
    auto point = waited->latest();
    return point ? enqueue(handle, [point] { point->wait(); }) : CUDA_SUCCESS;
}

EXPORT CUresult cuLaunchHostFunc(CUstream handle, void (*call)(void *), void *data) {
    ENTER;
    if (!call) return CUDA_ERROR_INVALID_VALUE;
    return enqueue(handle, [=] {
        host_function = true;
        call(data);
        host_function = false;
    });
}

EXPORT CUresult cuEventCreate(CUevent *handle, u32 flags) {
    ENTER;
    if (!handle) return CUDA_ERROR_INVALID_VALUE;
    auto event = std::make_shared<Event>();
    event->timed = !(flags & DISABLE_TIMING);
    std::lock_guard guard(all.lock);
    all.events.insert(event);
    *handle = event.get();
    return CUDA_SUCCESS;
}

EXPORT CUresult cuEventDestroy_v2(CUevent handle) {
    ENTER;
    std::lock_guard guard(all.lock);
    auto event = find(all.events, handle);
    if (!event) return CUDA_ERROR_INVALID_HANDLE;
    all.events.erase(event);
    return CUDA_SUCCESS;
}

EXPORT CUresult cuEventRecord(CUevent handle, CUstream stream) {
    ENTER;
    auto event = event_of(handle);
    if (!event) return CUDA_ERROR_INVALID_HANDLE;
    auto point = std::make_shared<Point>();
    CUresult result = enqueue(stream, [point] { point->reach(); });
    if (result) return result;
    std::lock_guard guard(event->lock);
    event->point = point;
    return CUDA_SUCCESS;
}

EXPORT CUresult cuEventQuery(CUevent handle) {
    ENTER;
    auto event = event_of(handle);
    if (!event) return CUDA_ERROR_INVALID_HANDLE;
    auto point = event->latest();
    return !point || point->is_reached() ? device_error() : CUDA_ERROR_NOT_READY;
}

EXPORT CUresult cuEventSynchronize(CUevent handle) {
    ENTER;
    auto event = event_of(handle);
    if (!event) return CUDA_ERROR_INVALID_HANDLE;
    if (auto point = event->latest()) point->wait();
    return device_error();
}

EXPORT CUresult cuEventElapsedTime_v2(float *milliseconds, CUevent start, CUevent end) {
    ENTER;
    auto from = event_of(start), to = event_of(end);
    if (!milliseconds) return CUDA_ERROR_INVALID_VALUE;
    if (!from || !to || !from->timed || !to->timed) return CUDA_ERROR_INVALID_HANDLE;
    auto first = from->latest(), last = to->latest();
    if (!first || !last) return CUDA_ERROR_INVALID_HANDLE;
    if (!first->is_reached() || !last->is_reached()) return CUDA_ERROR_NOT_READY;
    *milliseconds = std::chrono::duration<float, std::milli>(last->at - first->at).count();
    return CUDA_SUCCESS;
}

EXPORT CUresult cuEventElapsedTime(float *milliseconds, CUevent start, CUevent end) {
    return cuEventElapsedTime_v2(milliseconds, start, end);
}
