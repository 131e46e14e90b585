// The cut between the selected entries of a row and the others.

#ifndef SEPARATIONFACTOR_CORE_CPU_CUT_INL_H_
#define SEPARATIONFACTOR_CORE_CPU_CUT_INL_H_

#include <cstdint>

namespace separationfactor {
namespace {

// The cut of a row: every score above the threshold is selected, and the first `quota` of those that equal it.
template <class Lane>
struct Cut {
  Lane threshold;
  int64_t quota;        // number of selected entries that equal the threshold, the first ones of the row
  bool is_nan = false;  // the threshold is NaN: no score is above it, and every NaN equals it

  bool IsAbove(Lane score) const { return !is_nan & !(score <= threshold); }
  bool IsEqual(Lane score) const { return is_nan ? score != score : score == threshold; }
};

}  // namespace
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_CPU_CUT_INL_H_
