// Batch norm, the residual's addition and the activation in one operator, called by
// `src/nn/kernels/operators.rs`. The calling convention is described in `guard.h`.

#include <cstdint>
#include <optional>

#include <ATen/core/Tensor.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include "guard.h"
#include "norm.h"

namespace {

namespace cpu = rsflow::cpu;
namespace gpu = rsflow::gpu;
using rsflow::Activation;
using rsflow::Norm;
using rsflow::Normed;

struct BatchNorm : torch::autograd::Function<BatchNorm> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x,
                            const at::Tensor& weight, const at::Tensor& bias,
                            const std::optional<at::Tensor>& residual, const Norm* norm,
                            bool on_gpu) {
    const auto added = residual.value_or(at::Tensor());
    const auto normed = on_gpu ? gpu::forward(*norm, x, added, /*keeps=*/true)
                               : cpu::forward(*norm, x, added, /*keeps=*/true);
    context->save_for_backward({normed.x, weight, bias, normed.statistics, normed.mask});
    context->saved_data["training"] = norm->training;
    context->saved_data["activation"] = static_cast<std::int64_t>(norm->activation);
    context->saved_data["residual"] = residual.has_value();
    context->saved_data["on_gpu"] = on_gpu;
    return normed.y;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto& dy = gradients[0];
    if (!dy.defined()) {
      return torch::autograd::variable_list(6);
    }
    const auto saved = context->get_saved_variables();
    Norm norm{};
    norm.weight = saved[1];
    norm.bias = saved[2];
    norm.training = context->saved_data["training"].toBool();
    norm.activation = static_cast<Activation>(context->saved_data["activation"].toInt());
    const Normed kept{at::Tensor(), saved[0], saved[3], saved[4]};
    auto of = context->saved_data["on_gpu"].toBool() ? gpu::backward(norm, kept, dy)
                                                     : cpu::backward(norm, kept, dy);
    if (!context->saved_data["residual"].toBool()) {
      of.residual = at::Tensor();
    }
    return {of.x, of.weight, of.bias, of.residual, at::Tensor(), at::Tensor()};
  }
};

void check_parameter(const at::Tensor& parameter, const at::Tensor& x) {
  TORCH_CHECK(parameter.dim() == 1 && parameter.size(0) == x.size(1) && parameter.is_contiguous() &&
                  parameter.device() == x.device(),
              "a parameter of the shape ", parameter.sizes(), " on ", parameter.device(),
              " for an input of the shape ", x.sizes(), " on ", x.device());
}

void check_residual(const at::Tensor& residual, const at::Tensor& x) {
  TORCH_CHECK(residual.device() == x.device() && residual.sizes() == x.sizes() &&
                  residual.scalar_type() == x.scalar_type(),
              "a residual of the shape ", residual.sizes(), " and dtype ", residual.scalar_type(),
              " for an input of the shape ", x.sizes(), " and dtype ", x.scalar_type());
}

bool needs_gradient(const at::Tensor& tensor) {
  return tensor.defined() && tensor.requires_grad();
}

}  // namespace

// Batch norm of `input`, [batch, channels, height, width], plus `residual` of that shape (null: nothing),
// then the activation. `weight`, `bias` and the running statistics are float [channels]. `training`: with
// the statistics of the batch, which change the running ones. `on_gpu`: with the kernels for GPUs.
// `output` stays null where there are no kernels for such an input.
extern "C" const char* rsflow_batch_norm(const at::Tensor* input, const at::Tensor* weight,
                                         const at::Tensor* bias, const at::Tensor* running_mean,
                                         const at::Tensor* running_var, const at::Tensor* residual,
                                         int activation, bool training, double momentum,
                                         double epsilon, bool on_gpu, at::Tensor** output) {
  return catch_exceptions([&] {
    const auto& x = deref(input);
    deref(output) = nullptr;
    if (!(on_gpu ? gpu::norms(x) : cpu::norms(x))) {
      return;
    }
    for (const auto* tensor : {weight, bias, running_mean, running_var}) {
      if (deref(tensor).scalar_type() != at::kFloat) {
        return;
      }
      check_parameter(*tensor, x);
    }
    const auto added = residual == nullptr ? at::Tensor() : *residual;
    if (added.defined()) {
      check_residual(added, x);
    }
    TORCH_CHECK(activation >= 0 && activation <= 2, "no such activation");
    const Norm norm{*weight,  *bias,   *running_mean,
                    *running_var, training, momentum,
                    epsilon,  static_cast<rsflow::Activation>(activation)};
    const bool differentiates =
        at::GradMode::is_enabled() && (needs_gradient(x) || needs_gradient(*weight) ||
                                       needs_gradient(*bias) || needs_gradient(added));
    if (!differentiates) {
      const auto normed = on_gpu ? gpu::forward(norm, x, added, /*keeps=*/false)
                                 : cpu::forward(norm, x, added, /*keeps=*/false);
      *output = new at::Tensor(normed.y);
      return;
    }
    const auto of_residual = added.defined() ? std::make_optional(added) : std::nullopt;
    *output = new at::Tensor(BatchNorm::apply(x, *weight, *bias, of_residual, &norm, on_gpu));
  });
}
