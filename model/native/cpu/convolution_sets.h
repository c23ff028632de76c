// The kernels of `convolution.cpp`, `winograd.cpp`, `inverted.cpp` and `max_pool.cpp` for each instruction set, and their arguments.

#pragma once

#include <cstdint>

namespace rsflow {
namespace cpu {
namespace convolution {

// The pixels of a tile, at most.
constexpr int ROWS = 6;

struct Tile {
  // For each tap, ROWS pixels of the input; of these the channels from `offset` on, `run` many.
  const float* const* pixels;
  std::int64_t taps, offset, run;
  // `[taps, run, vectors, LANES]`.
  const float* weights;
  // What to fetch meanwhile, and by how many bytes it moves on with each term of the sum.
  const char* ahead;
  std::int64_t step;
  float* output;
  // The channels of the output, and how many of them are in the tile's last vector.
  std::int64_t outputs;
  int last;
  // Null, or laid out as the output.
  const float* residual;
  const float *scale, *shift;
  // Of the activation.
  float low, high;
  // Of the blocks of the sum.
  bool is_first, is_last;
};

// A row of the output of a depthwise convolution with a kernel of 3 x 3.
struct Row {
  // The three rows of the input; null beyond the border.
  const float* input[3];
  // `[9, channels]`.
  const float* weights;
  float* output;
  // Null, or a row laid out as the output.
  const float* residual;
  std::int64_t channels, width, outputs, stride, left;
  const float *scale, *shift;
  float low, high;
};

// Four by four pixels of the input of `winograd.cpp`, of which it makes the left sides of 16 products.
struct Patch {
  // Row by row; zeros beyond the border.
  const float* pixels[16];
  std::int64_t channels;
  // Of the first product, `[channels]`, and how far away that of the next one is.
  float* to;
  std::int64_t between;
};

// Two by two pixels of its output, of which the 16 products are known.
struct Square {
  // Of the first one, `vectors` long, and how far away that of the next one is.
  const float* products;
  std::int64_t between;
  // Row by row; null beyond the border.
  float* output[4];
  // Null, or laid out as the output.
  const float* residual[4];
  int vectors;
  // The channels in the last vector.
  int last;
  const float *scale, *shift;
  float low, high;
};

// A pixel of the output of a max pooling.
struct Window {
  // Of the input.
  const float* const* pixels;
  std::int64_t count, channels;
  float* output;
};

struct Set {
  int lanes, widest;
  void (*tile)(const Tile&, int rows, int vectors);
  void (*row)(const Row&);
  void (*patch)(const Patch&);
  void (*square)(const Square&);
  void (*window)(const Window&);
};

// How many instruction sets there are kernels for on this processor, the best first.
std::int64_t set_count();
const Set& set(std::int64_t index);

}  // namespace convolution
}  // namespace cpu
}  // namespace rsflow
