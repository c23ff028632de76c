// Batch norm, the residual's addition and the activation in one operator: what its kernels for the CPU and
// those for GPUs have in common.
//
// With mean m and variance v over all n values of a channel (of the batch, or running ones):
//
//     z = gamma (x - m) / sqrt(v + epsilon) + beta + residual        y = activation(z)
//
// With dz = dy where the activation passes it on, and 0 elsewhere:
//
//     dbeta = sum dz        dgamma = sum dz (x - m) / sqrt(v + epsilon)        dresidual = dz
//     dx = gamma / sqrt(v + epsilon) (dz - dbeta / n - (x - m) / sqrt(v + epsilon) dgamma / n)
//
// Forward takes one pass over memory for the statistics and one for y; backward one for the two sums and
// one for dx. It keeps x, the statistics, and, with both a residual and an activation, a bit for each
// value; without a residual, x shows again what the activation did.

#pragma once

#include <ATen/core/Tensor.h>

namespace rsflow {

// The numbers are those of `Activation` in `src/nn/kernels/operators.rs`.
enum class Activation : int { NONE = 0, RELU = 1, RELU6 = 2 };

struct Norm {
  at::Tensor weight, bias, running_mean, running_var;  // float, [channels]
  bool training;                                       // with the statistics of the batch
  double momentum;
  double epsilon;
  Activation activation;
};

struct Normed {
  at::Tensor y;
  // What backward needs: x in the memory format of y, statistics as the kernels want them, the mask, which
  // is undefined where none is needed.
  at::Tensor x, statistics, mask;
};

struct NormGradients {
  at::Tensor x, weight, bias, residual;
};

// x, y and residual are [batch, channels, height, width]. An undefined residual is none. `keeps`: backward
// will follow. Of `norm`, backward uses weight, bias, training and activation.
namespace cpu {
bool norms(const at::Tensor& x);
Normed forward(const Norm& norm, const at::Tensor& x, const at::Tensor& residual, bool keeps);
NormGradients backward(const Norm& norm, const Normed& kept, const at::Tensor& dy);
}  // namespace cpu

namespace gpu {
bool norms(const at::Tensor& x);
Normed forward(const Norm& norm, const at::Tensor& x, const at::Tensor& residual, bool keeps);
NormGradients backward(const Norm& norm, const Normed& kept, const at::Tensor& dy);
}  // namespace gpu

}  // namespace rsflow
