(* One process type-checks many programs: what one leaves behind in the compiler's global state is undone before the next,
   so that a program gets the same grade whatever was graded before it. *)

let fresh work =
  let types = Btype.snapshot () and restore_levels = Compat.saved_levels () and warnings = Warnings.backup () in
  let clean () =
    Btype.backtrack types;
    restore_levels ();
    Warnings.restore warnings;
    Compat.reset_type_variables ();
    Typecore.reset_delayed_checks ();
    (* The typed trees of everything that was ever checked, kept for .cmt files. *)
    Cmt_format.clear ();
    Env.reset_required_globals ()
  in
  Fun.protect ~finally:clean work
