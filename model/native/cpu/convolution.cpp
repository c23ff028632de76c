// Convolutions in float32 and channels last for inference, with the batch norm, the residual's addition and the
// activation that follow: activation(conv(x) scale + shift + residual), called by
// `src/nn/kernels/convolution.rs`. Scale and shift are the batch norm's, so all resolutions share one weight,
// whatever the shape of the images. The calling convention is described in `../guard.h`. Some convolutions of 3 x 3
// are computed in another way (`winograd.cpp`).
//
// A convolution is a product of matrices: the pixels of the output by its channels, summed over taps (places of
// the kernel) and channels of the input. The kernel (`convolution_kernels.h`) computes a tile of ROWS pixels by a
// panel of a few vectors of channels. It finds the pixels of the input by a table of pointers, in which the places
// beyond the border are zeros: nothing is copied. Long sums are cut into blocks, so that a block of a panel's
// weights stays in a cache while a chunk of tiles uses it; the sums so far are then in the output. That makes them
// more exact, too: no sum is longer than a block.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>

#include "../guard.h"
#include "buffers.h"
#include "convolution.h"

namespace rsflow {
namespace cpu {
namespace convolution {
namespace {

// The tiles that use a block of weights one after the other, at most.
constexpr std::int64_t CHUNK = 32;

// Whether each channel has a kernel of 3 x 3 of its own.
bool is_depthwise(std::int64_t kernel, std::int64_t groups, std::int64_t inputs, std::int64_t outputs) {
  return kernel == 3 && groups > 1 && groups == inputs && groups == outputs;
}

at::Tensor pack(const Set& set, const at::Tensor& weight, std::int64_t groups, bool is_winograd) {
  const auto from = weight.to(at::kFloat).contiguous();
  if (is_winograd) {
    TORCH_CHECK(groups == 1 && weight.size(2) == 3 && weight.size(1) <= BLOCK, "no weight for `winograd`");
    return pack_winograd(set, from);
  }
  const float* const values = from.const_data_ptr<float>();
  const auto outputs = weight.size(0), inputs = weight.size(1), taps = weight.size(2) * weight.size(3);
  if (is_depthwise(weight.size(2), groups, groups * inputs, outputs)) {
    return from.view({outputs, taps}).t().contiguous();
  }
  const auto each = outputs / groups;
  const Panels panels(set, each);
  const auto width = panels.vectors * panels.lanes;
  const auto packed = zeros(groups * width * taps * inputs);
  float* const to = packed.mutable_data_ptr<float>();
  at::parallel_for(0, groups * panels.count, 1, [&](std::int64_t begin, std::int64_t end) {
    for (auto at = begin; at < end; ++at) {
      const auto group = at / panels.count, panel = at % panels.count;
      const auto first = panels.begin(panel) * panels.lanes;
      const auto size = panels.begin(panel + 1) * panels.lanes - first;
      float* next = to + (group * width + first) * taps * inputs;
      for (std::int64_t term = 0; term < taps * inputs; ++term, next += size) {
        const auto tap = term / inputs, c = term % inputs;
        for (std::int64_t n = 0; n < std::min(size, each - first); ++n) {
          next[n] = values[((group * each + first + n) * inputs + c) * taps + tap];
        }
      }
    }
  });
  return packed;
}

void depthwise(const Job& job) {
  const auto& at = job.geometry;
  const auto grain = std::max<std::int64_t>(1, (1 << 15) / (at.width * job.outputs));
  at::parallel_for(0, job.batch * at.height, grain, [&](std::int64_t begin, std::int64_t end) {
    for (auto line = begin; line < end; ++line) {
      const auto image = line / at.height, first = line % at.height * at.stride - at.top;
      Row row{};
      for (int ky = 0; ky < 3; ++ky) {
        const auto y = first + ky;
        const bool is_inside = y >= 0 && y < job.height;
        row.input[ky] =
            is_inside ? job.x + (image * job.height + y) * job.width * job.channels : nullptr;
      }
      row.weights = job.weights;
      const auto from = line * at.width * job.outputs;
      row.output = job.y + from;
      row.residual = job.residual == nullptr ? nullptr : job.residual + from;
      row.channels = job.channels;
      row.width = job.width;
      row.outputs = at.width;
      row.stride = at.stride;
      row.left = at.left;
      row.scale = job.scale;
      row.shift = job.shift;
      row.low = job.low;
      row.high = job.high;
      job.set.row(row);
    }
  });
}

// The places of the kernel: `rows` by `columns`, of `run` values each.
struct Taps {
  std::int64_t rows, columns, run;
  std::int64_t count() const { return rows * columns; }
};

// A pixel of the output: its column and row, and the image of the input.
struct Position {
  std::int64_t pixel, column, line;
  const float* image;

  void advance(const Job& job, std::int64_t by) {
    const auto& at = job.geometry;
    pixel += by;
    column += by;
    if (column == at.width) {
      column = 0;
      if (++line == at.height) {
        line = 0;
        image += job.height * job.width * job.channels;
      }
    }
  }
};

// Where the taps of one pixel are in the input.
void find_taps(const Job& job, const Taps& taps, const float* zeros, const Position& of, const float** table) {
  const auto& at = job.geometry;
  const auto top = of.line * at.stride - at.top, left = of.column * at.stride - at.left;
  for (std::int64_t ky = 0; ky < taps.rows; ++ky) {
    const auto y = top + ky;
    for (std::int64_t kx = 0; kx < taps.columns; ++kx, table += ROWS) {
      const auto x = left + kx;
      const bool is_inside = y >= 0 && y < job.height && x >= 0 && x < job.width;
      *table = is_inside ? of.image + (y * job.width + x) * job.channels : zeros;
    }
  }
}

// For each tile and tap, where the pixels of the input are. The last tile repeats its last pixel.
void find_pixels(const Job& job, const Taps& taps, const float* zeros, std::int64_t first_tile,
                 std::int64_t end_tile, const float** table) {
  const auto& at = job.geometry;
  const auto pixels = job.batch * at.height * at.width;
  const auto first = first_tile * ROWS;
  Position next{first, first % at.width, first / at.width % at.height,
                job.x + first / at.width / at.height * job.height * job.width * job.channels};
  for (auto tile = first_tile; tile < end_tile; ++tile, table += taps.count() * ROWS) {
    const auto top = next.line * at.stride - at.top, left = next.column * at.stride - at.left;
    const auto right = left + (ROWS - 1) * at.stride + taps.columns;
    const bool is_inside = next.column + ROWS <= at.width && top >= 0 && top + taps.rows <= job.height &&
                           left >= 0 && right <= job.width;
    if (is_inside) {
      // Most tiles: without a look at each place.
      for (std::int64_t tap = 0; tap < taps.count(); ++tap) {
        const auto y = top + tap / taps.columns, x = left + tap % taps.columns;
        const float* const from = next.image + (y * job.width + x) * job.channels;
        for (int r = 0; r < ROWS; ++r) {
          table[tap * ROWS + r] = from + r * at.stride * job.channels;
        }
      }
      next.advance(job, ROWS);
      continue;
    }
    for (int r = 0; r < ROWS; ++r) {
      find_taps(job, taps, zeros, next, table + r);
      if (next.pixel + 1 < pixels) {
        next.advance(job, 1);
      }
    }
  }
}

// Computes a panel of the tiles, whose pixels `table` has.
void compute_panel(const Job& job, const Taps& taps, const Panels& panels, std::int64_t group,
                   std::int64_t panel, std::int64_t first_tile, std::int64_t end_tile,
                   const float* const* table) {
  const auto& at = job.geometry;
  const auto pixels = job.batch * at.height * at.width;
  const auto each = job.outputs / at.groups;
  const auto begin = panels.begin(panel), vectors = panels.begin(panel + 1) - begin;
  const auto first = begin * panels.lanes, channel = group * each + first;
  const float* const weights =
      job.weights + (group * panels.vectors * panels.lanes + first) * taps.count() * taps.run;
  Tile tile{};
  tile.outputs = job.outputs;
  tile.last = static_cast<int>(std::min(panels.lanes, each - first - (vectors - 1) * panels.lanes));
  tile.scale = job.scale + channel;
  tile.shift = job.shift + channel;
  tile.low = job.low;
  tile.high = job.high;
  const auto compute = [&](std::int64_t tap, std::int64_t count, std::int64_t offset, std::int64_t run) {
    tile.taps = count;
    tile.run = run;
    tile.offset = group * taps.run + offset;
    tile.weights = weights + (tap * taps.run + offset) * vectors * panels.lanes;
    tile.is_first = tap == 0 && offset == 0;
    tile.is_last = tap + count == taps.count() && offset + run == taps.run;
    // Each tile fetches its share of the next block's weights, which follow these.
    const auto size = count * run * vectors * panels.lanes * static_cast<std::int64_t>(sizeof(float));
    const auto share = size / (end_tile - first_tile);
    tile.step = (share + count * run - 1) / (count * run);
    for (auto next = first_tile; next < end_tile; ++next) {
      tile.ahead = reinterpret_cast<const char*>(tile.weights) + size + (next - first_tile) * share;
      const auto from = next * ROWS * job.outputs + channel;
      tile.pixels = table + ((next - first_tile) * taps.count() + tap) * ROWS;
      tile.output = job.y + from;
      tile.residual = job.residual == nullptr ? nullptr : job.residual + from;
      const auto rows = std::min<std::int64_t>(ROWS, pixels - next * ROWS);
      job.set.tile(tile, static_cast<int>(rows), static_cast<int>(vectors));
    }
  };
  // Blocks of several taps, or of a part of one.
  const auto together = std::max<std::int64_t>(1, BLOCK / taps.run);
  const auto blocks = (taps.count() + together - 1) / together;
  const auto parts = (taps.run + BLOCK - 1) / BLOCK;
  for (std::int64_t block = 0; block < blocks; ++block) {
    const auto tap = taps.count() * block / blocks, next = taps.count() * (block + 1) / blocks;
    for (std::int64_t part = 0; part < parts; ++part) {
      const auto offset = taps.run * part / parts;
      compute(tap, next - tap, offset, taps.run * (part + 1) / parts - offset);
    }
  }
}

void product(const Job& job, const Taps& taps) {
  const auto& at = job.geometry;
  const Panels panels(job.set, job.outputs / at.groups);
  const auto tiles = (job.batch * at.height * at.width + ROWS - 1) / ROWS;
  const auto chunks = (tiles + CHUNK - 1) / CHUNK, all = at.groups * panels.count;
  const std::vector<float> zeros(job.channels);
  // Chunk by chunk, panel by panel, tile by tile: each thread has as many tiles of a panel as the others, and where
  // there are more threads than chunks it reads a part of the weights only.
  at::parallel_for(0, tiles * all, 1, [&](std::int64_t begin, std::int64_t end) {
    std::vector<const float*> table;
    // The one that holds `begin`.
    auto chunk = begin / all * chunks / tiles;
    while (tiles * (chunk + 1) / chunks * all <= begin) {
      ++chunk;
    }
    for (; tiles * chunk / chunks * all < end; ++chunk) {
      const auto first = tiles * chunk / chunks, last = tiles * (chunk + 1) / chunks;
      table.resize((last - first) * taps.count() * ROWS);
      find_pixels(job, taps, zeros.data(), first, last, table.data());
      for (std::int64_t panel = 0; panel < all; ++panel) {
        // The panel's tiles among those of this thread.
        const auto from = first * all + panel * (last - first) - first;
        const auto begin_tile = std::max(first, begin - from), end_tile = std::min(last, end - from);
        if (begin_tile < end_tile) {
          compute_panel(job, taps, panels, panel / panels.count, panel % panels.count, begin_tile, end_tile,
                        table.data() + (begin_tile - first) * taps.count() * ROWS);
        }
      }
    }
  });
}

// The images with their padding in memory: then all columns of a row of the
// kernel lie together.
at::Tensor pad(const Job& job, std::int64_t height, std::int64_t width) {
  const auto padded = rsflow::cpu::buffer({job.batch, job.channels, height, width});
  float* const to = padded.mutable_data_ptr<float>();
  const auto& at = job.geometry;
  const auto columns = std::max<std::int64_t>(0, std::min(job.width, width - at.left));
  at::parallel_for(0, job.batch * height, 64, [&](std::int64_t begin, std::int64_t end) {
    for (auto line = begin; line < end; ++line) {
      const auto image = line / height, y = line % height - at.top;
      float* const row = to + line * width * job.channels;
      std::fill_n(row, width * job.channels, 0.0f);
      if (y >= 0 && y < job.height) {
        std::memcpy(row + at.left * job.channels,
                    job.x + (image * job.height + y) * job.width * job.channels,
                    columns * job.channels * sizeof(float));
      }
    }
  });
  return padded;
}

at::Tensor run(const Set& set, const at::Tensor& input, const at::Tensor& weight, const Geometry& at,
               const at::Tensor& scale, const at::Tensor& shift, const at::Tensor* residual,
               rsflow::Activation activation) {
  constexpr auto FORMAT = at::MemoryFormat::ChannelsLast;
  TORCH_CHECK(input.dim() == 4 && input.scalar_type() == at::kFloat && input.is_cpu(),
              "images are float32, of four dimensions, on the CPU");
  const auto x = input.contiguous(FORMAT);
  const auto outputs = scale.numel();
  const auto y = rsflow::cpu::buffer({x.size(0), outputs, at.height, at.width});
  at::Tensor added;
  if (residual != nullptr) {
    TORCH_CHECK(residual->sizes() == y.sizes() && residual->scalar_type() == at::kFloat,
                "a residual of shape ", residual->sizes(), " for a result of shape ", y.sizes());
    added = residual->contiguous(FORMAT);
  }
  Job job{set, at};
  job.x = x.const_data_ptr<float>();
  job.batch = x.size(0);
  job.channels = x.size(1);
  job.height = x.size(2);
  job.width = x.size(3);
  job.weights = weight.const_data_ptr<float>();
  job.scale = scale.const_data_ptr<float>();
  job.shift = shift.const_data_ptr<float>();
  job.residual = added.defined() ? added.const_data_ptr<float>() : nullptr;
  job.y = y.mutable_data_ptr<float>();
  job.outputs = outputs;
  job.low = lowest(activation);
  job.high = highest(activation);
  const auto inputs = job.channels / at.groups;
  if (y.numel() == 0) {
    return y;
  }
  if (at.is_winograd != 0) {
    TORCH_CHECK(at.kernel == 3 && at.stride == 1 && at.groups == 1, "no convolution for `winograd`");
    winograd(job);
  } else if (is_depthwise(at.kernel, at.groups, job.channels, outputs)) {
    depthwise(job);
  } else if (at.kernel > 1 && at.groups == 1 && inputs < set.lanes) {
    const auto padded = pad(job, (at.height - 1) * at.stride + at.kernel, (at.width - 1) * at.stride + at.kernel);
    job.x = padded.const_data_ptr<float>();
    job.height = padded.size(2);
    job.width = padded.size(3);
    job.geometry.top = job.geometry.left = 0;
    product(job, Taps{at.kernel, 1, at.kernel * inputs});
  } else {
    product(job, Taps{at.kernel, at.kernel, inputs});
  }
  return y;
}

}  // namespace
}  // namespace convolution
}  // namespace cpu
}  // namespace rsflow

namespace convolution = rsflow::cpu::convolution;

// How many instruction sets there are kernels for on this processor.
extern "C" std::size_t rsflow_convolution_sets() {
  return static_cast<std::size_t>(convolution::set_count());
}

// A weight `[outputs, inputs / groups, kernel, kernel]` as the convolutions of that set take it, float32.
extern "C" const char* rsflow_pack(std::int64_t set, const at::Tensor* weight, std::int64_t groups,
                                   std::int64_t is_winograd, at::Tensor** output) {
  return catch_exceptions([&] {
    deref(output) =
        new at::Tensor(convolution::pack(convolution::set(set), deref(weight), groups, is_winograd != 0));
  });
}

// activation(conv(images) scale + shift + residual), `[batch, outputs, height, width]` in channels last.
// `residual` may be null. `scale` and `shift` are float32 `[outputs]`.
extern "C" const char* rsflow_fused_convolution(const at::Tensor* images, const at::Tensor* packed,
                                                const convolution::Geometry* geometry,
                                                const at::Tensor* scale, const at::Tensor* shift,
                                                const at::Tensor* residual, int activation,
                                                at::Tensor** output) {
  return catch_exceptions([&] {
    const auto& set = convolution::set(deref(geometry).set);
    deref(output) = new at::Tensor(convolution::run(set, deref(images), deref(packed), *geometry,
                                                    deref(scale), deref(shift), residual,
                                                    static_cast<rsflow::Activation>(activation)));
  });
}
