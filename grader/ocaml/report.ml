(* The report of a fork, in memory shared with its parent: an event costs no system call, wakes no process, and survives any
   end of the fork.  The functions are in runner_stubs.c; no name that a completion could use leads to them. *)

(* Once, before the first fork. *)
external open_ : unit -> unit = "caravan_report_open"

(* In the fork. *)
external add : string -> unit = "caravan_report_add"

(* In the parent, after the fork has ended; the next report starts empty. *)
external take : unit -> string = "caravan_report_take"
