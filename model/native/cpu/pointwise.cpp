// Convolutions with a bias, a residual and an activation in one operator of oneDNN, called by
// `src/nn/kernels/pointwise.rs`. libtorch has them for its compiler, under names that its C++ headers do not
// declare. The calling convention is described in `guard.h`.

#include <optional>
#include <string_view>

#include <ATen/core/List.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/Scalar.h>

#include "../guard.h"

namespace {

using Scalars = torch::List<std::optional<at::Scalar>>;
using Text = std::optional<std::string_view>;

using Convolution = at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&,
                               at::IntArrayRef, at::IntArrayRef, at::IntArrayRef, int64_t,
                               std::string_view, Scalars, Text);
using ConvolutionOnto = at::Tensor&(at::Tensor&, const at::Tensor&, const at::Tensor&,
                                    const std::optional<at::Tensor>&, at::IntArrayRef,
                                    at::IntArrayRef, at::IntArrayRef, int64_t, std::string_view,
                                    std::optional<at::Scalar>, Text, Scalars, Text);
using Reorder = at::Tensor(const at::Tensor&, at::IntArrayRef, at::IntArrayRef, at::IntArrayRef,
                           int64_t, at::OptionalIntArrayRef);

template <typename Signature>
c10::TypedOperatorHandle<Signature> find(const char* name, const char* overload) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, overload).typed<Signature>();
}

// As `Activation` in `src/nn/kernels/operators.rs`.
enum class Activation : int { NONE = 0, RELU = 1, RELU6 = 2 };

}  // namespace

// The weight `[outputs, inputs / groups, k, k]` in the layout that oneDNN likes best for images of this shape,
// four numbers. It is for these convolutions only.
extern "C" const char* rsflow_pack_weight(const at::Tensor* weight, const int64_t* images,
                                          int64_t padding, int64_t stride, int64_t groups,
                                          at::Tensor** output) {
  return catch_exceptions([&] {
    static const auto reorder = find<Reorder>("mkldnn::_reorder_convolution_weight", "");
    const int64_t pads[] = {padding, padding}, strides[] = {stride, stride}, ones[] = {1, 1};
    deref(output) = new at::Tensor(reorder.call(deref(weight), pads, strides, ones, groups,
                                                at::IntArrayRef(images, 4)));
  });
}

// activation(conv(images) + bias + residual). `bias` and `residual` may be null; the result is then a new
// tensor, else it is in the place of the residual.
extern "C" const char* rsflow_convolution(const at::Tensor* images, const at::Tensor* packed,
                                          const at::Tensor* bias, const at::Tensor* residual,
                                          int64_t padding, int64_t stride, int64_t groups,
                                          int activation, at::Tensor** output) {
  return catch_exceptions([&] {
    const int64_t pads[] = {padding, padding}, strides[] = {stride, stride}, ones[] = {1, 1};
    const auto shift = bias == nullptr ? std::nullopt : std::make_optional(*bias);
    const auto which = static_cast<Activation>(activation);
    Scalars bounds;
    if (which == Activation::RELU6) {
      bounds.push_back(at::Scalar(0.0));
      bounds.push_back(at::Scalar(6.0));
    }
    const std::string_view name = which == Activation::NONE   ? "none"
                                  : which == Activation::RELU ? "relu"
                                                              : "hardtanh";
    if (residual == nullptr) {
      static const auto convolution = find<Convolution>("mkldnn::_convolution_pointwise", "");
      deref(output) = new at::Tensor(convolution.call(deref(images), deref(packed), shift, pads,
                                                      strides, ones, groups, name, bounds, ""));
      return;
    }
    // Of the activations after a sum oneDNN's operator has only this one here.
    TORCH_CHECK(which != Activation::RELU6, "no convolution with a residual and relu6");
    static const auto onto = find<ConvolutionOnto>("mkldnn::_convolution_pointwise_", "binary");
    auto sum = *residual;
    const auto unary = which == Activation::NONE ? Text() : Text(name);
    onto.call(sum, deref(images), deref(packed), shift, pads, strides, ones, groups, "add",
              /*alpha=*/std::nullopt, unary, Scalars(), /*algorithm=*/std::nullopt);
    deref(output) = new at::Tensor(sum);
  });
}
