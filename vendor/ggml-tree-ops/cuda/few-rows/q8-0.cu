#define FEW_ROWS_INSTANCE GGML_TYPE_Q8_0
#include "../few-rows-launch.cuh"
