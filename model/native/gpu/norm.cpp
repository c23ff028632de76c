// Batch norm, the residual's addition and the activation in one operator, called by
// `src/nn/kernels/operators.rs`. The kernels are in `kernels.cu`.
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

#include <cstdint>
#include <optional>

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include "../guard.h"
#include "kernels.h"

namespace {

using namespace rsflow::gpu;

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

struct Norm {
  at::Tensor running_mean, running_var;
  bool training;
  double momentum;
  double epsilon;
  Activation activation;
};

struct Result {
  at::Tensor y;
  // Mean and 1 / sqrt(variance + epsilon), [2, channels]; undefined with running statistics.
  at::Tensor statistics;
  // Undefined unless wanted and needed.
  at::Tensor mask;
};

float* floats(const at::Tensor& of, std::int64_t row = 0) {
  return of.mutable_data_ptr<float>() + row * of.size(-1);
}

Result forward(const Norm& norm, const at::Tensor& x, const at::Tensor& weight,
               const at::Tensor& bias, const at::Tensor& residual, bool keeps) {
  const NormGrid grid(x);
  Result result;
  if (norm.training) {
    result.statistics = at::empty({2, x.size(1)}, weight.options());
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
  if (keeps && residual.defined() && norm.activation != Activation::NONE) {
    result.mask = at::empty({grid.tiles.rows, grid.tiles.vectors},
                            x.options().dtype(at::kByte).memory_format(at::MemoryFormat::Contiguous));
  }
  const NormForward arguments{
      grid.tiles,
      x.const_data_ptr(),
      residual.defined() ? residual.const_data_ptr() : nullptr,
      norm.training ? floats(result.statistics) : floats(norm.running_mean),
      norm.training ? floats(result.statistics, 1) : floats(norm.running_var),
      !norm.training,
      static_cast<float>(norm.epsilon),
      weight.const_data_ptr<float>(),
      bias.const_data_ptr<float>(),
      norm.activation,
      result.y.mutable_data_ptr(),
      result.mask.defined() ? result.mask.mutable_data_ptr<std::uint8_t>() : nullptr};
  grid.run(Kernel::norm_forward_f32, x, &arguments);
  return result;
}

struct BatchNorm : torch::autograd::Function<BatchNorm> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x,
                            const at::Tensor& weight, const at::Tensor& bias,
                            const std::optional<at::Tensor>& residual, const Norm* norm) {
    const auto result =
        ::forward(*norm, x, weight, bias, residual.value_or(at::Tensor()), /*keeps=*/true);
    context->save_for_backward({x, weight, bias, result.statistics, result.mask});
    context->saved_data["activation"] = static_cast<std::int64_t>(norm->activation);
    context->saved_data["residual"] = residual.has_value();
    return result.y;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const auto &x = saved[0], &weight = saved[1], &bias = saved[2];
    const auto &statistics = saved[3], &mask = saved[4];
    if (!gradients[0].defined()) {
      return torch::autograd::variable_list(5);
    }
    const bool has_residual = context->saved_data["residual"].toBool();
    auto activation = static_cast<Activation>(context->saved_data["activation"].toInt());
    const auto dy =
        gradients[0].to(x.scalar_type()).contiguous(at::MemoryFormat::ChannelsLast);
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
    return {dx, sums[0], sums[1], has_residual ? dz : at::Tensor(), at::Tensor()};
  }
};

bool needs_gradient(const at::Tensor& tensor) { return tensor.requires_grad(); }

}  // namespace

// Batch norm of `input`, [batch, channels, height, width], plus `residual` of that shape (null: nothing),
// then the activation. `weight`, `bias` and the running statistics are float [channels]. `training`: with
// the statistics of the batch, which change the running ones. `output` stays null where there are no
// kernels for such an input.
extern "C" const char* rsflow_batch_norm_gpu(const at::Tensor* input, const at::Tensor* weight,
                                         const at::Tensor* bias, const at::Tensor* running_mean,
                                         const at::Tensor* running_var, const at::Tensor* residual,
                                         int activation, bool training, double momentum,
                                         double epsilon, at::Tensor** output) {
  return catch_exceptions([&] {
    const auto& x = deref(input);
    deref(output) = nullptr;
    if (!has_kernels_for(x)) {
      return;
    }
    for (const auto* tensor : {weight, bias, running_mean, running_var}) {
      if (deref(tensor).scalar_type() != at::kFloat) {
        return;
      }
      TORCH_CHECK(tensor->dim() == 1 && tensor->size(0) == x.size(1) && tensor->is_contiguous() &&
                      tensor->device() == x.device(),
                  "a parameter of the shape ", tensor->sizes(), " on ", tensor->device(),
                  " for an input of the shape ", x.sizes(), " on ", x.device());
    }
    std::optional<at::Tensor> added;
    if (residual != nullptr) {
      TORCH_CHECK(residual->device() == x.device() && residual->sizes() == x.sizes() &&
                      residual->scalar_type() == x.scalar_type(),
                  "a residual of the shape ", residual->sizes(), " and dtype ",
                  residual->scalar_type(), " for an input of the shape ", x.sizes(), " and dtype ",
                  x.scalar_type());
      added = residual->contiguous(at::MemoryFormat::ChannelsLast);
    }
    TORCH_CHECK(activation >= 0 && activation <= 2, "no such activation");
    const Norm norm{*running_mean, *running_var,        training, momentum,
                    epsilon,       static_cast<Activation>(activation)};
    const bool differentiates =
        at::GradMode::is_enabled() && (needs_gradient(x) || needs_gradient(*weight) ||
                                       needs_gradient(*bias) || (added && needs_gradient(*added)));
    if (differentiates) {
      // The gradient of running statistics is none that anybody trains with.
      TORCH_CHECK(training, "a batch norm with running statistics has no gradient");
      *output = new at::Tensor(BatchNorm::apply(x, *weight, *bias, added, &norm));
    } else {
      *output = new at::Tensor(
          forward(norm, x, *weight, *bias, added.value_or(at::Tensor()), /*keeps=*/false).y);
    }
  });
}
