#include "packing.h"

#include <string.h>

int32_t fbs_vectors_of(int32_t channels, int32_t lanes) { return channels / lanes + (channels % lanes != 0); }

void fbs_find_stretches(const int32_t* winners, int32_t count, int32_t last_column, int32_t lanes, int32_t width,
                        FbsStretch* stretches, int32_t* first_stretch) {
  const int32_t vectors = fbs_vectors_of(count, lanes);
  int32_t found = 0;
  for (int32_t v = 0; v < vectors; v++) {
    first_stretch[v] = found;
    const int32_t* winner = winners + v * lanes;
    const int32_t left = count - v * lanes, used = left < lanes ? left : lanes;
    for (int32_t lane = 0; lane < used;) {
      FbsStretch* stretch = &stretches[found++];
      stretch->column = winner[lane] < last_column ? winner[lane] : last_column;
      memset(stretch->select, -1, sizeof stretch->select);
      for (; lane < used && winner[lane] - stretch->column < width; lane++) {
        stretch->select[lane] = winner[lane] - stretch->column;
      }
    }
  }
  first_stretch[vectors] = found;
}
