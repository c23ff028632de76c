// Inverted residual blocks (MobileNetV2) in float32 and channels last for inference, row by row of the output: a
// convolution of 1 x 1 that adds channels, a depthwise one of 3 x 3, and one of 1 x 1 that takes them away again. The
// maps in between, several times as large as those at both ends, are never whole: their rows stay in a core's cache.
// Each value is the one that `convolution.cpp` computes, to the bit. Called by `src/nn/kernels/inverted.rs`; the
// calling convention is described in `../guard.h`.

#include <algorithm>
#include <cstdint>

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include "../guard.h"
#include "buffers.h"
#include "convolution.h"

namespace rsflow {
namespace cpu {
namespace convolution {
namespace {

// The rows of the output, at least, that a thread computes one after the other: it begins with two rows of the larger
// map that another thread computes, too.
constexpr std::int64_t LINES = 8;
// The rows of the input that a row of the output depends on.
constexpr std::int64_t WINDOW = 3;

// As `Part` in `src/nn/kernels/inverted.rs`: a packed weight, and the batch norm and activation that follow it.
struct Part {
  const at::Tensor *weight, *scale, *shift;
  Activation activation;
};

// A convolution of 1 x 1, of at most BLOCK channels of the input.
struct Product {
  const float *weights, *scale, *shift;
  std::int64_t inputs, outputs;
  float low, high;
};

Product product_of(const Part& part, std::int64_t inputs) {
  TORCH_CHECK(inputs <= BLOCK, inputs, " channels are too many for a sum that is not cut");
  return {deref(part.weight).const_data_ptr<float>(),
          deref(part.scale).const_data_ptr<float>(),
          deref(part.shift).const_data_ptr<float>(),
          inputs,
          deref(part.scale).numel(),
          lowest(part.activation),
          highest(part.activation)};
}

// So many pixels, which lie one after the other. `residual` may be null.
void multiply(const Set& set, const Product& by, const float* from, std::int64_t pixels, const float* residual,
              float* to) {
  const Panels panels(set, by.outputs);
  const auto tiles = (pixels + ROWS - 1) / ROWS;
  Tile tile{};
  tile.taps = 1;
  tile.run = by.inputs;
  tile.outputs = by.outputs;
  tile.low = by.low;
  tile.high = by.high;
  tile.is_first = tile.is_last = true;
  for (std::int64_t panel = 0; panel < panels.count; ++panel) {
    const auto vectors = panels.begin(panel + 1) - panels.begin(panel), first = panels.begin(panel) * panels.lanes;
    tile.weights = by.weights + first * by.inputs;
    tile.ahead = reinterpret_cast<const char*>(tile.weights);
    tile.scale = by.scale + first;
    tile.shift = by.shift + first;
    tile.last = static_cast<int>(std::min(panels.lanes, by.outputs - first - (vectors - 1) * panels.lanes));
    for (std::int64_t next = 0; next < tiles; ++next) {
      const auto begin = pixels * next / tiles, rows = pixels * (next + 1) / tiles - begin;
      const float* table[ROWS];
      for (std::int64_t r = 0; r < ROWS; ++r) {
        table[r] = from + (begin + std::min(r, rows - 1)) * by.inputs;
      }
      tile.pixels = table;
      tile.output = to + begin * by.outputs + first;
      tile.residual = residual == nullptr ? nullptr : residual + begin * by.outputs + first;
      set.tile(tile, static_cast<int>(rows), static_cast<int>(vectors));
    }
  }
}

at::Tensor run(const at::Tensor& input, const Part* expand, const Part& depthwise, const Part& project,
               const Geometry& at, const at::Tensor* residual) {
  constexpr auto FORMAT = at::MemoryFormat::ChannelsLast;
  TORCH_CHECK(input.dim() == 4 && input.scalar_type() == at::kFloat && input.is_cpu(),
              "images are float32, of four dimensions, on the CPU");
  const auto& of = set(at.set);
  const auto x = input.contiguous(FORMAT);
  const auto batch = x.size(0), channels = x.size(1), height = x.size(2), width = x.size(3);
  const auto inner = deref(depthwise.scale).numel();
  const auto last = product_of(project, inner);
  TORCH_CHECK(expand != nullptr || inner == channels, "images of ", channels, " channels for a block of ", inner);
  const auto first = expand == nullptr ? Product{} : product_of(*expand, channels);
  const auto y = buffer({batch, last.outputs, at.height, at.width});
  at::Tensor added;
  if (residual != nullptr) {
    TORCH_CHECK(residual->sizes() == y.sizes() && residual->scalar_type() == at::kFloat,
                "a residual of shape ", residual->sizes(), " for a result of shape ", y.sizes());
    added = residual->contiguous(FORMAT);
  }
  const float* const from = x.const_data_ptr<float>();
  const float* const residuals = added.defined() ? added.const_data_ptr<float>() : nullptr;
  float* const to = y.mutable_data_ptr<float>();
  Row common{};
  common.weights = deref(depthwise.weight).const_data_ptr<float>();
  common.scale = deref(depthwise.scale).const_data_ptr<float>();
  common.shift = deref(depthwise.shift).const_data_ptr<float>();
  common.channels = inner;
  common.width = width;
  common.outputs = at.width;
  common.stride = at.stride;
  common.left = at.left;
  common.low = lowest(depthwise.activation);
  common.high = highest(depthwise.activation);
  at::parallel_for(0, batch * at.height, LINES, [&](std::int64_t begin, std::int64_t end) {
    auto row = common;
    // The latest rows of the larger map, row i at the place i % WINDOW, and one of the depthwise convolution.
    const auto window = expand == nullptr ? 0 : WINDOW * inner * width;
    float* const rows = scratch(window + inner * at.width);
    row.output = rows + window;
    std::int64_t made = 0;
    for (auto line = begin; line < end; ++line) {
      const auto image = line / at.height, top = line % at.height * at.stride - at.top;
      const float* const images = from + image * height * width * channels;
      if (line == begin || line % at.height == 0) {
        made = 0;
      }
      made = std::max(made, top);
      for (std::int64_t ky = 0; ky < WINDOW; ++ky) {
        const auto next = top + ky;
        if (next < 0 || next >= height) {
          row.input[ky] = nullptr;
        } else if (expand == nullptr) {
          row.input[ky] = images + next * width * channels;
        } else {
          for (; made <= next; ++made) {
            multiply(of, first, images + made * width * channels, width, nullptr,
                     rows + made % WINDOW * width * inner);
          }
          row.input[ky] = rows + next % WINDOW * width * inner;
        }
      }
      of.row(row);
      const auto offset = line * at.width * last.outputs;
      multiply(of, last, row.output, at.width, residuals == nullptr ? nullptr : residuals + offset, to + offset);
    }
  });
  return y;
}

}  // namespace
}  // namespace convolution
}  // namespace cpu
}  // namespace rsflow

// activation(project(activation(depthwise(activation(expand(images))))) + residual), each part with its batch norm:
// `[batch, outputs, height, width]` in channels last. `geometry` is that of the depthwise convolution; `expand` and
// `residual` may be null.
extern "C" const char* rsflow_inverted_residual(const at::Tensor* images,
                                                const rsflow::cpu::convolution::Part* expand,
                                                const rsflow::cpu::convolution::Part* depthwise,
                                                const rsflow::cpu::convolution::Part* project,
                                                const rsflow::cpu::convolution::Geometry* geometry,
                                                const at::Tensor* residual, at::Tensor** output) {
  return catch_exceptions([&] {
    deref(output) = new at::Tensor(rsflow::cpu::convolution::run(deref(images), expand, deref(depthwise),
                                                                 deref(project), deref(geometry), residual));
  });
}
