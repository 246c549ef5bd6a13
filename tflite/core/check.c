/* Which shapes can be computed. Everything that the kernels rely on is checked here, once. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#include "add.h"
#include "conv2d.h"
#include "conv2d_int8.h"
#include "depthwise.h"
#include "image_int8.h"

/* Bytes are counted in size_t, as products of element counts that are checked here. */
_Static_assert(SIZE_MAX >= UINT64_MAX, "the kernels need a 64-bit machine");

/* The largest size or element count. It leaves room for four vectors of 16 more in 32 bits. */
enum { kMost = INT32_MAX - 64 };

/* The most entries in the table of windows, taps * output pixels: 256 MiB. A small file can ask for a huge table, which
 * is filled before the first run; a 7x7 kernel on 512x512 pixels needs a fifth of this. */
enum { kMostWindows = 1 << 26 };

static const char* refuse(char* message, size_t size, const char* format, ...) __attribute__((format(printf, 3, 4)));

static const char* refuse(char* message, size_t size, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, size, format, arguments);
  va_end(arguments);
  return message;
}

/* a * b for factors that are not negative, or -1 when the product exceeds kMost or a factor already did. */
static int64_t product(int64_t a, int64_t b) { return a < 0 || b < 0 || (b > 0 && a > kMost / b) ? -1 : a * b; }

typedef struct {
  const char* name;
  int32_t value, least, most;
} Field;

static const char* check_fields(const Field* fields, size_t count, char* message, size_t message_size) {
  for (size_t i = 0; i < count; i++) {
    if (fields[i].value >= fields[i].least && fields[i].value <= fields[i].most) continue;
    if (fields[i].most == kMost && fields[i].value < fields[i].least) {
      return refuse(message, message_size, "%s must be at least %" PRId32 ", got %" PRId32, fields[i].name,
                    fields[i].least, fields[i].value);
    }
    return refuse(message, message_size, "%s must be from %" PRId32 " to %" PRId32 ", got %" PRId32, fields[i].name,
                  fields[i].least, fields[i].most, fields[i].value);
  }
  return NULL;
}

typedef struct {
  const char* name;
  int64_t elements; /* -1: more than kMost */
  int32_t most;
} Size;

static const char* check_sizes(const Size* sizes, size_t count, char* message, size_t message_size) {
  for (size_t i = 0; i < count; i++) {
    if (sizes[i].elements < 0 || sizes[i].elements > sizes[i].most) {
      return refuse(message, message_size, "%s must have at most %" PRId32 " elements; these dimensions give more",
                    sizes[i].name, sizes[i].most);
    }
  }
  return NULL;
}

/* One axis of a window; coordinates are computed in 64 bits from factors below 2^31, so they cannot overflow. */
typedef struct {
  int32_t out, stride, kernel, dilation, pad;
} Axis;

static int64_t last_of(Axis a) {
  return (int64_t)(a.out - 1) * a.stride + (int64_t)(a.kernel - 1) * a.dilation - a.pad;
}

static const char* check_last_window(Axis vertical, Axis horizontal, char* message, size_t message_size) {
  const int64_t row = last_of(vertical), column = last_of(horizontal);
  if (row <= INT32_MAX && column <= INT32_MAX) return NULL;
  return refuse(message, message_size,
                "the last window must end within %" PRId32 " rows and columns, got row %" PRId64 " and column %" PRId64,
                INT32_MAX, row, column);
}

/* What the shapes of all convolutions name alike. */
#define WINDOW_FIELDS(s)                                                                                      \
  {"kernel_height", (s)->kernel_height, 1, kMost}, {"kernel_width", (s)->kernel_width, 1, kMost},             \
      {"stride_height", (s)->stride_height, 1, kMost}, {"stride_width", (s)->stride_width, 1, kMost},         \
      {"dilation_height", (s)->dilation_height, 1, kMost}, {"dilation_width", (s)->dilation_width, 1, kMost}, \
      {"pad_top", (s)->pad_top, 0, kMost}, {"pad_left", (s)->pad_left, 0, kMost},                             \
      {"out_height", (s)->out_height, 1, kMost}, {"out_width", (s)->out_width, 1, kMost}, {                   \
    "activation", (int32_t)(s)->activation, kFbsActivationNone, kFbsActivationRelu6                           \
  }
#define VERTICAL(s) \
  ((Axis){(s)->out_height, (s)->stride_height, (s)->kernel_height, (s)->dilation_height, (s)->pad_top})
#define HORIZONTAL(s) ((Axis){(s)->out_width, (s)->stride_width, (s)->kernel_width, (s)->dilation_width, (s)->pad_left})

/* most_pool: the largest max_pool that is allowed. */
static const char* check_convolution(const FbsConv2dShape* s, int32_t most_pool, char* message, size_t message_size) {
  const Field fields[] = {
      {"batch", s->batch, 1, kMost},
      {"in_height", s->in_height, 1, kMost},
      {"in_width", s->in_width, 1, kMost},
      {"in_channels", s->in_channels, 1, kMost},
      {"in_active", s->in_active, 1, s->in_channels},
      {"out_channels", s->out_channels, 1, kMost},
      {"out_active", s->out_active, 1, s->out_channels},
      {"group_size", s->group_size, 1, s->out_active},
      WINDOW_FIELDS(s),
      {"max_pool", s->max_pool, 0, most_pool},
  };
  const char* refusal = check_fields(fields, sizeof fields / sizeof fields[0], message, message_size);
  if (refusal != NULL) return refusal;
  if (s->out_channels % s->group_size != 0) {
    return refuse(message, message_size, "group_size must divide out_channels %" PRId32 ", got %" PRId32,
                  s->out_channels, s->group_size);
  }
  if (s->out_active % s->group_size != 0) {
    return refuse(message, message_size, "out_active must be a multiple of group_size %" PRId32 ", got %" PRId32,
                  s->group_size, s->out_active);
  }

  const int64_t taps = product(s->kernel_height, s->kernel_width);
  const Size sizes[] = {
      {"the input", product(product(product(s->batch, s->in_height), s->in_width), s->in_active), kMost},
      {"the output", product(product(product(s->batch, s->out_height), s->out_width), s->out_active), kMost},
      {"the weights", product(product(taps, s->in_channels), s->out_channels), kMost},
      {"the gate kernel", product(s->in_channels, s->out_channels), kMost},
      {"the table of windows", product(product(taps, s->out_height), s->out_width), kMostWindows},
      {"the list of input indices", product(s->batch, s->in_active), kMost},
      {"the list of output indices", product(s->batch, s->out_active), kMost},
  };
  refusal = check_sizes(sizes, sizeof sizes / sizeof sizes[0], message, message_size);
  if (refusal != NULL) return refusal;
  return check_last_window(VERTICAL(s), HORIZONTAL(s), message, message_size);
}

const char* fbs_conv2d_check(const FbsConv2dShape* s, char* message, size_t message_size) {
  return check_convolution(s, 0, message, message_size);
}

/* The most products in a sum: as many of 255 * 127 as 32 bits hold, rounded. */
enum { kMostProducts = 65000 };

const char* fbs_conv2d_int8_check(const FbsConv2dShape* s, const FbsConv2dInt8Weights* weights, char* message,
                                  size_t message_size) {
  const char* refusal = check_convolution(s, 1, message, message_size);
  if (refusal != NULL) return refusal;
  if (fbs_y_height(s) < 1 || fbs_y_width(s) < 1) {
    return refuse(message, message_size, "max pooling of 2x2 needs 2 rows and columns, got %" PRId32 " and %" PRId32,
                  s->out_height, s->out_width);
  }
  const int64_t rows = (int64_t)s->kernel_height * s->kernel_width * s->in_channels;
  const FbsInt8Image image = fbs_int8_image_of(s);
  const Size sizes[] = {
      {"a window with int8 weights", rows, kMostProducts},
      {"the padded int8 image", fbs_int8_image_bytes(&image, kMost), kMost},
  };
  refusal = check_sizes(sizes, sizeof sizes / sizeof sizes[0], message, message_size);
  if (refusal != NULL) return refusal;
  for (int64_t i = 0; i < rows * s->out_channels; i++) {
    if (weights->weights[i] >= -127) continue;
    return refuse(message, message_size, "int8 weights must be from -127 to 127, got -128 at element %" PRId64, i);
  }
  return NULL;
}

const char* fbs_depthwise_check(const FbsDepthwiseShape* s, char* message, size_t message_size) {
  const Field fields[] = {
      {"batch", s->batch, 1, kMost},       {"in_height", s->in_height, 1, kMost}, {"in_width", s->in_width, 1, kMost},
      {"channels", s->channels, 1, kMost}, {"active", s->active, 1, s->channels}, WINDOW_FIELDS(s),
  };
  const char* refusal = check_fields(fields, sizeof fields / sizeof fields[0], message, message_size);
  if (refusal != NULL) return refusal;
  const Size sizes[] = {
      {"the input", product(product(product(s->batch, s->in_height), s->in_width), s->active), kMost},
      {"the output", product(product(product(s->batch, s->out_height), s->out_width), s->active), kMost},
      {"the weights", product(product(s->kernel_height, s->kernel_width), s->channels), kMost},
  };
  refusal = check_sizes(sizes, sizeof sizes / sizeof sizes[0], message, message_size);
  if (refusal != NULL) return refusal;
  return check_last_window(VERTICAL(s), HORIZONTAL(s), message, message_size);
}

const char* fbs_add_check(const FbsAddShape* s, char* message, size_t message_size) {
  const struct {
    const char* name;
    int32_t value, most;
  } fields[] = {{"batch", s->batch, kMost},
                {"pixels", s->pixels, kMost},
                {"channels", s->channels, kMost},
                {"addends", s->addends, kFbsMaxAddends}};
  for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++) {
    if (fields[i].value >= 1 && fields[i].value <= fields[i].most) continue;
    return refuse(message, message_size, "%s must be from 1 to %" PRId32 ", got %" PRId32, fields[i].name,
                  fields[i].most, fields[i].value);
  }
  for (int32_t i = 0; i < s->addends; i++) {
    if (s->active[i] >= 0 && s->active[i] <= s->channels) continue;
    return refuse(message, message_size, "active of addend %" PRId32 " must be from 0 to %" PRId32 ", got %" PRId32, i,
                  s->channels, s->active[i]);
  }
  if (s->activation > kFbsActivationRelu6) {
    return refuse(message, message_size, "activation must be from 0 to 2, got %d", (int)s->activation);
  }
  if (product(product(s->batch, s->pixels), s->channels) < 0) {
    return refuse(message, message_size, "the sum must have at most %" PRId32 " elements; these dimensions give more",
                  kMost);
  }
  return NULL;
}
