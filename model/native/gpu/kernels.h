// The compiled kernels, as the program or a test hands them over, and how they are launched.

#pragma once

#include <cstdint>

#include <ATen/core/Tensor.h>

#include "arguments.h"

namespace rsflow {
namespace gpu {

// Of all tensors that kernels take.
constexpr auto LAST = at::MemoryFormat::ChannelsLast;

// In the order of `rsflow_kernel_name`.
enum class Kernel : int {
#define RSFLOW_COUNT_KERNEL(name, Arguments, type) name##_##type,
#define RSFLOW_COUNT_TYPE(type) RSFLOW_KERNELS(RSFLOW_COUNT_KERNEL, type)
  RSFLOW_TYPES(RSFLOW_COUNT_TYPE)
#undef RSFLOW_COUNT_TYPE
#undef RSFLOW_COUNT_KERNEL
      COUNT
};

// The version of a kernel for the type of `values`. Those of a type follow each other.
Kernel kernel_for(Kernel of_f32, const at::Tensor& values);

// Values of a vector of 16 bytes.
int lanes(const at::Tensor& values);

// Whether kernels are there for tensors like this: its device, dtype and memory format, [batch, channels,
// height, width], with whole vectors of channels.
bool has_kernels_for(const at::Tensor& values);

// Starts a kernel on the current stream of the tensor's device.
void launch(Kernel kernel, const at::Tensor& on, unsigned blocks_x, unsigned blocks_y,
            const void* arguments);

// The blocks of a kernel that computes `rows` of `vectors`, `threads` for each vector, with at most `width`
// vectors of a row in a block. It depends on nothing else, since sums depend on it.
struct Grid {
  Tiles tiles;
  unsigned columns;

  Grid(std::int64_t rows, std::int64_t vectors, std::int64_t width, std::int64_t threads = 1);

  // Starts the version of a kernel for the type of `x`, on its device.
  void run(Kernel of_f32, const at::Tensor& x, const void* arguments) const;
};

std::int64_t divided_up(std::int64_t a, std::int64_t b);

// Counters for blocks: zeros, which every kernel leaves as zeros. At least `count`.
unsigned* counters(const at::Tensor& on, std::int64_t count);

}  // namespace gpu
}  // namespace rsflow
