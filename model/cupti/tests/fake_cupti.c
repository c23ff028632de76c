// A stand-in for CUPTI: the functions that rsflow calls, and records with the layout of the real ones. Each
// time the kinds are enabled, one set of records happens; a forced flush hands the sets out from a thread of its
// own.
//
// Steered by the environment:
//   FAKE_CUPTI_VERSION     what cuptiGetVersion says; 130500 unless given. Below 100: the smaller old records
//   FAKE_CUPTI_FAIL        the function that fails
//   FAKE_CUPTI_CODE        the code with which it does; 8 unless given
//   FAKE_CUPTI_FAIL_TIMES  how often it does; always unless given
//   FAKE_CUPTI_DROPPED     how many records there was no room for
//   FAKE_CUPTI_CUT         if given, the second buffer ends in an unfinished record
//   FAKE_CUPTI_MUTE        if given, codes have no text
//   FAKE_CUPTI_LIVE        if given, its clock is the system's, and other records happen: 30 ms of work that
//                          end 20 ms before they are handed out
//
// The records, as offset: field. All start with a 4-byte kind at 0 and have 8-byte times at 16 and 24.
//   kernel (10)  40: device, 4 bytes    104: name, a pointer     208 bytes in CUDA 12, 248 in CUDA 13.5
//   copy (1)      4: kind, 1 byte         8: bytes, 8 bytes       32: device, 4 bytes    88 and 112 bytes
//   fill (2)      8: bytes, 8 bytes      32: device, 4 bytes      88 and 104 bytes

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef void (*Requested)(uint8_t**, size_t*, size_t*);
typedef void (*Completed)(void*, uint32_t, uint8_t*, size_t, size_t);

enum { COPY = 1, SET = 2, CONTEXT = 9, KERNEL = 10 };
enum { OUT_OF_MEMORY = 8, MAX_LIMIT_REACHED = 12, INVALID_KIND = 21 };

static Requested requested;
static Completed completed;
static int enabled[64];
static int sets;         // that happened and were not handed out
static size_t dropped;   // since the last question
static uint8_t* late;    // a buffer that comes back when no recorder runs
static size_t late_size;

static long number(const char* variable, long otherwise) {
  const char* text = getenv(variable);
  return text != NULL ? atol(text) : otherwise;
}

// The code with which a function is to fail, or 0.
static int failure(const char* function) {
  static long times = 0;
  const char* failing = getenv("FAKE_CUPTI_FAIL");
  if (failing == NULL || strcmp(failing, function) != 0) return 0;
  if (times++ >= number("FAKE_CUPTI_FAIL_TIMES", 1000)) return 0;
  return (int)number("FAKE_CUPTI_CODE", OUT_OF_MEMORY);
}

static size_t size_of(uint32_t kind) {
  const int old = number("FAKE_CUPTI_VERSION", 130500) < 100;
  switch (kind) {
    case KERNEL: return old ? 208 : 248;
    case COPY: return old ? 88 : 112;
    case SET: return old ? 88 : 104;
    default: return 64;
  }
}

// Starts a record. What is not written stays rubbish, to be noticed where it is read.
static uint8_t* record(uint8_t** at, uint32_t kind, uint64_t start, uint64_t end) {
  uint8_t* record = *at;
  *at += size_of(kind);
  memset(record, 0xEE, size_of(kind));
  memcpy(record, &kind, 4);
  memcpy(record + 16, &start, 8);
  memcpy(record + 24, &end, 8);
  return record;
}

static void kernel(uint8_t** at, uint64_t start, uint64_t end, uint32_t device, const char* name) {
  uint8_t* kernel = record(at, KERNEL, start, end);
  memcpy(kernel + 40, &device, 4);
  memcpy(kernel + 104, &name, sizeof name);
}

static void moved(uint8_t** at, uint32_t kind, uint64_t start, uint64_t bytes, uint32_t device) {
  uint8_t* moved = record(at, kind, start, start + 5);
  memcpy(moved + 8, &bytes, 8);
  memcpy(moved + 32, &device, 4);
}

static void copy(uint8_t** at, uint64_t start, uint64_t bytes, uint8_t kind, uint32_t device) {
  uint8_t* copy = *at;
  moved(at, COPY, start, bytes, device);
  copy[4] = kind;
}

static uint8_t* buffer(size_t* size) {
  uint8_t* memory = NULL;
  size_t most = 77;
  requested(&memory, size, &most);
  if (memory != NULL && ((uintptr_t)memory % 8 != 0 || *size < 1 << 20 || most != 0)) abort();
  return memory;
}

static uint64_t now(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (uint64_t)time.tv_sec * 1000000000 + (uint64_t)time.tv_nsec;
}

// A convolution of 12 ms, at the same time a copy of 2 ms, a pause of 6 ms, a batch norm of 9 ms, and 3 ms of
// something else.
static void live(void) {
  const uint64_t ms = 1000000, start = now() - 50 * ms;
  size_t size;
  uint8_t* first = buffer(&size);
  uint8_t* at = first;
  kernel(&at, start, start + 12 * ms, 0, "sm80_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc_kernel");
  copy(&at, start + ms, 1 << 20, 1, 0);
  const uint64_t end = start + 3 * ms;
  memcpy(at - size_of(COPY) + 24, &end, 8);
  kernel(&at, start + 18 * ms, start + 27 * ms, 0, "norm_statistics_bf16");
  kernel(&at, start + 27 * ms, start + 30 * ms, 0, "_Z6secondv");
  completed(NULL, 0, first, size, (size_t)(at - first));
}

static void* hand_out(void* unused) {
  if (getenv("FAKE_CUPTI_LIVE") != NULL) {
    for (; sets > 0; sets--) live();
    return unused;
  }
  for (; sets > 0; sets--) {
    size_t size;
    uint8_t* first = buffer(&size);
    if (first == NULL) abort();
    uint8_t* at = first;
    kernel(&at, 1000, 1500, 0, "_Z5firstv");
    copy(&at, 1600, 1 << 20, 1, 1);
    record(&at, CONTEXT, 1, 2);
    moved(&at, SET, 1700, 64, 2);
    kernel(&at, 0, 0, 0, "_Z7untimedv");
    kernel(&at, 0x100000000000, 0x100000000007, 3, "_Z6secondv");
    completed(NULL, 0, first, size, (size_t)(at - first));

    first = at = buffer(&size);
    kernel(&at, 1400, 1900, 0, "_Z5firstv");
    copy(&at, 2000, 3, 4, 0);
    kernel(&at, 2100, 2200, 0, NULL);
    if (getenv("FAKE_CUPTI_CUT") != NULL) record(&at, 0, 0, 0);
    completed(NULL, 0, first, size, (size_t)(at - first));
  }
  if (late == NULL) late = buffer(&late_size);
  return unused;
}

int cuptiGetVersion(uint32_t* version) {
  // Long after a recorder stopped, with a record that nobody waits for.
  if (late != NULL) {
    uint8_t* at = late;
    kernel(&at, 1, 2, 0, "_Z4latev");
    completed(NULL, 0, late, late_size, (size_t)(at - late));
    late = NULL;
  }
  *version = (uint32_t)number("FAKE_CUPTI_VERSION", 130500);
  return failure("cuptiGetVersion");
}

int cuptiGetTimestamp(uint64_t* time) {
  *time = getenv("FAKE_CUPTI_LIVE") != NULL ? now() : 500;
  return failure("cuptiGetTimestamp");
}

int cuptiGetResultString(int code, const char** text) {
  static char written[40];
  if (getenv("FAKE_CUPTI_MUTE") != NULL) return 1;
  snprintf(written, sizeof written, "FAKE_ERROR_%d", code);
  *text = written;
  return 0;
}

int cuptiActivityRegisterCallbacks(Requested request, Completed complete) {
  requested = request;
  completed = complete;
  return failure("cuptiActivityRegisterCallbacks");
}

int cuptiActivityEnable(uint32_t kind) {
  const int code = failure("cuptiActivityEnable");
  if (code != 0) return code;
  if (kind >= 64 || enabled[kind]) return 7; // rsflow forgot to disable it
  enabled[kind] = 1;
  if (enabled[KERNEL] && enabled[COPY] && enabled[SET]) {
    sets++;
    dropped += (size_t)number("FAKE_CUPTI_DROPPED", 0);
  }
  return 0;
}

int cuptiActivityDisable(uint32_t kind) {
  if (kind < 64) enabled[kind] = 0;
  return failure("cuptiActivityDisable");
}

int cuptiActivityFlushAll(uint32_t flag) {
  const int code = failure("cuptiActivityFlushAll");
  if (code != 0) return code;
  pthread_t thread;
  if (flag != 1 || pthread_create(&thread, NULL, hand_out, NULL) != 0) return 999;
  pthread_join(thread, NULL);
  return 0;
}

int cuptiActivityGetNextRecord(uint8_t* buffer, size_t bytes, uint8_t** record) {
  const int code = failure("cuptiActivityGetNextRecord");
  if (code != 0) return code;
  uint32_t kind;
  uint8_t* next = buffer;
  if (*record != NULL) {
    memcpy(&kind, *record, 4);
    next = *record + size_of(kind);
  }
  if (next >= buffer + bytes) return MAX_LIMIT_REACHED;
  memcpy(&kind, next, 4);
  if (kind == 0) return INVALID_KIND;
  *record = next;
  return 0;
}

int cuptiActivityGetNumDroppedRecords(void* context, uint32_t stream, size_t* count) {
  if (context != NULL || stream != 0) return 1;
  *count = dropped;
  dropped = 0;
  return failure("cuptiActivityGetNumDroppedRecords");
}
