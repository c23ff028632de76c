// The kernels by name, after the text of all of them.

#define RSFLOW_KERNEL(name, Arguments, type)                             \
  extern "C" __global__ void __launch_bounds__(rsflow::gpu::THREADS)     \
      rsflow_##name##_##type(const rsflow::gpu::Arguments arguments) {   \
    rsflow::gpu::name<rsflow::gpu::type>(arguments);                     \
  }
#define RSFLOW_KERNELS_OF(type) RSFLOW_KERNELS(RSFLOW_KERNEL, type)
RSFLOW_TYPES(RSFLOW_KERNELS_OF)
