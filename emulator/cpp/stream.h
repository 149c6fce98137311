// Streams: queues of jobs, each with a thread of its own.
#pragma once
#include "abi.h"
#include <functional>

struct Stream;
typedef Stream *CUstream;

// Appends a job to a stream; null is the default stream.
CUresult enqueue(CUstream stream, std::function<void()> job);
// Blocks until all jobs so far have run.
CUresult wait_for(CUstream stream);
void wait_for_all();
// The thread runs a function of the host as part of a stream, which may call nothing of CUDA.
bool in_host_function();
