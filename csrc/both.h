// Functions that a CPU and a GPU compute alike.
#pragma once

#ifdef __CUDACC__
#define BOTH __host__ __device__ __forceinline__
#else
#define BOTH inline
#endif
