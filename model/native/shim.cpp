// Functions of libtorch that tch does not bind, called by `src/nn/native.rs`. The calling
// convention is described in `guard.h`.

#include <cstddef>
#include <cstdint>
#include <vector>

#include <malloc.h>

#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/accumulate.h>

#include <torch/headeronly/version.h>

#include "guard.h"

namespace {

constexpr auto GPU = c10::DeviceType::CUDA;

// A side stream for host-to-device copies, which overlap with the kernels of the compute stream.
struct CopyStream {
  explicit CopyStream(c10::DeviceIndex index)
      : device(GPU, index), guard(GPU), stream(guard.getStreamFromGlobalPool(device)) {}

  c10::Device device;
  c10::impl::VirtualGuardImpl guard;
  c10::Stream stream;
};

}  // namespace

// Makes malloc keep freed memory for the next step: no mmap, no trimming of the heap.
extern "C" void rsflow_keep_freed_memory() {
#ifdef __GLIBC__
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, -1);  // never trim
  mallopt(M_TOP_PAD, 64 << 20);
#endif
}

// The version of libtorch whose headers this was built with.
extern "C" const char* rsflow_libtorch_version() { return TORCH_VERSION; }

// The kind of failure of the message that the thread's last call returned.
extern "C" int rsflow_failure_kind() { return static_cast<int>(rsflow::last_failure); }

// Whether float32 convolutions and matrix products may use TF32 on GPUs, and whether only
// deterministic kernels may run.
extern "C" const char* rsflow_set_arithmetic(bool tf32, bool deterministic) {
  return catch_exceptions([&] {
    auto& context = at::globalContext();
    const auto precision = tf32 ? at::Float32Precision::TF32 : at::Float32Precision::IEEE;
    context.setFloat32Precision(at::Float32Backend::CUDA, at::Float32Op::ALL, precision);
    for (const auto op : {at::Float32Op::CONV, at::Float32Op::RNN, at::Float32Op::MATMUL}) {
      context.setFloat32Precision(at::Float32Backend::CUDA, op, precision);
    }
    context.setDeterministicAlgorithms(deterministic, /*warn_only=*/false);
    context.setDeterministicCuDNN(deterministic);
    // Deterministic mode would fill uninitialized tensors; ours are all written before they are
    // read.
    context.setDeterministicFillUninitializedMemory(false);
  });
}

// Page-locked host memory, as a new uint8 tensor.
extern "C" const char* rsflow_pinned(std::size_t bytes, at::Tensor** output) {
  return catch_exceptions([&] {
    const auto options = at::TensorOptions(at::kByte).pinned_memory(true);
    deref(output) = new at::Tensor(at::empty({static_cast<std::int64_t>(bytes)}, options));
  });
}

// Waits for all kernels and copies of a GPU.
extern "C" const char* rsflow_synchronize(int gpu) {
  return catch_exceptions([&] { c10::impl::VirtualGuardImpl(GPU).synchronizeDevice(gpu); });
}

// Bytes of a GPU's memory: the peak allocated to tensors since the last call with `take`, and the total.
extern "C" const char* rsflow_peak_memory(int gpu, bool take, std::uint64_t* peak,
                                          std::uint64_t* total) {
  return catch_exceptions([&] {
    auto* const allocator = c10::getDeviceAllocator(GPU);
    constexpr auto all = static_cast<std::size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    const auto allocated = allocator->getDeviceStats(gpu).allocated_bytes[all];
    deref(peak) = static_cast<std::uint64_t>(allocated.peak);
    deref(total) = allocator->getMemoryInfo(gpu).second;
    if (take) {
      allocator->resetPeakStats(gpu);
    }
  });
}

// Frees the GPU memory that libtorch's caching allocator holds but does not use.
extern "C" const char* rsflow_empty_cache() {
  return catch_exceptions([] { c10::getDeviceAllocator(GPU)->emptyCache(); });
}

extern "C" const char* rsflow_copy_stream_new(int gpu, CopyStream** stream) {
  return catch_exceptions(
      [&] { deref(stream) = new CopyStream(static_cast<c10::DeviceIndex>(gpu)); });
}

extern "C" void rsflow_copy_stream_delete(CopyStream* stream) { delete stream; }

// Starts an asynchronous copy of `bytes` into a new tensor; the compute stream waits for it. The
// bytes must stay valid until `rsflow_copy_stream_wait`.
extern "C" const char* rsflow_copy_to_device(CopyStream* stream, const void* bytes, int dtype,
                                             const std::int64_t* shape, std::size_t dimensions,
                                             at::Tensor** output) {
  return catch_exceptions([&] {
    auto& copies = deref(stream);
    const at::IntArrayRef sizes(&deref(shape), dimensions);
    TORCH_CHECK(bytes != nullptr || c10::multiply_integers(sizes) == 0, "no bytes to copy");
    const auto options = at::TensorOptions(static_cast<at::ScalarType>(dtype));
    const auto source = at::from_blob(const_cast<void*>(bytes), sizes, options);
    const auto compute_stream = copies.guard.getStream(copies.device);
    at::Tensor target;
    {
      const c10::StreamGuard on_copy_stream(copies.stream);
      target = at::empty(sizes, options.device(copies.device));
      target.copy_(source, /*non_blocking=*/true);
    }
    // The caching allocator ties the memory to the copy stream it was allocated on. Without this it
    // could hand the memory out again while the compute stream still reads it.
    copies.guard.recordDataPtrOnStream(target.storage().data_ptr(), compute_stream);
    c10::Event copied(GPU);
    copied.record(copies.stream);
    copied.block(compute_stream);
    deref(output) = new at::Tensor(std::move(target));
  });
}

// Waits for all copies of the stream.
extern "C" const char* rsflow_copy_stream_wait(CopyStream* stream) {
  return catch_exceptions([&] {
    auto& copies = deref(stream);
    copies.guard.synchronizeStream(copies.stream);
  });
}
