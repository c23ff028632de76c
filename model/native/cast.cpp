// Casts of many tensors in one call, called by `src/nn/native.rs`. On a GPU a few kernels do them all,
// where a cast of each tensor would be a kernel of each. The calling convention is described in `guard.h`.

#include <cstddef>
#include <cstdint>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/ops/_foreach_copy.h>
#include <ATen/ops/empty_like.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include "guard.h"

namespace {

// With the strides of each, where it is dense.
std::vector<at::Tensor> cast(at::TensorList tensors, at::ScalarType dtype) {
  std::vector<at::Tensor> results;
  results.reserve(tensors.size());
  for (const auto& tensor : tensors) {
    results.push_back(at::empty_like(tensor, tensor.options().dtype(dtype)));
  }
  at::_foreach_copy_(results, tensors);
  return results;
}

struct Cast : torch::autograd::Function<Cast> {
  static std::vector<at::Tensor> forward(torch::autograd::AutogradContext* context,
                                         at::TensorList tensors, at::ScalarType dtype) {
    // The gradient of a tensor that nothing depends on stays undefined.
    context->set_materialize_grads(false);
    context->saved_data["dtype"] = static_cast<std::int64_t>(tensors[0].scalar_type());
    return cast(tensors, dtype);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto dtype = static_cast<at::ScalarType>(context->saved_data["dtype"].toInt());
    std::vector<at::Tensor> defined;
    for (const auto& gradient : gradients) {
      if (gradient.defined()) {
        defined.push_back(gradient);
      }
    }
    if (!defined.empty()) {
      defined = cast(defined, dtype);
    }
    auto next = defined.begin();
    for (auto& gradient : gradients) {
      if (gradient.defined()) {
        gradient = *next++;
      }
    }
    gradients.emplace_back();  // that of the dtype
    return gradients;
  }
};

}  // namespace

// Casts `count` tensors of one dtype to another one. `outputs` has room for as many new tensors.
extern "C" const char* rsflow_cast(const at::Tensor* const* tensors, std::size_t count, int dtype,
                                   at::Tensor** outputs) {
  return catch_exceptions([&] {
    const auto list = tensor_list(tensors, count);
    if (list.empty()) {
      return;
    }
    for (const auto& tensor : list) {
      TORCH_CHECK(tensor.scalar_type() == list[0].scalar_type(), "tensors of two dtypes: ",
                  list[0].scalar_type(), " and ", tensor.scalar_type());
    }
    const auto to = static_cast<at::ScalarType>(dtype);
    const auto results = at::GradMode::is_enabled() ? Cast::apply(at::TensorList(list), to)
                                                    : cast(list, to);
    for (std::size_t i = 0; i < count; ++i) {
      deref(outputs + i) = new at::Tensor(results[i]);
    }
  });
}
