#include "blocks_int8.h"

#include <stdlib.h>
#include <string.h>

static int64_t taps_of(const FbsConv2dShape* s) { return (int64_t)s->kernel_height * s->kernel_width; }

/* Also where all channels win, in whatever groups. */
int fbs_int8_blocks_serve(const FbsConv2dShape* s, const FbsInt8Kernels* kernels) {
  const int32_t group = s->out_active == s->out_channels ? s->out_channels : s->group_size;
  return kernels->origin == 0 && group % kernels->lanes == 0 && s->in_channels % 4 == 0 && s->in_active % 4 == 0;
}

size_t fbs_int8_blocks_bytes(const FbsConv2dShape* s) {
  return (size_t)taps_of(s) * (size_t)s->in_channels * (size_t)s->out_channels;
}

int8_t* fbs_int8_blocks_of(const FbsConv2dShape* s, const int8_t* weights, int32_t lanes) {
  const int64_t taps = taps_of(s), quads = s->in_channels / 4;
  void* memory;
  if (posix_memalign(&memory, 64, fbs_int8_blocks_bytes(s)) != 0) return NULL;
  int8_t* blocks = memory;
  for (int64_t i = 0; i < s->in_channels; i++) {
    for (int64_t t = 0; t < taps; t++) {
      for (int64_t o = 0; o < s->out_channels; o++) {
        const int64_t block = (o / lanes * taps + t) * quads + i / 4;
        blocks[(block * lanes + o % lanes) * 4 + i % 4] = *weights++;
      }
    }
  }
  return blocks;
}

int fbs_int8_find_blocks(const FbsConv2dShape* s, int32_t lanes, const int32_t* in_indices, int32_t* quads) {
  for (int32_t i = 0; in_indices != NULL && i < s->in_active; i++) {
    if (in_indices[i] % 4 != i % 4 || in_indices[i] - in_indices[i / 4 * 4] != i % 4) return 0;
  }
  for (int32_t t = 0; t < taps_of(s); t++) {
    for (int32_t i = 0; i < s->in_active; i += 4) {
      const int32_t quad = (in_indices == NULL ? i : in_indices[i]) / 4;
      *quads++ = (t * (s->in_channels / 4) + quad) * 4 * lanes;
    }
  }
  for (int32_t n = 0; n < kFbsInt8BlocksAhead; n++) *quads++ = 0;
  return 1;
}

void fbs_int8_copy_blocks(const FbsConv2dShape* s, int32_t lanes, const int8_t* blocks, const int32_t* quads,
                          const int32_t* winners, const FbsPanel* panels, int32_t count, int64_t begin, int64_t end,
                          int8_t* packed) {
  const int64_t bytes = 4 * lanes, vector_bytes = taps_of(s) * s->in_channels * lanes;
  for (const FbsPanel* panel = panels; panel < panels + count; panel++) {
    const int64_t step = panel->vectors * bytes;
    for (int64_t v = 0; v < panel->vectors; v++) {
      const int8_t* vector = blocks + winners[(panel->first_vector + v) * lanes] / lanes * vector_bytes;
      for (int64_t quad = begin; quad < end; quad++) {
        int8_t* target = packed + quad * step + v * bytes;
        __builtin_prefetch(vector + quads[quad + kFbsInt8BlocksAhead]);
        for (int64_t i = 0; i < bytes; i += 16) memcpy(target + i, vector + quads[quad] + i, 16);
      }
    }
    packed += taps_of(s) * (s->in_active / 4) * step;
  }
}
