// What the GPU kernels (`*.cu`) are called, and their arguments: one struct each. Read by the
// compiler of the shim, and by NVRTC, which has no headers.

#pragma once

// Each kernel has a version for each type of values in memory.
#define RSFLOW_KERNELS(K, type)                  \
  K(norm_statistics, Statistics, type)           \
  K(norm_forward, NormForward, type)             \
  K(norm_sums, NormSums, type)                   \
  K(norm_backward, NormBackward, type)           \
  K(pool_forward, PoolForward, type)             \
  K(pool_backward, PoolBackward, type)           \
  K(depthwise_forward, DepthwiseForward, type)   \
  K(depthwise_backward, DepthwiseBackward, type) \
  K(depthwise_weight, DepthwiseWeight, type)     \
  K(depthwise_weight_sum, DepthwiseWeightSum, type)
#define RSFLOW_TYPES(T) T(f32) T(bf16) T(f16)

namespace rsflow {
namespace gpu {

// Threads of a block, of every kernel.
constexpr int THREADS = 256;
// Partial results that one block combines.
constexpr int GROUP = 32;

// The numbers are those of `Activation` in `src/nn/kernels/operators.rs`.
enum Activation : int { NONE = 0, RELU = 1, RELU6 = 2 };

// How the values, [rows, channels], are shared out. A vector is 16 bytes. The block (i, j) has `width`
// vectors of a row, from i * width on, and `chunk` rows, from j * chunk on.
struct Tiles {
  long long rows;
  int vectors;  // of a row
  int width;
  int chunk;
  int chunks;
};

// Mean and 1 / sqrt(variance + epsilon) of every channel, and the running statistics.
struct Statistics {
  Tiles tiles;
  const void* x;
  float* partial;  // [chunks + groups, 2, channels]
  unsigned* done;  // zeros, and zeros again at the end
  float* mean;
  float* inverse;
  float* running_mean;
  float* running_var;
  float momentum;
  float epsilon;
};

// y = activation((x - mean) inverse weight + bias + residual)
struct NormForward {
  Tiles tiles;
  const void* x;
  const void* residual;  // may be null
  const float* mean;
  const float* spread;  // 1 / sqrt(variance + epsilon), or the variance
  bool is_variance;
  float epsilon;
  const float* weight;
  const float* bias;
  int activation;
  void* y;
  // Where the activation passes the gradient on: a bit for each value, a byte for each vector. May be
  // null.
  unsigned char* mask;
};

// The gradients of weight and bias, and what NormBackward needs. dz is dy where the activation passes it
// on, as the mask says, or, if that is null, as is computed from x again.
struct NormSums {
  Tiles tiles;
  const void* x;
  const void* dy;
  const unsigned char* mask;
  void* dz;  // written with a mask
  const float* mean;
  const float* inverse;
  const float* weight;
  const float* bias;
  int activation;
  float* partial;
  unsigned* done;
  float* dweight;
  float* dbias;
  float* slope;
  float* offset;
};

// dx = inverse weight dz + slope (x - mean) + offset
struct NormBackward {
  Tiles tiles;
  const void* x;
  const void* dy;
  const float* mean;
  const float* inverse;
  const float* weight;
  const float* bias;
  int activation;  // NONE: dy is dz
  const float* slope;
  const float* offset;
  void* dx;
};

// Max pooling of [batch, height, width, channels]; what lies outside counts for nothing.
struct Pool {
  int batch, height, width, vectors;
  int out_height, out_width;
  int kernel, stride;
  int top, left;  // padding
};

struct PoolForward {
  Pool pool;
  const void* x;
  void* y;
  // The place of the largest value in its window, row * kernel + column: a byte for each value of y.
  unsigned char* places;
};

struct PoolBackward {
  Pool pool;
  const void* dy;
  const unsigned char* places;
  void* dx;
};

// Side of the kernel of a depthwise convolution.
constexpr int SIDE = 3;
// Columns of a map that a thread computes at once: a strip of a row.
constexpr int STRIP = 4;
// Groups of 4 channels whose sums a block of DepthwiseWeightSum adds up.
constexpr int SUM_WIDTH = 8;

// Depthwise convolution of [batch, height, width, channels]; what lies outside is 0. The rows of the tiles
// are strips of a map, [batch, rows, strips]: of x for DepthwiseBackward, else of y.
struct Depthwise {
  Tiles tiles;
  int strips;  // of a row
  int height, width;
  int out_height, out_width;
  int stride;     // 1 or 2
  int top, left;  // padding
};

struct DepthwiseForward {
  Depthwise conv;
  const void* x;
  const void* weight;  // [SIDE, SIDE, channels]
  void* y;
};

struct DepthwiseBackward {
  Depthwise conv;
  const void* dy;
  const void* weight;  // [SIDE, SIDE, channels]
  void* dx;
};

// The gradient of the weight: a sum for each chunk of the tiles.
struct DepthwiseWeight {
  Depthwise conv;
  const void* x;
  const void* dy;
  float* partial;  // [chunks, SIDE, SIDE, channels]
};

struct DepthwiseWeightSum {
  const float* partial;  // [chunks, SIDE, SIDE, channels]
  int chunks;
  int channels;
  void* dweight;  // [channels, SIDE, SIDE]
};

}  // namespace gpu
}  // namespace rsflow
