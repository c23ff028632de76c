// What `convolution.cpp`, `winograd.cpp` and `inverted.cpp` have in common.

#pragma once

#include <cstdint>
#include <limits>

#include <ATen/core/Tensor.h>

#include "../norm.h"
#include "convolution_sets.h"

namespace rsflow {
namespace cpu {
namespace convolution {

// The terms of a sum after which it is cut.
constexpr std::int64_t BLOCK = 512;

// As `Geometry` in `src/nn/kernels/convolution.rs`.
struct Geometry {
  std::int64_t set, kernel, stride, groups;
  // Pixels of padding before the image, and the size of the output.
  std::int64_t top, left, height, width;
  // Whether the weight is packed for `winograd`.
  std::int64_t is_winograd;
};

// How the channels of a group are cut into panels, as equal as they can be.
struct Panels {
  std::int64_t lanes, vectors, count;

  Panels(const Set& set, std::int64_t channels)
      : lanes(set.lanes),
        vectors((channels + set.lanes - 1) / set.lanes),
        count((vectors + set.widest - 1) / set.widest) {}

  // The vector at which a panel begins.
  std::int64_t begin(std::int64_t panel) const { return vectors * panel / count; }
};

// What an activation leaves of a value.
inline float lowest(Activation activation) {
  return activation == Activation::NONE ? -std::numeric_limits<float>::infinity() : 0;
}

inline float highest(Activation activation) {
  return activation == Activation::RELU6 ? 6 : std::numeric_limits<float>::infinity();
}

// What all tiles of a call have in common.
struct Job {
  const Set& set;
  Geometry geometry;
  // Of the input.
  const float* x = nullptr;
  std::int64_t batch = 0, channels = 0, height = 0, width = 0;
  const float *weights = nullptr, *scale = nullptr, *shift = nullptr, *residual = nullptr;
  float* y = nullptr;
  std::int64_t outputs = 0;
  float low = 0, high = 0;
};

// Of a weight `[outputs, inputs, 3, 3]`, float32 and contiguous: the right sides of the 16 products.
at::Tensor pack_winograd(const Set& set, const at::Tensor& weight);

// A convolution of 3 x 3 without groups, of stride 1, and of at most BLOCK channels of the input.
void winograd(const Job& job);

}  // namespace convolution
}  // namespace cpu
}  // namespace rsflow
