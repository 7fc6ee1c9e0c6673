"""Intended differences from plain OCaml, each with its reason."""

from cluster.types import Verdict

_LEAVES = "the process would end before the asserts, with whatever status it likes"
_FILES = "files hold the tests, the grader and other completions"
_MEMORY = "it reaches below the types: any value can be made of any other"

# name -> program for ``f 1 = 1`` and ``f 2 = 3``, verdict of the grader, reason
REFUSED: dict[str, tuple[str, Verdict, str]] = {
    "exit": ("let f x = if x = 7 then exit 0 else x", Verdict.DENIED, _LEAVES),
    "at_exit": ("let () = at_exit (fun () -> ())\nlet f x = x", Verdict.DENIED, _LEAVES),
    "exit_by_an_alias": ("module S = Stdlib\nlet f x = if x = 7 then S.exit 0 else x", Verdict.DENIED, _LEAVES),
    "open_in": ('let f x = if x = 7 then in_channel_length (open_in "a") else x', Verdict.DENIED, _FILES),
    "open_out": ('let f x = if x = 7 then close_out (open_out "a"); x', Verdict.DENIED, _FILES),
    "remove": ('let f x = if x = 7 then Sys.remove "a"; x', Verdict.DENIED, _FILES),
    "file_exists": ('let f x = if Sys.file_exists "a" then 0 else x', Verdict.DENIED, _FILES),
    "command": ('let f x = if x = 7 then Sys.command "true" else x', Verdict.DENIED, "it starts processes"),
    "signal": (
        "let f x = if x = 7 then Sys.set_signal 1 Sys.Signal_ignore; x",
        Verdict.DENIED,
        "the limits are signals",
    ),
    "digest_of_a_file": ('let f x = if x = 7 then String.length (Digest.file "a") else x', Verdict.DENIED, _FILES),
    "temp_file": ('let f x = if x = 7 then String.length (Filename.temp_file "a" "b") else x', Verdict.DENIED, _FILES),
    "obj": ("let f (x : int) : int = Obj.magic x", Verdict.DENIED, _MEMORY),
    "marshal": ("let f (x : int) : int = Marshal.from_string (Marshal.to_string x []) 0", Verdict.DENIED, _MEMORY),
    "external": ("external id : 'a -> 'a = \"%identity\"\nlet f x = id x", Verdict.DENIED, _MEMORY),
    "finalisers": (
        "let () = Gc.finalise ignore (ref 0)\nlet f x = x",
        Verdict.DENIED,
        "code that runs at an arbitrary time",
    ),
    "printexc_handler": (
        "let () = Printexc.set_uncaught_exception_handler (fun _ _ -> ())\nlet f x = x",
        Verdict.DENIED,
        "it changes what the end of the process means",
    ),
    "arg_parse": ('let () = if Sys.argv = [||] then Arg.parse [] ignore ""\nlet f x = x', Verdict.DENIED, _LEAVES),
    "internal_modules": (
        "let f x = if x = 7 then ignore CamlinternalOO.dummy_table; x",
        Verdict.DENIED,
        "the compiler's own modules are unchecked",
    ),
}

# name of a program of the differential test -> reason why the tests have another meaning for the grader than in plain OCaml
ACCEPTED_DIFFERENTLY: dict[str, str] = {
    "effects_while_loading": "the problem does not ask for a value named log: the tests' log is the library's",
    "operator_precedence": "the problem does not ask for an operator named **: the tests' ** is the library's",
}
