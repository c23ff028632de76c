// What several processes of a run share, called by `src/dist/native.rs`: libtorch's store of small values,
// and sums of tensors over all processes by its Gloo, which PyTorch's `gloo` backend is, too. The calling
// convention is described in `guard.h`.

#define USE_C10D_GLOO

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include <ATen/core/Tensor.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "../guard.h"

namespace {

using Milliseconds = std::chrono::milliseconds;

struct Store {
  c10::intrusive_ptr<c10d::Store> store;
};

struct Group {
  c10::intrusive_ptr<c10d::ProcessGroupGloo> group;
};

struct Work {
  c10::intrusive_ptr<c10d::Work> work;
};

}  // namespace

// Opens the store at a place. `serves`: it lives in this process, and for as long as this process holds it.
extern "C" const char* rsflow_store_open(const char* host, std::uint16_t port, bool serves,
                                         std::int64_t timeout_ms, Store** store) {
  return catch_exceptions([&] {
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

// Waits until there is a value, and returns it; it is valid until the thread's next call.
extern "C" const char* rsflow_store_get(Store* store, const char* key, std::int64_t timeout_ms,
                                        const std::uint8_t** value, std::size_t* length) {
  return catch_exceptions([&] {
    thread_local std::vector<std::uint8_t> found;
    deref(store).store->wait({std::string(key)}, Milliseconds(timeout_ms));
    found = deref(store).store->get(std::string(key));
    deref(value) = found.data();
    deref(length) = found.size();
  });
}

extern "C" const char* rsflow_store_has(Store* store, const char* key, bool* has) {
  return catch_exceptions([&] { deref(has) = deref(store).store->check({std::string(key)}); });
}

extern "C" void rsflow_store_delete(Store* store) { delete store; }

// The processes that meet in the store under this name. No sum may take longer than `timeout_ms`.
extern "C" const char* rsflow_group_open(Store* store, const char* name, int rank, int size,
                                         std::int64_t timeout_ms, Group** group) {
  return catch_exceptions([&] {
    const auto options = c10d::ProcessGroupGloo::Options::create_default(Milliseconds(timeout_ms));
    const auto own = c10::make_intrusive<c10d::PrefixStore>(std::string(name), deref(store).store);
    deref(group) = new Group{c10::make_intrusive<c10d::ProcessGroupGloo>(own, rank, size, options)};
  });
}

// Begins to replace a tensor by its sum over all processes, which all begin their sums in the same order.
extern "C" const char* rsflow_group_sum(Group* group, const at::Tensor* tensor, Work** work) {
  return catch_exceptions([&] {
    // libtorch's flight recorder, one for all groups of a process, is not safe to begin with on two threads.
    static std::mutex one_at_a_time;
    const std::lock_guard<std::mutex> lock(one_at_a_time);
    std::vector<at::Tensor> tensors{deref(tensor)};
    deref(work) = new Work{deref(group).group->allreduce(tensors)};
  });
}

// Waits for the sum, and deletes `work`.
extern "C" const char* rsflow_work_wait(Work* work) {
  const auto* message = catch_exceptions([&] { deref(work).work->wait(); });
  delete work;
  return message;
}

extern "C" void rsflow_group_delete(Group* group) { delete group; }
