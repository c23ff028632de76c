// Batch norm with the statistics of the images of all processes ("synchronized batch norm"), forward and
// backward, called by `src/nn/kernels/joint.rs`. With S for sums over the images of all processes, of which
// there are n values a channel:
//
//     m = S x / n        v = S x^2 / n - m^2        y = gamma (x - m) / sqrt(v + epsilon) + beta
//
// That is a batch norm with given statistics, and so is what its backward pass gives, but for what x changes
// in m and v, with the sums over dy that are the gradients of beta and gamma:
//
//     dx += -gamma / sqrt(v + epsilon) (S dbeta / n + (x - m) / sqrt(v + epsilon) S dgamma / n)
//
// So the kernels for given statistics do most of it.

#include <cstdint>
#include <optional>
#include <tuple>

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/batch_norm_update_stats.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/native_batch_norm.h>
#include <ATen/ops/native_batch_norm_backward.h>
#include <ATen/ops/zeros_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include "guard.h"
#include "norm.h"

namespace {

namespace cpu = rsflow::cpu;
namespace gpu = rsflow::gpu;

// Replaces a double tensor by its sum over all processes.
using SumOverProcesses = const char* (*)(void* group, const at::Tensor* tensor);

struct Joint {
  SumOverProcesses sum;
  void* group;

  void operator()(const at::Tensor& tensor) const {
    const auto* error = sum(group, &tensor);
    TORCH_CHECK(error == nullptr, error);
  }
};

// Kernels for given statistics.
enum class Kernels : std::int64_t { LIBTORCH = 0, CPU = 1, GPU = 2 };

at::Tensor by_channel(const at::Tensor& values, const at::Tensor& x) {
  return values.to(x.scalar_type()).view({1, -1, 1, 1});
}

struct JointNorm : torch::autograd::Function<JointNorm> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x,
                            const at::Tensor& weight, const at::Tensor& bias,
                            const std::optional<at::Tensor>& residual, const rsflow::Norm* norm,
                            Kernels kernels, const Joint* joint) {
    const auto channels = x.size(1);
    const auto& old_mean = norm->running_mean;
    const auto& old_var = norm->running_var;
    // The running statistics give the dtype of the results; these copies change, and are not used.
    const auto [own_mean, own_var] =
        at::batch_norm_update_stats(x, old_mean.clone(), old_var.clone(), 0.0);
    const auto own = own_mean.to(at::kDouble);
    const auto count = static_cast<double>(x.numel() / channels);
    const auto sums = at::cat({own * count, (own_var.to(at::kDouble) + own * own) * count,
                               at::full({1}, count, own.options())});
    (*joint)(sums);
    const auto n = sums.narrow(0, 2 * channels, 1);
    const auto mean = sums.narrow(0, 0, channels) / n;
    const auto var = (sums.narrow(0, channels, channels) / n - mean * mean).clamp_min(0);
    old_mean.lerp_(mean.to(old_mean.scalar_type()), norm->momentum);
    old_var.lerp_((var * n / (n - 1)).to(old_var.scalar_type()), norm->momentum);

    rsflow::Norm given = *norm;
    given.running_mean = mean.to(old_mean.scalar_type());
    given.running_var = var.to(old_var.scalar_type());
    given.training = false;
    const auto added = residual.value_or(at::Tensor());
    rsflow::Normed normed;
    switch (kernels) {
      case Kernels::CPU:
        normed = cpu::forward(given, x, added, /*keeps=*/true);
        break;
      case Kernels::GPU:
        normed = gpu::forward(given, x, added, /*keeps=*/true);
        break;
      case Kernels::LIBTORCH:
        normed.x = x;
        normed.y = std::get<0>(at::native_batch_norm(x, weight, bias, given.running_mean,
                                                     given.running_var, false, 0.0, norm->epsilon));
        break;
    }
    context->save_for_backward({normed.x, weight, bias, normed.statistics, normed.mask,
                                given.running_mean, given.running_var, n});
    context->saved_data["epsilon"] = norm->epsilon;
    context->saved_data["activation"] = static_cast<std::int64_t>(norm->activation);
    context->saved_data["residual"] = residual.has_value();
    context->saved_data["kernels"] = static_cast<std::int64_t>(kernels);
    context->saved_data["sum"] = reinterpret_cast<std::int64_t>(joint->sum);
    context->saved_data["group"] = reinterpret_cast<std::int64_t>(joint->group);
    return normed.y;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    // In all processes, whatever the gradient is: they wait for each other.
    const auto saved = context->get_saved_variables();
    const auto &x = saved[0], &weight = saved[1], &mean = saved[5], &var = saved[6], &n = saved[7];
    const auto dy = gradients[0].defined() ? gradients[0] : at::zeros_like(x);
    const auto epsilon = context->saved_data["epsilon"].toDouble();
    rsflow::Norm given{};
    given.weight = weight;
    given.bias = saved[2];
    given.training = false;
    given.activation =
        static_cast<rsflow::Activation>(context->saved_data["activation"].toInt());
    const rsflow::Normed kept{at::Tensor(), x, saved[3], saved[4]};
    rsflow::NormGradients of;
    switch (static_cast<Kernels>(context->saved_data["kernels"].toInt())) {
      case Kernels::CPU:
        of = cpu::backward(given, kept, dy);
        break;
      case Kernels::GPU:
        of = gpu::backward(given, kept, dy);
        break;
      case Kernels::LIBTORCH:
        std::tie(of.x, of.weight, of.bias) = at::native_batch_norm_backward(
            dy, x, weight, mean, var, {}, {}, false, epsilon, {true, true, true});
        break;
    }
    const auto channels = x.size(1);
    const auto sums = at::cat({of.bias, of.weight}).to(at::kDouble);
    Joint{reinterpret_cast<SumOverProcesses>(context->saved_data["sum"].toInt()),
          reinterpret_cast<void*>(context->saved_data["group"].toInt())}(sums);
    const auto each = sums / n;
    const auto inverse = (var.to(at::kDouble) + epsilon).rsqrt();
    const auto scale = weight.to(at::kDouble) * inverse;
    const auto slope = -scale * inverse * each.narrow(0, channels, channels);
    const auto offset = -scale * each.narrow(0, 0, channels) - slope * mean.to(at::kDouble);
    of.x.addcmul_(x, by_channel(slope, x)).add_(by_channel(offset, x));
    if (!context->saved_data["residual"].toBool()) {
      of.residual = at::Tensor();
    }
    return {of.x, of.weight, of.bias, of.residual, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

// As `rsflow_batch_norm` in training, with the statistics of all processes, over which `sum` sums with `group`.
// The group must be there until the backward pass. `kernels`: 0 libtorch's, 1 for the CPU, 2 for GPUs. Where
// those do not fit, and with libtorch's, `whole` is false, and residual and activation are left to the caller.
extern "C" const char* rsflow_joint_batch_norm(
    const at::Tensor* input, const at::Tensor* weight, const at::Tensor* bias,
    const at::Tensor* running_mean, const at::Tensor* running_var, const at::Tensor* residual,
    int activation, double momentum, double epsilon, int kernels, SumOverProcesses sum, void* group,
    bool* whole, at::Tensor** output) {
  return catch_exceptions([&] {
    const auto& x = deref(input);
    for (const auto* tensor : {weight, bias, running_mean, running_var}) {
      check_parameter(deref(tensor), x);
    }
    TORCH_CHECK(x.dim() == 4, "an input of the shape ", x.sizes());
    TORCH_CHECK(activation >= 0 && activation <= 2, "no such activation");
    auto which = static_cast<Kernels>(kernels);
    const bool fits = deref(weight).scalar_type() == at::kFloat &&
                      (which == Kernels::CPU   ? cpu::norms(x)
                       : which == Kernels::GPU ? gpu::norms(x)
                                               : false);
    if (!fits) {
      which = Kernels::LIBTORCH;
    }
    deref(whole) = fits;
    const auto added = fits && residual != nullptr ? *residual : at::Tensor();
    if (added.defined()) {
      check_residual(added, x);
    }
    const auto activates = fits ? static_cast<rsflow::Activation>(activation) : rsflow::Activation::NONE;
    const rsflow::Norm norm{*weight, *bias, *running_mean, *running_var, true, momentum, epsilon, activates};
    const Joint joint{sum, group};
    const auto of_residual = added.defined() ? std::make_optional(added) : std::nullopt;
    deref(output) = new at::Tensor(
        JointNorm::apply(x, *weight, *bias, of_residual, &norm, which, &joint));
  });
}
