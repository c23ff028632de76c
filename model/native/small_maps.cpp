// The gradient of the weights of a 3x3 convolution over maps of a few values, as one matrix product, called by
// `src/nn/kernels/small_maps.rs`. There the weights are far more than the values of a map, and oneDNN's kernels,
// which are made for large maps, take several times as long. The calling convention is described in `guard.h`.

#include <array>
#include <tuple>

#include <ATen/core/Tensor.h>
#include <ATen/ops/conv2d.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include "guard.h"

namespace {

// As the convolution of a stride, a padding and a dilation of 1.
struct SmallMaps : torch::autograd::Function<SmallMaps> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& images,
                            const at::Tensor& weight) {
    context->save_for_backward({images, weight});
    return at::conv2d(images, weight, {}, /*stride=*/1, /*padding=*/1);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const auto &images = saved[0], &weight = saved[1], &gradient = gradients[0];
    at::Tensor of_images, of_weight;
    if (context->needs_input_grad(0)) {
      of_images = std::get<0>(at::convolution_backward(
          gradient, images, weight, std::nullopt, {1, 1}, {1, 1}, {1, 1}, /*transposed=*/false,
          {0, 0}, /*groups=*/1, std::array<bool, 3>{true, false, false}));
    }
    if (context->needs_input_grad(1)) {
      of_weight = weight_gradient(images, gradient);
    }
    return {of_images, of_weight};
  }

 private:
  // Every place of a map by all values that its output is computed of, times the gradients of that output.
  static at::Tensor weight_gradient(const at::Tensor& images, const at::Tensor& gradient) {
    const auto batch = images.size(0), channels = images.size(1);
    const auto rows = images.size(2), columns = images.size(3);
    const auto outputs = gradient.size(1);
    auto padded = at::zeros({batch, rows + 2, columns + 2, channels}, images.options());
    padded.narrow(1, 1, rows).narrow(2, 1, columns).copy_(images.permute({0, 2, 3, 1}));
    const auto stride = padded.strides();
    const auto patches =
        padded
            .as_strided({batch, rows, columns, 3, 3, channels},
                        {stride[0], stride[1], stride[2], stride[1], stride[2], 1})
            .reshape({batch * rows * columns, 9 * channels});
    const auto of_outputs =
        gradient.permute({0, 2, 3, 1}).reshape({batch * rows * columns, outputs});
    return of_outputs.t().matmul(patches).view({outputs, 3, 3, channels}).permute({0, 3, 1, 2});
  }
};

}  // namespace

// `images` `[batch, channels, height, width]`, `weight` `[outputs, channels, 3, 3]`. The result is a new tensor.
extern "C" const char* rsflow_small_maps_convolution(const at::Tensor* images,
                                                     const at::Tensor* weight,
                                                     at::Tensor** output) {
  return catch_exceptions([&] {
    const auto result = SmallMaps::apply(deref(images), deref(weight));
    deref(output) = new at::Tensor(result);
  });
}
