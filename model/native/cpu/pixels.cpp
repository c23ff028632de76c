// Bytes of images as the network takes them, called by `src/nn/kernels/pixels.rs`. The calling convention is
// described in `../guard.h`.

#include <cstdint>

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include "../guard.h"

// RGB, uint8 `[count, height, width, 3]`, as float32 `[count, 3, height, width]` in channels last: channel c of the
// result has `table[c][b]` where channel `order[c]` has the byte b.
extern "C" const char* rsflow_pixels(const std::uint8_t* bytes, std::int64_t count, std::int64_t height,
                                     std::int64_t width, const float (*table)[256], const std::int32_t* order,
                                     at::Tensor** output) {
  return catch_exceptions([&] {
    const auto images = at::empty({count, 3, height, width}, at::kFloat, at::MemoryFormat::ChannelsLast);
    float* const to = images.mutable_data_ptr<float>();
    at::parallel_for(0, count * height * width, 1 << 14, [&](std::int64_t begin, std::int64_t end) {
      for (auto pixel = begin; pixel < end; ++pixel) {
        for (int c = 0; c < 3; ++c) {
          to[3 * pixel + c] = table[c][bytes[3 * pixel + order[c]]];
        }
      }
    });
    deref(output) = new at::Tensor(images);
  });
}
