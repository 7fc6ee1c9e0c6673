(* Raw system calls, as machine code in place of a completion could make them, under the sandbox layers of
   grader/ocaml/contain.ml and without the language filter. Each attempt runs in its own fork.

   usage: hostile LAYERS TARGET [ATTEMPT...]
     LAYERS   none, completion, compiler, or refused: "completion" when landlock cannot be applied any more
     TARGET   a file that the attempts use; the folder "library" next to it contains a file "unit.cmi"
   output: the supported layers; then a line per attempt: its name: worked, refused ERRNO, left STATUS, or killed SIGNAL *)

type argument

external argument : 'a -> argument = "%identity"
external call : string -> argument array -> int = "hostile_call" (* the result, or minus the error number *)
external call_32_bit : unit -> int = "hostile_call_32_bit"

let int (number : int) = argument number
let text (content : string) = argument content
let current_folder = int (-100) (* AT_FDCWD *)
let buffer () = argument (Bytes.make 4096 '\000')
let read_only = 0 and write_only = 1 and create = 0o101 and truncate = 0o1001 and folder = 0o200000

let plain name arguments () = call name arguments

let files target =
  let path = text target and new_path = text (target ^ "-new") and parent = text (Filename.dirname target) in
  [
    ("read_a_file", plain "openat" [| current_folder; path; int read_only |]);
    ("write_a_file", plain "openat" [| current_folder; path; int write_only |]);
    ("truncate_while_opening", plain "openat" [| current_folder; path; int truncate |]);
    ("create_a_file", plain "openat" [| current_folder; new_path; int create; int 0o600 |]);
    ("create_a_nameless_file", plain "openat" [| current_folder; parent; int (0o20200000 lor 2); int 0o600 |]);
    ("list_a_folder", plain "openat" [| current_folder; parent; int folder |]);
    ("open_only_a_path", plain "openat" [| current_folder; path; int 0o10000000; int 0 |]);
    ("open_2", plain "openat2" [| current_folder; path; buffer (); int 24 |]);
    ("read_the_null_device", plain "openat" [| current_folder; text "/dev/null"; int read_only |]);
    ("read_the_password_file", plain "openat" [| current_folder; text "/etc/passwd"; int read_only |]);
    ("look_up_a_file", plain "newfstatat" [| current_folder; path; buffer (); int 0 |]);
    ("statx", plain "statx" [| current_folder; path; int 0; int 0xfff; buffer () |]);
    ("ask_for_access", plain "faccessat" [| current_folder; path; int 0 |]);
    ("remove_a_file", plain "unlinkat" [| current_folder; path; int 0 |]);
    ("rename_a_file", plain "renameat2" [| current_folder; path; current_folder; new_path; int 0 |]);
    ("link_a_file", plain "linkat" [| current_folder; path; current_folder; new_path; int 0 |]);
    ("make_a_symbolic_link", plain "symlinkat" [| path; current_folder; new_path |]);
    ("read_a_symbolic_link", plain "readlinkat" [| current_folder; text "/proc/self/exe"; buffer (); int 4096 |]);
    ("make_a_folder", plain "mkdirat" [| current_folder; new_path; int 0o700 |]);
    ("make_a_device", plain "mknodat" [| current_folder; new_path; int 0o10600; int 0 |]);
    ("change_the_mode", plain "fchmodat" [| current_folder; path; int 0o777 |]);
    ("change_the_owner", plain "fchownat" [| current_folder; path; int (-1); int (-1); int 0 |]);
    ("truncate_a_file", plain "truncate" [| path; int 0 |]);
    ("touch_a_file", plain "utimensat" [| current_folder; path; int 0; int 0 |]);
    ("change_the_folder", plain "chdir" [| parent |]);
    ("change_the_root", plain "chroot" [| parent |]);
    ("mount", plain "mount" [| text "none"; parent; text "tmpfs"; int 0; int 0 |]);
    ("watch_files", plain "inotify_init1" [| int 0 |]);
    ("make_a_file_in_memory", plain "memfd_create" [| text "hidden"; int 0 |]);
  ]

let library target =
  let folder_path = Filename.concat (Filename.dirname target) "library" in
  let unit_path = text (Filename.concat folder_path "unit.cmi") in
  [
    ("read_the_library", plain "openat" [| current_folder; unit_path; int read_only |]);
    ("list_the_library", plain "openat" [| current_folder; text folder_path; int folder |]);
    ("write_the_library", plain "openat" [| current_folder; unit_path; int write_only |]);
    ("add_to_the_library", plain "openat" [| current_folder; text (Filename.concat folder_path "new.cmi"); int create; int 0o600 |]);
    ("leave_the_library", plain "openat" [| current_folder; text (Filename.concat folder_path "../file"); int read_only |]);
  ]

let network () =
  let address = argument (Bytes.of_string ("\002\000\000\022\127\000\000\001" ^ String.make 8 '\000')) in
  [
    ("tcp_socket", plain "socket" [| int 2; int 1; int 0 |]);
    ("udp_socket", plain "socket" [| int 2; int 2; int 0 |]);
    ("unix_socket", plain "socket" [| int 1; int 1; int 0 |]);
    ("netlink_socket", plain "socket" [| int 16; int 3; int 0 |]);
    ("pair_of_sockets", plain "socketpair" [| int 1; int 1; int 0; buffer () |]);
    ("connect", plain "connect" [| int 0; address; int 16 |]);
    ("send", plain "sendto" [| int 0; buffer (); int 16; int 0; address; int 16 |]);
  ]

let processes ~parent =
  let memory = text (Printf.sprintf "/proc/%d/mem" parent) in
  [
    ("fork", plain "clone" [| int 17; int 0; int 0; int 0; int 0 |]);
    ("clone_3", plain "clone3" [| buffer (); int 64 |]);
    ("execute", plain "execve" [| text "/bin/true"; int 0; int 0 |]);
    ("execute_at", plain "execveat" [| current_folder; text "/bin/true"; int 0; int 0; int 0 |]);
    ("signal_the_parent", plain "kill" [| int parent; int 0 |]);
    ("signal_everyone", plain "kill" [| int (-1); int 0 |]);
    ("signal_a_thread_of_the_parent", plain "tgkill" [| int parent; int parent; int 0 |]);
    ("queue_a_signal", plain "rt_sigqueueinfo" [| int parent; int 0; buffer () |]);
    ("open_the_parent_process", plain "pidfd_open" [| int parent; int 0 |]);
    ("trace_the_parent", plain "ptrace" [| int 0x4206; int parent; int 0; int 0 |]);
    ("open_the_parents_memory", plain "openat" [| current_folder; memory; int read_only |]);
    ("read_the_parents_memory", plain "process_vm_readv" [| int parent; int 0; int 0; int 0; int 0; int 0 |]);
    ("write_the_parents_memory", plain "process_vm_writev" [| int parent; int 0; int 0; int 0; int 0; int 0 |]);
    ("slow_the_parent_down", plain "setpriority" [| int 0; int parent; int 19 |]);
    ("limit_the_parent", plain "prlimit64" [| int parent; int 7; int 0; buffer () |]);
    ("share_memory", plain "shmget" [| int 0; int 4096; int 0o1600 |]);
    ("queue_messages", plain "msgget" [| int 0; int 0o1600 |]);
    ("make_a_pipe", plain "pipe2" [| buffer (); int 0 |]);
    ("duplicate_a_descriptor", plain "dup" [| int 0 |]);
    ("change_a_descriptor", plain "fcntl" [| int 0; int 1 |]);
    ("control_a_device", plain "ioctl" [| int 0; int 0x5401; buffer () |]);
  ]

let kernel () =
  [
    ("new_namespaces", plain "unshare" [| int 0x10000000 |]);
    ("other_namespaces", plain "setns" [| int 0; int 0 |]);
    ("become_root", plain "setuid" [| int 0 |]);
    ("raise_a_limit", plain "prlimit64" [| int 0; int 7; buffer (); int 0 |]);
    ("remove_the_filter", plain "seccomp" [| int 0; int 0; int 0 |]);
    ("make_the_process_dumpable", plain "prctl" [| int 4; int 1; int 0; int 0; int 0 |]);
    ("change_the_personality", plain "personality" [| int 0x0400000 |]);
    ("executable_memory", plain "mmap" [| int 0; int 4096; int 7; int 0x22; int (-1); int 0 |]);
    ("make_memory_executable", plain "mprotect" [| int 0; int 0; int 7 |]);
    ("make_a_timer", plain "timer_create" [| int 0; int 0; buffer () |]);
    ("load_a_program_into_the_kernel", plain "bpf" [| int 0; buffer (); int 64 |]);
    ("ring_of_requests", plain "io_uring_setup" [| int 1; buffer () |]);
    ("handle_page_faults", plain "userfaultfd" [| int 1 |]);
    ("count_events", plain "perf_event_open" [| buffer (); int 0; int (-1); int (-1); int 0 |]);
    ("keys", plain "keyctl" [| int 0; int (-3); int 0 |]);
    ("set_the_name_of_the_machine", plain "sethostname" [| text ""; int (-1) |]);
    ("calls_of_a_32_bit_program", call_32_bit);
    ("calls_of_the_x32_abi", plain "x32" [||]);
  ]

(* Returns the best result of ten thousand calls. *)
let many_opens target () =
  let best = ref min_int in
  for _ = 1 to 10_000 do
    best := max !best (call "openat" [| current_folder; text target; int read_only |])
  done;
  !best

(* Removes every timer, ignores every signal and computes for 20 seconds. *)
let outlive_the_timers () =
  List.iter (fun timer -> ignore (Unix.setitimer timer { Unix.it_interval = 0.0; it_value = 0.0 })) Unix.[ ITIMER_VIRTUAL; ITIMER_PROF ];
  List.iter (fun signal -> Sys.set_signal signal Sys.Signal_ignore) Sys.[ sigvtalrm; sigprof; sigxcpu ];
  while Sys.time () < 20.0 do ignore (Sys.opaque_identity 0) done;
  0

let attempts ~target ~parent =
  (("ten_thousand_opens", many_opens target) :: ("outlive_the_timers", outlive_the_timers) :: files target)
  @ library target @ network () @ processes ~parent @ kernel ()

let apply target = function
  | "none" -> ()
  | "completion" ->
      ignore (Unix.setitimer ITIMER_VIRTUAL { it_interval = 0.0; it_value = 0.5 });
      Contain.completion ()
  | "refused" ->
      if call "prlimit64" [| int 0; int 7; buffer (); int 0 |] < 0 then failwith "no limit can be set";
      Contain.completion ()
  | "compiler" -> Contain.compiler ~library:(Filename.concat (Filename.dirname target) "library")
  | layers -> failwith layers

(* The error number travels in the exit status; 0 is success. *)
let outcome layers target attempt =
  match Unix.fork () with
  | 0 ->
      apply target layers;
      let result = attempt () in
      Unix._exit (if result >= 0 then 0 else if -result < Contain.layer_failed_status then -result else 112)
  | child -> (
      match snd (Unix.waitpid [] child) with
      | WEXITED 0 -> "worked"
      | WEXITED status when status >= Contain.layer_failed_status -> Printf.sprintf "left %d" status
      | WEXITED error -> Printf.sprintf "refused %d" error
      | WSIGNALED signal -> Printf.sprintf "killed %d" signal
      | WSTOPPED _ -> "stopped")

let () =
  print_endline (String.concat " " (Contain.describe ()));
  let layers = Sys.argv.(1) and target = Sys.argv.(2) and parent = Unix.getpid () in
  let selected = Array.to_list (Array.sub Sys.argv 3 (Array.length Sys.argv - 3)) in
  let try_attempt (name, attempt) =
    if selected = [] || List.mem name selected then Printf.printf "%s: %s\n%!" name (outcome layers target attempt)
  in
  List.iter try_attempt (attempts ~target ~parent)
