(* Version-dependent functions for OCaml 4.13. *)

include Shared

let type_structure env items =
  let structure, signature, _names, env = Typemod.type_structure env items in
  (structure, signature, env)

let level_of t = (Btype.repr t).Types.level
let desc_of t = (Btype.repr t).Types.desc
