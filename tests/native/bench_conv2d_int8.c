/* Times the int8 convolution on a table of layers, for each path of this CPU:
 *
 *   cc -std=gnu11 -O3 -I tflite/core tests/native/bench_conv2d_int8.c tflite/core/[a-z]*.c \
 *       tflite/core/kernels/[a-z]*.c -lm -lpthread -o bench_int8
 *   ./bench_int8 [threads] [path] [part of a layer's name] [copies of the weights]
 *
 * The runs take turns with the copies, as in bench_conv2d.c. `gate` is the part of a run that chooses the channels and
 * finds the range, `quantise` and `pack` are those of the convolution, and `multiply` is the rest (with winners in
 * groups, packing too). GMAC/s counts the active MACs over the whole run. `of peak` is their share of what the
 * instruction reaches in registers at the same time. R is against XNNPACK's dense convolution with dynamic-range
 * weights, where its time is known: for the machine of docs/kernels_notebook.md. Medians.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "conv2d_int8.h"
#include "gate.h"
#include "image_int8.h"
#include "isa.h"
#include "layers.h"
#include "packing.h"
#include "select.h"

static const struct {
  Layer layer;
  double dense; /* XNNPACK's ms, or 0 */
} layers[] = {
    {{"3x3 112x112x128 d=.5", 112, 128, 128, 3, 1, 1, .5, .5, 1}, 3.903},
    {{"3x3 56x56x64 d=.5", 56, 64, 64, 3, 1, 1, .5, .5, 1}, .257},
    {{"3x3 56x56x256 d=.5", 56, 256, 256, 3, 1, 1, .5, .5, 1}, 3.761},
    {{"3x3 28x28x128 d=.5", 28, 128, 128, 3, 1, 1, .5, .5, 1}, .240},
    {{"3x3 28x28x128 d=.25", 28, 128, 128, 3, 1, 1, .25, .25, 1}, .240},
    {{"3x3 28x28x128 d=1", 28, 128, 128, 3, 1, 1, 1, 1, 1}, .240},
    {{"3x3 28x28x512 d=.5", 28, 512, 512, 3, 1, 1, .5, .5, 1}, 3.747},
    {{"3x3 14x14x256 d=.5", 14, 256, 256, 3, 1, 1, .5, .5, 1}, .235},
    {{"3x3 14x14x512 d=.5", 14, 512, 512, 3, 1, 1, .5, .5, 1}, .948},
    {{"3x3 7x7x512 d=.25", 7, 512, 512, 3, 1, 1, .25, .25, 1}, .234},
    {{"3x3 7x7x512 d=.5", 7, 512, 512, 3, 1, 1, .5, .5, 1}, .234},
    {{"3x3 7x7x512 d=.7", 7, 512, 512, 3, 1, 1, .7, .7, 1}, .234},
    {{"3x3 7x7x512 d=1", 7, 512, 512, 3, 1, 1, 1, 1, 1}, .234},
    {{"3x3 7x7x512 d=.5, groups", 7, 512, 512, 3, 1, 1, .5, .5, 16}, .234},
    {{"3x3 14x14x256 d=.5, groups", 14, 256, 256, 3, 1, 1, .5, .5, 16}, .235},
    {{"3x3 32x32x64 d=.5", 32, 64, 64, 3, 1, 1, .5, .5, 1}, 0},
    {{"3x3 16x16x128 d=.5", 16, 128, 128, 3, 1, 1, .5, .5, 1}, 0},
    {{"3x3 8x8x192 d=.5", 8, 192, 192, 3, 1, 1, .5, .5, 1}, 0},
    {{"3x3 16x16x128-192/2 d=.5", 16, 128, 192, 3, 2, 1, .5, .5, 1}, 0},
    {{"1x1 56x56x64-256 d=.5", 56, 64, 256, 1, 1, 1, .5, .5, 1}, .189},
    {{"1x1 28x28x512-128 d=.5", 28, 512, 128, 1, 1, 1, .5, .5, 1}, .141},
    {{"1x1 14x14x1024-256 d=.5", 14, 1024, 256, 1, 1, 1, .5, .5, 1}, .121},
    {{"3x3 56x56x64-128/2 d=.5", 56, 64, 128, 3, 2, 1, .5, .5, 1}, 0},
    {{"3x3 28x28x128-256/2 d=.5", 28, 128, 256, 3, 2, 1, .5, .5, 1}, 0},
    {{"3x3 14x14x256-512/2 d=.5", 14, 256, 512, 3, 2, 1, .5, .5, 1}, 0},
    {{"1x1 56x56x64-128/2 d=.5", 56, 64, 128, 1, 2, 1, .5, .5, 1}, 0},
    {{"7x7 224x224x3-64/2 d=1/.5", 224, 3, 64, 7, 2, 1, 1, .5, 1}, 0},
};

#if defined(__x86_64__)
DEFINE_PEAK(peak_avx512, __attribute__((target("avx512f,avx512vnni"))), 64, 64, "v", "vpdpbusd %1, %1, %0")
DEFINE_PEAK(peak_avxvnni, __attribute__((target("avx2"))), 32, 32, "x", "%{vex%} vpdpbusd %1, %1, %0")
#endif

/* 0 where it is not known. */
static double peak_of(const FbsInt8Kernels* kernels) {
#if defined(__x86_64__)
  if (kernels == fbs_int8_kernels_avx512vnni) return peak_avx512();
  if (kernels == fbs_int8_kernels_avxvnni) return peak_avxvnni();
#endif
  (void)kernels;
  return 0;
}

static void* random_bytes(size_t n) {
  int8_t* values = memory_of(n);
  for (size_t i = 0; i < n; i++) values[i] = (int8_t)random_between(-127, 127);
  return values;
}

enum { kRuns = 200 };

/* The times of the parts: seconds for each image. */
typedef struct {
  double run, gate, quantise, pack, peak;
} Times;

static FbsConv2dInt8Weights random_weights(const FbsConv2dShape* s) {
  const size_t in = (size_t)s->in_channels, out = (size_t)s->out_channels;
  return (FbsConv2dInt8Weights){random_bytes(in * (size_t)(s->kernel_height * s->kernel_width) * out),
                                random_floats(out), random_floats(out), random_floats(in * out), random_floats(out)};
}

static void free_weights(FbsConv2dInt8Weights* weights) {
  free((void*)weights->gate_bias);
  free((void*)weights->gate_kernel);
  free((void*)weights->bias);
  free((void*)weights->scales);
  free((void*)weights->weights);
}

/* Packing on one thread, as gemm_int8.c does it in one chunk. */
static double time_pack(const FbsConv2dShape* s, const FbsInt8Kernels* kernels, const int8_t* weights,
                        const int32_t* in_indices, const int32_t* winners) {
  const int64_t taps = s->kernel_height * s->kernel_width, rows = taps * s->in_active, quads = rows / 4;
  const int32_t vectors = fbs_vectors_of(s->out_active, kernels->lanes), widest = kernels->vectors;
  FbsPanel* panels = NEW(FbsPanel, vectors);
  int32_t count = 0;
  for (int32_t v = 0; v < vectors; v += panels[count++].vectors) {
    panels[count] = (FbsPanel){v, vectors - v < widest ? vectors - v : widest};
  }
  const int8_t** row = NEW(const int8_t*, rows);
  FbsStretch* stretches = NEW(FbsStretch, s->out_active);
  int32_t* first = NEW(int32_t, vectors + 1);
  int8_t* packed = memory_of((size_t)(4 * quads) * (size_t)(vectors * kernels->lanes));
  const int8_t* last = weights + (s->in_channels * taps - 1) * s->out_channels - kFbsInt8Spare;
  double times[kRuns];
  for (int i = 0; i < kRuns; i++) {
    const double start = now();
    for (int64_t t = 0, r = 0; t < taps; t++) {
      for (int64_t n = 0; n < s->in_active; n++, r++) {
        row[r] = weights + ((in_indices == NULL ? n : in_indices[n]) * taps + t) * s->out_channels;
        if (row[r] > last) row[r] = last;
      }
    }
    fbs_find_stretches(winners, s->out_active, s->out_channels, kernels->lanes, kernels->stretch, stretches, first);
    const FbsInt8Packing packing = {.rows = row, .quads = quads, .stretches = stretches, .first_stretch = first};
    kernels->pack(&packing, panels, count, 0, quads, packed, NULL);
    times[i] = now() - start;
  }
  free(packed);
  free(first);
  free(stretches);
  free(row);
  free(panels);
  return median(times, kRuns);
}

static Times time_layer(const FbsConv2dShape* s, FbsPath path, int32_t count, int32_t copies) {
  const FbsInt8Kernels* kernels = fbs_select_int8_kernels(path);
  Tensors tensors = tensors_of(s, s->group_size);
  const float* x = tensors.x;
  const int32_t* indices = tensors.indices;
  int32_t* winners = tensors.winners;
  const int all = indices == NULL && s->out_active == s->out_channels;

  FbsThreads* threads = fbs_threads_create(count);
  const FbsConv2dOptions options = {.path = path};
  FbsConv2dInt8Weights* weights = NEW(FbsConv2dInt8Weights, copies);
  FbsConv2d** plans = NEW(FbsConv2d*, copies);
  for (int32_t i = 0; i < copies; i++) {
    weights[i] = random_weights(s);
    plans[i] = fbs_conv2d_int8_create(s, &weights[i], &options);
  }
  void* workspace = memory_of(fbs_conv2d_workspace_size(plans[0], count));
  double times[kRuns];
  Times t = {0};
  for (int i = 0; i < kRuns; i++) {
    const double start = now();
    fbs_conv2d_run(plans[i % copies], threads, x, indices, NULL, tensors.y, winners, workspace);
    times[i] = now() - start;
  }
  t.run = median(times, kRuns);
  void* gate_workspace = memory_of(fbs_gate_workspace_size(s));
  FbsRange range;
  for (int i = 0; i < kRuns; i++) {
    const FbsConv2dInt8Weights* w = &weights[i % copies];
    const FbsConv2dWeights gate = {.gate_kernel = w->gate_kernel, .gate_bias = w->gate_bias};
    const double start = now();
    fbs_gate_run(s, &gate, fbs_select_kernels(path), threads, x, indices, NULL, tensors.g, winners, &range,
                 gate_workspace);
    times[i] = now() - start;
  }
  t.gate = median(times, kRuns);
  const FbsInt8Image image = fbs_int8_image_of(s);
  for (int i = 0; i < kRuns; i++) {
    const double start = now();
    fbs_quantise_image(&image, kernels, threads, x, fbs_quantisation_of(range), workspace);
    times[i] = now() - start;
  }
  t.quantise = median(times, kRuns);
  if (!all && s->group_size == 1) t.pack = time_pack(s, kernels, weights->weights, indices, winners);
  for (int i = 0; i < 20; i++) times[i] = peak_of(kernels);
  t.peak = median(times, 20);
  for (int32_t i = 0; i < copies; i++) {
    fbs_conv2d_destroy(plans[i]);
    free_weights(&weights[i]);
  }
  free(gate_workspace);
  free(plans);
  free(weights);
  fbs_threads_destroy(threads);
  free(workspace);
  free_tensors(&tensors);
  return t;
}

static void bench_layer(const Layer* layer, double dense, FbsPath path, int32_t threads, int32_t copies) {
  const FbsConv2dShape s = shape_of(layer);
  const Times t = time_layer(&s, path, threads, copies);
  const double pairs = (double)s.out_height * s.out_width * s.kernel_height * s.kernel_width;
  const double macs = pairs * s.out_active * s.in_active, dense_macs = pairs * s.out_channels * s.in_channels;
  const double rate = macs / t.run / 1e9;
  printf("%-28s %8.4f %8.4f %8.4f %8.4f %8.4f %8.1f %8.2f", layer->name, t.run * 1e3, t.gate * 1e3, t.quantise * 1e3,
         t.pack * 1e3, (t.run - t.gate - t.quantise - t.pack) * 1e3, rate, t.peak > 0 ? rate / t.peak / threads : 0);
  if (dense > 0) printf(" %6.2f", dense / (t.run * 1e3) / (dense_macs / macs));
  printf("\n");
}

int main(int argc, char** argv) {
  const int threads = argc > 1 ? atoi(argv[1]) : 1, copies = argc > 4 ? atoi(argv[4]) : 1;
  for (FbsPath path = kFbsPathPlain; path < kFbsPaths; path++) {
    if (!fbs_path_available(path) || !wanted(argc, argv, 2, fbs_path_name(path))) continue;
    printf("%-28s %8s %8s %8s %8s %8s %8s %8s %6s\n", fbs_select_int8_kernels(path)->name, "ms", "gate", "quantise",
           "pack", "multiply", "GMAC/s", "of peak", "R");
    for (size_t i = 0; i < sizeof layers / sizeof layers[0]; i++) {
      if (argc > 3 && strstr(layers[i].layer.name, argv[3]) == NULL && strcmp(argv[3], "all") != 0) continue;
      bench_layer(&layers[i].layer, layers[i].dense, path, threads, copies);
    }
    printf("\n");
  }
  return 0;
}
