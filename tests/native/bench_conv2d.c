/* Times the convolution on a table of layers, for each path of this CPU:
 *
 *   cc -std=gnu11 -O3 -I tflite/core tests/native/bench_conv2d.c tflite/core/[a-z]*.c tflite/core/kernels/[a-z]*.c \
 *       -lm -lpthread -o bench_conv2d
 *   ./bench_conv2d [threads] [path] [method] [part of a layer's name] [copies of the weights]
 *
 * The runs take turns with the copies, so that many of them are not in the caches when their turn comes, as in a
 * network of many layers.
 *
 * `gate` is the part of a run that chooses the channels; GMAC/s counts the convolution's active MACs over the whole
 * run. `of peak` is their share of what the FMA units reach in registers at the same time. Medians; where other work
 * shares the machine, the best run says more. `speed-up` is the best run on one thread over that on all of them.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conv2d.h"
#include "gate.h"
#include "isa.h"
#include "layers.h"
#include "select.h"

static const Layer layers[] = {
    {"mcifarnet.0 32x32x3-64", 32, 3, 64, 3, 1, 0, 1, .5, 1},
    {"7x7 224x224x3-64/2 d=1/.5", 224, 3, 64, 7, 2, 1, 1, .5, 1},
    {"3x3 224x224x3-64 d=1/.6", 224, 3, 64, 3, 1, 1, 1, .6, 1},
    {"mcifarnet.1 30x30x64-64", 30, 64, 64, 3, 1, 1, .5, .5, 1},
    {"mcifarnet.2 30x30x64-128/2", 30, 64, 128, 3, 2, 1, .5, .5, 1},
    {"mcifarnet.3 15x15x128-128", 15, 128, 128, 3, 1, 1, .5, .5, 1},
    {"mcifarnet.4 15x15x128-128", 15, 128, 128, 3, 1, 1, .5, .5, 1},
    {"mcifarnet.5 15x15x128-192/2", 15, 128, 192, 3, 2, 1, .5, .5, 1},
    {"mcifarnet.6 8x8x192-192", 8, 192, 192, 3, 1, 1, .5, .5, 1},
    {"mcifarnet.7 8x8x192-192", 8, 192, 192, 3, 1, 1, .5, .5, 1},
    {"3x3 56x56x64 d=.5", 56, 64, 64, 3, 1, 1, .5, .5, 1},
    {"3x3 28x28x128 d=.5", 28, 128, 128, 3, 1, 1, .5, .5, 1},
    {"3x3 28x28x128 d=.3", 28, 128, 128, 3, 1, 1, .3, .3, 1},
    {"3x3 28x28x128 d=.7", 28, 128, 128, 3, 1, 1, .7, .7, 1},
    {"3x3 28x28x128 d=1", 28, 128, 128, 3, 1, 1, 1, 1, 1},
    {"3x3 28x28x512 d=.5", 28, 512, 512, 3, 1, 1, .5, .5, 1},
    {"3x3 14x14x256 d=.5", 14, 256, 256, 3, 1, 1, .5, .5, 1},
    {"3x3 7x7x512 d=.25", 7, 512, 512, 3, 1, 1, .25, .25, 1},
    {"3x3 7x7x512 d=.5", 7, 512, 512, 3, 1, 1, .5, .5, 1},
    {"3x3 7x7x512 d=.75", 7, 512, 512, 3, 1, 1, .75, .75, 1},
    {"3x3 14x14x256-512/2 d=1/.5", 14, 256, 512, 3, 2, 1, 1, .5, 1},
    {"3x3 28x28x128 d=.5, groups", 28, 128, 128, 3, 1, 1, .5, .5, 16},
    {"3x3 14x14x256 d=.5, groups", 14, 256, 256, 3, 1, 1, .5, .5, 16},
    {"3x3 7x7x512 d=.25, groups", 7, 512, 512, 3, 1, 1, .25, .25, 16},
    {"3x3 7x7x512 d=.5, groups", 7, 512, 512, 3, 1, 1, .5, .5, 16},
    {"3x3 7x7x512 d=.75, groups", 7, 512, 512, 3, 1, 1, .75, .75, 16},
    {"3x3 7x7x512 d=1", 7, 512, 512, 3, 1, 1, 1, 1, 1},
    {"3x3 14x14x512 d=.6", 14, 512, 512, 3, 1, 1, .6, .6, 1},
    {"3x3 56x56x256 d=.6", 56, 256, 256, 3, 1, 1, .6, .6, 1},
    {"3x3 112x112x128 d=.5", 112, 128, 128, 3, 1, 1, .5, .5, 1},
    {"3x3 224x224x64 d=.6", 224, 64, 64, 3, 1, 1, .6, .6, 1},
    {"1x1 56x56x64-256 d=.5", 56, 64, 256, 1, 1, 1, .5, .5, 1},
    {"1x1 28x28x512-128 d=.5", 28, 512, 128, 1, 1, 1, .5, .5, 1},
    {"1x1 14x14x1024-256 d=.5", 14, 1024, 256, 1, 1, 1, .5, .5, 1},
    {"1x1 7x7x2048-512 d=.5", 7, 2048, 512, 1, 1, 1, .5, .5, 1},
    {"1x1 7x7x2048-512 d=.5, groups", 7, 2048, 512, 1, 1, 1, .5, .5, 16},
};

#if defined(__x86_64__)
DEFINE_PEAK(peak_avx512, __attribute__((target("avx512f"))), 64, 16, "v", "vfmadd231ps %1, %1, %0")
DEFINE_PEAK(peak_avx2, __attribute__((target("avx2,fma"))), 32, 8, "x", "vfmadd231ps %1, %1, %0")
#elif defined(__aarch64__)
DEFINE_PEAK(peak_neon, , 16, 4, "w", "fmla %0.4s, %1.4s, %1.4s")
#endif

/* 0 where it is not known. */
static double peak_of(FbsPath path) {
  switch (path) {
#if defined(__x86_64__)
    case kFbsPathAvx512:
      return peak_avx512();
    case kFbsPathAvx2:
      return peak_avx2();
#elif defined(__aarch64__)
    case kFbsPathNeon:
      return peak_neon();
#endif
    default:
      return 0;
  }
}

enum { kRuns = 300 };

typedef struct {
  double run, best, gate, peak; /* seconds; GMAC/s. Medians, but for the best run */
} Times;

static cpu_set_t cores;

/* Each thread on a core of its own: on a loaded machine, a scheduler may leave a whole pool on one. A share waits for
 * the others, so that each thread gets one. */
static void pin(void* context, int32_t thread, int32_t count) {
  atomic_int* started = context;
  atomic_fetch_add(started, 1);
  while (atomic_load(started) < count) sched_yield();
  int skipped = 0;
  for (size_t core = 0; core < CPU_SETSIZE; core++) {
    if (!CPU_ISSET(core, &cores) || skipped++ < thread) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(core, &one);
    sched_setaffinity(0, sizeof one, &one);
    return;
  }
}

static FbsConv2dWeights random_weights(const FbsConv2dShape* s) {
  const size_t in = (size_t)s->in_channels, out = (size_t)s->out_channels;
  return (FbsConv2dWeights){random_floats(in * (size_t)(s->kernel_height * s->kernel_width) * out), random_floats(out),
                            random_floats(in * out), random_floats(out)};
}

static void free_weights(FbsConv2dWeights* weights) {
  free((void*)weights->gate_bias);
  free((void*)weights->gate_kernel);
  free((void*)weights->bias);
  free((void*)weights->weights);
}

static Times time_layer(const FbsConv2dShape* s, const FbsConv2dOptions* options, int32_t count, int32_t copies) {
  Tensors t = tensors_of(s, 1);
  FbsThreads* threads = fbs_threads_create(count);
  atomic_int started = 0;
  fbs_threads_run(threads, pin, &started);
  FbsConv2dWeights* weights = NEW(FbsConv2dWeights, copies);
  FbsConv2d** plans = NEW(FbsConv2d*, copies);
  for (int32_t i = 0; i < copies; i++) {
    weights[i] = random_weights(s);
    plans[i] = fbs_conv2d_create(s, &weights[i], options);
  }
  const size_t gate_size = fbs_gate_workspace_size(s), size = fbs_conv2d_workspace_size(plans[0], count);
  void* workspace = memory_of(gate_size > size ? gate_size : size);
  double run[kRuns], gate[kRuns], peak[kRuns];
  for (int i = 0; i < kRuns; i++) {
    const double start = now();
    fbs_conv2d_run(plans[i % copies], threads, t.x, t.indices, NULL, t.y, t.winners, workspace);
    run[i] = now() - start;
  }
  for (int i = 0; i < kRuns; i++) {
    const double start = now();
    fbs_gate_run(s, &weights[0], fbs_select_kernels(options->path), threads, t.x, t.indices, NULL, t.g, t.winners, NULL,
                 workspace);
    gate[i] = now() - start;
  }
  for (int i = 0; i < kRuns; i++) peak[i] = peak_of(options->path);
  Times times = {.run = median(run, kRuns), .gate = median(gate, kRuns), .peak = median(peak, kRuns)};
  times.best = run[0];
  for (int32_t i = 0; i < copies; i++) {
    fbs_conv2d_destroy(plans[i]);
    free_weights(&weights[i]);
  }
  free(plans);
  free(weights);
  fbs_threads_destroy(threads);
  free(workspace);
  free_tensors(&t);
  return times;
}

static void bench_layer(const Layer* layer, const FbsConv2dOptions* options, int32_t threads, int32_t copies) {
  const FbsConv2dShape s = shape_of(layer);
  if (options->method != fbs_select_method(&s, fbs_select_kernels(options->path), options)) return;
  const Times t = time_layer(&s, options, threads, copies);
  const double macs =
      (double)s.out_height * s.out_width * s.out_active * s.in_active * s.kernel_height * s.kernel_width;
  const double rate = macs / t.run / 1e9;
  printf("%-32s %5d %-9s %9.4f %9.4f %9.4f %8.1f %8.2f", layer->name, s.group_size, fbs_method_name(options->method),
         t.run * 1e3, t.best * 1e3, t.gate * 1e3, rate, t.peak > 0 ? rate / t.peak / threads : 0);
  if (threads > 1) printf(" %8.2f", time_layer(&s, options, 1, copies).best / t.best);
  printf("\n");
}

int main(int argc, char** argv) {
  const int threads = argc > 1 ? atoi(argv[1]) : 1, copies = argc > 5 ? atoi(argv[5]) : 1;
  sched_getaffinity(0, sizeof cores, &cores);
  for (FbsPath path = kFbsPathPlain; path < kFbsPaths; path++) {
    if (!fbs_path_available(path) || !wanted(argc, argv, 2, fbs_path_name(path))) continue;
    printf("%-32s %5s %-9s %9s %9s %9s %8s %8s%s\n", fbs_path_name(path), "group", "method", "ms", "best ms", "gate ms",
           "GMAC/s", "of peak", threads > 1 ? " speed-up" : "");
    for (size_t i = 0; i < sizeof layers / sizeof layers[0]; i++) {
      if (argc > 4 && strstr(layers[i].name, argv[4]) == NULL) continue;
      for (FbsMethod method = kFbsMethodGemm; method < kFbsMethods; method++) {
        if (!wanted(argc, argv, 3, fbs_method_name(method))) continue;
        bench_layer(&layers[i], &(FbsConv2dOptions){path, method, 4}, threads, copies);
      }
    }
    printf("\n");
  }
  return 0;
}
