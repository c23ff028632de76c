/* A trained RS-Net from C: a checkpoint is loaded once and answers at any of its sizes. Any thread may call
 * any function with the same network, except rsflow_close, which must be the last.
 *
 *     rsflow_net* net = rsflow_open("best.safetensors", NULL, 0, NULL, NULL);
 *     if (net == NULL) fprintf(stderr, "%s\n", rsflow_error());
 */
#ifndef RSFLOW_NET_H
#define RSFLOW_NET_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct rsflow_net rsflow_net;

typedef struct rsflow_prediction {
  size_t class_index;
  double probability; /* 0..1 */
} rsflow_prediction;

/* Why the calling thread's last call failed. Valid until its next call. */
const char* rsflow_error(void);

/* Loads a checkpoint for `count` sizes in pixels; with a count of 0, for those that it was trained for.
 *
 * device: "cpu", "cuda:0"; NULL or "auto": the first GPU, or the CPU where there is none.
 * precision: "float32", "tf32", "bfloat16", "float16"; NULL or "auto": as the network was trained.
 *
 * Sets for the process whether libtorch multiplies float32 as TF32, and on a CPU that freed memory is kept.
 * NULL: see rsflow_error. */
rsflow_net* rsflow_open(const char* checkpoint, const uint32_t* sizes, size_t count, const char* device,
                        const char* precision);

/* Frees it. NULL is allowed. */
void rsflow_close(rsflow_net* net);

/* Writes up to `room` of the loaded sizes, from the largest to the smallest. Returns how many there are. */
size_t rsflow_sizes(const rsflow_net* net, uint32_t* sizes, size_t room);

size_t rsflow_class_count(const rsflow_net* net);

/* The name of a class; "" if the checkpoint does not have it, NULL if there is no such class. Valid until
 * rsflow_close. */
const char* rsflow_class_name(const rsflow_net* net, size_t class_index);

/* The largest size at which one image takes at most so many milliseconds on this machine, decoding not
 * counted; the smallest size if none does. The first call measures. 0: see rsflow_error. */
uint32_t rsflow_size_within(const rsflow_net* net, double milliseconds);

/* The `top` (at least 1) most probable classes of an image file in memory (JPEG, PNG, WebP, GIF, BMP, TIFF, PNM), the most
 * probable first. Returns how many were written, 0 if it failed: see rsflow_error. */
size_t rsflow_classify(const rsflow_net* net, const uint8_t* file, size_t bytes, uint32_t size,
                       rsflow_prediction* predictions, size_t top);

/* The logits of `count` images: RGB, [count, size, size, 3]; logits: [count, classes]. Returns 1, or 0 if it
 * failed: see rsflow_error. */
int rsflow_logits(const rsflow_net* net, const uint8_t* pixels, size_t count, uint32_t size,
                  float* logits);

#ifdef __cplusplus
}
#endif
#endif
