// The kernels of `winograd.cpp`. `convolution_sets.cpp` includes this text once for each instruction set, each in
// its own namespace, with `Vector` and what can be done with it.

// B^T d B, for a vector of the channels.
template <bool SOME>
INLINE void transform_channels(const Patch& patch, std::int64_t channel, int count) {
  const auto get = [&](int at) {
    const float* const from = patch.pixels[at] + channel;
    return SOME ? load_some(from, count) : load(from);
  };
  Vector rows[4][4];
  for (int j = 0; j < 4; ++j) {
    const Vector a = get(j), b = get(4 + j), c = get(8 + j), d = get(12 + j);
    rows[0][j] = subtract(a, c);
    rows[1][j] = add(b, c);
    rows[2][j] = subtract(c, b);
    rows[3][j] = subtract(b, d);
  }
  for (int i = 0; i < 4; ++i) {
    const auto& row = rows[i];
    const Vector results[4] = {subtract(row[0], row[2]), add(row[1], row[2]), subtract(row[2], row[1]),
                               subtract(row[1], row[3])};
    for (int j = 0; j < 4; ++j) {
      float* const to = patch.to + (4 * i + j) * patch.between + channel;
      SOME ? store_some(to, results[j], count) : store(to, results[j]);
    }
  }
}

void transform_patch(const Patch& patch) {
  std::int64_t c = 0;
  for (; c + LANES <= patch.channels; c += LANES) {
    transform_channels<false>(patch, c, LANES);
  }
  if (c < patch.channels) {
    transform_channels<true>(patch, c, static_cast<int>(patch.channels - c));
  }
}

// A^T m A, and what follows the convolution, for a vector of the channels.
template <bool SOME>
INLINE void transform_products(const Square& square, std::int64_t channel, int count) {
  const auto get = [&](const float* from) { return SOME ? load_some(from + channel, count) : load(from + channel); };
  Vector rows[2][4];
  for (int j = 0; j < 4; ++j) {
    const auto product = [&](int i) { return load(square.products + (4 * i + j) * square.between + channel); };
    const Vector a = product(0), b = product(1), c = product(2), d = product(3);
    rows[0][j] = add(add(a, b), c);
    rows[1][j] = subtract(subtract(b, c), d);
  }
  const Vector scale = get(square.scale), shift = get(square.shift);
  for (int i = 0; i < 2; ++i) {
    const auto& row = rows[i];
    const Vector sums[2] = {add(add(row[0], row[1]), row[2]), subtract(subtract(row[1], row[2]), row[3])};
    for (int j = 0; j < 2; ++j) {
      float* const to = square.output[2 * i + j];
      if (to == nullptr) {
        continue;
      }
      Vector y = multiply_add(sums[j], scale, shift);
      if (square.residual[2 * i + j] != nullptr) {
        y = add(y, get(square.residual[2 * i + j]));
      }
      y = clamp(y, square.low, square.high);
      SOME ? store_some(to + channel, y, count) : store(to + channel, y);
    }
  }
}

void transform_square(const Square& square) {
  const int whole = square.last == LANES ? square.vectors : square.vectors - 1;
  for (int n = 0; n < whole; ++n) {
    transform_products<false>(square, n * LANES, LANES);
  }
  if (whole < square.vectors) {
    transform_products<true>(square, whole * LANES, square.last);
  }
}
