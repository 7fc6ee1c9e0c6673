/* The runner's memory: a request and a report shared with its forks, and a stack of full size. */

#define _GNU_SOURCE
#define CAML_INTERNALS
#define CAML_NAME_SPACE
#include <caml/alloc.h>
#include <caml/fail.h>
#include <caml/intext.h>
#include <caml/mlvalues.h>
#include <caml/version.h>
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#if OCAML_VERSION >= 50000
#include <caml/fiber.h>
#include <caml/gc_ctrl.h>
#else
#include <caml/stacks.h>
extern uintnat caml_max_stack_size; /* in words; not in the headers of OCaml 4 */
#endif

static void *shared_memory(size_t size) {
  void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) caml_failwith("no memory to share with forks");
  return memory;
}

/* ---- the request (request.ml) ---- */

#define USUAL_REQUEST (256 * 1024)

static struct {
  char *bytes;
  size_t room;
} request;

static void make_room(size_t length) {
  size_t room = length < USUAL_REQUEST ? USUAL_REQUEST : length;
  if (room <= request.room && request.room == USUAL_REQUEST) return;
  if (request.room > 0) munmap(request.bytes, request.room);
  request.room = 0;
  request.bytes = shared_memory(room);
  request.room = room;
}

/* Returns 0 if the pipe ends first. */
value caravan_request_read(value pipe, value wanted) {
  size_t length = Long_val(wanted), done = 0;
  make_room(length);
  while (done < length) {
    ssize_t count = read(Int_val(pipe), request.bytes + done, length - done);
    if (count > 0) done += count;
    else if (count == 0 || errno != EINTR) return Val_false;
  }
  return Val_true;
}

static char *part_of_request(value start, value length) {
  size_t from = Long_val(start), size = Long_val(length);
  if (from > request.room || size > request.room - from) caml_failwith("the request ends before");
  return request.bytes + from;
}

value caravan_request_text(value start, value length) {
  return caml_alloc_initialized_string(Long_val(length), part_of_request(start, length));
}

value caravan_request_value(value start, value length) {
  return caml_input_value_from_block(part_of_request(start, length), Long_val(length));
}

value caravan_request_forget(value unit) {
  munmap(request.bytes, request.room);
  request.room = 0;
  return unit;
}

/* ---- the report (report.ml) ---- */

struct report {
  volatile size_t length;
  char text[1 << 20]; /* only written pages take memory */
};
static struct report *report;

value caravan_report_open(value unit) {
  report = shared_memory(sizeof *report);
  return unit;
}

value caravan_report_add(value text) {
  size_t start = report->length, length = caml_string_length(text);
  if (length > sizeof report->text - start) caml_failwith("the report is too long");
  memcpy(report->text + start, String_val(text), length);
  report->length = start + length; /* last, since a fork may be killed at any point */
  return Val_unit;
}

value caravan_report_take(value unit) {
  size_t length = report->length;
  if (length > sizeof report->text) caml_failwith("the report is damaged");
  value text = caml_alloc_initialized_string(length, report->text);
  report->length = 0;
  (void)unit;
  return text;
}

/* ---- the stack ---- */

/* Grows the stack to its limit before the first fork; unused stack takes no memory.  A fork that grows it copies it repeatedly,
   with a page fault for every 4 KiB of the copies; large pages reduce their number. */
value caravan_stack_grow(value unit) {
  /* In words; the stack doubles until it reaches the limit. */
#if OCAML_VERSION >= 50000
  struct stack_info *now = Caml_state->current_stack;
  asize_t limit = caml_max_stack_wsize, size = Stack_high(now) - Stack_base(now);
  if (size < limit) caml_try_realloc_stack(limit - (Stack_high(now) - (value *)now->sp));
  now = Caml_state->current_stack;
  uintptr_t low = (uintptr_t)Stack_base(now), high = (uintptr_t)Stack_high(now);
#else
  asize_t limit = caml_max_stack_size, size = Caml_state->stack_high - Caml_state->stack_low;
  if (size < limit) caml_realloc_stack(limit - (Caml_state->stack_high - Caml_state->extern_sp));
  uintptr_t low = (uintptr_t)Caml_state->stack_low, high = (uintptr_t)Caml_state->stack_high;
#endif
#ifdef MADV_HUGEPAGE
  low -= low % sysconf(_SC_PAGESIZE); /* a hint: a refusal only costs time */
  madvise((void *)low, high - low, MADV_HUGEPAGE);
#else
  (void)low, (void)high;
#endif
  return unit;
}
