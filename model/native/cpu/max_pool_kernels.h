// The kernel of `max_pool.cpp`. `convolution_sets.cpp` includes this text once for each instruction set, each in its
// own namespace, with `Vector` and what can be done with it.

template <bool SOME>
INLINE void find_largest_of(const Window& window, std::int64_t channel, int count) {
  const auto get = [&](std::int64_t at) {
    const float* const from = window.pixels[at] + channel;
    return SOME ? load_some(from, count) : load(from);
  };
  Vector largest = get(0);
  for (std::int64_t at = 1; at < window.count; ++at) {
    largest = larger(largest, get(at));
  }
  SOME ? store_some(window.output + channel, largest, count) : store(window.output + channel, largest);
}

void find_largest(const Window& window) {
  std::int64_t channel = 0;
  for (; channel + LANES <= window.channels; channel += LANES) {
    find_largest_of<false>(window, channel, LANES);
  }
  if (channel < window.channels) {
    find_largest_of<true>(window, channel, static_cast<int>(window.channels - channel));
  }
}
