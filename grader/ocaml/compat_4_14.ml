(* Version-dependent functions for OCaml 4.14. *)

include Shared

let type_structure env items =
  let structure, signature, _names, _shape, env = Typemod.type_structure env items in
  (structure, signature, env)

let level_of = Types.get_level
let desc_of = Types.get_desc
