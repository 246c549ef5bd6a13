/* The op fbs.conv2d, and fbs.gated_conv2d, which is given g. */
#include "convolution.h"

static FbsConv2dWeights weights_of(const void* const* constants) {
  return (FbsConv2dWeights){
      .weights = constants[0], .bias = constants[1], .gate_kernel = constants[2], .gate_bias = constants[3]};
}

static const char* check(const FbsConv2dShape* shape, const void* const* constants, char* message,
                         size_t message_size) {
  (void)constants;
  return fbs_conv2d_check(shape, message, message_size);
}

static FbsConv2d* create(const FbsConv2dShape* shape, const void* const* constants, const FbsConv2dOptions* options) {
  const FbsConv2dWeights weights = weights_of(constants);
  return fbs_conv2d_create(shape, &weights, options);
}

static const FbsConvolutionKind kKind = {
    .operands = "weights, bias, gate_kernel, gate_bias",
    .constant_count = 4,
    .constants = {{"weights", kFbsFloat, 3},
                  {"bias", kTfLiteFloat32, 1},
                  {"gate_kernel", kFbsFloat, 2},
                  {"gate_bias", kTfLiteFloat32, 1}},
    .check = check,
    .create = create,
};

static const FbsConvolutionKind kGatedKind = {
    .operands = "weights, bias",
    .gated = true,
    .constant_count = 2,
    .constants = {{"weights", kFbsFloat, 3}, {"bias", kTfLiteFloat32, 1}},
    .check = check,
    .create = create,
};

static bool parse(void* op, const TfLiteNode* node, const void* attributes, size_t size, FbsMessage* message) {
  return fbs_convolution_parse(op, &kKind, node, attributes, size, message);
}

static bool parse_gated(void* op, const TfLiteNode* node, const void* attributes, size_t size, FbsMessage* message) {
  return fbs_convolution_parse(op, &kGatedKind, node, attributes, size, message);
}

const FbsOpKind fbs_conv2d_op = {
    .custom_name = "FbsConv2D",
    .composite_name = "fbs.conv2d",
    .size = sizeof(FbsConvolution),
    .parse = parse,
    .prepare = fbs_convolution_prepare,
    .invoke = fbs_convolution_invoke,
    .destroy = fbs_convolution_destroy,
};

const FbsOpKind fbs_gated_conv2d_op = {
    .custom_name = "FbsGatedConv2D",
    .composite_name = "fbs.gated_conv2d",
    .size = sizeof(FbsConvolution),
    .parse = parse_gated,
    .prepare = fbs_convolution_prepare,
    .invoke = fbs_convolution_invoke,
    .destroy = fbs_convolution_destroy,
};
