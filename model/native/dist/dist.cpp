// What several processes of a run share, called by `src/dist/native.rs`: libtorch's store of small values,
// and sums of tensors over all processes by its Gloo, which PyTorch's `gloo` backend is, too, and on GPUs
// by its NCCL. The calling convention is described in `guard.h`.

#define USE_C10D_GLOO

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/div.h>
#include <ATen/ops/zeros.h>
#include <c10/util/Logging.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "../guard.h"
#include "nccl.h"

namespace {

using Milliseconds = std::chrono::milliseconds;

struct Store {
  c10::intrusive_ptr<c10d::Store> store;
};

struct Group {
  c10::intrusive_ptr<c10d::Backend> on_cpu;
  // None before a GPU is used; `given_up` may be set meanwhile.
  c10::intrusive_ptr<c10d::Backend> on_gpu;
  std::mutex opening;
  // Another process is lost: nothing is waited for any more.
  std::atomic<bool> given_up{false};
  // A sum within a forward or backward pass has failed.
  std::atomic<bool> failed{false};
};

// A sum over all processes that was begun.
struct Sum {
  c10::intrusive_ptr<c10d::Work> work;
  bool on_gpu;
};

// Begins to replace a tensor by its sum over all processes.
Sum begin_sum(Group& group, const at::Tensor& tensor) {
  // libtorch's flight recorder, one for all groups of a process, is not safe to begin with on two threads.
  static std::mutex one_at_a_time;
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  const bool on_gpu = !tensor.is_cpu();
  const auto& engine = on_gpu ? group.on_gpu : group.on_cpu;
  TORCH_CHECK(engine, "nothing connects the GPUs of the processes");
  std::vector<at::Tensor> tensors{tensor};
  return Sum{engine->allreduce(tensors), on_gpu};
}

// Whether it is done within `timeout_ms`. On a GPU, too, this waits until it is: what follows changes the
// network, and has to know that all processes have come so far.
bool wait_for(const Sum& sum, std::int64_t timeout_ms) {
  auto& work = *sum.work;
  if (sum.on_gpu) {
    const auto until = std::chrono::steady_clock::now() + Milliseconds(timeout_ms);
    while (!work.isCompleted()) {
      if (std::chrono::steady_clock::now() > until) {
        return false;
      }
      std::this_thread::sleep_for(std::chrono::microseconds(20));
    }
    if (const auto error = work.exception()) {
      std::rethrow_exception(error);
    }
    return work.wait();  // has this thread's stream wait, too
  }
  try {
    return work.wait(Milliseconds(timeout_ms));
  } catch (...) {
    // Either the time is over or the work has failed.
    return work.isCompleted() && work.wait();
  }
}

// Averages the gradients of parameters over all processes during the backward pass: hooks write each
// gradient into its place in a bucket, and a bucket that is full is summed. The gradients that the backward
// pass returns are views of the buckets.
class Reducer {
 public:
  struct Bucket {
    at::Tensor gradients;
    std::size_t parameters = 0;
    std::size_t missing = 0;
    at::Tensor sent;  // `gradients`, or a copy of it of fewer bits
    std::optional<Sum> sum;
  };

  // `bucket_of` counts from 0, in the order in which buckets are summed.
  Reducer(Group& group, std::vector<at::Tensor> parameters, const std::size_t* bucket_of,
          at::ScalarType sent_as)
      : group_(group), parameters_(std::move(parameters)), sent_as_(sent_as) {
    const auto options = deref(parameters_.data()).options().requires_grad(false);
    std::vector<std::int64_t> lengths;
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      const auto& parameter = parameters_[i];
      TORCH_CHECK(parameter.is_non_overlapping_and_dense() && parameter.dtype() == options.dtype(),
                  "parameters must be dense and of one dtype");
      lengths.resize(std::max(lengths.size(), bucket_of[i] + 1));
      lengths[bucket_of[i]] += parameter.numel();
    }
    for (const auto length : lengths) {
      buckets_.push_back(Bucket{at::zeros({length}, options), 0, 0, {}, {}});
    }
    is_filled_.resize(parameters_.size());
    std::vector<std::int64_t> used(lengths.size());
    for (std::size_t i = 0; i < parameters_.size(); ++i) {
      const auto& parameter = parameters_[i];
      auto& bucket = buckets_[bucket_of[i]];
      auto& from = used[bucket_of[i]];
      const auto view = bucket.gradients.as_strided(parameter.sizes(), parameter.strides(), from);
      from += parameter.numel();
      bucket.parameters += 1;
      const auto fill = [this, i, index = bucket_of[i], view](const at::Tensor& gradient) {
        return write(i, index, view, gradient);
      };
      hooks_.push_back(parameter.register_hook(fill));
    }
  }

  ~Reducer() {
    for (std::size_t i = 0; i < hooks_.size(); ++i) {
      parameters_[i].remove_hook(hooks_[i]);
    }
  }

  Reducer(const Reducer&) = delete;
  Reducer& operator=(const Reducer&) = delete;

  // Before the backward pass whose gradients are to be averaged.
  void begin() {
    for (auto& bucket : buckets_) {
      bucket.missing = bucket.parameters;
      bucket.sum.reset();
    }
    is_filled_.assign(parameters_.size(), false);
    next_ = 0;
    active_ = true;
  }

  // After it. The first parameter that had no gradient; their number if each had one.
  std::size_t end() {
    active_ = false;
    return std::find(is_filled_.begin(), is_filled_.end(), false) - is_filled_.begin();
  }

  // After that. Whether all is summed within `timeout_ms`.
  bool finish(std::int64_t timeout_ms) {
    const at::NoGradGuard no_grad;
    for (auto& bucket : buckets_) {
      if (!bucket.sum) {
        continue;
      }
      if (!wait_for(*bucket.sum, timeout_ms)) {
        return false;
      }
      if (!bucket.sent.is_same(bucket.gradients)) {
        bucket.gradients.copy_(bucket.sent);
      }
      bucket.sum.reset();
    }
    return true;
  }

 private:
  at::Tensor write(std::size_t parameter, std::size_t index, at::Tensor view,
                   const at::Tensor& gradient) {
    if (!active_) {
      return gradient;
    }
    const at::NoGradGuard no_grad;
    at::div_out(view, gradient, at::Scalar(group_.on_cpu->getSize()));
    TORCH_CHECK(!is_filled_[parameter], "a parameter has more than one gradient");
    is_filled_[parameter] = true;
    --buckets_[index].missing;
    // In the same order in all processes, whatever is full first.
    while (next_ < buckets_.size() && buckets_[next_].missing == 0) {
      auto& full = buckets_[next_++];
      full.sent = full.gradients.to(sent_as_);
      full.sum = begin_sum(group_, full.sent);
    }
    return view;
  }

  Group& group_;
  std::vector<at::Tensor> parameters_;
  at::ScalarType sent_as_;
  std::vector<unsigned> hooks_;
  std::vector<Bucket> buckets_;
  std::vector<bool> is_filled_;
  std::size_t next_ = 0;
  bool active_ = false;
};

}  // namespace

// Opens the store at a place. `serves`: it lives in this process, and for as long as this process holds it.
extern "C" const char* rsflow_store_open(const char* host, std::uint16_t port, bool serves,
                                         std::int64_t timeout_ms, Store** store) {
  return catch_exceptions([&] {
    // The store warns of each lost connection with a stack trace; it is reported as an error, too.
    if (std::getenv("TORCH_CPP_LOG_LEVEL") == nullptr) {
      FLAGS_caffe2_log_level = c10::GLOG_ERROR;
    }
    c10d::TCPStoreOptions options;
    options.port = port;
    options.isServer = serves;
    options.waitWorkers = false;
    options.timeout = Milliseconds(timeout_ms);
    deref(store) = new Store{c10::make_intrusive<c10d::TCPStore>(std::string(host), options)};
  });
}

extern "C" const char* rsflow_store_set(Store* store, const char* key, const std::uint8_t* value,
                                        std::size_t length) {
  return catch_exceptions([&] {
    deref(store).store->set(std::string(key), std::vector<std::uint8_t>(value, value + length));
  });
}

// The value, valid until the thread's next call, or null where there is none.
extern "C" const char* rsflow_store_find(Store* store, const char* key, const std::uint8_t** value,
                                         std::size_t* length) {
  return catch_exceptions([&] {
    thread_local std::vector<std::uint8_t> found;
    found.clear();
    deref(value) = nullptr;
    deref(length) = 0;
    if (deref(store).store->check({std::string(key)})) {
      found = deref(store).store->get(std::string(key));
      deref(length) = found.size();
      found.push_back(0);  // an empty vector may have no address
      deref(value) = found.data();
    }
  });
}

// Sets a value unless there is one. The one that is there afterwards is valid until the thread's next call.
extern "C" const char* rsflow_store_set_first(Store* store, const char* key,
                                              const std::uint8_t* value, std::size_t length,
                                              const std::uint8_t** first,
                                              std::size_t* first_length) {
  return catch_exceptions([&] {
    thread_local std::vector<std::uint8_t> found;
    found = deref(store).store->compareSet(std::string(key), {},
                                           std::vector<std::uint8_t>(value, value + length));
    deref(first) = found.data();
    deref(first_length) = found.size();
  });
}

// Adds one to a number, which is 0 at first.
extern "C" const char* rsflow_store_count(Store* store, const char* key, std::int64_t* count) {
  return catch_exceptions(
      [&] { deref(count) = deref(store).store->add(std::string(key), 1); });
}

// The values of prefix0, prefix1 and so on, which must have been set, one per line; valid until the thread's
// next call.
extern "C" const char* rsflow_store_list(Store* store, const char* prefix, std::size_t count,
                                         const std::uint8_t** values, std::size_t* length) {
  return catch_exceptions([&] {
    thread_local std::vector<std::uint8_t> lines;
    lines.clear();
    std::vector<std::string> keys;
    for (std::size_t i = 0; i < count; ++i) {
      keys.push_back(prefix + std::to_string(i));
    }
    for (const auto& value : deref(store).store->multiGet(keys)) {
      lines.insert(lines.end(), value.begin(), value.end());
      lines.push_back('\n');
    }
    deref(values) = lines.data();
    deref(length) = lines.size();
  });
}

extern "C" void rsflow_store_delete(Store* store) { delete store; }

// The processes that meet in the store under this name. No sum may take longer than `timeout_ms`.
extern "C" const char* rsflow_group_open(Store* store, const char* name, int rank, int size,
                                         std::int64_t timeout_ms, Group** group) {
  return catch_exceptions([&] {
    const auto options = c10d::ProcessGroupGloo::Options::create_default(Milliseconds(timeout_ms));
    const auto own = c10::make_intrusive<c10d::PrefixStore>(std::string(name), deref(store).store);
    deref(group) = new Group{c10::make_intrusive<c10d::ProcessGroupGloo>(own, rank, size, options), {}, {}, {}, {}};
  });
}

// Begins to replace a tensor by its sum over all processes, which all begin their sums in the same order.
extern "C" const char* rsflow_group_sum(Group* group, const at::Tensor* tensor, Sum** sum) {
  return catch_exceptions([&] { deref(sum) = new Sum(begin_sum(deref(group), deref(tensor))); });
}

// Waits for the sum, at most `timeout_ms`. Returns in `done` whether it is there.
extern "C" const char* rsflow_sum_wait(const Sum* sum, std::int64_t timeout_ms, bool* done) {
  return catch_exceptions([&] { deref(done) = wait_for(deref(sum), timeout_ms); });
}

// Does not wait for the sum, which keeps its tensor alive.
extern "C" void rsflow_sum_delete(Sum* sum) { delete sum; }

// Replaces a tensor by its sum over all processes, and waits for it: for `joint_norm.cpp`, which calls it
// within forward and backward passes.
extern "C" const char* rsflow_group_sum_now(void* pointer, const at::Tensor* tensor) {
  return catch_exceptions([&] {
    auto& group = deref(static_cast<Group*>(pointer));
    try {
      const auto begun = begin_sum(group, deref(tensor));
      while (!wait_for(begun, 100)) {
        TORCH_CHECK(!group.given_up, "another process is lost");
      }
    } catch (...) {
      group.failed = true;
      throw;
    }
  });
}

// Sums of tensors on GPUs, by NCCL, from now on. The store is another connection than the group's.
extern "C" const char* rsflow_group_open_gpu(Group* group, const Store* store, const char* name,
                                             std::int64_t timeout_ms) {
  return catch_exceptions([&] {
    auto& opened = deref(group);
    const auto own = c10::make_intrusive<c10d::PrefixStore>(std::string(name), deref(store).store);
    auto engine = rsflow::open_nccl(own, opened.on_cpu->getRank(), opened.on_cpu->getSize(),
                                    Milliseconds(timeout_ms));
    const std::lock_guard<std::mutex> lock(opened.opening);
    opened.on_gpu = std::move(engine);
  });
}

extern "C" const char* rsflow_group_give_up(Group* group) {
  return catch_exceptions([&] {
    auto& lost = deref(group);
    const std::lock_guard<std::mutex> lock(lost.opening);
    if (!lost.given_up.exchange(true) && lost.on_gpu) {
      lost.on_gpu->abort();  // kernels that wait for another process would do so for ever
    }
  });
}

extern "C" bool rsflow_group_has_failed(const Group* group) { return group->failed; }

extern "C" void rsflow_group_delete(Group* group) { delete group; }

// See `Reducer`. `bucket_of` has a number for each parameter. `in_bfloat16`: sums are sent as such.
extern "C" const char* rsflow_reducer_new(Group* group, const at::Tensor* const* parameters,
                                          const std::size_t* bucket_of, std::size_t count,
                                          bool in_bfloat16, Reducer** reducer) {
  return catch_exceptions([&] {
    auto all = tensor_list(parameters, count);
    const auto kind = deref(all.data()).scalar_type();
    deref(reducer) = new Reducer(deref(group), std::move(all), bucket_of,
                                 in_bfloat16 ? at::kBFloat16 : kind);
  });
}

extern "C" const char* rsflow_reducer_begin(Reducer* reducer) {
  return catch_exceptions([&] { deref(reducer).begin(); });
}

extern "C" const char* rsflow_reducer_end(Reducer* reducer, std::size_t* missing) {
  return catch_exceptions([&] { deref(missing) = deref(reducer).end(); });
}

extern "C" const char* rsflow_reducer_finish(Reducer* reducer, std::int64_t timeout_ms,
                                             bool* done) {
  return catch_exceptions([&] { deref(done) = deref(reducer).finish(timeout_ms); });
}

extern "C" void rsflow_reducer_delete(Reducer* reducer) { delete reducer; }
