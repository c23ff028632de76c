// What tch does not bind, for `src/native.rs` to call; see `told.h` for how.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <vector>

#include <malloc.h>

#include <ATen/Context.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/_amp_foreach_non_finite_check_and_unscale.h>
#include <ATen/ops/_fused_sgd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/from_blob.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/accumulate.h>

#include <torch/headeronly/version.h>

#include "told.h"

namespace {

std::vector<at::Tensor> list(const at::Tensor* const* tensors, std::size_t count) {
  std::vector<at::Tensor> list;
  list.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    const auto& tensor = at_end_of(at_end_of(tensors + i));
    TORCH_CHECK(tensor.defined(), "a tensor that is not defined");
    list.push_back(tensor);
  }
  return list;
}

// Whether the same element of both is at the same place in memory. How far it would be to the
// next one says nothing where there is none.
bool lie_alike(const at::Tensor& a, const at::Tensor& b) {
  for (int64_t d = 0; d < a.dim(); ++d) {
    if (a.size(d) > 1 && a.stride(d) != b.stride(d)) {
      return false;
    }
  }
  return true;
}

void check_pair(const at::Tensor& parameter, const at::Tensor& other, const char* what) {
  TORCH_CHECK(other.sizes() == parameter.sizes(), what, " has the shape ", other.sizes(),
              ", its parameter ", parameter.sizes());
  TORCH_CHECK(other.scalar_type() == parameter.scalar_type(), what, " is of the kind ",
              other.scalar_type(), ", its parameter ", parameter.scalar_type());
  TORCH_CHECK(other.device() == parameter.device(), what, " is on ", other.device(),
              ", its parameter on ", parameter.device());
}

constexpr auto GPU = c10::DeviceType::CUDA;

// Copies to one GPU, on a stream of their own beside the one that computes.
struct Uploads {
  explicit Uploads(c10::DeviceIndex index)
      : device(GPU, index), guard(GPU), stream(guard.getStreamFromGlobalPool(device)) {}

  c10::Device device;
  c10::impl::VirtualGuardImpl guard;
  c10::Stream stream;
};

}  // namespace

// Has the C library keep memory that is freed, for the next step to use.
extern "C" void rsflow_keep_freed_memory() {
#ifdef __GLIBC__
  mallopt(M_MMAP_MAX, 0);
  mallopt(M_TRIM_THRESHOLD, -1);  // never
  mallopt(M_TOP_PAD, 64 << 20);
#endif
}

// The version of libtorch whose headers this was built with.
extern "C" const char* rsflow_libtorch_version() { return TORCH_VERSION; }

// Whether GPUs may multiply float32 as TF32, and whether every kernel has to give the same bits each
// time.
extern "C" const char* rsflow_set_arithmetic(bool tf32, bool deterministic) {
  return told([&] {
    auto& context = at::globalContext();
    const auto precision = tf32 ? at::Float32Precision::TF32 : at::Float32Precision::IEEE;
    context.setFloat32Precision(at::Float32Backend::CUDA, at::Float32Op::ALL, precision);
    for (const auto op : {at::Float32Op::CONV, at::Float32Op::RNN, at::Float32Op::MATMUL}) {
      context.setFloat32Precision(at::Float32Backend::CUDA, op, precision);
    }
    if (deterministic) {
      // cuBLAS looks at it when it is first used; its own default may not repeat itself.
      setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8", /*overwrite=*/0);
    }
    context.setDeterministicAlgorithms(deterministic, /*warn_only=*/false);
    context.setDeterministicCuDNN(deterministic);
    // Every tensor is written before it is read; filling it first would be time lost.
    context.setDeterministicFillUninitializedMemory(false);
  });
}

// One step of SGD on `count` parameters. `momenta` are as many, or ignored if `momentum` is 0.
// `overflow` may be null; where it is 1, nothing is moved.
// The kernel walks through memory from front to back and trusts that all three lists fit, so that
// is seen to here: gradients that lie in another order are copied.
extern "C" const char* rsflow_fused_sgd(const at::Tensor* const* parameters,
                                        const at::Tensor* const* gradients,
                                        const at::Tensor* const* momenta, std::size_t count,
                                        double lr, double momentum, double weight_decay,
                                        bool nesterov, const at::Tensor* overflow) {
  return told([&] {
    const auto p = list(parameters, count);
    auto g = list(gradients, count);
    const auto m = list(momenta, momentum == 0.0 ? 0 : count);
    for (std::size_t i = 0; i < count; ++i) {
      TORCH_CHECK(p[i].is_non_overlapping_and_dense(), "a parameter has gaps in memory");
      check_pair(p[i], g[i], "a gradient");
      if (!lie_alike(p[i], g[i])) {
        g[i] = at::empty_like(p[i]).copy_(g[i]);
      }
    }
    for (std::size_t i = 0; i < m.size(); ++i) {
      check_pair(p[i], m[i], "a momentum");
      TORCH_CHECK(lie_alike(p[i], m[i]), "a momentum does not lie in memory as its parameter does");
    }
    at::_fused_sgd_(p, g, m, weight_decay, momentum, lr, /*dampening=*/0.0, nesterov,
                    /*maximize=*/false, /*is_first_step=*/false, /*grad_scale=*/{},
                    overflow == nullptr ? std::nullopt : std::make_optional(*overflow));
  });
}

// Multiplies gradients by `inverse_scale` in place, and sets `overflow` to 1 if one is not finite.
extern "C" const char* rsflow_unscale(const at::Tensor* const* gradients, std::size_t count,
                                      const at::Tensor* overflow,
                                      const at::Tensor* inverse_scale) {
  return told([&] {
    auto found = at_end_of(overflow);  // the same tensor
    at::_amp_foreach_non_finite_check_and_unscale_(list(gradients, count), found,
                                                   at_end_of(inverse_scale));
  });
}

// Memory that GPUs read by themselves, as a new tensor of bytes.
extern "C" const char* rsflow_pinned(std::size_t bytes, at::Tensor** output) {
  return told([&] {
    const auto options = at::TensorOptions(at::kByte).pinned_memory(true);
    at_end_of(output) = new at::Tensor(at::empty({static_cast<std::int64_t>(bytes)}, options));
  });
}

// Waits until a GPU has done all that was asked of it.
extern "C" const char* rsflow_synchronize(int gpu) {
  return told([&] { c10::impl::VirtualGuardImpl(GPU).synchronizeDevice(gpu); });
}

// Bytes of a GPU's memory: the most that tensors had at once since it was last asked, and all.
extern "C" const char* rsflow_take_peak_memory(int gpu, std::uint64_t* peak, std::uint64_t* total) {
  return told([&] {
    auto* const allocator = c10::getDeviceAllocator(GPU);
    constexpr auto all = static_cast<std::size_t>(c10::CachingAllocator::StatType::AGGREGATE);
    at_end_of(peak) = static_cast<std::uint64_t>(allocator->getDeviceStats(gpu).allocated_bytes[all].peak);
    at_end_of(total) = allocator->getMemoryInfo(gpu).second;
    allocator->resetPeakStats(gpu);
  });
}

// Gives back to the system what libtorch keeps of GPUs' memory for later use.
extern "C" const char* rsflow_empty_cache() {
  return told([] { c10::getDeviceAllocator(GPU)->emptyCache(); });
}

extern "C" const char* rsflow_uploads_new(int gpu, Uploads** uploads) {
  return told([&] { at_end_of(uploads) = new Uploads(static_cast<c10::DeviceIndex>(gpu)); });
}

extern "C" void rsflow_uploads_delete(Uploads* uploads) { delete uploads; }

// Begins to copy `bytes` into a new tensor, and has the stream that computes wait for it. The bytes
// have to stay until `rsflow_uploads_wait`.
extern "C" const char* rsflow_upload(Uploads* uploads, const void* bytes, int kind,
                                     const std::int64_t* shape, std::size_t dimensions,
                                     at::Tensor** output) {
  return told([&] {
    auto& by = at_end_of(uploads);
    const at::IntArrayRef sizes(&at_end_of(shape), dimensions);
    TORCH_CHECK(bytes != nullptr || c10::multiply_integers(sizes) == 0, "no bytes to copy");
    const auto options = at::TensorOptions(static_cast<at::ScalarType>(kind));
    const auto from = at::from_blob(const_cast<void*>(bytes), sizes, options);
    const auto computing = by.guard.getStream(by.device);
    at::Tensor to;
    {
      const c10::StreamGuard copying(by.stream);
      to = at::empty(sizes, options.device(by.device));
      to.copy_(from, /*non_blocking=*/true);
    }
    // The memory belongs to the stream that copies, and is not to be used again before the other
    // one is done with it.
    by.guard.recordDataPtrOnStream(to.storage().data_ptr(), computing);
    c10::Event copied(GPU);
    copied.record(by.stream);
    copied.block(computing);
    at_end_of(output) = new at::Tensor(std::move(to));
  });
}

// Waits until all copies are done.
extern "C" const char* rsflow_uploads_wait(Uploads* uploads) {
  return told([&] {
    auto& by = at_end_of(uploads);
    by.guard.synchronizeStream(by.stream);
  });
}
