// Sets the floating-point mode of a thread: denormal operands and results become zeros of their sign.

#ifndef SEPARATIONFACTOR_CORE_CPU_FLUSH_DENORMALS_H_
#define SEPARATIONFACTOR_CORE_CPU_FLUSH_DENORMALS_H_

#include <cstdint>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace separationfactor {

// TensorFlow's pool threads flush denormals, and a Python thread does not. A row may run on either, so every range of
// work sets the mode itself. Otherwise the result would depend on the thread.
class ScopedFlushDenormals {
 public:
  ScopedFlushDenormals() : saved_(Read()) { Write(saved_ | kFlush); }
  ~ScopedFlushDenormals() { Write(saved_); }
  ScopedFlushDenormals(const ScopedFlushDenormals&) = delete;
  ScopedFlushDenormals& operator=(const ScopedFlushDenormals&) = delete;

 private:
#if defined(__SSE2__)
  using Register = uint32_t;
  static constexpr Register kFlush = 0x8040;  // MXCSR: FTZ and DAZ
  static Register Read() { return _mm_getcsr(); }
  static void Write(Register value) { _mm_setcsr(value); }
#elif defined(__aarch64__)
  using Register = uint64_t;
  static constexpr Register kFlush = 1u << 24;  // FPCR: FZ
  static Register Read() {
    Register value;
    asm volatile("mrs %0, fpcr" : "=r"(value));
    return value;
  }
  static void Write(Register value) { asm volatile("msr fpcr, %0" : : "r"(value)); }
#else
#error "separationfactor runs on x86-64 and aarch64"
#endif

  const Register saved_;
};

}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_CPU_FLUSH_DENORMALS_H_
