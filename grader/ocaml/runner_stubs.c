/* What the runner needs of memory: a report that outlives the fork that writes it, and a stack that need not grow. */

#define _GNU_SOURCE
#define CAML_INTERNALS
#define CAML_NAME_SPACE
#include <caml/alloc.h>
#include <caml/fail.h>
#include <caml/mlvalues.h>
#include <caml/version.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#if OCAML_VERSION >= 50000
#include <caml/fiber.h>
#include <caml/gc_ctrl.h>
#else
#include <caml/stacks.h>
extern uintnat caml_max_stack_size; /* words; no header of OCaml 4 has it */
#endif

/* ---- the report (report.ml) ---- */

struct report {
  volatile size_t length;
  char text[1 << 20]; /* of which only what is written takes memory */
};
static struct report *report;

value caravan_report_open(value unit) {
  void *shared = mmap(NULL, sizeof *report, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (shared == MAP_FAILED) caml_failwith("no memory for reports");
  report = shared;
  return unit;
}

value caravan_report_add(value text) {
  size_t start = report->length, length = caml_string_length(text);
  if (length > sizeof report->text - start) caml_failwith("the report is too long");
  memcpy(report->text + start, String_val(text), length);
  report->length = start + length; /* last: a fork may be killed anywhere */
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

/* To its limit, before the first fork: it takes no memory until it is used.  A fork that grew it would copy it over and over,
   and take a page fault for every 4 KiB of all the copies; large pages make it a few. */
value caravan_stack_grow(value unit) {
  /* In words; the stack doubles until there is room for as much as the limit allows. */
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
  low -= low % sysconf(_SC_PAGESIZE); /* a hint: what is refused costs time only */
  madvise((void *)low, high - low, MADV_HUGEPAGE);
#else
  (void)low, (void)high;
#endif
  return unit;
}
