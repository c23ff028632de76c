// The operators with gradients, compiled together: libtorch's header for them takes the compiler longer
// than all of their code.

#include "cast.cpp"
#include "gpu/depthwise.cpp"
#include "gpu/pool.cpp"
#include "norm.cpp"
#include "joint_norm.cpp"  // uses the checks of the one before
#include "quantize.cpp"
#include "small_maps.cpp"
