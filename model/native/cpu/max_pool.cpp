// Max pooling in float32 and channels last for inference, called by `src/nn/kernels/max_pool.rs`. libtorch's
// writes where each maximum was, too, which takes twice the memory. The calling convention is described in
// `../guard.h`.

#include <algorithm>
#include <vector>

#include <ATen/Parallel.h>

#include "../guard.h"
#include "buffers.h"
#include "convolution_sets.h"

namespace {

using namespace rsflow::cpu::convolution;

// As `Pooling` in `src/nn/kernels/max_pool.rs`.
struct Pooling {
  std::int64_t set, kernel, stride;
  // Pixels of padding before the image, and the size of the output.
  std::int64_t top, left, height, width;
};

at::Tensor max_pool(const at::Tensor& input, const Pooling& at) {
  TORCH_CHECK(input.dim() == 4 && input.scalar_type() == at::kFloat && input.is_cpu(),
              "images are float32, of four dimensions, on the CPU");
  const auto x = input.contiguous(at::MemoryFormat::ChannelsLast);
  const auto& of = set(at.set);
  const auto batch = x.size(0), channels = x.size(1), height = x.size(2), width = x.size(3);
  // Each window has a pixel of the image.
  const auto reaches = [&](std::int64_t before, std::int64_t outputs, std::int64_t side) {
    return before < at.kernel && (outputs - 1) * at.stride - before < side;
  };
  TORCH_CHECK(reaches(at.top, at.height, height) && reaches(at.left, at.width, width),
              "a window of the max pooling is beyond the image");
  const auto y = rsflow::cpu::buffer({batch, channels, at.height, at.width});
  const float* const from = x.const_data_ptr<float>();
  float* const to = y.mutable_data_ptr<float>();
  const auto grain = std::max<std::int64_t>(1, (1 << 14) / std::max<std::int64_t>(1, at.width * channels));
  at::parallel_for(0, batch * at.height, grain, [&](std::int64_t begin, std::int64_t end) {
    std::vector<const float*> pixels(at.kernel * at.kernel);
    for (auto line = begin; line < end; ++line) {
      const auto image = line / at.height, top = line % at.height * at.stride - at.top;
      for (std::int64_t column = 0; column < at.width; ++column) {
        const auto left = column * at.stride - at.left;
        Window window{pixels.data(), 0, channels, to + (line * at.width + column) * channels};
        for (auto i = std::max<std::int64_t>(top, 0); i < std::min(top + at.kernel, height); ++i) {
          for (auto j = std::max<std::int64_t>(left, 0); j < std::min(left + at.kernel, width); ++j) {
            pixels[window.count++] = from + ((image * height + i) * width + j) * channels;
          }
        }
        of.window(window);
      }
    }
  });
  return y;
}

}  // namespace

// The largest values of the windows, `[batch, channels, height, width]` in channels last, of images
// `[batch, channels, ..]` in float32. Not a number, where a window has one.
extern "C" const char* rsflow_max_pool_cpu(const at::Tensor* images, const Pooling* pooling, at::Tensor** output) {
  return catch_exceptions([&] { deref(output) = new at::Tensor(max_pool(deref(images), deref(pooling))); });
}
