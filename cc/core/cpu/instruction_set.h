// Which instruction set the kernels use. Results do not depend on it.

#ifndef SEPARATIONFACTOR_CORE_CPU_INSTRUCTION_SET_H_
#define SEPARATIONFACTOR_CORE_CPU_INSTRUCTION_SET_H_

#include <string>
#include <vector>

namespace separationfactor {

enum class InstructionSet {
  kBaseline,  // what every CPU of the architecture has: SSE2 on x86-64, NEON on aarch64
  kAvx2,      // with BMI and F16C: Haswell, Zen and later
  kAvx512,    // F, BW, DQ and VL: Skylake-SP, Zen 4 and later
};

// "baseline", "avx2", "avx512".
const char* InstructionSetName(InstructionSet set);

// Those that this build has and this CPU supports, slowest first.
std::vector<InstructionSet> SupportedInstructionSets();

// The one in use: the last supported one, or what the environment variable SEPARATIONFACTOR_INSTRUCTION_SET
// names. A value that names none, or one the CPU lacks, is reported once on stderr and otherwise ignored.
InstructionSet CurrentInstructionSet();

// Switches to a supported one, for tests and benchmarks; not while a kernel runs. Returns false, and changes
// nothing, where it is not supported.
bool SetInstructionSet(InstructionSet set);

}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_CPU_INSTRUCTION_SET_H_
