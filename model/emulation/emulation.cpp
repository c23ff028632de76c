// Runs the GPU kernels on the CPU: block by block, and the threads of a block in turn, each up to the next
// barrier. What it cannot show are races between blocks.

// Its check of jumps knows one stack only.
#undef _FORTIFY_SOURCE

#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstring>
#include <memory>
#include <mutex>

#include <ucontext.h>

#include "../native/gpu/arguments.h"

// Named, since the kernels have external linkage.
namespace emulated {

struct Index {
  unsigned x, y, z;
};
inline Index threadIdx, blockIdx;

struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

template <class To, class From>
inline To same_bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

inline float __uint_as_float(unsigned bits) { return same_bits<float>(bits); }
inline unsigned __float_as_uint(float value) { return same_bits<unsigned>(value); }

inline float emulated_half_to_float(unsigned short bits) {
  return static_cast<float>(same_bits<_Float16>(bits));
}
inline unsigned short emulated_float_to_half(float value) {
  return same_bits<unsigned short>(static_cast<_Float16>(value));
}

inline void __threadfence() {}
inline unsigned atomicAdd(unsigned* to, unsigned value) {
  const unsigned before = *to;
  *to += value;
  return before;
}

void barrier();

}  // namespace emulated

using namespace emulated;

#define __device__
#define __global__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(threads)
#define __syncthreads barrier

// In the order of `TEXT` in `src/nn/kernels/program.rs`.
#include "../native/gpu/kernels.cu"
#include "../native/gpu/depthwise.cu"
#include "../native/gpu/entry_points.cu"

namespace emulated {

using rsflow::gpu::THREADS;
using Kernel = void (*)(const void* arguments);

constexpr std::size_t STACK = 64 << 10;

// What runs; one kernel at a time.
std::mutex running;
Kernel kernel;
const void* kernel_arguments;
ucontext_t scheduler;
std::jmp_buf of_scheduler;
std::jmp_buf of_threads[THREADS];
enum class State { NEW, WAITS, ENDED } states[THREADS];

// A thread begins by a change of context, which is a system call; from then on it jumps.
void barrier() {
  if (_setjmp(of_threads[threadIdx.x]) == 0) {
    states[threadIdx.x] = State::WAITS;
    _longjmp(of_scheduler, 1);
  }
}

void run_thread() {
  kernel(kernel_arguments);
  states[threadIdx.x] = State::ENDED;
  _longjmp(of_scheduler, 1);
}

// Runs a thread up to the next barrier, or its end.
void resume(int thread, char* stacks) {
  threadIdx.x = thread;
  if (_setjmp(of_scheduler) != 0) {
    return;
  }
  if (states[thread] == State::WAITS) {
    _longjmp(of_threads[thread], 1);
  }
  ucontext_t fresh;
  getcontext(&fresh);
  fresh.uc_stack.ss_sp = stacks + thread * STACK;
  fresh.uc_stack.ss_size = STACK;
  makecontext(&fresh, run_thread, 0);
  swapcontext(&scheduler, &fresh);
}

void run_block(char* stacks) {
  for (auto& state : states) {
    state = State::NEW;
  }
  resume(0, stacks);
  if (states[0] == State::ENDED) {
    // A kernel without barriers.
    for (int i = 1; i < THREADS; ++i) {
      threadIdx.x = i;
      kernel(kernel_arguments);
    }
    return;
  }
  for (bool all = false; !all;) {
    all = true;
    for (int i = 0; i < THREADS; ++i) {
      // The first one waits at its first barrier.
      const bool is_there = i == 0 && states[1] == State::NEW;
      if (states[i] != State::ENDED && !is_there) {
        resume(i, stacks);
        all = all && states[i] == State::ENDED;
      }
    }
    all = all && states[0] == State::ENDED;
  }
}

#define RSFLOW_UNPACK(name, Arguments, type)                                   \
  {"rsflow_" #name "_" #type, [](const void* arguments) {                      \
     rsflow_##name##_##type(*static_cast<const rsflow::gpu::Arguments*>(arguments)); \
   }},
#define RSFLOW_UNPACK_TYPE(type) RSFLOW_KERNELS(RSFLOW_UNPACK, type)

struct Entry {
  const char* name;
  Kernel kernel;
};
const Entry ENTRIES[] = {RSFLOW_TYPES(RSFLOW_UNPACK_TYPE)};

}  // namespace emulated

// The kernel of a name, for `rsflow_emulated_launch`; null if there is none.
extern "C" const void* rsflow_emulated_kernel(const char* name) {
  for (const auto& entry : ENTRIES) {
    if (std::strcmp(entry.name, name) == 0) {
      return &entry;
    }
  }
  return nullptr;
}

// As `cuLaunchKernel`. Returns when the kernel has run.
extern "C" int rsflow_emulated_launch(void* function, unsigned blocks_x, unsigned blocks_y,
                                      unsigned blocks_z, unsigned threads_x, unsigned, unsigned,
                                      unsigned, void*, void** arguments, void**) {
  if (function == nullptr || blocks_z != 1 || threads_x != THREADS) {
    return 1;
  }
  const std::lock_guard<std::mutex> lock(running);
  kernel = static_cast<const Entry*>(function)->kernel;
  kernel_arguments = arguments[0];
  const auto stacks = std::make_unique<char[]>(STACK * THREADS);
  for (unsigned y = 0; y < blocks_y; ++y) {
    for (unsigned x = 0; x < blocks_x; ++x) {
      // Not in their order: no block may rely on another one.
      blockIdx = {blocks_x - 1 - x, blocks_y - 1 - y, 0};
      run_block(stacks.get());
    }
  }
  return 0;
}
