/* Classifies an image at every size of a checkpoint:
 *
 *     cc classify.c -I.. -L. -lrsflow_net -Wl,-rpath,'$ORIGIN' -o classify
 *     ./classify best.safetensors photo.jpg
 */
#include <stdio.h>
#include <stdlib.h>

#include "rsflow_net.h"

static uint8_t* read_file(const char* path, size_t* bytes) {
  FILE* file = fopen(path, "rb");
  if (file == NULL) return NULL;
  fseek(file, 0, SEEK_END);
  const long length = ftell(file);
  rewind(file);
  uint8_t* content = length < 0 ? NULL : malloc((size_t)length + 1);
  *bytes = content == NULL ? 0 : fread(content, 1, (size_t)length, file);
  fclose(file);
  return content;
}

int main(int count, char** arguments) {
  if (count != 3) {
    fprintf(stderr, "usage: %s CHECKPOINT IMAGE\n", arguments[0]);
    return 2;
  }
  rsflow_net* net = rsflow_open(arguments[1], NULL, 0, NULL, NULL);
  if (net == NULL) {
    fprintf(stderr, "%s\n", rsflow_error());
    return 1;
  }
  size_t bytes = 0;
  uint8_t* image = read_file(arguments[2], &bytes);
  uint32_t sizes[16];
  size_t loaded = rsflow_sizes(net, sizes, 16);
  int failed = image == NULL;
  for (size_t at = 0; at < loaded && at < 16 && !failed; ++at) {
    rsflow_prediction best;
    failed = rsflow_classify(net, image, bytes, sizes[at], &best, 1) != 1;
    if (!failed) {
      printf("%u %zu %s %.17g\n", (unsigned)sizes[at], best.class_index,
             rsflow_class_name(net, best.class_index), best.probability);
    }
  }
  if (failed) fprintf(stderr, "%s: %s\n", arguments[2], image ? rsflow_error() : "cannot be read");
  free(image);
  rsflow_close(net);
  return failed;
}
