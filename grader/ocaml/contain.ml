(* The kernel's walls around the processes that hold a completion.  The system calls are made in contain_stubs.c.

   They hold whatever code runs behind them, so that a hole in the language filter (policy.ml) opens nothing:

   - seccomp: a list of the system calls that may be made; the rest is refused, or ends the process where no honest program
     can have meant it;
   - landlock: no file, no TCP port and, from Linux 6.12 on, no signal to a process outside;
   - limits: no new descriptor, no new process, and CPU seconds behind the timers.

   Nothing puts them down again: they last until the process ends. *)

external stand : unit -> int = "caravan_contain_stand"
external wall_in_compiler : string -> unit = "caravan_contain_compiler"
external wall_in_completion : unit -> unit = "caravan_contain_completion"

(* How a process ends when a wall that [describe] promised cannot be put up: the machine's failure, not the completion's,
   which has not run yet. *)
let fallen_status = 113

(* Those of "seccomp" and "landlock" that the kernel gives, found out by putting them up in a fork.  The limits always
   stand. *)
let describe () =
  let found = stand () in
  List.filter_map (fun (bit, name) -> if found land bit <> 0 then Some name else None) [ (1, "seccomp"); (2, "landlock") ]

(* Around a process that compiles completions, for the rest of its life: it may read below [library] and use its open
   descriptors. *)
let compiler ~library = wall_in_compiler library

(* Around a fork that runs one completion: it may compute and use its open descriptors.  Arm ITIMER_VIRTUAL for the whole
   run before: the limit on CPU seconds, which no program can get rid of, follows from what is left on it. *)
let completion () = wall_in_completion ()
