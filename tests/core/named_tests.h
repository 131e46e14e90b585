// Runs tests by name. Prints the name of each test that passed, and of the one that failed, which ends the program.

#ifndef SEPARATIONFACTOR_TESTS_CORE_NAMED_TESTS_H_
#define SEPARATIONFACTOR_TESTS_CORE_NAMED_TESTS_H_

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "core/types.h"

namespace separationfactor {
namespace {

struct NamedTest {
  const char* name;
  void (*run)(const char* dtype);
};

const char* running_test = nullptr;
const char* running_dtype = nullptr;

// CHECK exits at the first failure.
void PrintFailed() {
  if (running_test != nullptr) std::fprintf(stderr, "FAILED %s %s\n", running_test, running_dtype);
}

// Runs the tests of the dtypes that the command line names: `PROGRAM [DTYPE] [TEST]`, with "all" for all dtypes.
// tests_of(traits) returns the tests of a dtype.
template <class TestsOf>
int RunNamedTests(int argc, char** argv, TestsOf tests_of) {
  std::atexit(PrintFailed);
  const std::string wanted_dtype = argc > 1 ? argv[1] : "all", wanted_test = argc > 2 ? argv[2] : "";
  int passed = 0;
  for (const DType dtype : {DType::kFloat32, DType::kFloat64, DType::kBFloat16, DType::kFloat16}) {
    const char* const name = NameOf(dtype);
    if (wanted_dtype != "all" && wanted_dtype != name) continue;
    std::vector<NamedTest> tests;
    WithDType(dtype, [&](auto traits) { tests = tests_of(traits); });
    for (const NamedTest& test : tests) {
      if (!wanted_test.empty() && wanted_test != test.name) continue;
      running_test = test.name;
      running_dtype = name;
      test.run(name);
      running_test = nullptr;
      std::printf("passed %s %s\n", test.name, name);
      std::fflush(stdout);
      ++passed;
    }
  }
  if (passed > 0) return 0;
  std::fprintf(stderr, "no test has this name, or no dtype. Received: %s %s\n", wanted_dtype.c_str(),
               wanted_test.c_str());
  return 1;
}

}  // namespace
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_TESTS_CORE_NAMED_TESTS_H_
