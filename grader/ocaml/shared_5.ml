(* Version-dependent functions that are the same in OCaml 5.1 and 5.3. *)

include Every_version

(* Binds the predefined types and exceptions again, over later bindings of their names. *)
let add_predefined environment =
  Predef.build_initial_env (Env.add_type ~check:false) (Env.add_extension ~check:false ~rebind:false) environment

let reset_type_variables = Typetexp.TyVarEnv.reset

(* The type checker restores its levels itself on exceptions, except for this one. *)
let saved_levels () = Ctype.reset_global_level

let type_structure env items =
  let structure, signature, _names, _shape, env = Typemod.type_structure env items in
  (structure, signature, env)

let lambda_code ~unit_name structure =
  let program = Translmod.transl_implementation unit_name (structure, Typedtree.Tcoerce_none) in
  Simplif.simplify_lambda program.Lambda.code

(* [read] passes the table of global names to [add] and returns its size; it reads the SYMB section. *)
let read_image_with read file =
  let channel = open_in_bin file in
  let sections = Bytesections.read_toc channel in
  let slots = Hashtbl.create 128 and primitives = Hashtbl.create 512 in
  let num_slots = read sections channel ~add:(Hashtbl.replace slots) in
  let names = String.split_on_char '\000' (Bytesections.read_section_string sections channel PRIM) in
  close_in channel;
  List.iteri (fun number name -> if name <> "" then Hashtbl.replace primitives name number) names;
  { slots; num_slots; primitives }

let level_of = Types.get_level
let desc_of = Types.get_desc
