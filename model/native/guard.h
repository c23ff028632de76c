// Shared by the functions of the shim: errors and pointers across the border to Rust.
//
// Tensors come as the at::Tensor behind tch's pointers. Each function returns null, or an error
// message that stays valid until the thread's next call; `rsflow_failure_kind` returns its kind. No
// exception leaves a function: unwinding C++ frames into Rust is undefined behaviour.

#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <string>
#include <vector>

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

namespace rsflow {

// As `FailureKind` in `src/nn/compute/failure.rs`.
enum class Failure : int { OTHER = 0, OUT_OF_MEMORY = 1, DEVICE = 2 };

// Of the thread's last call that returned a message.
inline thread_local Failure last_failure = Failure::OTHER;

}  // namespace rsflow

namespace {

template <typename Function>
const char* catch_exceptions(Function function) noexcept {
  using rsflow::Failure;
  thread_local std::string message;
  rsflow::last_failure = Failure::OTHER;
  try {
    function();
    return nullptr;
  } catch (const c10::OutOfMemoryError& error) {
    rsflow::last_failure = Failure::OUT_OF_MEMORY;
    message = error.what_without_backtrace();
  } catch (const c10::AcceleratorError& error) {
    constexpr int32_t CUDA_ERROR_MEMORY_ALLOCATION = 2;
    const bool memory = error.get_error_code() == CUDA_ERROR_MEMORY_ALLOCATION;
    rsflow::last_failure = memory ? Failure::OUT_OF_MEMORY : Failure::DEVICE;
    message = error.what_without_backtrace();
  } catch (const c10::Error& error) {
    message = error.what_without_backtrace();
  } catch (const std::exception& error) {
    message = error.what();
  } catch (...) {
    message = "an exception of an unknown type";
  }
  return message.c_str();
}

template <typename T>
T& deref(T* pointer) {
  TORCH_CHECK(pointer != nullptr, "null pointer");
  return *pointer;
}

inline std::vector<at::Tensor> tensor_list(const at::Tensor* const* tensors, std::size_t count) {
  std::vector<at::Tensor> list;
  list.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    const auto& tensor = deref(deref(tensors + i));
    TORCH_CHECK(tensor.defined(), "undefined tensor");
    list.push_back(tensor);
  }
  return list;
}

}  // namespace
