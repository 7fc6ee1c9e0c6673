(* What a fork reports, in memory that it shares with its parent: an event costs no system call, wakes nobody, and is there
   however the fork ends.  The functions are in runner_stubs.c; no name that a completion could use leads to them. *)

(* Once, before the first fork. *)
external open_ : unit -> unit = "caravan_report_open"

(* In the fork. *)
external add : string -> unit = "caravan_report_add"

(* In the parent, once the fork has ended; the next report starts empty. *)
external take : unit -> string = "caravan_report_take"
