// The instruction set of the kernels. The results of separate.h do not depend on it.

#ifndef SEPARATIONFACTOR_CORE_CPU_INSTRUCTION_SET_H_
#define SEPARATIONFACTOR_CORE_CPU_INSTRUCTION_SET_H_

#include <string>
#include <vector>

namespace separationfactor {

enum class InstructionSet {
  kBaseline,  // present on every CPU of the architecture: SSE2 on x86-64, NEON on aarch64
  kAvx2,      // with BMI, F16C and FMA: Haswell, Zen and later
  kAvx512,    // F, BW, DQ and VL: Skylake-SP, Zen 4 and later
};

// Returns "baseline", "avx2" or "avx512".
const char* InstructionSetName(InstructionSet set);

// Returns the instruction sets that this build contains and this CPU supports, slowest first.
std::vector<InstructionSet> SupportedInstructionSets();

// Returns the instruction set in use: the last supported one, unless the environment variable
// SEPARATIONFACTOR_INSTRUCTION_SET names another. An unknown or unsupported name is reported once on stderr and then
// ignored.
InstructionSet CurrentInstructionSet();

// Switches to another instruction set, for tests and benchmarks. Must not be called while a kernel runs. Returns false
// and changes nothing if the instruction set is not supported.
bool SetInstructionSet(InstructionSet set);

}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_CPU_INSTRUCTION_SET_H_
