/* Raw system calls by name, for hostile.ml. */

#define _GNU_SOURCE
#include <caml/fail.h>
#include <caml/mlvalues.h>
#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define CALL(name) {#name, __NR_##name}

static const struct {
  const char *name;
  long number;
} calls[] = {
    CALL(openat), CALL(faccessat), CALL(unlinkat), CALL(renameat2), CALL(linkat), CALL(symlinkat), CALL(readlinkat),
    CALL(mkdirat), CALL(mknodat), CALL(fchmodat), CALL(fchownat), CALL(truncate), CALL(utimensat), CALL(chdir),
    CALL(chroot), CALL(mount), CALL(inotify_init1), CALL(memfd_create), CALL(statx), CALL(socket), CALL(socketpair),
    CALL(connect), CALL(sendto), CALL(clone), CALL(execve), CALL(execveat), CALL(kill), CALL(tgkill),
    CALL(rt_sigqueueinfo), CALL(ptrace), CALL(process_vm_readv), CALL(process_vm_writev), CALL(setpriority),
    CALL(prlimit64), CALL(shmget), CALL(msgget), CALL(pipe2), CALL(dup), CALL(fcntl), CALL(ioctl), CALL(unshare),
    CALL(setns), CALL(setuid), CALL(seccomp), CALL(prctl), CALL(personality), CALL(mmap), CALL(mprotect),
    CALL(timer_create), CALL(bpf), CALL(userfaultfd), CALL(perf_event_open), CALL(keyctl),
    CALL(sethostname),
    /* The same numbers on every architecture. */
    {"openat2", 437}, {"clone3", 435}, {"pidfd_open", 434}, {"io_uring_setup", 425},
#ifdef __NR_newfstatat
    CALL(newfstatat),
#else
    {"newfstatat", __NR3264_fstatat},
#endif
    {"x32", 0x40000000 | 39}, /* getpid in the x32 ABI of x86-64; no system call elsewhere */
};

/* Returns an integer argument, or the address of a string or bytes. */
static long argument(value arguments, unsigned index) {
  if (index >= Wosize_val(arguments)) return 0;
  value field = Field(arguments, index);
  return Is_long(field) ? Long_val(field) : (long)String_val(field);
}

value hostile_call(value name, value arguments) {
  for (unsigned i = 0; i < sizeof calls / sizeof calls[0]; i++)
    if (strcmp(calls[i].name, String_val(name)) == 0) {
      long result = syscall(calls[i].number, argument(arguments, 0), argument(arguments, 1), argument(arguments, 2),
                            argument(arguments, 3), argument(arguments, 4), argument(arguments, 5));
      return Val_long(result == -1 ? -errno : result);
    }
  caml_failwith(String_val(name));
}

/* Calls getpid as a 32-bit program does. */
value hostile_call_32_bit(value unit) {
  (void)unit;
#ifdef __x86_64__
  long result = 20;
  __asm__ volatile("int $0x80" : "+a"(result) : : "memory", "cc", "r8", "r9", "r10", "r11");
  return Val_long(result);
#else
  return Val_long(-ENOSYS);
#endif
}
