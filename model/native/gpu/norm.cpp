// Batch norm, the residual's addition and the activation in one operator, on GPUs; `../norm.h` says what it
// computes. The kernels are in `kernels.cu`.

#include <cstdint>

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include "../norm.h"
#include "kernels.h"

namespace rsflow {
namespace gpu {

namespace {

// Vectors of a row that a block has at most: with those of bfloat16, 512 consecutive bytes.
constexpr std::int64_t WIDTH = 32;

// The blocks for a tensor, [batch, channels, height, width] in channels last.
struct NormGrid : Grid {
  explicit NormGrid(const at::Tensor& x)
      : Grid(x.size(0) * x.size(2) * x.size(3), x.size(1) / lanes(x), WIDTH) {}

  std::int64_t groups() const { return divided_up(tiles.chunks, GROUP); }

  // What blocks leave for each other.
  at::Tensor partial(const at::Tensor& x) const {
    return at::empty({tiles.chunks + groups(), 2, x.size(1)}, x.options().dtype(at::kFloat).memory_format(at::MemoryFormat::Contiguous));
  }

  unsigned* done(const at::Tensor& x) const { return counters(x, columns * (groups() + 1)); }
};

float* floats(const at::Tensor& of, std::int64_t row = 0) {
  return of.mutable_data_ptr<float>() + row * of.size(-1);
}

Activation in_kernels(rsflow::Activation activation) {
  return static_cast<Activation>(static_cast<int>(activation));
}

}  // namespace

bool norms(const at::Tensor& x) { return has_kernels_for(x); }

// The statistics are the mean and 1 / sqrt(variance + epsilon), [2, channels]; undefined with running
// statistics, which have no gradient.
Normed forward(const Norm& norm, const at::Tensor& x, const at::Tensor& residual, bool keeps) {
  TORCH_CHECK(norm.training || !keeps, "a batch norm with running statistics has no gradient");
  const NormGrid grid(x);
  const auto added = residual.defined() ? residual.contiguous(LAST) : residual;
  Normed result;
  result.x = x;
  if (norm.training) {
    result.statistics = at::empty({2, x.size(1)}, norm.weight.options());
    const auto partial = grid.partial(x);
    const Statistics arguments{grid.tiles,
                               x.const_data_ptr(),
                               floats(partial),
                               grid.done(x),
                               floats(result.statistics),
                               floats(result.statistics, 1),
                               floats(norm.running_mean),
                               floats(norm.running_var),
                               static_cast<float>(norm.momentum),
                               static_cast<float>(norm.epsilon)};
    grid.run(Kernel::norm_statistics_f32, x, &arguments);
  }
  result.y = at::empty_like(x);
  if (keeps && residual.defined() && in_kernels(norm.activation) != Activation::NONE) {
    result.mask = at::empty({grid.tiles.rows, grid.tiles.vectors},
                            x.options().dtype(at::kByte).memory_format(at::MemoryFormat::Contiguous));
  }
  const NormForward arguments{
      grid.tiles,
      x.const_data_ptr(),
      added.defined() ? added.const_data_ptr() : nullptr,
      norm.training ? floats(result.statistics) : floats(norm.running_mean),
      norm.training ? floats(result.statistics, 1) : floats(norm.running_var),
      !norm.training,
      static_cast<float>(norm.epsilon),
      norm.weight.const_data_ptr<float>(),
      norm.bias.const_data_ptr<float>(),
      in_kernels(norm.activation),
      result.y.mutable_data_ptr(),
      result.mask.defined() ? result.mask.mutable_data_ptr<std::uint8_t>() : nullptr};
  grid.run(Kernel::norm_forward_f32, x, &arguments);
  return result;
}

NormGradients backward(const Norm& norm, const Normed& kept, const at::Tensor& gradient) {
  const auto &x = kept.x, &statistics = kept.statistics, &mask = kept.mask;
  const auto &weight = norm.weight, &bias = norm.bias;
  auto activation = in_kernels(norm.activation);
  const auto dy =
      gradient.to(x.scalar_type()).contiguous(LAST);
  const NormGrid grid(x);
  // The gradients of weight and bias, slope and offset.
  const auto sums = at::empty({4, x.size(1)}, weight.options());
  // Without a mask there is no residual, or no activation: then it is dy.
  const auto dz = mask.defined() ? at::empty_like(x) : dy;
  const auto partial = grid.partial(x);
  const NormSums of_sums{grid.tiles,
                         x.const_data_ptr(),
                         dy.const_data_ptr(),
                         mask.defined() ? mask.const_data_ptr<std::uint8_t>() : nullptr,
                         mask.defined() ? dz.mutable_data_ptr() : nullptr,
                         floats(statistics),
                         floats(statistics, 1),
                         weight.const_data_ptr<float>(),
                         bias.const_data_ptr<float>(),
                         activation,
                         floats(partial),
                         grid.done(x),
                         floats(sums),
                         floats(sums, 1),
                         floats(sums, 2),
                         floats(sums, 3)};
  grid.run(Kernel::norm_sums_f32, x, &of_sums);
  if (mask.defined()) {
    activation = Activation::NONE;
  }
  const auto dx = at::empty_like(x);
  const NormBackward of_dx{grid.tiles,
                           x.const_data_ptr(),
                           dz.const_data_ptr(),
                           floats(statistics),
                           floats(statistics, 1),
                           weight.const_data_ptr<float>(),
                           bias.const_data_ptr<float>(),
                           activation,
                           floats(sums, 2),
                           floats(sums, 3),
                           dx.mutable_data_ptr()};
  grid.run(Kernel::norm_backward_f32, x, &of_dx);
  return {dx, sums[0], sums[1], dz};
}

}  // namespace gpu
}  // namespace rsflow
