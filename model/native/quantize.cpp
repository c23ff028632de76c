// The pass of a quantizer over its values, for `src/native.rs` to call; see `told.h` for how.
//
// Each value becomes the nearest level. In the same pass it is counted, and added to the sum of its
// level (all that the quantizer's basis is fitted from), and what the backward pass has to know of
// it is written down: one byte. So quantizing an activation costs about what its ReLU costs alone,
// which is part of the pass too.
//
// The quantizer is that of LQ-Nets (Zhang et al., ECCV 2018, arXiv 1807.10029). With a basis v of K
// numbers and the 2^K codes b (each of K entries: -1 or 1 for weights, 0 or 1 for activations), the
// levels are q = v . b, sorted; a value x takes the nearest level, so the thresholds are the
// midpoints of neighbouring levels, and x takes the upper one if it is strictly greater. The basis
// is refitted by least squares with the codes held fixed: v = (B B^T)^-1 B x over all values. Values
// of one level share a code, so with n_l values of sum s_l at level l
//
//     B B^T = sum over l of n_l b_l b_l^T        B x = sum over l of s_l b_l
//
// `counts` are the n_l and `sums` the s_l: the fit needs no second pass over the values. The gradient
// is the straight-through estimator of `Gradient` below; `passes` is its 0/1 factor per value.

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

#include "told.h"

// The kernels are compiled for processors with AVX2 and for all others; which is taken is found out
// when the program starts. (By what a processor can do: `arch=haswell` would ask who made it.)
#if defined(__x86_64__) && defined(__gnu_linux__) && defined(__GNUC__) && !defined(__clang__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("avx2", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif
#define INLINE inline __attribute__((always_inline))

namespace {

// What stands in for the quantizer where its gradient is wanted; the numbers are those of
// `Gradient` in `src/native.rs`.
enum Gradient : int {
  kStraightThrough = 0,  // x
  kUpToTop = 1,          // min(x, top level)
  kRectified = 2,        // min(max(x, 0), top level); the values, too, are those of max(x, 0)
};

// A run of values of one quantizer, and where its results go.
template <typename T>
struct Run {
  const T* input;
  T* output;
  std::uint8_t* passes;  // null: no gradient is wanted
  std::int64_t count;
  const T* levels;      // `level_count`, rising
  const T* thresholds;  // one less
  int level_count;
  bool rectified;
  double* counts;  // `level_count` of them, to which is added; null: no fit is wanted
  double* sums;
};

// As wide as AVX2 has them. Wider ones are compared value by value where there is no AVX-512, which
// would gain little: this pass waits for memory.
template <typename T>
struct Vectors;
template <>
struct Vectors<float> {
  static constexpr int kLanes = 8;
  typedef float Values __attribute__((vector_size(32)));
  typedef std::int32_t Masks __attribute__((vector_size(32)));
  typedef std::uint8_t Bytes __attribute__((vector_size(8)));
};
template <>
struct Vectors<double> {
  static constexpr int kLanes = 4;
  typedef double Values __attribute__((vector_size(32)));
  typedef std::int64_t Masks __attribute__((vector_size(32)));
  typedef std::uint8_t Bytes __attribute__((vector_size(4)));
};

// One value after the other, whatever the number of levels.
template <typename T>
INLINE void one_by_one(const Run<T>& run, std::int64_t from) {
  const T top = run.levels[run.level_count - 1];
  for (std::int64_t i = from; i < run.count; ++i) {
    T x = run.input[i];
    const bool passes = run.rectified ? x > 0 && x <= top : x <= top;
    if (run.rectified && x < 0) {
      x = 0;
    }
    const T* end = run.thresholds + run.level_count - 1;
    // The thresholds that the value is above: none, where it is not a number.
    const auto level = std::lower_bound(run.thresholds, end, x) - run.thresholds;
    // The difference is 0, exactly, of all but what is not finite, which so stays visible.
    run.output[i] = run.levels[level] + (x - x);
    if (run.passes) {
      run.passes[i] = passes;
    }
    if (run.counts) {
      run.counts[level] += 1;
      run.sums[level] += static_cast<double>(x);
    }
  }
}

// The same, many at once.
template <typename T, int kLevels>
INLINE void in_vectors(const Run<T>& run) {
  using V = Vectors<T>;
  using Values = typename V::Values;
  using Masks = typename V::Masks;
  // So many are added up in the precision of the values, before the sum is widened.
  constexpr int kAdded = 64;
  const Values zero = {};
  Values levels[kLevels];
  Values thresholds[kLevels];  // one too many
  for (int k = 0; k < kLevels; ++k) {
    levels[k] = zero + run.levels[k];
    thresholds[k] = zero + run.thresholds[k < kLevels - 1 ? k : 0];
  }
  const std::int64_t vectors = run.count / V::kLanes;
  for (std::int64_t begin = 0; begin < vectors; begin += kAdded) {
    Values sums[kLevels] = {};
    Masks counts[kLevels] = {};  // negative
    const std::int64_t end = std::min<std::int64_t>(begin + kAdded, vectors);
    for (std::int64_t v = begin; v < end; ++v) {
      Values x;
      std::memcpy(&x, run.input + v * V::kLanes, sizeof x);
      if (run.passes) {
        Masks passes = x <= levels[kLevels - 1];
        if (run.rectified) {
          passes &= x > zero;
        }
        const auto bytes = __builtin_convertvector(passes & 1, typename V::Bytes);
        std::memcpy(run.passes + v * V::kLanes, &bytes, sizeof bytes);
      }
      if (run.rectified) {
        x = x < zero ? zero : x;
      }
      Values y = levels[0];
      Masks above = ~Masks{};
      for (int k = 0; k < kLevels; ++k) {
        // Whether the value belongs to a level above this one.
        const Masks beyond = k < kLevels - 1 ? Masks(x > thresholds[k]) : Masks{};
        if (k < kLevels - 1) {
          y = beyond ? levels[k + 1] : y;
        }
        if (run.counts) {
          const Masks here = above & ~beyond;
          counts[k] += here;
          sums[k] += here ? x : zero;
        }
        above = beyond;
      }
      y += x - x;
      std::memcpy(run.output + v * V::kLanes, &y, sizeof y);
    }
    if (run.counts) {
      for (int k = 0; k < kLevels; ++k) {
        double count = 0;
        double sum = 0;
        for (int lane = 0; lane < V::kLanes; ++lane) {
          count -= static_cast<double>(counts[k][lane]);
          sum += static_cast<double>(sums[k][lane]);
        }
        run.counts[k] += count;
        run.sums[k] += sum;
      }
    }
  }
  one_by_one(run, vectors * V::kLanes);
}

template <typename T>
INLINE void any_number_of_levels(const Run<T>& run) {
  switch (run.level_count) {
    case 2:
      return in_vectors<T, 2>(run);
    case 4:
      return in_vectors<T, 4>(run);
    case 8:
      return in_vectors<T, 8>(run);
    case 16:
      return in_vectors<T, 16>(run);
    default:
      return one_by_one(run, 0);
  }
}

FOR_EACH_PROCESSOR void quantize_run(const Run<float>& run) { any_number_of_levels(run); }
FOR_EACH_PROCESSOR void quantize_run(const Run<double>& run) { any_number_of_levels(run); }

template <typename T>
INLINE void let_pass(const T* input, const std::uint8_t* passes, T* output, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) {
    output[i] = passes[i] ? input[i] : T(0);
  }
}

FOR_EACH_PROCESSOR void let_pass_run(const float* input, const std::uint8_t* passes, float* output,
                                     std::int64_t count) {
  let_pass(input, passes, output, count);
}
FOR_EACH_PROCESSOR void let_pass_run(const double* input, const std::uint8_t* passes,
                                     double* output, std::int64_t count) {
  let_pass(input, passes, output, count);
}

// Values that one thread takes at a time.
constexpr std::int64_t kPiece = 16384;

struct Quantizer {
  at::Tensor levels;      // [quantizers, levels]
  at::Tensor thresholds;  // [quantizers, levels - 1]
  Gradient gradient;
  at::Tensor counts;  // [quantizers, levels], f64; undefined: no fit is wanted
  at::Tensor sums;
};

// Pieces are of the same size whatever the number of threads, and are added up in their order, so
// that the sums do not depend on it.
template <typename T>
void on_cpu(const Quantizer& by, const at::Tensor& input, const at::Tensor& output,
            const at::Tensor& passes) {
  const std::int64_t rows = by.levels.size(0);
  const std::int64_t level_count = by.levels.size(1);
  const std::int64_t row = input.numel() / rows;
  const std::int64_t pieces = (row + kPiece - 1) / kPiece;
  const bool fits = by.counts.defined();
  std::vector<double> found(fits ? rows * pieces * 2 * level_count : 0);
  const T* from = input.const_data_ptr<T>();
  T* to = output.mutable_data_ptr<T>();
  std::uint8_t* marks = passes.defined() ? passes.mutable_data_ptr<std::uint8_t>() : nullptr;
  const T* levels = by.levels.const_data_ptr<T>();
  const T* thresholds = by.thresholds.const_data_ptr<T>();
  const std::int64_t grain = std::max<std::int64_t>(1, kPiece / std::max<std::int64_t>(row, 1));
  at::parallel_for(0, rows * pieces, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t unit = begin; unit < end; ++unit) {
      const std::int64_t r = unit / pieces;
      const std::int64_t first = (unit % pieces) * kPiece;
      const std::int64_t at = r * row + first;
      double* numbers = fits ? found.data() + unit * 2 * level_count : nullptr;
      quantize_run(Run<T>{from + at, to + at, marks ? marks + at : nullptr,
                          std::min(kPiece, row - first), levels + r * level_count,
                          thresholds + r * (level_count - 1), static_cast<int>(level_count),
                          by.gradient == kRectified, numbers,
                          fits ? numbers + level_count : nullptr});
    }
  });
  if (!fits) {
    return;
  }
  double* counts = by.counts.mutable_data_ptr<double>();
  double* sums = by.sums.mutable_data_ptr<double>();
  for (std::int64_t unit = 0; unit < rows * pieces; ++unit) {
    const std::int64_t r = unit / pieces;
    const double* numbers = found.data() + unit * 2 * level_count;
    for (std::int64_t k = 0; k < level_count; ++k) {
      counts[r * level_count + k] += numbers[k];
      sums[r * level_count + k] += numbers[level_count + k];
    }
  }
}

// The sum of each row, in f64: of pieces in the precision of the values first, as on the CPU, for on a
// GPU to widen all of them costs eight bytes of memory each.
at::Tensor sums_of_rows(const at::Tensor& values) {
  const std::int64_t rows = values.size(0);
  const std::int64_t pieces = values.size(1) / kPiece;
  const std::int64_t whole = pieces * kPiece;
  auto sums = values.narrow(1, whole, values.size(1) - whole).sum(1, false, at::kDouble);
  if (pieces > 0) {
    const auto by_piece = values.narrow(1, 0, whole).reshape({rows, pieces, kPiece}).sum(2);
    sums = sums + by_piece.sum(1, false, at::kDouble);
  }
  return sums;
}

// Each value at its level, with libtorch's operators. What is no number stays none.
at::Tensor at_levels(const Quantizer& by, const at::Tensor& values) {
  const std::int64_t level_count = by.levels.size(1);
  auto output = by.levels.narrow(1, 0, 1).expand_as(values);
  if (level_count > 16) {
    output = at::gather(by.levels, 1, at::searchsorted(by.thresholds, values));
  } else {
    for (std::int64_t k = 1; k < level_count; ++k) {
      const auto above = values.gt(by.thresholds.narrow(1, k - 1, 1));
      output = at::where(above, by.levels.narrow(1, k, 1), output);
    }
  }
  return output + (values - values);
}

// Adds what is at each level to counts and sums: with comparisons and sums only, which give the same
// bits each time on GPUs too. Of many levels that is slow.
void count_at_levels(const Quantizer& by, const at::Tensor& values) {
  const std::int64_t level_count = by.levels.size(1);
  auto above = at::ones_like(values, at::kBool);
  for (std::int64_t k = 0; k < level_count; ++k) {
    const auto beyond = k + 1 < level_count ? values.gt(by.thresholds.narrow(1, k, 1))
                                            : at::zeros_like(values, at::kBool);
    const auto here = above.logical_and(beyond.logical_not());
    by.counts.select(1, k).add_(sums_of_rows(here.to(values.scalar_type())));
    by.sums.select(1, k).add_(sums_of_rows(at::where(here, values, 0)));
    above = beyond;
  }
}

// The same with libtorch's operators: other devices, other kinds of number.
at::Tensor with_operators(const Quantizer& by, const at::Tensor& input, at::Tensor* passes) {
  if (input.numel() == 0) {
    if (passes) {
      *passes = at::empty_like(input, input.options().dtype(at::kByte));
    }
    return at::empty_like(input);
  }
  auto values = input.reshape({by.levels.size(0), -1}).to(by.levels.scalar_type());
  if (passes) {
    auto pass = values.le(by.levels.narrow(1, by.levels.size(1) - 1, 1));
    if (by.gradient == kRectified) {
      pass = pass.logical_and(values.gt(0));
    }
    *passes = pass.to(at::kByte).reshape(input.sizes());
  }
  if (by.gradient == kRectified) {
    values = at::clamp_min(values, 0);
  }
  if (by.counts.defined()) {
    count_at_levels(by, values);
  }
  return at_levels(by, values).reshape(input.sizes()).to(input.scalar_type());
}

// Whether each quantizer's values lie behind one another, without a gap.
bool lies_in_rows(const at::Tensor& input, std::int64_t rows) {
  return input.is_non_overlapping_and_dense() &&
         (rows == 1 || input.is_contiguous() || input.stride(0) * rows == input.numel());
}

// `passes`: where to leave the marks for the backward pass, if it is wanted.
at::Tensor quantize(const Quantizer& by, const at::Tensor& input, bool in_place,
                    at::Tensor* passes) {
  const bool straight = by.gradient == kStraightThrough;
  if (!input.is_cpu() || input.scalar_type() != by.levels.scalar_type() ||
      (input.scalar_type() != at::kFloat && input.scalar_type() != at::kDouble)) {
    auto output = with_operators(by, input, straight ? nullptr : passes);
    return in_place ? input.detach().copy_(output) : output;
  }
  const auto dense = lies_in_rows(input, by.levels.size(0)) ? input : input.contiguous();
  const auto output = in_place && dense.is_same(input) ? input.detach() : at::empty_like(dense);
  if (passes && !straight) {
    *passes = at::empty_like(dense, dense.options().dtype(at::kByte));
  }
  const auto marks = passes ? *passes : at::Tensor();
  if (input.numel() > 0) {
    if (input.scalar_type() == at::kFloat) {
      on_cpu<float>(by, dense, output, marks);
    } else {
      on_cpu<double>(by, dense, output, marks);
    }
  }
  return in_place && !dense.is_same(input) ? input.detach().copy_(output) : output;
}

at::Tensor backward(const at::Tensor& gradient, const at::Tensor& passes) {
  const bool known = gradient.scalar_type() == at::kFloat || gradient.scalar_type() == at::kDouble;
  if (!gradient.is_cpu() || !known) {
    return gradient.masked_fill(passes.eq(0), 0);
  }
  // In the order of the marks.
  const auto ordered = gradient.strides() == passes.strides()
                           ? gradient
                           : at::empty_like(passes, gradient.options()).copy_(gradient);
  auto output = at::empty_like(ordered);
  const std::uint8_t* marks = passes.const_data_ptr<std::uint8_t>();
  at::parallel_for(0, ordered.numel(), kPiece, [&](std::int64_t begin, std::int64_t end) {
    if (ordered.scalar_type() == at::kFloat) {
      let_pass_run(ordered.const_data_ptr<float>() + begin, marks + begin,
                   output.mutable_data_ptr<float>() + begin, end - begin);
    } else {
      let_pass_run(ordered.const_data_ptr<double>() + begin, marks + begin,
                   output.mutable_data_ptr<double>() + begin, end - begin);
    }
  });
  return output;
}

struct Quantize : torch::autograd::Function<Quantize> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& input,
                            const Quantizer* by, bool in_place) {
    at::Tensor passes;
    const auto output = quantize(*by, input, in_place, &passes);
    if (passes.defined()) {
      context->save_for_backward({passes});
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
      gradient = ::backward(gradient, saved[0]);
    }
    return {gradient, at::Tensor(), at::Tensor()};
  }
};

}  // namespace

// `input`, whose first dimension is that of the quantizers unless there is only one, at the levels
// of `levels`, [quantizers, levels], rising; a value above one of `thresholds`, [quantizers, levels
// - 1], belongs to a higher level. What is found is added to `counts` and `sums`, [quantizers,
// levels] in f64, which may be null. In place, `output` is another handle to `input`.
extern "C" const char* rsflow_quantize(const at::Tensor* input, const at::Tensor* levels,
                                       const at::Tensor* thresholds, int gradient, bool in_place,
                                       const at::Tensor* counts, const at::Tensor* sums,
                                       at::Tensor** output) {
  return told([&] {
    for (const auto* tensor : {input, levels, thresholds}) {
      TORCH_CHECK(at_end_of(tensor).defined(), "a tensor that is not defined");
    }
    TORCH_CHECK(output != nullptr, "no place for what comes out");
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
                "levels, thresholds and values are not of one kind, on one device");
    TORCH_CHECK((counts == nullptr) == (sums == nullptr), "counts without sums");
    Quantizer by{levels->contiguous(), thresholds->contiguous(), static_cast<Gradient>(gradient),
                 at::Tensor(), at::Tensor()};
    if (counts != nullptr) {
      for (const auto* found : {counts, sums}) {
        TORCH_CHECK(found->sizes() == levels->sizes() && found->scalar_type() == at::kDouble &&
                        found->device() == input->device() && found->is_contiguous(),
                    "no place for what is found at each level");
      }
      by.counts = *counts;
      by.sums = *sums;
    }
    if (at::GradMode::is_enabled() && input->requires_grad()) {
      TORCH_CHECK(!in_place || !input->is_leaf(), "a leaf cannot be quantized in place");
      *output = new at::Tensor(Quantize::apply(*input, &by, in_place));
    } else {
      *output = new at::Tensor(quantize(by, *input, in_place, nullptr));
      if (in_place && !input->is_inference()) {
        input->unsafeGetTensorImpl()->bump_version();
      }
    }
  });
}
