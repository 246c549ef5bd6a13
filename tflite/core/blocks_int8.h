/* Packing by copying, where the winners are whole groups of a vector's width and x holds quads of neighbouring
 * channels, as it does when they won in groups too: each packed vector of a quad is then a block of a second copy of
 * the weights, blocks[out_channels / lanes][taps][in_channels / 4][lanes][4]. With half of 512 channels at 7x7, the
 * layer takes 0.078 ms this way, and 0.085 packed as other weights are (Zen 5, AVX-512). */
#ifndef FBS_CORE_BLOCKS_INT8_H_
#define FBS_CORE_BLOCKS_INT8_H_

#include "kernels_int8.h"
#include "types.h"

/* How many blocks are fetched ahead: where the weights come from memory, that layer takes 0.14 to 0.15 ms, 0.16 to
 * 0.17 with 16 and 0.2 without. */
enum { kFbsInt8BlocksAhead = 64 };

/* Whether the layer is such a one, but for the channels of x, and its kernels can do without the weights' sums. */
int fbs_int8_blocks_serve(const FbsConv2dShape* shape, const FbsInt8Kernels* kernels);

size_t fbs_int8_blocks_bytes(const FbsConv2dShape* shape);

/* Allocated; NULL when memory runs out. */
int8_t* fbs_int8_blocks_of(const FbsConv2dShape* shape, const int8_t* weights, int32_t lanes);

/* quads[taps * in_active / 4]: where each quad's block is, from the first one of a vector on; kFbsInt8BlocksAhead
 * entries follow that are only fetched. 0 when x does not hold quads of neighbours. */
int fbs_int8_find_blocks(const FbsConv2dShape* shape, int32_t lanes, const int32_t* in_indices, int32_t* quads);

/* As FbsInt8Kernels.pack. */
void fbs_int8_copy_blocks(const FbsConv2dShape* shape, int32_t lanes, const int8_t* blocks, const int32_t* quads,
                          const int32_t* winners, const FbsPanel* panels, int32_t count, int64_t begin, int64_t end,
                          int8_t* packed);

#endif
