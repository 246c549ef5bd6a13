#include "tiles.h"

#include "workspace.h"

static int32_t tiles_of(const FbsTiles* all, const FbsPanel* panel) {
  const int32_t most = all->tile_pixels[panel->vectors] / all->windows;
  return all->pixels / most + (all->pixels % most != 0);
}

static void multiply_share(void* context, int32_t thread, int32_t count) {
  const FbsTiles* all = context;
  int64_t total = 0;
  for (int32_t n = 0; n < all->count; n++) total += tiles_of(all, &all->panels[n]);
  int64_t begin = fbs_share(total, thread, count), end = fbs_share(total, thread + 1, count);
  for (int32_t n = 0; n < all->count && end > 0; n++) {
    const FbsPanel* panel = &all->panels[n];
    const int32_t tiles = tiles_of(all, panel);
    const int64_t last = end < tiles ? end : tiles;
    if (begin < last) {
      all->multiply(all->context, panel, panel->first_vector - all->panels->first_vector, tiles,
                    begin < 0 ? 0 : (int32_t)begin, (int32_t)last);
    }
    begin -= tiles;
    end -= tiles;
  }
}

void fbs_multiply_tiles(const FbsTiles* tiles, FbsThreads* threads) {
  FbsTiles all = *tiles; /* the task takes no constant */
  fbs_threads_run(threads, multiply_share, &all);
}
