// CUDA graphs: kernels that are recorded once and started again all at once. By the class of libtorch,
// which also keeps the memory apart that the kernels use. It is in libtorch's part for GPUs, which is
// loaded when it is wanted, so its functions are looked up by name.

#include <array>
#include <cstddef>
#include <memory>
#include <utility>

#include <dlfcn.h>

#include <c10/core/Stream.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include "../guard.h"

namespace {

// As in libtorch 2.11.
using PoolId = std::pair<unsigned long long, unsigned long long>;
// Calls of other threads, such as the allocation of page-locked memory, do not end the recording.
constexpr int THREAD_LOCAL = 1;

template <typename Function>
Function* find(const char* name) {
  auto* const found = dlsym(RTLD_DEFAULT, name);
  TORCH_CHECK(found != nullptr, "this libtorch has no ", name);
  return reinterpret_cast<Function*>(found);
}

// The functions of `at::cuda::CUDAGraph`.
struct Functions {
  void (*construct)(void*, bool) = find<void(void*, bool)>("_ZN2at4cuda9CUDAGraphC1Eb");
  void (*destroy)(void*) = find<void(void*)>("_ZN2at4cuda9CUDAGraphD1Ev");
  void (*begin)(void*, PoolId, int) =
      find<void(void*, PoolId, int)>("_ZN2at4cuda9CUDAGraph13capture_beginESt4pairIyyE21cudaStreamCaptureMode");
  void (*end)(void*) = find<void(void*)>("_ZN2at4cuda9CUDAGraph11capture_endEv");
  void (*replay)(void*) = find<void(void*)>("_ZN2at4cuda9CUDAGraph6replayEv");
};

const Functions& functions() {
  static const Functions found;
  return found;
}

class Graph {
 public:
  // Kernels that this thread starts from now on are recorded, and do not run.
  explicit Graph(int gpu)
      : guard_(c10::DeviceType::CUDA),
        device_(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(gpu)),
        before_(guard_.getStream(device_)) {
    guard_.synchronizeDevice(device_.index());
    functions().construct(memory_.data(), /*keep_graph=*/false);
    // The default stream cannot be recorded.
    guard_.exchangeStream(guard_.getStreamFromGlobalPool(device_));
    try {
      functions().begin(memory_.data(), PoolId{0, 0}, THREAD_LOCAL);
    } catch (...) {
      guard_.exchangeStream(before_);
      functions().destroy(memory_.data());
      throw;
    }
  }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  ~Graph() { functions().destroy(memory_.data()); }

  void end() {
    // A recording ends on the stream that it began on.
    try {
      functions().end(memory_.data());
    } catch (...) {
      guard_.exchangeStream(before_);
      throw;
    }
    guard_.exchangeStream(before_);
  }

  void replay() { functions().replay(memory_.data()); }

 private:
  c10::impl::VirtualGuardImpl guard_;
  c10::Device device_;
  c10::Stream before_;
  // An `at::cuda::CUDAGraph`, which takes some 150 bytes.
  alignas(64) std::array<std::byte, 2048> memory_;
};

}  // namespace

// Begins to record what this thread starts on a GPU.
extern "C" const char* rsflow_cuda_graph_begin(int gpu, Graph** graph) {
  return catch_exceptions([&] { deref(graph) = new Graph(gpu); });
}

// Ends the recording, on the thread that began it.
extern "C" const char* rsflow_cuda_graph_end(Graph* graph) {
  return catch_exceptions([&] { deref(graph).end(); });
}

// Starts what was recorded, on the current stream.
extern "C" const char* rsflow_cuda_graph_replay(Graph* graph) {
  return catch_exceptions([&] { deref(graph).replay(); });
}

extern "C" void rsflow_cuda_graph_delete(Graph* graph) { delete graph; }
