// What the functions of the shim have in common.
//
// Tensors come as the at::Tensor behind tch's pointers. Each function returns null, or what went
// wrong: text that stays until the thread's next call. No exception leaves a function, Rust could
// not catch it.

#pragma once

#include <exception>
#include <string>

#include <c10/util/Exception.h>

namespace {

template <typename Function>
const char* told(Function function) noexcept {
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

// What a pointer that came from Rust leads to; an error if it leads nowhere.
template <typename T>
T& at_end_of(T* pointer) {
  TORCH_CHECK(pointer != nullptr, "a pointer that leads nowhere");
  return *pointer;
}

}  // namespace
