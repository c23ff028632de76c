// The kernels of `norm.cpp`, which includes this text once for each instruction set, each in its own
// namespace. They must not be in functions that are compiled for several sets (`target_clones`), or that
// are inlined into such: GCC splits vectors into those of the smallest set before it clones or inlines.

constexpr int LANES = 8;

template <int L>
struct Vectors;
template <>
struct Vectors<LANES> {
  typedef float Values __attribute__((vector_size(32)));
  typedef std::int32_t Masks __attribute__((vector_size(32)));
  typedef std::uint32_t Words __attribute__((vector_size(32)));
  typedef std::uint16_t Halves __attribute__((vector_size(16)));
};
// What is left of a run, value by value, by the same code.
template <>
struct Vectors<1> {
  typedef float Values __attribute__((vector_size(4)));
  typedef std::int32_t Masks __attribute__((vector_size(4)));
  typedef std::uint32_t Words __attribute__((vector_size(4)));
  typedef std::uint16_t Halves __attribute__((vector_size(2)));
};
template <int L>
using Values = typename Vectors<L>::Values;
template <int L>
using Masks = typename Vectors<L>::Masks;

template <int L>
INLINE Values<L> load(const float* from) {
  Values<L> values;
  std::memcpy(&values, from, sizeof values);
  return values;
}

template <int L>
INLINE void store(float* to, const Values<L>& values) {
  std::memcpy(to, &values, sizeof values);
}

template <int L>
INLINE Values<L> load(const c10::BFloat16* from) {
  typename Vectors<L>::Halves halves;
  std::memcpy(&halves, from, sizeof halves);
  return (Values<L>)(__builtin_convertvector(halves, typename Vectors<L>::Words) << 16);
}

// To the nearest, ties to even; NaN stays NaN.
template <int L>
INLINE void store(c10::BFloat16* to, const Values<L>& values) {
  using Words = typename Vectors<L>::Words;
  const Words words = (Words)values;
  const Words nearest = (words + 0x7fff + ((words >> 16) & 1)) >> 16;
  const Words rounded = values == values ? nearest : (words >> 16) | 0x40;
  const auto halves = __builtin_convertvector(rounded, typename Vectors<L>::Halves);
  std::memcpy(to, &halves, sizeof halves);
}

template <int L>
INLINE Values<L> broadcast(float value) {
  return value - Values<L>{};
}

// A bit for each lane.
template <int L>
INLINE std::uint8_t to_bits(const Masks<L>& mask) {
#ifdef RSFLOW_AVX2
  if constexpr (L == LANES) {
    return static_cast<std::uint8_t>(_mm256_movemask_ps((__m256)mask));
  }
#endif
  unsigned bits = 0;
  for (int lane = 0; lane < L; ++lane) {
    bits |= (mask[lane] & 1u) << lane;
  }
  return static_cast<std::uint8_t>(bits);
}

template <int L>
INLINE Masks<L> from_bits(std::uint8_t bits) {
  Masks<L> lanes;
  if constexpr (L == LANES) {
    lanes = Masks<L>{1, 2, 4, 8, 16, 32, 64, 128};
  } else {
    lanes = Masks<L>{1};
  }
  return (lanes & bits) != 0;
}

// Results that are larger than caches go past them. `Job::streams` says that they are aligned, too.
template <int L, typename T>
INLINE void store_result([[maybe_unused]] const Job& job, T* to, const Values<L>& values) {
#ifdef RSFLOW_AVX2
  if constexpr (L == LANES && std::is_same_v<T, float>) {
    if (job.streams) {
      return _mm256_stream_ps(to, (__m256)values);
    }
  }
#endif
  store<L>(to, values);
}

// What a pass does to a vector of values, whose parameters it keeps.
template <Pass P, typename T, int L, bool ROWS>
struct Operation {
  using V = Values<L>;
  static constexpr bool SUMS = P == STATISTICS || P == SUMS_OF_DY || P == SUMS_ACTIVATED || P == SUMS_MASKED;
  static constexpr bool FORWARD = P >= FORWARD_PLAIN && P <= FORWARD_ADD_ACTIVATE;
  static constexpr bool ADDS = P == FORWARD_ADD || P == FORWARD_ADD_ACTIVATE;
  static constexpr bool ACTIVATES = P == FORWARD_ACTIVATE || P == FORWARD_ADD_ACTIVATE;
  static constexpr bool RECOMPUTES = P == SUMS_ACTIVATED || P == BACKWARD_ACTIVATED;
  static constexpr bool BACKWARD = P == BACKWARD_PLAIN || P == BACKWARD_ACTIVATED;

  V mean, scale, shift, slope, offset;
  V first[4] = {}, second[4] = {};

  static INLINE V parameter(const float* of, std::int64_t at) {
    if constexpr (ROWS) {
      return load<L>(of + at);
    } else {
      return broadcast<L>(of[at]);
    }
  }

  INLINE Operation(const Job& job, std::int64_t channel) {
    mean = parameter(job.mean, channel);
    if constexpr (!SUMS || RECOMPUTES) {
      scale = parameter(job.scale, channel);
    }
    if constexpr (FORWARD || RECOMPUTES) {
      shift = parameter(job.shift, channel);
    }
    if constexpr (BACKWARD) {
      slope = parameter(job.slope, channel);
      offset = parameter(job.offset, channel);
    }
  }

  // Forward and backward compute the same bits.
  INLINE V normalized(const V& d) const { return d * scale + shift; }

  static INLINE Masks<L> passes(const Job& job, const V& z) {
    return (z > broadcast<L>(job.low)) & (z < broadcast<L>(job.high));
  }

  // `sum` is the one of four sums to add to: they do not wait for each other.
  INLINE void operator()(const Job& job, std::int64_t at, std::uint8_t* mask, int sum) {
    const V d = load<L>(static_cast<const T*>(job.x) + at) - mean;
    if constexpr (P == STATISTICS) {
      first[sum] += d;
      second[sum] += d * d;
    } else if constexpr (FORWARD) {
      V z = normalized(d);
      if constexpr (ADDS) {
        z += load<L>(static_cast<const T*>(job.residual) + at);
      }
      if constexpr (ACTIVATES) {
        if constexpr (ADDS) {
          if (mask != nullptr) {
            *mask = to_bits<L>(passes(job, z));
          }
        }
        // NaN stays NaN.
        const V low = broadcast<L>(job.low), high = broadcast<L>(job.high);
        z = z < low ? low : z;
        z = z > high ? high : z;
      }
      store_result<L>(job, static_cast<T*>(job.y) + at, z);
    } else {
      V dz = load<L>(static_cast<const T*>(job.dy) + at);
      if constexpr (RECOMPUTES) {
        dz = passes(job, normalized(d)) ? dz : V{};
      }
      if constexpr (P == SUMS_MASKED) {
        dz = from_bits<L>(*mask) ? dz : V{};
        store<L>(static_cast<T*>(job.dz) + at, dz);
      }
      if constexpr (SUMS) {
        first[sum] += dz;
        second[sum] += dz * d;
      } else {
        store_result<L>(job, static_cast<T*>(job.dx) + at, dz * scale + (d * slope + offset));
      }
    }
  }

  INLINE void add_sums(float* to_first, float* to_second) const {
    store<L>(to_first, load<L>(to_first) + ((first[0] + first[1]) + (first[2] + first[3])));
    store<L>(to_second, load<L>(to_second) + ((second[0] + second[1]) + (second[2] + second[3])));
  }
};

// `count` channels of one image; `sums` is [count, 2, LANES].
template <Pass P, typename T>
void planes(Job job, std::int64_t run, std::int64_t count, std::int64_t channel, float* sums) {
  for (std::int64_t k = 0; k < count; ++k) {
    Operation<P, T, LANES, false> operation(job, channel + k);
    const auto at = (run + k) * job.length;
    auto mask = job.mask ? job.mask + (run + k) * job.mask_length : nullptr;
    std::int64_t i = 0;
    for (; i + 4 * LANES <= job.length; i += 4 * LANES) {
      for (int u = 0; u < 4; ++u) {
        operation(job, at + i + u * LANES, mask, u);
        mask += mask != nullptr;
      }
    }
    for (; i + LANES <= job.length; i += LANES) {
      operation(job, at + i, mask, 0);
      mask += mask != nullptr;
    }
    if constexpr (operation.SUMS) {
      operation.add_sums(sums + 2 * k * LANES, sums + (2 * k + 1) * LANES);
    }
    if (i < job.length) {
      Operation<P, T, 1, false> rest(job, channel + k);
      for (; i < job.length; ++i) {
        rest(job, at + i, mask, 0);
        mask += mask != nullptr;
      }
      if constexpr (operation.SUMS) {
        rest.add_sums(sums + 2 * k * LANES, sums + (2 * k + 1) * LANES);
      }
    }
  }
}

template <Pass P, typename T, int L>
INLINE void channels_of_row(const Job& job, std::int64_t at, std::int64_t channel, std::uint8_t* mask,
                            float* sums) {
  Operation<P, T, L, true> operation(job, channel);
  operation(job, at + channel, mask, 0);
  if constexpr (operation.SUMS) {
    store<L>(sums + channel, load<L>(sums + channel) + operation.first[0]);
    store<L>(sums + job.length + channel, load<L>(sums + job.length + channel) + operation.second[0]);
  }
}

// `count` rows of all channels; `sums` is [2, length]. One row after the other: to take several at once,
// which saves loads and stores of sums and parameters, is slower, since the processor foresees one
// sequence of addresses better than several.
template <Pass P, typename T>
void rows(Job job, std::int64_t run, std::int64_t count, std::int64_t, float* sums) {
  for (const auto end = run + count; run < end; ++run) {
    const auto at = run * job.length;
    auto mask = job.mask ? job.mask + run * job.mask_length : nullptr;
    std::int64_t i = 0;
    for (; i + LANES <= job.length; i += LANES) {
      channels_of_row<P, T, LANES>(job, at, i, mask, sums);
      mask += mask != nullptr;
    }
    for (; i < job.length; ++i) {
      channels_of_row<P, T, 1>(job, at, i, mask, sums);
      mask += mask != nullptr;
    }
  }
}

template <typename T, std::size_t... P>
Kernel kernel_of(Pass pass, bool channels_last, std::index_sequence<P...>) {
  constexpr Kernel of_planes[] = {planes<static_cast<Pass>(P), T>...};
  constexpr Kernel of_rows[] = {rows<static_cast<Pass>(P), T>...};
  return (channels_last ? of_rows : of_planes)[pass];
}

inline Kernel kernel(Pass pass, bool channels_last, bool is_bfloat16) {
  const std::make_index_sequence<PASSES> all;
  return is_bfloat16 ? kernel_of<c10::BFloat16>(pass, channels_last, all)
                     : kernel_of<float>(pass, channels_last, all);
}
