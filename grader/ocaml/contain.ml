(* The kernel's walls around the processes that hold a completion. *)

(* Around a process that compiles completions: it may read [library] and talk over its open descriptors. *)
let compiler ~library:(_ : string) = ()

(* Around a process that runs a completion: it may compute, and talk over its open descriptors. *)
let completion () = ()

let describe () : string list = []
