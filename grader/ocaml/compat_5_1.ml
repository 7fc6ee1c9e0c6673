(* Version-dependent functions for OCaml 5.1. *)

include Shared

(* Size in words of a minor heap for a job's garbage; 5.1 reserves address space for 128 of them, and this cannot be
   configured. *)
let roomy_minor_heap = 256 * 1024

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

let text_of (message : Location.msg) = Format.asprintf "%t" message.txt
let lambda pattern body = Ast_helper.Exp.fun_ Asttypes.Nolabel None pattern body

let relocation = function
  | Cmo_format.Reloc_literal value -> Literal value
  | Reloc_getglobal id -> Get_global (Ident.name id)
  | Reloc_setglobal id -> Set_global (Ident.name id)
  | Reloc_primitive name -> Primitive name

let compile ~unit_name structure =
  let init, functions = Bytegen.compile_phrase (lambda_code ~unit_name structure) in
  let code, relocations, _events = Emitcode.to_memory init functions in
  { code = code.(0); relocations = List.map (fun (kind, position) -> (relocation kind, position)) relocations }

type global_table = { cnt : int; tbl : int Ident.Map.t }

let read_image =
  let read sections channel ~add =
    let table : global_table = Bytesections.read_section_struct sections channel SYMB in
    Ident.Map.iter (fun id slot -> add (Ident.name id) slot) table.tbl;
    table.cnt
  in
  read_image_with read
