// Memory for the results of forward passes on the CPU, which is kept for the next pass.

#pragma once

#include <ATen/core/Tensor.h>

namespace rsflow {
namespace cpu {

// An uninitialized float32 tensor `[batch, channels, height, width]` in channels last.
at::Tensor buffer(at::IntArrayRef size);

}  // namespace cpu
}  // namespace rsflow
