(* Kernel sandbox layers around the processes that hold a completion.  The system calls are made in contain_stubs.c.

   They apply to any code in the process, so that a hole in the language filter (policy.ml) opens nothing:

   - seccomp: an allow list of system calls; others are refused, or end the process if no honest program needs them;
   - landlock: no file, no TCP port and, from Linux 6.12 on, no signal to a process outside;
   - limits: no new descriptor, no new process, and a limit on CPU seconds behind the timers.

   They cannot be removed: they last until the process ends. *)

external layers : unit -> int = "caravan_contain_layers"
external sandbox_compiler : string -> unit = "caravan_contain_compiler"
external sandbox_completion : unit -> unit = "caravan_contain_completion"

(* Exit status if a layer that [describe] reported cannot be applied: the machine failed, before the completion ran. *)
let layer_failed_status = 113

(* Which of "seccomp" and "landlock" the kernel supports, found by applying them in a fork.  The limits always work. *)
let describe () =
  let found = layers () in
  List.filter_map (fun (bit, name) -> if found land bit <> 0 then Some name else None) [ (1, "seccomp"); (2, "landlock") ]

(* Sandboxes a process that compiles completions, for the rest of its life: it may read below [library] and use its open
   descriptors. *)
let compiler ~library = sandbox_compiler library

(* Sandboxes a fork that runs one completion: it may compute and use its open descriptors.  Arm ITIMER_VIRTUAL for the whole
   run first: the limit on CPU seconds, which no program can remove, is derived from its remaining time. *)
let completion () = sandbox_completion ()
