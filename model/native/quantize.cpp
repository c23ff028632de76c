// LQ-Nets' quantizer in one pass over memory, called by `src/nn/native.rs`. The calling convention
// is described in `guard.h`.
//
// Zhang et al., "LQ-Nets: Learned Quantization for Highly Accurate and Compact Deep Neural
// Networks", ECCV 2018, arXiv 1807.10029. With a basis v of K numbers and the 2^K codes b (each of
// K entries: -1 or 1 for weights, 0 or 1 for activations), the levels are q_l = v . b_l, in rising
// order. A value x is quantized to the nearest level, so the thresholds are the
// midpoints of neighbouring levels; x takes the upper level if it is strictly greater than the
// midpoint.
//
// The basis is fitted to the values by QEM, alternately: the codes with the basis fixed, the basis
// with the codes fixed, which is the least-squares solution v = (B B^T)^-1 B x, where column i of B
// is the code of value x_i. Values of one level share their code, so with n_l values
// of sum s_l at level l
//
//     B B^T = sum over l of n_l b_l b_l^T        B x = sum over l of s_l b_l
//
// `counts` are the n_l and `sums` the s_l: the fit needs neither B nor a second pass over the
// values. The solution itself is computed in `src/nn/quantizers`.
//
// The backward pass is that of the function named by `Gradient` below, whose derivative is 0 or 1.
// `grad_mask` holds it, one byte per value. ReLU is fused into this pass, which is bound by memory:
// quantizing an activation costs about as much as its ReLU alone.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <vector>

#include <ATen/Parallel.h>
#include <ATen/TensorOperators.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/clamp_min.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/gather.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/searchsorted.h>
#include <ATen/ops/where.h>
#include <ATen/ops/zeros_like.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/custom_function.h>

#include "guard.h"

// Function multiversioning: the kernels are compiled with and without AVX2, and the loader picks
// one by the CPU's features. (Not by `arch=haswell`, which also tests the vendor.)
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
#define MULTIVERSION __attribute__((target_clones("avx2", "default")))
#else
#define MULTIVERSION
#endif
#define INLINE inline __attribute__((always_inline))

namespace {

// The function whose derivative is the gradient of the quantizer, which is a step function. The
// numbers are those of `Gradient` in `src/nn/native.rs`.
enum Gradient : int {
  kStraightThrough = 0,  // x
  kClippedIdentity = 1,  // min(x, top level)
  kClippedRelu = 2,      // min(max(x, 0), top level); forward, too, quantizes max(x, 0)
};

// Consecutive values of one quantizer, and where its results go.
template <typename T>
struct Chunk {
  const T* input;
  T* output;
  std::uint8_t* grad_mask;  // null: no gradient is needed
  std::int64_t count;
  const T* levels;      // [level_count], rising
  const T* thresholds;  // [level_count - 1]
  int level_count;
  bool relu;
  double* counts;  // [level_count], added to; null: no statistics are needed
  double* sums;    // the same
};

// GCC vector types of AVX2's width. Wider ones would be split into scalar comparisons where there
// is no AVX-512, and AVX-512 would gain little: the pass is bound by memory.
template <typename T>
struct Simd;
template <>
struct Simd<float> {
  static constexpr int kLanes = 8;
  typedef float Values __attribute__((vector_size(32)));
  typedef std::int32_t Masks __attribute__((vector_size(32)));
  typedef std::uint8_t Bytes __attribute__((vector_size(8)));
};
template <>
struct Simd<double> {
  static constexpr int kLanes = 4;
  typedef double Values __attribute__((vector_size(32)));
  typedef std::int64_t Masks __attribute__((vector_size(32)));
  typedef std::uint8_t Bytes __attribute__((vector_size(4)));
};

// For any number of levels. Starts at value `first`.
template <typename T>
INLINE void quantize_scalar(const Chunk<T>& chunk, std::int64_t first) {
  const T top = chunk.levels[chunk.level_count - 1];
  for (std::int64_t i = first; i < chunk.count; ++i) {
    T x = chunk.input[i];
    const bool derivative = chunk.relu ? x > 0 && x <= top : x <= top;
    if (chunk.relu && x < 0) {
      x = 0;
    }
    const T* end = chunk.thresholds + chunk.level_count - 1;
    // The number of thresholds below x, which is the index of its level; 0 for NaN.
    const auto level = std::lower_bound(chunk.thresholds, end, x) - chunk.thresholds;
    // x - x is exactly 0 for finite values and NaN for infinities and NaN, which so stay visible.
    chunk.output[i] = chunk.levels[level] + (x - x);
    if (chunk.grad_mask) {
      chunk.grad_mask[i] = derivative;
    }
    if (chunk.counts) {
      chunk.counts[level] += 1;
      chunk.sums[level] += static_cast<double>(x);
    }
  }
}

// The same with vectors, for a number of levels that is known at compile time.
template <typename T, int kLevels>
INLINE void quantize_simd(const Chunk<T>& chunk) {
  using V = Simd<T>;
  using Values = typename V::Values;
  using Masks = typename V::Masks;
  // Vectors that are summed up in the precision of the values before the sum is widened to double:
  // few enough for float, many enough that widening costs nothing.
  constexpr int kBlock = 64;
  const Values zero = {};
  Values levels[kLevels];
  Values thresholds[kLevels];  // the last one is not used
  for (int k = 0; k < kLevels; ++k) {
    levels[k] = zero + chunk.levels[k];
    thresholds[k] = zero + chunk.thresholds[k < kLevels - 1 ? k : 0];
  }
  const std::int64_t vectors = chunk.count / V::kLanes;
  for (std::int64_t begin = 0; begin < vectors; begin += kBlock) {
    Values sums[kLevels] = {};
    Masks counts[kLevels] = {};  // negative: a true lane of a mask is -1
    const std::int64_t end = std::min<std::int64_t>(begin + kBlock, vectors);
    for (std::int64_t v = begin; v < end; ++v) {
      Values x;
      std::memcpy(&x, chunk.input + v * V::kLanes, sizeof x);
      if (chunk.grad_mask) {
        Masks derivative = x <= levels[kLevels - 1];
        if (chunk.relu) {
          derivative &= x > zero;
        }
        const auto bytes = __builtin_convertvector(derivative & 1, typename V::Bytes);
        std::memcpy(chunk.grad_mask + v * V::kLanes, &bytes, sizeof bytes);
      }
      if (chunk.relu) {
        x = x < zero ? zero : x;
      }
      // Walks up the levels: `reached` is x > thresholds[k - 1] (x is at level k or above),
      // `exceeded` is x > thresholds[k] (above level k). Exactly one level is reached and not
      // exceeded.
      Values y = levels[0];
      Masks reached = ~Masks{};
      for (int k = 0; k < kLevels; ++k) {
        const Masks exceeded = k < kLevels - 1 ? Masks(x > thresholds[k]) : Masks{};
        if (k < kLevels - 1) {
          y = exceeded ? levels[k + 1] : y;
        }
        if (chunk.counts) {
          const Masks at_level = reached & ~exceeded;
          counts[k] += at_level;
          sums[k] += at_level ? x : zero;
        }
        reached = exceeded;
      }
      y += x - x;
      std::memcpy(chunk.output + v * V::kLanes, &y, sizeof y);
    }
    if (chunk.counts) {
      for (int k = 0; k < kLevels; ++k) {
        double count = 0;
        double sum = 0;
        for (int lane = 0; lane < V::kLanes; ++lane) {
          count -= static_cast<double>(counts[k][lane]);
          sum += static_cast<double>(sums[k][lane]);
        }
        chunk.counts[k] += count;
        chunk.sums[k] += sum;
      }
    }
  }
  quantize_scalar(chunk, vectors * V::kLanes);
}

template <typename T>
INLINE void dispatch_level_count(const Chunk<T>& chunk) {
  switch (chunk.level_count) {
    case 2:
      return quantize_simd<T, 2>(chunk);
    case 4:
      return quantize_simd<T, 4>(chunk);
    case 8:
      return quantize_simd<T, 8>(chunk);
    case 16:
      return quantize_simd<T, 16>(chunk);
    default:
      return quantize_scalar(chunk, 0);
  }
}

MULTIVERSION void quantize_chunk(const Chunk<float>& chunk) { dispatch_level_count(chunk); }
MULTIVERSION void quantize_chunk(const Chunk<double>& chunk) { dispatch_level_count(chunk); }

template <typename T>
INLINE void apply_grad_mask(const T* gradient, const std::uint8_t* grad_mask, T* output,
                            std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    output[i] = grad_mask[i] ? gradient[i] : T(0);
  }
}

MULTIVERSION void apply_grad_mask_chunk(const float* gradient, const std::uint8_t* grad_mask,
                                        float* output, std::int64_t count) {
  apply_grad_mask(gradient, grad_mask, output, count);
}
MULTIVERSION void apply_grad_mask_chunk(const double* gradient, const std::uint8_t* grad_mask,
                                        double* output, std::int64_t count) {
  apply_grad_mask(gradient, grad_mask, output, count);
}

// Values of a chunk, the unit of work of a thread: 64 KiB of floats.
constexpr std::int64_t kChunkSize = 16384;

struct Quantizer {
  at::Tensor levels;      // [quantizers, levels]
  at::Tensor thresholds;  // [quantizers, levels - 1]
  Gradient gradient;
  at::Tensor counts;  // [quantizers, levels], f64; undefined: no statistics are needed
  at::Tensor sums;    // the same
};

// Chunks have the same size whatever the number of threads, and their statistics are added up in
// order, so that the result does not depend on the number of threads.
template <typename T>
void quantize_cpu(const Quantizer& q, const at::Tensor& input, const at::Tensor& output,
                  const at::Tensor& grad_mask) {
  const std::int64_t rows = q.levels.size(0);
  const std::int64_t level_count = q.levels.size(1);
  const std::int64_t row_size = input.numel() / rows;
  const std::int64_t chunks_per_row = (row_size + kChunkSize - 1) / kChunkSize;
  const std::int64_t chunks = rows * chunks_per_row;
  const bool with_statistics = q.counts.defined();
  // For each chunk its counts, then its sums.
  std::vector<double> statistics(with_statistics ? chunks * 2 * level_count : 0);
  const T* source = input.const_data_ptr<T>();
  T* target = output.mutable_data_ptr<T>();
  std::uint8_t* mask = grad_mask.defined() ? grad_mask.mutable_data_ptr<std::uint8_t>() : nullptr;
  const T* levels = q.levels.const_data_ptr<T>();
  const T* thresholds = q.thresholds.const_data_ptr<T>();
  // Short rows are chunks of their own; a task takes as many as make up one full chunk.
  const std::int64_t grain =
      std::max<std::int64_t>(1, kChunkSize / std::max<std::int64_t>(row_size, 1));
  at::parallel_for(0, chunks, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t c = begin; c < end; ++c) {
      const std::int64_t r = c / chunks_per_row;
      const std::int64_t first = (c % chunks_per_row) * kChunkSize;
      const std::int64_t offset = r * row_size + first;
      double* counts = with_statistics ? statistics.data() + c * 2 * level_count : nullptr;
      quantize_chunk(Chunk<T>{source + offset, target + offset, mask ? mask + offset : nullptr,
                              std::min(kChunkSize, row_size - first), levels + r * level_count,
                              thresholds + r * (level_count - 1), static_cast<int>(level_count),
                              q.gradient == kClippedRelu, counts,
                              with_statistics ? counts + level_count : nullptr});
    }
  });
  if (!with_statistics) {
    return;
  }
  double* counts = q.counts.mutable_data_ptr<double>();
  double* sums = q.sums.mutable_data_ptr<double>();
  for (std::int64_t c = 0; c < chunks; ++c) {
    const std::int64_t r = c / chunks_per_row;
    const double* of_chunk = statistics.data() + c * 2 * level_count;
    for (std::int64_t k = 0; k < level_count; ++k) {
      counts[r * level_count + k] += of_chunk[k];
      sums[r * level_count + k] += of_chunk[level_count + k];
    }
  }
}

// The sum of each row, in f64. Chunks are summed up in the precision of the values first, as on the
// CPU: on a GPU, widening all values would take eight bytes of memory each.
at::Tensor row_sums(const at::Tensor& values) {
  const std::int64_t rows = values.size(0);
  const std::int64_t chunks = values.size(1) / kChunkSize;
  const std::int64_t in_chunks = chunks * kChunkSize;
  auto sums = values.narrow(1, in_chunks, values.size(1) - in_chunks).sum(1, false, at::kDouble);
  if (chunks > 0) {
    const auto by_chunk = values.narrow(1, 0, in_chunks).reshape({rows, chunks, kChunkSize}).sum(2);
    sums = sums + by_chunk.sum(1, false, at::kDouble);
  }
  return sums;
}

// The nearest level of each value, with libtorch's operators; NaN for what is not finite.
at::Tensor nearest_levels(const Quantizer& q, const at::Tensor& values) {
  const std::int64_t level_count = q.levels.size(1);
  auto output = q.levels.narrow(1, 0, 1).expand_as(values);
  if (level_count > 16) {
    output = at::gather(q.levels, 1, at::searchsorted(q.thresholds, values));
  } else {
    for (std::int64_t k = 1; k < level_count; ++k) {
      const auto above = values.gt(q.thresholds.narrow(1, k - 1, 1));
      output = at::where(above, q.levels.narrow(1, k, 1), output);
    }
  }
  return output + (values - values);
}

// Adds the statistics of each level to `counts` and `sums`. Comparisons and sums only: a
// scatter-add on a GPU is not deterministic. Slow for many levels.
void add_statistics(const Quantizer& q, const at::Tensor& values) {
  const std::int64_t level_count = q.levels.size(1);
  auto reached = at::ones_like(values, at::kBool);
  for (std::int64_t k = 0; k < level_count; ++k) {
    const auto exceeded = k + 1 < level_count ? values.gt(q.thresholds.narrow(1, k, 1))
                                              : at::zeros_like(values, at::kBool);
    const auto at_level = reached.logical_and(exceeded.logical_not());
    q.counts.select(1, k).add_(row_sums(at_level.to(values.scalar_type())));
    q.sums.select(1, k).add_(row_sums(at::where(at_level, values, 0)));
    reached = exceeded;
  }
}

// For other devices than the CPU and other dtypes, with libtorch's operators.
at::Tensor quantize_fallback(const Quantizer& q, const at::Tensor& input, at::Tensor* grad_mask) {
  if (input.numel() == 0) {
    if (grad_mask) {
      *grad_mask = at::empty_like(input, input.options().dtype(at::kByte));
    }
    return at::empty_like(input);
  }
  auto values = input.reshape({q.levels.size(0), -1}).to(q.levels.scalar_type());
  if (grad_mask) {
    auto derivative = values.le(q.levels.narrow(1, q.levels.size(1) - 1, 1));
    if (q.gradient == kClippedRelu) {
      derivative = derivative.logical_and(values.gt(0));
    }
    *grad_mask = derivative.to(at::kByte).reshape(input.sizes());
  }
  if (q.gradient == kClippedRelu) {
    values = at::clamp_min(values, 0);
  }
  if (q.counts.defined()) {
    add_statistics(q, values);
  }
  return nearest_levels(q, values).reshape(input.sizes()).to(input.scalar_type());
}

// Whether the values of each quantizer are contiguous in memory, in any order within a row: the
// pass is elementwise, so channels-last inputs need no copy.
bool has_contiguous_rows(const at::Tensor& input, std::int64_t rows) {
  return input.is_non_overlapping_and_dense() &&
         (rows == 1 || input.is_contiguous() || input.stride(0) * rows == input.numel());
}

// `grad_mask`: where to put the mask for the backward pass; null if there will be none.
at::Tensor quantize(const Quantizer& q, const at::Tensor& input, bool in_place,
                    at::Tensor* grad_mask) {
  // The derivative of the identity is 1 everywhere: no mask.
  const bool straight = q.gradient == kStraightThrough;
  if (!input.is_cpu() || input.scalar_type() != q.levels.scalar_type() ||
      (input.scalar_type() != at::kFloat && input.scalar_type() != at::kDouble)) {
    auto output = quantize_fallback(q, input, straight ? nullptr : grad_mask);
    return in_place ? input.detach().copy_(output) : output;
  }
  const auto dense = has_contiguous_rows(input, q.levels.size(0)) ? input : input.contiguous();
  const auto output = in_place && dense.is_same(input) ? input.detach() : at::empty_like(dense);
  if (grad_mask && !straight) {
    *grad_mask = at::empty_like(dense, dense.options().dtype(at::kByte));
  }
  const auto mask = grad_mask ? *grad_mask : at::Tensor();
  if (input.numel() > 0) {
    if (input.scalar_type() == at::kFloat) {
      quantize_cpu<float>(q, dense, output, mask);
    } else {
      quantize_cpu<double>(q, dense, output, mask);
    }
  }
  return in_place && !dense.is_same(input) ? input.detach().copy_(output) : output;
}

at::Tensor masked_gradient(const at::Tensor& gradient, const at::Tensor& grad_mask) {
  const bool has_kernel =
      gradient.scalar_type() == at::kFloat || gradient.scalar_type() == at::kDouble;
  if (!gradient.is_cpu() || !has_kernel) {
    return gradient.masked_fill(grad_mask.eq(0), 0);
  }
  // With the strides of the mask: the kernel pairs elements by their memory offset.
  const auto aligned = gradient.strides() == grad_mask.strides()
                           ? gradient
                           : at::empty_like(grad_mask, gradient.options()).copy_(gradient);
  auto output = at::empty_like(aligned);
  const std::uint8_t* mask = grad_mask.const_data_ptr<std::uint8_t>();
  at::parallel_for(0, aligned.numel(), kChunkSize, [&](std::int64_t begin, std::int64_t end) {
    if (aligned.scalar_type() == at::kFloat) {
      apply_grad_mask_chunk(aligned.const_data_ptr<float>() + begin, mask + begin,
                   output.mutable_data_ptr<float>() + begin, end - begin);
    } else {
      apply_grad_mask_chunk(aligned.const_data_ptr<double>() + begin, mask + begin,
                   output.mutable_data_ptr<double>() + begin, end - begin);
    }
  });
  return output;
}

struct Quantize : torch::autograd::Function<Quantize> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& input,
                            const Quantizer* q, bool in_place) {
    at::Tensor grad_mask;
    const auto output = quantize(*q, input, in_place, &grad_mask);
    if (grad_mask.defined()) {
      context->save_for_backward({grad_mask});
    }
    if (in_place) {
      context->mark_dirty({input});
      return input;
    }
    return output;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    auto gradient = gradients[0];
    const auto saved = context->get_saved_variables();
    if (!saved.empty() && gradient.defined()) {
      gradient = masked_gradient(gradient, saved[0]);
    }
    return {gradient, at::Tensor(), at::Tensor()};
  }
};

}  // namespace

// Quantizes `input`, [quantizers, ...] (any shape if there is one quantizer), to `levels`,
// [quantizers, levels], rising, divided by `thresholds`, [quantizers, levels - 1]. The statistics
// of each level are added to `counts` and `sums`, [quantizers, levels] in f64, which may be null.
// In place, `output` is another handle to `input`.
extern "C" const char* rsflow_quantize(const at::Tensor* input, const at::Tensor* levels,
                                       const at::Tensor* thresholds, int gradient, bool in_place,
                                       const at::Tensor* counts, const at::Tensor* sums,
                                       at::Tensor** output) {
  return catch_exceptions([&] {
    for (const auto* tensor : {input, levels, thresholds}) {
      TORCH_CHECK(deref(tensor).defined(), "undefined tensor");
    }
    TORCH_CHECK(output != nullptr, "null pointer");
    TORCH_CHECK(levels->dim() == 2 && levels->size(0) > 0 && levels->size(1) >= 2,
                "levels of the shape ", levels->sizes());
    const auto rows = levels->size(0);
    TORCH_CHECK(thresholds->dim() == 2 && thresholds->size(0) == rows &&
                    thresholds->size(1) == levels->size(1) - 1,
                "thresholds of the shape ", thresholds->sizes(), " for levels of the shape ",
                levels->sizes());
    TORCH_CHECK(rows == 1 || (input->dim() > 0 && input->size(0) == rows), rows,
                " quantizers for values of the shape ", input->sizes());
    TORCH_CHECK(levels->scalar_type() == thresholds->scalar_type() &&
                    levels->device() == input->device() && thresholds->device() == input->device(),
                "levels, thresholds and values differ in dtype or device");
    TORCH_CHECK((counts == nullptr) == (sums == nullptr), "counts without sums");
    Quantizer q{levels->contiguous(), thresholds->contiguous(), static_cast<Gradient>(gradient),
                 at::Tensor(), at::Tensor()};
    if (counts != nullptr) {
      for (const auto* statistic : {counts, sums}) {
        TORCH_CHECK(statistic->sizes() == levels->sizes() &&
                        statistic->scalar_type() == at::kDouble &&
                        statistic->device() == input->device() && statistic->is_contiguous(),
                    "counts and sums must be contiguous, f64 and of the shape of the levels");
      }
      q.counts = *counts;
      q.sums = *sums;
    }
    if (at::GradMode::is_enabled() && input->requires_grad()) {
      TORCH_CHECK(!in_place || !input->is_leaf(), "a leaf cannot be quantized in place");
      *output = new at::Tensor(Quantize::apply(*input, &q, in_place));
    } else {
      *output = new at::Tensor(quantize(q, *input, in_place, nullptr));
      if (in_place && !input->is_inference()) {
        input->unsafeGetTensorImpl()->bump_version();
      }
    }
  });
}
