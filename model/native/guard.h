// Shared by the functions of the shim: errors and pointers across the border to Rust.
//
// Tensors come as the at::Tensor behind tch's pointers. Each function returns null, or an error
// message that stays valid until the thread's next call. No exception leaves a function: unwinding
// C++ frames into Rust is undefined behaviour.

#pragma once

#include <exception>
#include <string>

#include <c10/util/Exception.h>

namespace {

template <typename Function>
const char* catch_exceptions(Function function) noexcept {
  thread_local std::string message;
  try {
    function();
    return nullptr;
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

}  // namespace
