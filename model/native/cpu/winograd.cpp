// Convolutions of 3 x 3 and stride 1 with 2.25 times fewer multiplications: F(2 x 2, 3 x 3) of Winograd's minimal
// filtering (Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016, equations 7 to 11).
//
// A square of 2 x 2 pixels of the output depends on a patch of 4 x 4 pixels of the input. Its transform B^T d B is
// 16 vectors of channels, each of which is multiplied by a matrix [inputs, outputs], the transform G g G^T of the
// kernel; A^T m A of the 16 products m is the square. So a convolution is 16 products of matrices, of as many rows as
// there are squares. A task has as many squares as leave both sides in a core's cache.
//
// All factors are 1, -1 or 1/2, so that results are about as exact as those of the direct sum; and each output
// depends on its own nine pixels only, also where one is not a number.

#include <algorithm>
#include <vector>

#include <ATen/Parallel.h>

#include "buffers.h"
#include "convolution.h"

namespace rsflow {
namespace cpu {
namespace convolution {
namespace {

constexpr std::int64_t PRODUCTS = 16;
// The floats that a task's left sides and products have at most.
constexpr std::int64_t FLOATS = 1 << 18;

// The rows and columns of squares in an image, and where they are.
struct Squares {
  std::int64_t rows, columns;

  explicit Squares(const Geometry& at) : rows((at.height + 1) / 2), columns((at.width + 1) / 2) {}

  std::int64_t each() const { return rows * columns; }
};

// The left sides of the products for the squares from `first` on, `[16, count, channels]`.
void transform_patches(const Job& job, const Squares& squares, const float* zeros, std::int64_t first,
                       std::int64_t count, float* to) {
  const auto& at = job.geometry;
  Patch patch{};
  patch.channels = job.channels;
  patch.between = count * job.channels;
  for (std::int64_t next = 0; next < count; ++next) {
    const auto image = (first + next) / squares.each(), place = (first + next) % squares.each();
    const auto top = 2 * (place / squares.columns) - at.top, left = 2 * (place % squares.columns) - at.left;
    for (std::int64_t pixel = 0; pixel < 16; ++pixel) {
      const auto y = top + pixel / 4, x = left + pixel % 4;
      const bool is_inside = y >= 0 && y < job.height && x >= 0 && x < job.width;
      patch.pixels[pixel] =
          is_inside ? job.x + ((image * job.height + y) * job.width + x) * job.channels : zeros;
    }
    patch.to = to + next * job.channels;
    job.set.patch(patch);
  }
}

// The products of a panel, `[16, count, width of the panel]`, from the left sides.
void multiply(const Job& job, const float* weights, std::int64_t vectors, std::int64_t count,
              const float* from, float* to) {
  const auto width = vectors * job.set.lanes, size = job.channels * width;
  const auto tiles = (count + ROWS - 1) / ROWS;
  Tile tile{};
  tile.taps = 1;
  tile.run = job.channels;
  tile.outputs = width;
  tile.last = job.set.lanes;
  tile.is_first = true;
  // Each tile fetches its share of the next product's weights, which follow these.
  const auto share = size / tiles;
  tile.step = (share + job.channels - 1) / job.channels * static_cast<std::int64_t>(sizeof(float));
  for (std::int64_t product = 0; product < PRODUCTS; ++product) {
    tile.weights = weights + product * size;
    for (std::int64_t next = 0; next < tiles; ++next) {
      const auto first = count * next / tiles, rows = count * (next + 1) / tiles - first;
      const float* pixels[ROWS];
      for (std::int64_t r = 0; r < ROWS; ++r) {
        pixels[r] = from + (product * count + first + std::min(r, rows - 1)) * job.channels;
      }
      tile.pixels = pixels;
      tile.ahead = reinterpret_cast<const char*>(tile.weights + size + next * share);
      tile.output = to + (product * count + first) * width;
      job.set.tile(tile, static_cast<int>(rows), static_cast<int>(vectors));
    }
  }
}

// The squares from `first` on, of the channels of a panel, from the products.
void transform_products(const Job& job, const Squares& squares, std::int64_t channel, std::int64_t vectors,
                        std::int64_t first, std::int64_t count, const float* from) {
  const auto& at = job.geometry;
  const auto width = vectors * job.set.lanes;
  Square square{};
  square.vectors = static_cast<int>(vectors);
  square.last = static_cast<int>(
      std::min<std::int64_t>(job.set.lanes, job.outputs - channel - (vectors - 1) * job.set.lanes));
  square.between = count * width;
  square.scale = job.scale + channel;
  square.shift = job.shift + channel;
  square.low = job.low;
  square.high = job.high;
  for (std::int64_t next = 0; next < count; ++next) {
    const auto image = (first + next) / squares.each(), place = (first + next) % squares.each();
    const auto top = 2 * (place / squares.columns), left = 2 * (place % squares.columns);
    for (std::int64_t pixel = 0; pixel < 4; ++pixel) {
      const auto y = top + pixel / 2, x = left + pixel % 2;
      const auto offset = ((image * at.height + y) * at.width + x) * job.outputs + channel;
      const bool is_inside = y < at.height && x < at.width;
      square.output[pixel] = is_inside ? job.y + offset : nullptr;
      square.residual[pixel] = is_inside && job.residual != nullptr ? job.residual + offset : nullptr;
    }
    square.products = from + next * width;
    job.set.square(square);
  }
}

}  // namespace

at::Tensor pack_winograd(const Set& set, const at::Tensor& weight) {
  const auto outputs = weight.size(0), inputs = weight.size(1);
  const float* const values = weight.const_data_ptr<float>();
  const Panels panels(set, outputs);
  // `[panels, 16, inputs, width of the panel]`.
  const auto packed = zeros(PRODUCTS * inputs * panels.vectors * panels.lanes);
  float* const to = packed.mutable_data_ptr<float>();
  at::parallel_for(0, outputs, 1, [&](std::int64_t begin, std::int64_t end) {
    for (auto output = begin; output < end; ++output) {
      const auto vector = output / panels.lanes;
      auto panel = vector * panels.count / panels.vectors;
      while (panels.begin(panel + 1) <= vector) {
        ++panel;
      }
      const auto first = panels.begin(panel) * panels.lanes;
      const auto width = panels.begin(panel + 1) * panels.lanes - first;
      for (std::int64_t input = 0; input < inputs; ++input) {
        const float* const g = values + (output * inputs + input) * 9;
        double rows[4][3];
        for (int j = 0; j < 3; ++j) {
          const double a = g[j], b = g[3 + j], c = g[6 + j];
          rows[0][j] = a;
          rows[1][j] = (a + b + c) / 2;
          rows[2][j] = (a - b + c) / 2;
          rows[3][j] = c;
        }
        for (int i = 0; i < 4; ++i) {
          const auto [a, b, c] = rows[i];
          const double results[4] = {a, (a + b + c) / 2, (a - b + c) / 2, c};
          for (int j = 0; j < 4; ++j) {
            to[first * PRODUCTS * inputs + ((4 * i + j) * inputs + input) * width + output - first] =
                static_cast<float>(results[j]);
          }
        }
      }
    }
  });
  return packed;
}

void winograd(const Job& job) {
  const Squares squares(job.geometry);
  const Panels panels(job.set, job.outputs);
  const auto all = job.batch * squares.each();
  const auto width = std::min<std::int64_t>(job.set.widest, panels.vectors) * job.set.lanes;
  const auto most = std::max<std::int64_t>(2 * ROWS, FLOATS / PRODUCTS / (job.channels + width));
  // Every thread has several tasks. Chunks of squares that are as large as may be, each with a part of the panels,
  // so that a thread reads a part of the weights only; the left sides are made anew for each part.
  const auto threads = static_cast<std::int64_t>(at::get_num_threads());
  const auto wanted = threads == 1 ? 1 : 2 * threads;
  auto chunks = (all + most - 1) / most;
  const auto parts = std::clamp<std::int64_t>((wanted + chunks - 1) / chunks, 1, panels.count);
  chunks = std::max(chunks, (wanted + parts - 1) / parts);
  // As many tasks for each thread.
  while (chunks * parts % threads != 0) {
    ++chunks;
  }
  chunks = std::min(all, chunks);
  const std::vector<float> border(job.channels);
  at::parallel_for(0, chunks * parts, 1, [&](std::int64_t begin, std::int64_t end) {
    const auto size = (all + chunks - 1) / chunks;
    float* const left = scratch(PRODUCTS * size * (job.channels + width));
    float* const results = left + PRODUCTS * size * job.channels;
    std::int64_t made = -1;
    for (auto task = begin; task < end; ++task) {
      const auto chunk = task % chunks, part = task / chunks;
      const auto first = all * chunk / chunks, count = all * (chunk + 1) / chunks - first;
      if (chunk != made) {
        transform_patches(job, squares, border.data(), first, count, left);
        made = chunk;
      }
      for (auto panel = panels.count * part / parts; panel < panels.count * (part + 1) / parts; ++panel) {
        const auto from = panels.begin(panel), vectors = panels.begin(panel + 1) - from;
        const auto channel = from * panels.lanes;
        multiply(job, job.weights + channel * PRODUCTS * job.channels, vectors, count, left, results);
        transform_products(job, squares, channel, vectors, first, count, results);
      }
    }
  });
}

}  // namespace convolution
}  // namespace cpu
}  // namespace rsflow
