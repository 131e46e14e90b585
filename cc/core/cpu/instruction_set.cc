#include "core/cpu/instruction_set.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace separationfactor {
namespace {

#if defined(__x86_64__)
// __builtin_cpu_supports of Clang 14 does not know F16C.
bool HasF16c() {
  unsigned int eax, ebx, ecx, edx;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}
#endif

bool IsSupported(InstructionSet set) {
  switch (set) {
    case InstructionSet::kBaseline:
      return true;
#if defined(__x86_64__)
    case InstructionSet::kAvx2:
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
             HasF16c() && __builtin_cpu_supports("popcnt") && __builtin_cpu_supports("fma");
    case InstructionSet::kAvx512:
      return IsSupported(InstructionSet::kAvx2) && __builtin_cpu_supports("avx512f") &&
             __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vl");
#endif
    default:
      return false;
  }
}

InstructionSet FromEnvironment() {
  const InstructionSet best = SupportedInstructionSets().back();
  const char* name = std::getenv("SEPARATIONFACTOR_INSTRUCTION_SET");
  if (name == nullptr || *name == '\0') return best;
  std::string names;
  for (const InstructionSet set : SupportedInstructionSets()) {
    if (std::strcmp(name, InstructionSetName(set)) == 0) return set;
    names += (names.empty() ? "" : ", ") + std::string(InstructionSetName(set));
  }
  std::fprintf(stderr,
               "separationfactor: SEPARATIONFACTOR_INSTRUCTION_SET must be one that this CPU supports (%s). "
               "Received: %s; using %s\n",
               names.c_str(), name, InstructionSetName(best));
  return best;
}

std::atomic<InstructionSet>& Current() {
  static std::atomic<InstructionSet> current(FromEnvironment());
  return current;
}

}  // namespace

const char* InstructionSetName(InstructionSet set) {
  switch (set) {
    case InstructionSet::kBaseline:
      return "baseline";
    case InstructionSet::kAvx2:
      return "avx2";
    case InstructionSet::kAvx512:
      return "avx512";
  }
  return "";
}

std::vector<InstructionSet> SupportedInstructionSets() {
  std::vector<InstructionSet> sets;
  for (const InstructionSet set : {InstructionSet::kBaseline, InstructionSet::kAvx2, InstructionSet::kAvx512}) {
    if (IsSupported(set)) sets.push_back(set);
  }
  return sets;
}

InstructionSet CurrentInstructionSet() { return Current().load(std::memory_order_relaxed); }

bool SetInstructionSet(InstructionSet set) {
  if (!IsSupported(set)) return false;
  Current().store(set, std::memory_order_relaxed);
  return true;
}

}  // namespace separationfactor
