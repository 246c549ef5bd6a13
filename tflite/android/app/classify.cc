// Runs an exported file with the FBS delegate from C++, through TFLite's C interface: prints the class of an image.
//
//   classify MODEL IMAGE     IMAGE is a file of the input's float32 values
//
// The C interface is in libtensorflowlite_jni.so of the Android package of LiteRT 1.x, with its headers. It has no
// TfLiteExternalDelegateCreate, so the delegate's own entry points make the delegate: link with libfbs_delegate.so. A
// TFLite that you build yourself has it, and loads the library by its path: compile with -DEXTERNAL_DELEGATE=\"PATH\".
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <memory>
#include <vector>

#if __has_include("tflite/c/c_api.h")
#include "tflite/c/c_api.h"
#ifdef EXTERNAL_DELEGATE
#include "tflite/delegates/external/external_delegate.h"
#endif
#else
#include "tensorflow/lite/c/c_api.h"
#ifdef EXTERNAL_DELEGATE
#include "tensorflow/lite/delegates/external/external_delegate.h"
#endif
#endif

#ifdef EXTERNAL_DELEGATE
TfLiteDelegate* make_delegate() {
  TfLiteExternalDelegateOptions options = TfLiteExternalDelegateOptionsDefault(EXTERNAL_DELEGATE);
  TfLiteExternalDelegateOptionsInsert(&options, "verbose", "1");
  return TfLiteExternalDelegateCreate(&options);
}
constexpr auto delete_delegate = TfLiteExternalDelegateDelete;
#else
extern "C" {
TfLiteDelegate* tflite_plugin_create_delegate(const char* const* keys, const char* const* values, size_t count,
                                              void (*report_error)(const char*));
void tflite_plugin_destroy_delegate(TfLiteDelegate* delegate);
}
TfLiteDelegate* make_delegate() {
  const char *keys[] = {"verbose"}, *values[] = {"1"};
  return tflite_plugin_create_delegate(keys, values, 1, [](const char* text) { std::fprintf(stderr, "%s\n", text); });
}
constexpr auto delete_delegate = tflite_plugin_destroy_delegate;
#endif

template <typename T>
using Owned = std::unique_ptr<T, void (*)(T*)>;

int main(int argc, char** argv) {
  if (argc != 3) return std::fprintf(stderr, "usage: %s MODEL IMAGE\n", argv[0]), 2;

  // In this order: the delegate and the model must outlive the interpreter.
  Owned<TfLiteModel> model(TfLiteModelCreateFromFile(argv[1]), TfLiteModelDelete);
  Owned<TfLiteDelegate> delegate(make_delegate(), delete_delegate);
  if (!model || !delegate) return std::fprintf(stderr, "cannot load the model or the delegate\n"), 1;

  Owned<TfLiteInterpreterOptions> options(TfLiteInterpreterOptionsCreate(), TfLiteInterpreterOptionsDelete);
  TfLiteInterpreterOptionsSetNumThreads(options.get(), 2);
  TfLiteInterpreterOptionsAddDelegate(options.get(), delegate.get());
  Owned<TfLiteInterpreter> interpreter(TfLiteInterpreterCreate(model.get(), options.get()), TfLiteInterpreterDelete);
  if (!interpreter || TfLiteInterpreterAllocateTensors(interpreter.get()) != kTfLiteOk) {
    return std::fprintf(stderr, "cannot prepare the model\n"), 1;
  }

  std::ifstream file(argv[2], std::ios::binary);
  const std::vector<char> image((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  TfLiteTensor* input = TfLiteInterpreterGetInputTensor(interpreter.get(), 0);
  const TfLiteTensor* output = TfLiteInterpreterGetOutputTensor(interpreter.get(), 0);
  std::vector<float> logits(TfLiteTensorByteSize(output) / sizeof(float));
  if (TfLiteTensorCopyFromBuffer(input, image.data(), image.size()) != kTfLiteOk ||
      TfLiteInterpreterInvoke(interpreter.get()) != kTfLiteOk ||
      TfLiteTensorCopyToBuffer(output, logits.data(), TfLiteTensorByteSize(output)) != kTfLiteOk) {
    return std::fprintf(stderr, "cannot run the model on %s, %zu bytes\n", argv[2], image.size()), 1;
  }
  std::printf("%td\n", std::max_element(logits.begin(), logits.end()) - logits.begin());
  return 0;
}
