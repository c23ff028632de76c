// Kernels for GPUs, channels last: batch norm with the residual's addition and the activation, and max
// pooling. What they compute is stated in `arguments.h`. NVRTC compiles this text, after that file and
// before the other ones (`TEXT` in `src/nn/kernels/program.rs`), on the machine where it runs; the tests
// compile it for the CPU (`emulation`).
//
// They are bound by memory, so each value is read as part of a vector of 16 bytes, as few times as
// possible. Everything is computed in float. No sum depends on the order in which blocks run, or on the
// GPU.

namespace rsflow {
namespace gpu {

// The types of values in memory.
struct f32 {
  static constexpr int LANES = 4;
  static __device__ __forceinline__ void unpack(const uint4& from, float* to) {
    to[0] = __uint_as_float(from.x);
    to[1] = __uint_as_float(from.y);
    to[2] = __uint_as_float(from.z);
    to[3] = __uint_as_float(from.w);
  }
  static __device__ __forceinline__ uint4 pack(const float* from) {
    return make_uint4(__float_as_uint(from[0]), __float_as_uint(from[1]), __float_as_uint(from[2]),
                      __float_as_uint(from[3]));
  }
  static __device__ __forceinline__ void store(void* to, int index, float value) {
    static_cast<float*>(to)[index] = value;
  }
};

// Two values of 16 bits in each word, the first one in its lower half.
template <class Pair>
struct Pairs {
  static constexpr int LANES = 8;
  static __device__ __forceinline__ void unpack(const uint4& from, float* to) {
    Pair::unpack(from.x, to);
    Pair::unpack(from.y, to + 2);
    Pair::unpack(from.z, to + 4);
    Pair::unpack(from.w, to + 6);
  }
  static __device__ __forceinline__ uint4 pack(const float* from) {
    return make_uint4(Pair::pack(from), Pair::pack(from + 2), Pair::pack(from + 4),
                      Pair::pack(from + 6));
  }
  static __device__ __forceinline__ void store(void* to, int index, float value) {
    const float pair[2] = {value, 0};
    static_cast<unsigned short*>(to)[index] = static_cast<unsigned short>(Pair::pack(pair));
  }
};

struct Bf16Pair {
  static __device__ __forceinline__ void unpack(unsigned from, float* to) {
    to[0] = __uint_as_float(from << 16);
    to[1] = __uint_as_float(from & 0xffff0000u);
  }
  // To the nearest, ties to even; NaN stays NaN.
  static __device__ __forceinline__ unsigned pack(const float* from) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    unsigned to;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(to) : "f"(from[1]), "f"(from[0]));
    return to;
#else
    return rounded(from[0]) | rounded(from[1]) << 16;
#endif
  }
  static __device__ __forceinline__ unsigned rounded(float value) {
    const unsigned word = __float_as_uint(value);
    const unsigned nearest = (word + 0x7fffu + ((word >> 16) & 1u)) >> 16;
    return (word & 0x7fffffffu) > 0x7f800000u ? (word >> 16) | 0x40u : nearest;
  }
};

struct F16Pair {
  static __device__ __forceinline__ void unpack(unsigned from, float* to) {
    to[0] = half_to_float(static_cast<unsigned short>(from));
    to[1] = half_to_float(static_cast<unsigned short>(from >> 16));
  }
  static __device__ __forceinline__ unsigned pack(const float* from) {
    return float_to_half(from[0]) | static_cast<unsigned>(float_to_half(from[1])) << 16;
  }
#ifdef __CUDA_ARCH__
  static __device__ __forceinline__ float half_to_float(unsigned short from) {
    float to;
    asm("cvt.f32.f16 %0, %1;" : "=f"(to) : "h"(from));
    return to;
  }
  static __device__ __forceinline__ unsigned short float_to_half(float from) {
    unsigned short to;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to) : "f"(from));
    return to;
  }
#else
  static float half_to_float(unsigned short from) { return emulated_half_to_float(from); }
  static unsigned short float_to_half(float from) { return emulated_float_to_half(from); }
#endif
};

using bf16 = Pairs<Bf16Pair>;
using f16 = Pairs<F16Pair>;

// What a thread has of the values: one vector in every `height`th row of its block's chunk.
struct Place {
  int width, height;  // vectors of a row, and rows, that the block has at once
  int row;            // among the block's rows
  int vector;         // of a row of all values
  bool works;         // threads that are left over do not
  long long begin, end;

  __device__ __forceinline__ explicit Place(const Tiles& tiles) {
    width = tiles.width;
    height = THREADS / width;
    row = threadIdx.x / width;
    vector = blockIdx.x * width + threadIdx.x % width;
    works = row < height && vector < tiles.vectors;
    const long long first = static_cast<long long>(blockIdx.y) * tiles.chunk;
    begin = first + row;
    end = first + tiles.chunk < tiles.rows ? first + tiles.chunk : tiles.rows;
  }
};

// Calls `work` with each of the thread's vectors, from `row` on: `AT_ONCE` loads of each tensor are under
// way at the same time.
template <int AT_ONCE, int TENSORS, class Work>
__device__ __forceinline__ void each_row(const Place& place, long long row, long long vectors,
                                         const uint4* const (&tensors)[TENSORS], Work work) {
  uint4 loaded[AT_ONCE][TENSORS];
  for (; row + (AT_ONCE - 1) * place.height < place.end; row += AT_ONCE * place.height) {
#pragma unroll
    for (int i = 0; i < AT_ONCE; ++i) {
      const long long at = (row + i * place.height) * vectors + place.vector;
#pragma unroll
      for (int t = 0; t < TENSORS; ++t) {
        loaded[i][t] = tensors[t][at];
      }
    }
#pragma unroll
    for (int i = 0; i < AT_ONCE; ++i) {
      work((row + i * place.height) * vectors + place.vector, loaded[i]);
    }
  }
  for (; row < place.end; row += place.height) {
    const long long at = row * vectors + place.vector;
#pragma unroll
    for (int t = 0; t < TENSORS; ++t) {
      loaded[0][t] = tensors[t][at];
    }
    work(at, loaded[0]);
  }
}

// The values of a vector's channels.
template <int LANES>
__device__ __forceinline__ void load_channels(const float* from, int vector, float* to) {
#pragma unroll
  for (int i = 0; i < LANES; i += 4) {
    const float4 four = *reinterpret_cast<const float4*>(from + vector * LANES + i);
    to[i] = four.x;
    to[i + 1] = four.y;
    to[i + 2] = four.z;
    to[i + 3] = four.w;
  }
}

template <int LANES>
__device__ __forceinline__ void store_channels(float* to, int vector, const float* from) {
#pragma unroll
  for (int i = 0; i < LANES; i += 4) {
    *reinterpret_cast<float4*>(to + vector * LANES + i) =
        make_float4(from[i], from[i + 1], from[i + 2], from[i + 3]);
  }
}

// Two figures for each of a vector's channels, made of `count` rows.
template <int LANES>
struct Figures {
  float count = 0;
  float first[LANES] = {};
  float second[LANES] = {};
};

// Both figures are sums.
struct Sums {
  template <int LANES>
  static __device__ __forceinline__ void combine(Figures<LANES>& to, const Figures<LANES>& from) {
    to.count += from.count;
#pragma unroll
    for (int i = 0; i < LANES; ++i) {
      to.first[i] += from.first[i];
      to.second[i] += from.second[i];
    }
  }
};

// The mean and the sum of squared differences to it, combined as by Chan, Golub, LeVeque: "Updating
// Formulae and a Pairwise Algorithm for Computing Sample Variances", 1979.
struct Moments {
  template <int LANES>
  static __device__ __forceinline__ void combine(Figures<LANES>& to, const Figures<LANES>& from) {
    if (from.count == 0) {
      return;
    }
    if (to.count == 0) {
      to = from;
      return;
    }
    const float total = to.count + from.count;
    const float share = from.count / total;
    const float weight = to.count * share;
#pragma unroll
    for (int i = 0; i < LANES; ++i) {
      const float difference = from.first[i] - to.first[i];
      to.first[i] += difference * share;
      to.second[i] += from.second[i] + difference * difference * weight;
    }
    to.count = total;
  }
};

// Combines what the block's threads have of the same channels. The first row gets it.
template <class Rule, int LANES>
__device__ __forceinline__ void combine_rows(Figures<LANES>& figures, const Place& place) {
  __shared__ float handed[2 * LANES + 1][THREADS];
  int half = 1;
  while (2 * half < place.height) {
    half *= 2;
  }
  for (; half > 0; half /= 2) {
    const bool gives = place.row >= half && place.row < 2 * half && place.row < place.height;
    const bool takes = place.row < half && place.row + half < place.height;
    if (gives) {
      handed[2 * LANES][threadIdx.x] = figures.count;
#pragma unroll
      for (int i = 0; i < LANES; ++i) {
        handed[i][threadIdx.x] = figures.first[i];
        handed[LANES + i][threadIdx.x] = figures.second[i];
      }
    }
    __syncthreads();
    if (takes) {
      const int from = threadIdx.x + half * place.width;
      Figures<LANES> other;
      other.count = handed[2 * LANES][from];
#pragma unroll
      for (int i = 0; i < LANES; ++i) {
        other.first[i] = handed[i][from];
        other.second[i] = handed[LANES + i][from];
      }
      Rule::combine(figures, other);
    }
    __syncthreads();
  }
}

// Where blocks leave their figures for each other.
template <class Rule, int LANES>
struct Exchange {
  const Place& place;
  const Tiles& tiles;
  float* partial;  // [slots, 2, channels]

  __device__ __forceinline__ float* slot(int index) const {
    return partial + 2ll * index * tiles.vectors * LANES;
  }

  // Leaves the figures in a slot. Returns whether all `members` have done so, to the block that came last.
  __device__ __forceinline__ bool arrive(const Figures<LANES>& figures, int index, unsigned* done,
                                         int members) const {
    if (place.works && place.row == 0) {
      store_channels<LANES>(slot(index), place.vector, figures.first);
      store_channels<LANES>(slot(index) + tiles.vectors * LANES, place.vector, figures.second);
    }
    __threadfence();
    __syncthreads();
    __shared__ bool is_last;
    if (threadIdx.x == 0) {
      is_last = atomicAdd(done, 1u) + 1 == static_cast<unsigned>(members);
      if (is_last) {
        *done = 0;
      }
    }
    __syncthreads();
    const bool last = is_last;
    if (last) {
      __threadfence();
    }
    return last;
  }

  // Combines the figures of the slots from `first` on, whose rows are those from `rows_before` on, `each`
  // in a slot.
  __device__ __forceinline__ void gather(Figures<LANES>& figures, int first, int members,
                                         long long rows_before, long long each) const {
    figures = Figures<LANES>();
    if (place.works) {
      for (int i = place.row; i < members; i += place.height) {
        const long long rest = tiles.rows - rows_before - i * each;
        Figures<LANES> other;
        other.count = static_cast<float>(rest < each ? rest : each);
        load_channels<LANES>(slot(first + i), place.vector, other.first);
        load_channels<LANES>(slot(first + i) + tiles.vectors * LANES, place.vector, other.second);
        Rule::combine(figures, other);
      }
    }
    combine_rows<Rule>(figures, place);
  }
};

// Combines the figures of all threads and blocks, in an order that depends on the shape alone. Returns
// true in one block of those with the same channels, whose first row gets them.
template <class Rule, int LANES>
__device__ __forceinline__ bool combine_all(Figures<LANES>& figures, const Place& place,
                                            const Tiles& tiles, float* partial, unsigned* done) {
  combine_rows<Rule>(figures, place);
  if (tiles.chunks == 1) {
    return true;
  }
  const Exchange<Rule, LANES> exchange{place, tiles, partial};
  const int groups = (tiles.chunks + GROUP - 1) / GROUP;
  const int group = blockIdx.y / GROUP;
  const int first = group * GROUP;
  const int members = tiles.chunks - first < GROUP ? tiles.chunks - first : GROUP;
  done += blockIdx.x * (groups + 1);
  if (!exchange.arrive(figures, blockIdx.y, done + group, members)) {
    return false;
  }
  const long long chunk = tiles.chunk;
  exchange.gather(figures, first, members, first * chunk, chunk);
  if (groups == 1) {
    return true;
  }
  if (!exchange.arrive(figures, tiles.chunks + group, done + groups, groups)) {
    return false;
  }
  exchange.gather(figures, tiles.chunks, groups, 0, GROUP * chunk);
  return true;
}

template <class T>
__device__ __forceinline__ void norm_statistics(const Statistics& a) {
  constexpr int LANES = T::LANES;
  const Place place(a.tiles);
  const auto x = static_cast<const uint4*>(a.x);
  Figures<LANES> figures;
  if (place.works && place.begin < place.end) {
    // Sums of the differences to one of the values: however far from 0 all are, the error of the sum of
    // squares is within as many rounding errors as the thread has values.
    float centre[LANES], first[LANES] = {}, second[LANES] = {};
    T::unpack(x[place.begin * a.tiles.vectors + place.vector], centre);
    const uint4* const tensors[] = {x};
    each_row<4>(place, place.begin + place.height, a.tiles.vectors, tensors,
                [&](long long, const uint4(&loaded)[1]) {
                  float values[LANES];
                  T::unpack(loaded[0], values);
#pragma unroll
                  for (int i = 0; i < LANES; ++i) {
                    const float difference = values[i] - centre[i];
                    first[i] += difference;
                    second[i] = fmaf(difference, difference, second[i]);
                  }
                });
    figures.count =
        static_cast<float>((place.end - place.begin + place.height - 1) / place.height);
    // Means are those of the differences to the first row's value, which all threads know: then they
    // have the size of the deviation, and their rounding with it.
    float origin[LANES];
    T::unpack(x[place.vector], origin);
#pragma unroll
    for (int i = 0; i < LANES; ++i) {
      const float rest = first[i] / figures.count;
      const float squares = second[i] - first[i] * rest;
      figures.first[i] = centre[i] - origin[i] + rest;
      figures.second[i] = squares < 0 ? 0 : squares;  // NaN stays NaN
    }
  }
  if (!combine_all<Moments>(figures, place, a.tiles, a.partial, a.done) || !place.works ||
      place.row > 0) {
    return;
  }
  float origin[LANES], mean[LANES], variance[LANES], inverse[LANES];
  T::unpack(x[place.vector], origin);
  load_channels<LANES>(a.running_mean, place.vector, mean);
  load_channels<LANES>(a.running_var, place.vector, variance);
#pragma unroll
  for (int i = 0; i < LANES; ++i) {
    figures.first[i] += origin[i];
    const float unbiased = figures.second[i] / (figures.count - 1);
    inverse[i] = 1.0f / sqrtf(figures.second[i] / figures.count + a.epsilon);
    mean[i] = (1 - a.momentum) * mean[i] + a.momentum * figures.first[i];
    variance[i] = (1 - a.momentum) * variance[i] + a.momentum * unbiased;
  }
  store_channels<LANES>(a.mean, place.vector, figures.first);
  store_channels<LANES>(a.inverse, place.vector, inverse);
  store_channels<LANES>(a.running_mean, place.vector, mean);
  store_channels<LANES>(a.running_var, place.vector, variance);
}

// The output of a batch norm before the activation. Forward and backward compute the same bits.
__device__ __forceinline__ float normalized(float x, float mean, float scale, float bias) {
  return fmaf(x - mean, scale, bias);
}

// NaN stays NaN.
__device__ __forceinline__ float activate(int activation, float z) {
  const float y = activation != NONE && z < 0 ? 0 : z;
  return activation == RELU6 && y > 6 ? 6 : y;
}

// Whether the activation passes the gradient on.
__device__ __forceinline__ bool passes(int activation, float z) {
  return activation == NONE || (z > 0 && (activation != RELU6 || z < 6));
}

template <class T>
__device__ __forceinline__ void norm_forward(const NormForward& a) {
  constexpr int LANES = T::LANES;
  const Place place(a.tiles);
  if (!place.works) {
    return;
  }
  float mean[LANES], scale[LANES], weight[LANES], bias[LANES];
  load_channels<LANES>(a.mean, place.vector, mean);
  load_channels<LANES>(a.spread, place.vector, scale);
  load_channels<LANES>(a.weight, place.vector, weight);
  load_channels<LANES>(a.bias, place.vector, bias);
#pragma unroll
  for (int i = 0; i < LANES; ++i) {
    if (a.is_variance) {
      scale[i] = 1.0f / sqrtf(scale[i] + a.epsilon);
    }
    scale[i] *= weight[i];
  }
  const auto y = static_cast<uint4*>(a.y);
  const auto x = static_cast<const uint4*>(a.x);
  if (a.residual == nullptr) {
    const uint4* const tensors[] = {x};
    each_row<4>(place, place.begin, a.tiles.vectors, tensors,
                [&](long long at, const uint4(&loaded)[1]) {
                  float values[LANES];
                  T::unpack(loaded[0], values);
#pragma unroll
                  for (int i = 0; i < LANES; ++i) {
                    values[i] =
                        activate(a.activation, normalized(values[i], mean[i], scale[i], bias[i]));
                  }
                  y[at] = T::pack(values);
                });
    return;
  }
  const uint4* const tensors[] = {x, static_cast<const uint4*>(a.residual)};
  each_row<2>(place, place.begin, a.tiles.vectors, tensors,
              [&](long long at, const uint4(&loaded)[2]) {
                float values[LANES], added[LANES];
                T::unpack(loaded[0], values);
                T::unpack(loaded[1], added);
                unsigned mask = 0;
#pragma unroll
                for (int i = 0; i < LANES; ++i) {
                  const float z = normalized(values[i], mean[i], scale[i], bias[i]) + added[i];
                  mask |= static_cast<unsigned>(passes(a.activation, z)) << i;
                  values[i] = activate(a.activation, z);
                }
                y[at] = T::pack(values);
                if (a.mask != nullptr) {
                  a.mask[at] = static_cast<unsigned char>(mask);
                }
              });
}

template <class T>
__device__ __forceinline__ void norm_sums(const NormSums& a) {
  constexpr int LANES = T::LANES;
  const Place place(a.tiles);
  float mean[LANES] = {}, inverse[LANES] = {}, weight[LANES] = {};
  Figures<LANES> figures;
  if (place.works) {
    load_channels<LANES>(a.mean, place.vector, mean);
    load_channels<LANES>(a.inverse, place.vector, inverse);
    load_channels<LANES>(a.weight, place.vector, weight);
    const uint4* const tensors[] = {static_cast<const uint4*>(a.x),
                                    static_cast<const uint4*>(a.dy)};
    if (a.mask == nullptr) {
      float scale[LANES], bias[LANES];
      load_channels<LANES>(a.bias, place.vector, bias);
#pragma unroll
      for (int i = 0; i < LANES; ++i) {
        scale[i] = inverse[i] * weight[i];
      }
      each_row<2>(place, place.begin, a.tiles.vectors, tensors,
                  [&](long long, const uint4(&loaded)[2]) {
                    float x[LANES], dz[LANES];
                    T::unpack(loaded[0], x);
                    T::unpack(loaded[1], dz);
#pragma unroll
                    for (int i = 0; i < LANES; ++i) {
                      const float z = normalized(x[i], mean[i], scale[i], bias[i]);
                      dz[i] = passes(a.activation, z) ? dz[i] : 0;
                      figures.first[i] += dz[i];
                      figures.second[i] = fmaf(dz[i], x[i] - mean[i], figures.second[i]);
                    }
                  });
    } else {
      const auto to = static_cast<uint4*>(a.dz);
      each_row<2>(place, place.begin, a.tiles.vectors, tensors,
                  [&](long long at, const uint4(&loaded)[2]) {
                    float x[LANES], dz[LANES];
                    const unsigned mask = a.mask[at];
                    T::unpack(loaded[0], x);
                    T::unpack(loaded[1], dz);
#pragma unroll
                    for (int i = 0; i < LANES; ++i) {
                      dz[i] = mask >> i & 1 ? dz[i] : 0;
                      figures.first[i] += dz[i];
                      figures.second[i] = fmaf(dz[i], x[i] - mean[i], figures.second[i]);
                    }
                    to[at] = T::pack(dz);
                  });
    }
  }
  if (!combine_all<Sums>(figures, place, a.tiles, a.partial, a.done) || !place.works ||
      place.row > 0) {
    return;
  }
  float dweight[LANES], slope[LANES], offset[LANES];
  const float each = 1.0f / static_cast<float>(a.tiles.rows);
#pragma unroll
  for (int i = 0; i < LANES; ++i) {
    const float scale = inverse[i] * weight[i];
    dweight[i] = figures.second[i] * inverse[i];
    slope[i] = -scale * inverse[i] * dweight[i] * each;
    offset[i] = -scale * figures.first[i] * each;
  }
  store_channels<LANES>(a.dweight, place.vector, dweight);
  store_channels<LANES>(a.dbias, place.vector, figures.first);
  store_channels<LANES>(a.slope, place.vector, slope);
  store_channels<LANES>(a.offset, place.vector, offset);
}

template <class T>
__device__ __forceinline__ void norm_backward(const NormBackward& a) {
  constexpr int LANES = T::LANES;
  const Place place(a.tiles);
  if (!place.works) {
    return;
  }
  float mean[LANES], scale[LANES], bias[LANES], slope[LANES], offset[LANES];
  load_channels<LANES>(a.inverse, place.vector, scale);
  load_channels<LANES>(a.weight, place.vector, bias);
#pragma unroll
  for (int i = 0; i < LANES; ++i) {
    scale[i] *= bias[i];
  }
  load_channels<LANES>(a.mean, place.vector, mean);
  load_channels<LANES>(a.bias, place.vector, bias);
  load_channels<LANES>(a.slope, place.vector, slope);
  load_channels<LANES>(a.offset, place.vector, offset);
  const auto dx = static_cast<uint4*>(a.dx);
  const uint4* const tensors[] = {static_cast<const uint4*>(a.x), static_cast<const uint4*>(a.dy)};
  each_row<2>(place, place.begin, a.tiles.vectors, tensors,
              [&](long long at, const uint4(&loaded)[2]) {
                float x[LANES], dz[LANES];
                T::unpack(loaded[0], x);
                T::unpack(loaded[1], dz);
#pragma unroll
                for (int i = 0; i < LANES; ++i) {
                  const float z = normalized(x[i], mean[i], scale[i], bias[i]);
                  const float passed = passes(a.activation, z) ? dz[i] : 0;
                  dz[i] = fmaf(passed, scale[i], fmaf(x[i] - mean[i], slope[i], offset[i]));
                }
                dx[at] = T::pack(dz);
              });
}

// One vector of a map, [batch, height, width, vectors].
struct Pixel {
  int batch, row, column, vector;

  __device__ __forceinline__ Pixel(long long index, int height, int width, int vectors) {
    vector = static_cast<int>(index % vectors);
    index /= vectors;
    column = static_cast<int>(index % width);
    index /= width;
    row = static_cast<int>(index % height);
    batch = static_cast<int>(index / height);
  }
};

// The places of a vector, a byte each.
template <int LANES>
struct Places {
  unsigned words[LANES / 4] = {};

  __device__ __forceinline__ unsigned get(int i) const { return words[i / 4] >> (i % 4 * 8) & 255; }
  __device__ __forceinline__ void set(int i, unsigned place) {
    words[i / 4] = (words[i / 4] & ~(255u << (i % 4 * 8))) | place << (i % 4 * 8);
  }
};

template <class T>
__device__ __forceinline__ void pool_forward(const PoolForward& a) {
  constexpr int LANES = T::LANES;
  const Pool& pool = a.pool;
  const long long index = static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x;
  const Pixel out(index, pool.out_height, pool.out_width, pool.vectors);
  if (out.batch >= pool.batch) {
    return;
  }
  const auto x = static_cast<const uint4*>(a.x);
  float best[LANES];
  Places<LANES> places;
  bool is_first = true;
  for (int i = 0; i < pool.kernel; ++i) {
    const int row = out.row * pool.stride - pool.top + i;
    if (row < 0 || row >= pool.height) {
      continue;
    }
    for (int j = 0; j < pool.kernel; ++j) {
      const int column = out.column * pool.stride - pool.left + j;
      if (column < 0 || column >= pool.width) {
        continue;
      }
      const long long pixel = (static_cast<long long>(out.batch) * pool.height + row) * pool.width;
      float values[LANES];
      T::unpack(x[(pixel + column) * pool.vectors + out.vector], values);
#pragma unroll
      for (int lane = 0; lane < LANES; ++lane) {
        // The first of equal ones; NaN is the largest.
        if (is_first || values[lane] > best[lane] || values[lane] != values[lane]) {
          best[lane] = values[lane];
          places.set(lane, i * pool.kernel + j);
        }
      }
      is_first = false;
    }
  }
  static_cast<uint4*>(a.y)[index] = T::pack(best);
  reinterpret_cast<Places<LANES>*>(a.places)[index] = places;
}

template <class T>
__device__ __forceinline__ void pool_backward(const PoolBackward& a) {
  constexpr int LANES = T::LANES;
  const Pool& pool = a.pool;
  const long long index = static_cast<long long>(blockIdx.x) * THREADS + threadIdx.x;
  const Pixel in(index, pool.height, pool.width, pool.vectors);
  if (in.batch >= pool.batch) {
    return;
  }
  const auto dy = static_cast<const uint4*>(a.dy);
  float sum[LANES] = {};
  // The windows that the pixel lies in.
  const int top = in.row + pool.top, left = in.column + pool.left;
  const int first_row = top < pool.kernel ? 0 : (top - pool.kernel) / pool.stride + 1;
  const int first_column = left < pool.kernel ? 0 : (left - pool.kernel) / pool.stride + 1;
  for (int row = first_row; row <= top / pool.stride && row < pool.out_height; ++row) {
    for (int column = first_column; column <= left / pool.stride && column < pool.out_width;
         ++column) {
      const unsigned place =
          (top - row * pool.stride) * pool.kernel + left - column * pool.stride;
      const long long pixel =
          (static_cast<long long>(in.batch) * pool.out_height + row) * pool.out_width + column;
      const long long at = pixel * pool.vectors + in.vector;
      const Places<LANES> places = reinterpret_cast<const Places<LANES>*>(a.places)[at];
      float values[LANES];
      T::unpack(dy[at], values);
#pragma unroll
      for (int lane = 0; lane < LANES; ++lane) {
        sum[lane] += places.get(lane) == place ? values[lane] : 0;
      }
    }
  }
  static_cast<uint4*>(a.dx)[index] = T::pack(sum);
}

}  // namespace gpu
}  // namespace rsflow
