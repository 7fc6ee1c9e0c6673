(* Resets the compiler's global state between programs, since one process type-checks many: a program's grade must not
   depend on the programs before it. *)

let fresh work =
  let types = Btype.snapshot () and restore_levels = Compat.saved_levels () and warnings = Warnings.backup () in
  let clean () =
    Btype.backtrack types;
    restore_levels ();
    Warnings.restore warnings;
    Compat.reset_type_variables ();
    Typecore.reset_delayed_checks ();
    (* Typed trees of everything that was checked, which the compiler keeps for .cmt files. *)
    Cmt_format.clear ();
    Env.reset_required_globals ()
  in
  Fun.protect ~finally:clean work
