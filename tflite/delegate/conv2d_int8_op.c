/* The op fbs.conv2d_int8, and fbs.gated_conv2d_int8, which is given g. */
#include "../core/conv2d_int8.h"
#include "convolution.h"

static FbsConv2dInt8Weights weights_of(const void* const* constants) {
  return (FbsConv2dInt8Weights){.weights = constants[0],
                                .scales = constants[1],
                                .bias = constants[2],
                                .gate_kernel = constants[3],
                                .gate_bias = constants[4]};
}

static const char* check(const FbsConv2dShape* shape, const void* const* constants, char* message,
                         size_t message_size) {
  const FbsConv2dInt8Weights weights = weights_of(constants);
  return fbs_conv2d_int8_check(shape, &weights, message, message_size);
}

static FbsConv2d* create(const FbsConv2dShape* shape, const void* const* constants, const FbsConv2dOptions* options) {
  const FbsConv2dInt8Weights weights = weights_of(constants);
  return fbs_conv2d_int8_create(shape, &weights, options);
}

static const FbsConvolutionKind kKind = {
    .operands = "weights, weight_scales, bias, gate_kernel, gate_bias",
    .pools = true,
    .constant_count = 5,
    .constants = {{"weights", kTfLiteInt8, 3},
                  {"weight_scales", kTfLiteFloat32, 1},
                  {"bias", kTfLiteFloat32, 1},
                  {"gate_kernel", kFbsFloat, 2},
                  {"gate_bias", kTfLiteFloat32, 1}},
    .check = check,
    .create = create,
};

static const FbsConvolutionKind kGatedKind = {
    .operands = "weights, weight_scales, bias",
    .pools = true,
    .gated = true,
    .constant_count = 3,
    .constants = {{"weights", kTfLiteInt8, 3}, {"weight_scales", kTfLiteFloat32, 1}, {"bias", kTfLiteFloat32, 1}},
    .check = check,
    .create = create,
};

static bool parse(void* op, const TfLiteNode* node, const void* attributes, size_t size, FbsMessage* message) {
  return fbs_convolution_parse(op, &kKind, node, attributes, size, message);
}

static bool parse_gated(void* op, const TfLiteNode* node, const void* attributes, size_t size, FbsMessage* message) {
  return fbs_convolution_parse(op, &kGatedKind, node, attributes, size, message);
}

const FbsOpKind fbs_conv2d_int8_op = {
    .custom_name = "FbsConv2DInt8",
    .composite_name = "fbs.conv2d_int8",
    .size = sizeof(FbsConvolution),
    .parse = parse,
    .prepare = fbs_convolution_prepare,
    .invoke = fbs_convolution_invoke,
    .destroy = fbs_convolution_destroy,
};

const FbsOpKind fbs_gated_conv2d_int8_op = {
    .custom_name = "FbsGatedConv2DInt8",
    .composite_name = "fbs.gated_conv2d_int8",
    .size = sizeof(FbsConvolution),
    .parse = parse_gated,
    .prepare = fbs_convolution_prepare,
    .invoke = fbs_convolution_invoke,
    .destroy = fbs_convolution_destroy,
};
