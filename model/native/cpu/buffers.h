// Memory for weights and for the results of forward passes on the CPU; the latter is kept for the next pass.

#pragma once

#include <ATen/core/Tensor.h>

namespace rsflow {
namespace cpu {

// An uninitialized float32 tensor `[batch, channels, height, width]` in channels last.
at::Tensor buffer(at::IntArrayRef size);

// So many floats, uninitialized, of this thread alone, until it asks again: they stay in its core's cache from one
// call to the next, which what another core has written last does not. The thread keeps them.
float* scratch(std::int64_t count);

// So many float32 zeros, for weights: memory of their own, in large pages.
at::Tensor zeros(std::int64_t count);

}  // namespace cpu
}  // namespace rsflow
