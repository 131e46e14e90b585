// The CUDA kernels as host code, with the emulator's <cuda_runtime.h>.
#include "core/cuda/separate_cuda.cu"
