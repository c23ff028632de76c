// Updates of parameters by their gradients, called by `src/nn/native/optimizers.rs`, for all parameters at
// once. The calling convention is described in `guard.h`.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/_amp_foreach_non_finite_check_and_unscale.h>
#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_addcmul.h>
#include <ATen/ops/_foreach_div.h>
#include <ATen/ops/_foreach_lerp.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_foreach_sqrt.h>
#include <ATen/ops/_foreach_sub.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/_fused_sgd.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>

#include "guard.h"

namespace {

// Whether the same index leads to the same memory offset in both. The stride of a dimension of size
// 1 is arbitrary and never used, so it is not compared.
bool same_strides(const at::Tensor& a, const at::Tensor& b) {
  for (int64_t d = 0; d < a.dim(); ++d) {
    if (a.size(d) > 1 && a.stride(d) != b.stride(d)) {
      return false;
    }
  }
  return true;
}

void check_pair(const at::Tensor& parameter, const at::Tensor& other, const char* what) {
  TORCH_CHECK(other.sizes() == parameter.sizes(), what, " has the shape ", other.sizes(),
              ", its parameter ", parameter.sizes());
  TORCH_CHECK(other.scalar_type() == parameter.scalar_type(), what, " has the dtype ",
              other.scalar_type(), ", its parameter ", parameter.scalar_type());
  TORCH_CHECK(other.device() == parameter.device(), what, " is on ", other.device(),
              ", its parameter on ", parameter.device());
}

using Tensors = std::vector<at::Tensor>;

// The gradients, each with the strides of its parameter.
Tensors aligned_gradients(const Tensors& parameters, const at::Tensor* const* gradients) {
  auto list = tensor_list(gradients, parameters.size());
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    TORCH_CHECK(parameters[i].is_non_overlapping_and_dense(), "a parameter is not dense");
    check_pair(parameters[i], list[i], "a gradient");
    if (!same_strides(parameters[i], list[i])) {
      list[i] = at::empty_like(parameters[i]).copy_(list[i]);
    }
  }
  return list;
}

// What an optimizer keeps of each parameter; `what` is its name in messages.
Tensors buffer_list(const Tensors& parameters, const at::Tensor* const* buffers, std::size_t count,
                    const char* what) {
  auto list = tensor_list(buffers, count);
  for (std::size_t i = 0; i < list.size(); ++i) {
    check_pair(parameters[i], list[i], what);
    TORCH_CHECK(same_strides(parameters[i], list[i]), what,
                " has other strides than its parameter");
  }
  return list;
}

}  // namespace

// One step of SGD on `count` parameters. `momentum_buffers` has `count` too, and is ignored if
// `momentum` is 0. `overflow` may be null; where it is 1, the step is skipped.
// `lr_on_device` may be null; else it is a float scalar that is used in place of `lr`.
// The fused kernel walks the storages in memory order and does not check that the strides agree, so
// they are checked here: a gradient with other strides than its parameter is copied first.
extern "C" const char* rsflow_fused_sgd(const at::Tensor* const* parameters,
                                        const at::Tensor* const* gradients,
                                        const at::Tensor* const* momentum_buffers,
                                        std::size_t count, double lr,
                                        const at::Tensor* lr_on_device, double momentum,
                                        double weight_decay, bool nesterov,
                                        const at::Tensor* overflow) {
  return catch_exceptions([&] {
    const auto p = tensor_list(parameters, count);
    const auto g = aligned_gradients(p, gradients);
    const auto m =
        buffer_list(p, momentum_buffers, momentum == 0.0 ? 0 : count, "a momentum buffer");
    const auto found_inf = overflow == nullptr ? std::nullopt : std::make_optional(*overflow);
    const auto step = [&](const auto& rate) {
      at::_fused_sgd_(p, g, m, weight_decay, momentum, rate, /*dampening=*/0.0, nesterov,
                      /*maximize=*/false, /*is_first_step=*/false, /*grad_scale=*/{}, found_inf);
    };
    if (lr_on_device == nullptr) {
      step(lr);
    } else {
      step(*lr_on_device);
    }
  });
}

// One step of AdamW on `count` parameters, as `rsflow_fused_sgd`. `updates`, a float scalar, is the number of
// this update, from 1. With `scales_to_norm` it is one of LAMB, of which the change of parameters with weight
// decay is scaled to the norm of each; no overflow may be given then: what calls it has looked.
extern "C" const char* rsflow_adam(const at::Tensor* const* parameters,
                                   const at::Tensor* const* gradients,
                                   const at::Tensor* const* momentum_buffers,
                                   const at::Tensor* const* variance_buffers, std::size_t count,
                                   const at::Tensor* updates, double lr,
                                   const at::Tensor* lr_on_device, double beta1, double beta2,
                                   double weight_decay, double epsilon, bool scales_to_norm,
                                   const at::Tensor* overflow) {
  return catch_exceptions([&] {
    const at::NoGradGuard no_grad;
    const auto p = tensor_list(parameters, count);
    const auto g = aligned_gradients(p, gradients);
    const auto m = buffer_list(p, momentum_buffers, count, "a momentum buffer");
    const auto v = buffer_list(p, variance_buffers, count, "a variance buffer");
    if (!scales_to_norm) {
      const Tensors steps(count, deref(updates));
      const auto found_inf = overflow == nullptr ? std::nullopt : std::make_optional(*overflow);
      const auto step = [&](const auto& rate) {
        at::_fused_adamw_(p, g, m, v, /*max_exp_avg_sqs=*/{}, steps, rate, beta1, beta2,
                          weight_decay, epsilon, /*amsgrad=*/false, /*maximize=*/false,
                          /*grad_scale=*/{}, found_inf);
      };
      if (lr_on_device == nullptr) {
        step(lr);
      } else {
        step(*lr_on_device);
      }
      return;
    }
    TORCH_CHECK(overflow == nullptr, "a step that is scaled to norms cannot be skipped");
    at::_foreach_mul_(m, beta1);
    at::_foreach_add_(m, g, 1.0 - beta1);
    at::_foreach_mul_(v, beta2);
    at::_foreach_addcmul_(v, g, g, 1.0 - beta2);
    const auto number = deref(updates).to(at::kDouble);
    const auto correction = [&](double beta) {
      return (at::pow(at::Scalar(beta), number) * -1.0 + 1.0).to(p[0].scalar_type());
    };
    const auto denominators = at::_foreach_sqrt(v);
    at::_foreach_div_(denominators, correction(beta2).sqrt());
    at::_foreach_add_(denominators, epsilon);
    const auto changes = at::_foreach_div(m, correction(beta1));
    at::_foreach_div_(changes, denominators);
    if (weight_decay != 0.0) {
      at::_foreach_add_(changes, p, weight_decay);
      const auto of_parameters = at::stack(at::_foreach_norm(p));
      const auto of_changes = at::stack(at::_foreach_norm(changes));
      const auto both = (of_parameters > 0.0).logical_and_(of_changes > 0.0);
      const auto ratios = at::where(both, of_parameters / of_changes, at::ones_like(of_changes));
      at::_foreach_mul_(changes, ratios.unbind(0));
    }
    // In two steps with either, for the same bits.
    if (lr_on_device == nullptr) {
      at::_foreach_mul_(changes, lr);
    } else {
      at::_foreach_mul_(changes, *lr_on_device);
    }
    at::_foreach_sub_(p, changes);
  });
}

// Multiplies gradients in place by max_norm / (norm + 1e-6), if that is below 1, where `norm` is that of all
// of them together.
extern "C" const char* rsflow_clip_gradients(const at::Tensor* const* gradients, std::size_t count,
                                             double max_norm) {
  return catch_exceptions([&] {
    const at::NoGradGuard no_grad;
    const auto g = tensor_list(gradients, count);
    const auto norm = at::linalg_vector_norm(at::stack(at::_foreach_norm(g)));
    at::_foreach_mul_(g, ((norm + 1e-6).reciprocal() * max_norm).clamp_max_(1.0));
  });
}

// Moves tensors by the share `weight` of the way towards others.
extern "C" const char* rsflow_move_towards(const at::Tensor* const* tensors,
                                           const at::Tensor* const* others, std::size_t count,
                                           double weight) {
  return catch_exceptions([&] {
    const at::NoGradGuard no_grad;
    at::_foreach_lerp_(tensor_list(tensors, count), tensor_list(others, count), weight);
  });
}

// Multiplies gradients by `inverse_scale` in place, and sets `overflow` to 1 if one is not finite.
extern "C" const char* rsflow_unscale(const at::Tensor* const* gradients, std::size_t count,
                                      const at::Tensor* overflow,
                                      const at::Tensor* inverse_scale) {
  return catch_exceptions([&] {
    auto found_inf = deref(overflow);  // a handle to the same tensor
    at::_amp_foreach_non_finite_check_and_unscale_(tensor_list(gradients, count), found_inf,
                                                   deref(inverse_scale));
  });
}
