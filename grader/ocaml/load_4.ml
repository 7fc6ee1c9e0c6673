(* Bytecode in memory -> the function that runs it, for OCaml 4 and 5.1. *)

type bytecode

external reify_bytecode : bytes array -> Obj.t list array -> string option -> bytecode * (unit -> Obj.t)
  = "caml_reify_bytecode"

let start code = snd (reify_bytecode [| code |] [||] None)
