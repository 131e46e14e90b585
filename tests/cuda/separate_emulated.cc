// The CUDA kernels as host code: <cuda_runtime.h> is the emulator's here.
#include "core/cuda/separate_cuda.cu"
