/* What the benchmarks of the float32 and of the int8 convolution share: layers, their tensors, the peak of a CPU. */
#ifndef FBS_TESTS_NATIVE_LAYERS_H_
#define FBS_TESTS_NATIVE_LAYERS_H_

#include <math.h>

#include "testing.h"
#include "timing.h"
#include "windows.h"

/* GMAC/s of independent instructions of so many MACs in registers; 12 chains hide the latency of the units we know. */
#define DEFINE_PEAK(name, attribute, bytes, macs, constraint, instruction)      \
  attribute static double name(void) {                                          \
    enum { kChains = 12, kRounds = 1 << 16 };                                   \
    typedef float Vector __attribute__((vector_size(bytes)));                   \
    Vector sum[kChains] = {{0}}, a = {0};                                       \
    const double start = now();                                                 \
    for (int n = 0; n < kRounds; n++) {                                         \
      _Pragma("GCC unroll 16") for (int i = 0; i < kChains; i++) {              \
        __asm__ volatile(instruction : "+" constraint(sum[i]) : constraint(a)); \
      }                                                                         \
    }                                                                           \
    return (double)kRounds * kChains * (macs) / (now() - start) / 1e9;          \
  }

typedef struct {
  const char* name;
  int32_t size, in, out, kernel, stride;
  bool same;
  double in_density, out_density;
  int32_t group;
} Layer;

static inline FbsConv2dShape shape_of(const Layer* l) {
  FbsConv2dShape s = {.batch = 1,
                      .in_height = l->size,
                      .in_width = l->size,
                      .in_channels = l->in,
                      .in_active = (int32_t)ceil(l->in * l->in_density),
                      .out_channels = l->out,
                      .out_active = (int32_t)ceil(l->out * l->out_density),
                      .group_size = l->group,
                      .activation = kFbsActivationRelu};
  set_window(&s, &(Window){l->kernel, l->kernel, l->stride, 1, l->same});
  return s;
}

static inline float* random_floats(size_t n) {
  float* values = memory_of(n * sizeof *values);
  for (size_t i = 0; i < n; i++) values[i] = random_unit() - 0.5f;
  return values;
}

typedef struct {
  float *x, *y, *g;
  int32_t *in_indices, *winners;
  const int32_t* indices; /* in_indices, or NULL where x is dense */
} Tensors;

/* x as after a ReLU, its active channels in whole groups of in_group and in ascending order. */
static inline Tensors tensors_of(const FbsConv2dShape* s, int32_t in_group) {
  const size_t x_size = (size_t)(s->in_height * s->in_width * s->in_active);
  Tensors t = {.x = random_floats(x_size),
               .y = memory_of(sizeof(float) * (size_t)(s->out_height * s->out_width * s->out_active)),
               .g = memory_of(sizeof(float) * (size_t)s->out_channels),
               .in_indices = NEW(int32_t, s->in_active),
               .winners = NEW(int32_t, s->out_active)};
  for (size_t i = 0; i < x_size; i++) t.x[i] = fmaxf(t.x[i], 0);
  random_subset(s->in_channels / in_group, s->in_active / in_group, t.in_indices);
  spread_groups(in_group, s->in_active, t.in_indices);
  if (s->in_active < s->in_channels) t.indices = t.in_indices;
  return t;
}

static inline void free_tensors(Tensors* t) {
  free(t->winners);
  free(t->in_indices);
  free(t->g);
  free(t->y);
  free(t->x);
}

/* Whether an argument, where there is one, is the name or "all". */
static inline bool wanted(int argc, char** argv, int i, const char* name) {
  return argc <= i || strcmp(argv[i], "all") == 0 || strcmp(argv[i], name) == 0;
}

#endif
