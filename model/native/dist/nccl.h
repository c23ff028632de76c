#pragma once

#include <chrono>

#include <c10/util/intrusive_ptr.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

namespace rsflow {

// The processes that meet in the store, and sum tensors on GPUs. The store is this group's alone: waiting for
// another process keeps its connection. An exchange that takes longer than `timeout` ends the process.
c10::intrusive_ptr<c10d::Backend> open_nccl(const c10::intrusive_ptr<c10d::Store>& store, int rank,
                                            int size, std::chrono::milliseconds timeout);

}  // namespace rsflow
