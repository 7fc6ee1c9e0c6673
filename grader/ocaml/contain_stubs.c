/* The system calls of contain.ml.

   Landlock and seccomp are called by number, since C libraries have no functions for them, and landlock's structures are
   declared here, since the kernel may be newer than the headers of the machine that compiles. */

#define _GNU_SOURCE
#include <caml/fail.h>
#include <caml/mlvalues.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <unistd.h>

#define LAYER_FAILED_STATUS 113 /* contain.ml: layer_failed_status */
#define SECCOMP 1         /* contain.ml: describe */
#define LANDLOCK 2

static void layer_failed(void) { _exit(LAYER_FAILED_STATUS); }

static void limit(int resource, rlim_t soft, rlim_t hard) {
  struct rlimit wanted = {soft, hard};
  if (setrlimit(resource, &wanted) != 0) layer_failed();
}

#if defined(__linux__)

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* ---- seccomp: the lists ---- */

#if defined(__x86_64__) && !defined(__ILP32__)
#define ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined(__aarch64__) && defined(__AARCH64EL__) && !defined(__ILP32__)
#define ARCHITECTURE AUDIT_ARCH_AARCH64
#endif

/* For compiler and completions: memory, clocks, their own signals, open descriptors, exit. */
static const int allowed[] = {
    __NR_write, __NR_writev, __NR_read, __NR_close, __NR_lseek, __NR_fstat, __NR_brk, __NR_munmap, __NR_mremap,
    __NR_madvise, __NR_clock_gettime, __NR_clock_getres, __NR_gettimeofday, __NR_getrusage, __NR_times,
    __NR_rt_sigaction, __NR_rt_sigprocmask, __NR_rt_sigreturn, __NR_sigaltstack, __NR_futex, __NR_sched_yield,
    __NR_setitimer, __NR_restart_syscall, __NR_getpid, __NR_gettid, __NR_exit, __NR_exit_group,
#ifdef __NR_time
    __NR_time,
#endif
};

/* For the compiler only: it waits on pipes and lists the library's folder. */
static const int allowed_to_compiler[] = {
    __NR_getdents64, __NR_ppoll, __NR_pselect6, __NR_getitimer,
#ifdef __NR_poll
    __NR_poll,
#endif
#ifdef __NR_select
    __NR_select,
#endif
};

/* No honest program makes these calls: they end the process.  A call in neither list fails with EPERM, since an honest program
   may ask for a random seed and continue without one. */
static const int deadly[] = {
    __NR_clone, __NR_execve, __NR_execveat, __NR_ptrace, __NR_process_vm_readv, __NR_process_vm_writev, __NR_kill,
    __NR_socket, __NR_socketpair, __NR_connect, __NR_bpf, __NR_unshare, __NR_setns, __NR_mount,
#ifdef __NR_fork
    __NR_fork, __NR_vfork,
#endif
#ifdef __NR_clone3
    __NR_clone3,
#endif
#ifdef __NR_userfaultfd
    __NR_userfaultfd,
#endif
#ifdef __NR_io_uring_setup
    __NR_io_uring_setup,
#endif
};

/* Allowed if one argument, masked, has this value. */
struct condition {
  int number, argument;
  uint32_t mask, value;
};

#define READ_ONLY_MASK (O_ACCMODE | O_CREAT | O_TRUNC | O_APPEND | O_PATH | (O_TMPFILE & ~O_DIRECTORY))

static const struct condition conditions[] = {
    {__NR_mmap, 2, PROT_EXEC, 0},
    {__NR_mprotect, 2, PROT_EXEC, 0},
};
static const struct condition conditions_of_compiler[] = {
    {__NR_openat, 2, READ_ONLY_MASK, O_RDONLY},
#ifdef __NR_open
    {__NR_open, 1, READ_ONLY_MASK, O_RDONLY},
#endif
};

#define COUNT(list) ((int)(sizeof(list) / sizeof((list)[0])))

/* ---- seccomp: the filter ---- */

#define MAX_INSTRUCTIONS 250 /* jumps reach 255 */

struct filter {
  struct sock_filter code[MAX_INSTRUCTIONS];
  unsigned short length;
};
static struct filter completion_filter, compiler_filter; /* built once, applied in every fork */

#ifdef ARCHITECTURE

/* Call number -> the filter's return value, or, below NUM_CONDITIONS, the index of a condition. */
#define NUM_CALLS 512
#define NUM_CONDITIONS 16
static uint32_t actions[NUM_CALLS];
static struct condition known_conditions[NUM_CONDITIONS];
static int num_conditions;

static void set_actions(const int *list, int count, uint32_t action) {
  for (int i = 0; i < count; i++) actions[list[i]] = action;
}

static void set_conditions(const struct condition *list, int count) {
  for (int i = 0; i < count; i++) {
    if (num_conditions == NUM_CONDITIONS) layer_failed();
    actions[list[i].number] = num_conditions;
    known_conditions[num_conditions++] = list[i];
  }
}

static void emit(struct filter *filter, uint16_t code, uint8_t jump_true, uint8_t jump_false, uint32_t value) {
  if (filter->length == MAX_INSTRUCTIONS) layer_failed();
  struct sock_filter instruction = {code, jump_true, jump_false, value};
  filter->code[filter->length++] = instruction;
}

static void emit_load(struct filter *filter, size_t offset) { emit(filter, BPF_LD | BPF_W | BPF_ABS, 0, 0, offset); }
static void emit_return(struct filter *filter, uint32_t action) { emit(filter, BPF_RET | BPF_K, 0, 0, action); }

static void emit_action(struct filter *filter, uint32_t action) {
  if (action >= NUM_CONDITIONS) {
    emit_return(filter, action);
    return;
  }
  const struct condition *condition = &known_conditions[action];
  /* The low half of the argument: these arguments are ints, or have their flags there. */
  emit_load(filter, offsetof(struct seccomp_data, args) + 8 * condition->argument);
  emit(filter, BPF_ALU | BPF_AND | BPF_K, 0, 0, condition->mask);
  emit(filter, BPF_JMP | BPF_JEQ | BPF_K, 0, 1, condition->value);
  emit_return(filter, SECCOMP_RET_ALLOW);
  emit_return(filter, SECCOMP_RET_ERRNO | EPERM);
}

/* A binary search among the call numbers at which the action changes.  The kernel runs the filter with every call number when
   it is applied: a linear search would take twice the time of all other layers. */
static void emit_search(struct filter *filter, const int *changes, int low, int high) {
  if (high - low == 1) {
    emit_action(filter, actions[changes[low]]);
    return;
  }
  int middle = (low + high) / 2, jump = filter->length;
  emit(filter, BPF_JMP | BPF_JGE | BPF_K, 0, 0, changes[middle]);
  emit_search(filter, changes, low, middle);
  filter->code[jump].jt = filter->length - jump - 1;
  emit_search(filter, changes, middle, high);
}

static void build(struct filter *filter) {
  int changes[NUM_CALLS], count = 0;
  set_actions(deadly, COUNT(deadly), SECCOMP_RET_KILL_PROCESS);
  set_actions(allowed, COUNT(allowed), SECCOMP_RET_ALLOW);
  set_conditions(conditions, COUNT(conditions));
  for (int number = 0; number < NUM_CALLS; number++)
    if (number == 0 || actions[number] != actions[number - 1]) changes[count++] = number;
  emit_load(filter, offsetof(struct seccomp_data, arch));
  emit(filter, BPF_JMP | BPF_JEQ | BPF_K, 1, 0, ARCHITECTURE);
  emit_return(filter, SECCOMP_RET_KILL_PROCESS);
  emit_load(filter, offsetof(struct seccomp_data, nr));
  emit_search(filter, changes, 0, count);
}

static void refuse_everything(void) {
  num_conditions = 0;
  for (int number = 0; number < NUM_CALLS; number++) actions[number] = SECCOMP_RET_ERRNO | EPERM;
}

static void build_filters(void) {
  refuse_everything();
  build(&completion_filter);
  refuse_everything();
  set_actions(allowed_to_compiler, COUNT(allowed_to_compiler), SECCOMP_RET_ALLOW);
  set_conditions(conditions_of_compiler, COUNT(conditions_of_compiler));
  build(&compiler_filter);
}

static int apply_seccomp(struct filter *filter) {
  struct sock_fprog program = {filter->length, filter->code};
  return syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0;
}

#else /* an architecture whose system calls are not in the lists */

static void build_filters(void) {}

static int apply_seccomp(struct filter *filter) {
  (void)filter;
  return 0;
}

#endif

/* ---- landlock ---- */

/* The same numbers on every architecture. */
#define LANDLOCK_CREATE_RULESET 444
#define LANDLOCK_ADD_RULE 445
#define LANDLOCK_RESTRICT_SELF 446
#define VERSION_FLAG 1
#define PATH_BENEATH 1
#define READ_FILE (1 << 2)
#define READ_DIR (1 << 3)

struct ruleset { /* what is denied unless a rule allows it */
  uint64_t files, network, scoped;
};
struct path_beneath {
  uint64_t allowed;
  int32_t folder;
} __attribute__((packed));

/* Everything that this kernel's landlock can deny; returns 0 without landlock. */
static int deniable(struct ruleset *ruleset) {
  static const uint64_t files_of_version[] = {0x1fff, 0x3fff, 0x7fff, 0x7fff, 0xffff};
  long version = syscall(LANDLOCK_CREATE_RULESET, NULL, 0, VERSION_FLAG);
  if (version < 1) return 0;
  ruleset->files = files_of_version[version < 5 ? version - 1 : 4];
  ruleset->network = version >= 4 ? 3 : 0; /* bind and connect over TCP */
  ruleset->scoped = version >= 6 ? 3 : 0;  /* abstract sockets and signals, to processes outside */
  return 1;
}

/* [library]: a readable folder, or NULL. */
static int apply_landlock(const char *library) {
  struct ruleset ruleset;
  if (!deniable(&ruleset)) return 0;
  int rules = syscall(LANDLOCK_CREATE_RULESET, &ruleset, sizeof ruleset, 0);
  if (rules < 0) return 0;
  int done = 1;
  if (library != NULL) {
    struct path_beneath rule = {READ_FILE | READ_DIR, open(library, O_PATH | O_CLOEXEC)};
    done = rule.folder >= 0 && syscall(LANDLOCK_ADD_RULE, rules, PATH_BENEATH, &rule, 0) == 0;
    if (rule.folder >= 0) close(rule.folder);
  }
  done = done && syscall(LANDLOCK_RESTRICT_SELF, rules, 0) == 0;
  close(rules);
  return done;
}

/* ---- which layers the kernel supports ---- */

static int found_layers = -1;

/* Applies a layer in a fork and returns 1 if the fork is then refused what the layer denies. */
static int works(int layer) {
  int status;
  pid_t child = fork();
  if (child < 0) caml_failwith("no process to test the kernel's sandbox layers in");
  if (child == 0) {
    int up = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
             (layer == SECCOMP ? apply_seccomp(&completion_filter) : apply_landlock(NULL));
    int refused = open("/", O_RDONLY | O_DIRECTORY) < 0 && errno == (layer == SECCOMP ? EPERM : EACCES);
    _exit(up && refused ? 0 : 1);
  }
  while (waitpid(child, &status, 0) < 0)
    if (errno != EINTR) caml_failwith("the process that tests the kernel's sandbox layers is lost");
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static int supported_layers(void) {
  if (found_layers < 0) {
    build_filters();
    found_layers = (works(SECCOMP) ? SECCOMP : 0) | (works(LANDLOCK) ? LANDLOCK : 0);
  }
  return found_layers;
}

static void apply_layers(struct filter *filter, const char *library) {
  int wanted = supported_layers();
  /* Ends with its parent, gains no privileges by exec, and cannot be traced by other processes of its user. */
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      prctl(PR_SET_DUMPABLE, 0) != 0)
    layer_failed();
  if ((wanted & LANDLOCK) && !apply_landlock(library)) layer_failed();
  limit(RLIMIT_NPROC, 0, 0);
  if (library == NULL) limit(RLIMIT_NOFILE, 0, 0); /* open descriptors stay usable, new ones are refused */
  if ((wanted & SECCOMP) && !apply_seccomp(filter)) layer_failed();
}

#define COMPILER_FILTER (&compiler_filter)
#define COMPLETION_FILTER (&completion_filter)

#else /* another system: only the limits */

static int supported_layers(void) { return 0; }

static void apply_layers(void *filter, const char *library) {
  (void)filter;
  limit(RLIMIT_NPROC, 0, 0);
  if (library == NULL) limit(RLIMIT_NOFILE, 0, 0);
}

#define COMPILER_FILTER NULL
#define COMPLETION_FILTER NULL

#endif

/* ---- called from OCaml ---- */

value caravan_contain_layers(value unit) {
  (void)unit;
  return Val_int(supported_layers());
}

value caravan_contain_compiler(value library) {
  apply_layers(COMPILER_FILTER, String_val(library));
  return Val_unit;
}

value caravan_contain_completion(value unit) {
  struct itimerval total;
  if (getitimer(ITIMER_VIRTUAL, &total) != 0) layer_failed();
  if (total.it_value.tv_sec != 0 || total.it_value.tv_usec != 0)
    /* For a program that removes the timers: a signal first, which it may ignore, then SIGKILL. */
    limit(RLIMIT_CPU, total.it_value.tv_sec + 1, total.it_value.tv_sec + 2);
  apply_layers(COMPLETION_FILTER, NULL);
  return unit;
}
