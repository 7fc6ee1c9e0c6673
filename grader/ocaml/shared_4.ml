(* Version-dependent functions that are the same in OCaml 4.13 and 4.14. *)

include Every_version

let filter_loaded_interfaces filter =
  let load = !Persistent_env.Persistent_signature.load in
  let filtered ~unit_name =
    let restrict (found : Persistent_env.Persistent_signature.t) =
      let keep sign = { found with cmi = { found.cmi with cmi_sign = sign } } in
      Option.map keep (filter unit_name found.cmi.cmi_sign)
    in
    Option.bind (load ~unit_name) restrict
  in
  Persistent_env.Persistent_signature.load := filtered

let initial_environment ~unit_name =
  Compmisc.init_path ();
  Env.set_unit_name unit_name;
  Compmisc.initial_env ()

(* Binds the predefined types and exceptions again, over later bindings of their names. *)
let add_predefined environment =
  fst (Predef.build_initial_env (Env.add_type ~check:false) (Env.add_extension ~check:false ~rebind:false) environment)

let reset_type_variables = Typetexp.reset_type_variables

(* The type checker's levels, which an exception leaves unrestored: returns a function that restores the current ones. *)
let saved_levels () =
  let levels = Ctype.save_levels () in
  fun () -> Ctype.set_levels levels

let text_of (message : Location.msg) = Format.asprintf "%t" message.txt

(* Size in words of a minor heap that holds a job's garbage. *)
let roomy_minor_heap = 1024 * 1024

let lambda pattern body = Ast_helper.Exp.fun_ Asttypes.Nolabel None pattern body

let relocation = function
  | Cmo_format.Reloc_literal constant -> Literal (Symtable.transl_const constant)
  | Reloc_getglobal id -> Get_global (Ident.name id)
  | Reloc_setglobal id -> Set_global (Ident.name id)
  | Reloc_primitive name -> Primitive name

let compile ~unit_name structure =
  let program = Translmod.transl_implementation unit_name (structure, Typedtree.Tcoerce_none) in
  let init, functions = Bytegen.compile_phrase (Simplif.simplify_lambda program.Lambda.code) in
  let code, relocations, _events = Emitcode.to_memory init functions in
  { code = code.(0); relocations = List.map (fun (kind, position) -> (relocation kind, position)) relocations }

(* The layout of Symtable's global table in the SYMB section. *)
type global_table = { cnt : int; tbl : int Ident.Map.t }

let read_image file =
  let channel = open_in_bin file in
  Bytesections.read_toc channel;
  let table : global_table = Bytesections.read_section_struct channel "SYMB" in
  let names = String.split_on_char '\000' (Bytesections.read_section_string channel "PRIM") in
  close_in channel;
  let slots = Hashtbl.create 128 and primitives = Hashtbl.create 512 in
  Ident.Map.iter (fun id slot -> Hashtbl.replace slots (Ident.name id) slot) table.tbl;
  List.iteri (fun number name -> if name <> "" then Hashtbl.replace primitives name number) names;
  { slots; num_slots = table.cnt; primitives }
