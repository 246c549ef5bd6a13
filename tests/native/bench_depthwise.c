/* Times depthwise convolutions, all channels and half of them, for each path of this CPU:
 *
 *   cc -std=gnu11 -O3 -I tflite/core tests/native/bench_depthwise.c tflite/core/[a-z]*.c tflite/core/kernels/[a-z]*.c \
 *       -lm -lpthread -o bench_depthwise
 *   ./bench_depthwise [threads]
 */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "depthwise.h"
#include "testing.h"
#include "timing.h"

enum { kRuns = 300 };

/* MobileNet's, and 5x5 ones of EfficientNet and MobileNetV3. */
static const struct {
  int32_t size, channels, kernel, stride;
} layers[] = {
    {112, 32, 3, 1}, {112, 96, 3, 2}, {56, 144, 3, 1}, {56, 144, 3, 2}, {28, 192, 3, 1},
    {28, 192, 3, 2}, {14, 384, 3, 1}, {14, 576, 3, 1}, {14, 576, 3, 2}, {7, 960, 3, 1},
    {56, 144, 5, 2}, {28, 240, 5, 1}, {14, 480, 5, 1}, {14, 672, 5, 2}, {7, 960, 5, 1},
};

/* The median in seconds. */
static double time_of(const FbsDepthwiseShape* s, FbsPath path, FbsThreads* threads) {
  const size_t taps = (size_t)s->kernel_height * (size_t)s->kernel_width, channels = (size_t)s->channels;
  float* x = memory_of(sizeof(float) * (size_t)s->in_height * (size_t)s->in_width * (size_t)s->active);
  float* y = memory_of(sizeof(float) * (size_t)s->out_height * (size_t)s->out_width * (size_t)s->active);
  float *weights = memory_of(sizeof(float) * taps * channels), *bias = memory_of(sizeof(float) * channels);
  int32_t* indices = memory_of(sizeof(int32_t) * (size_t)s->active);
  random_subset(s->channels, s->active, indices);
  void* workspace = memory_of(fbs_depthwise_workspace_size(s, path));
  const FbsDepthwiseWeights constants = {weights, bias};
  double times[kRuns];
  for (int i = 0; i < kRuns; i++) {
    const double start = now();
    fbs_depthwise_run(s, &constants, path, threads, x, indices, y, workspace);
    times[i] = now() - start;
  }
  free(x);
  free(y);
  free(weights);
  free(bias);
  free(indices);
  free(workspace);
  return median(times, kRuns);
}

int main(int argc, char** argv) {
  FbsThreads* threads = fbs_threads_create(argc > 1 ? atoi(argv[1]) : 1);
  printf("%-26s %-7s %9s %9s %9s %9s\n", "", "path", "all us", "MACs/ns", "half us", "MACs/ns");
  for (size_t i = 0; i < sizeof layers / sizeof layers[0]; i++) {
    const int32_t out = (layers[i].size + layers[i].stride - 1) / layers[i].stride;
    const int32_t padding = (out - 1) * layers[i].stride + layers[i].kernel - layers[i].size;
    for (FbsPath path = kFbsPathPlain; path < kFbsPaths; path++) {
      if (!fbs_path_available(path)) continue;
      printf("%3dx%3dx%3d, %dx%d stride %d  %-7s", layers[i].size, layers[i].size, layers[i].channels, layers[i].kernel,
             layers[i].kernel, layers[i].stride, fbs_path_name(path));
      for (int32_t part = 1; part <= 2; part++) {
        const FbsDepthwiseShape s = {.batch = 1,
                                     .in_height = layers[i].size,
                                     .in_width = layers[i].size,
                                     .channels = layers[i].channels,
                                     .active = layers[i].channels / part,
                                     .kernel_height = layers[i].kernel,
                                     .kernel_width = layers[i].kernel,
                                     .stride_height = layers[i].stride,
                                     .stride_width = layers[i].stride,
                                     .dilation_height = 1,
                                     .dilation_width = 1,
                                     .pad_top = padding / 2,
                                     .pad_left = padding / 2,
                                     .out_height = out,
                                     .out_width = out,
                                     .activation = kFbsActivationRelu6};
        const double macs = (double)out * out * layers[i].kernel * layers[i].kernel * s.active;
        const double seconds = time_of(&s, path, threads);
        printf(" %9.1f %9.1f", seconds * 1e6, macs / seconds * 1e-9);
      }
      printf("\n");
    }
  }
  fbs_threads_destroy(threads);
  return 0;
}
