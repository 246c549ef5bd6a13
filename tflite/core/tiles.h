/* The tiles that a multiplication is cut into, and how threads share them. */
#ifndef FBS_CORE_TILES_H_
#define FBS_CORE_TILES_H_

#include "kernels.h"
#include "threads.h"

typedef struct {
  const FbsPanel* panels;
  int32_t count;              /* of panels */
  int32_t pixels;             /* of the output, all of which every panel takes */
  const int32_t* tile_pixels; /* [vectors + 1]: most windows in a tile that is this many vectors wide */
  int32_t windows;            /* that a pixel takes: 4 with max pooling, else 1 */

  /* Tiles begin..end of the `tiles` nearly equal ones that the pixels are cut into, for one panel. `vectors` are those
   * of the panels before it. */
  void (*multiply)(const void* context, const FbsPanel* panel, int32_t vectors, int32_t tiles, int32_t begin,
                   int32_t end);
  const void* context;
} FbsTiles;

/* Multiplies all tiles. They stand in one row, panel after panel, of which each thread takes an equal share. */
void fbs_multiply_tiles(const FbsTiles* tiles, FbsThreads* threads);

#endif
