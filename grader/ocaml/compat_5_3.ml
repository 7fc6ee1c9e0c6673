(* Version-dependent functions for OCaml 5.3. *)

include Shared

(* Size in words of a minor heap that holds a job's garbage. *)
let roomy_minor_heap = 1024 * 1024

let filter_loaded_interfaces filter =
  let load = !Persistent_env.Persistent_signature.load in
  let filtered ~allow_hidden ~unit_name =
    let restrict (found : Persistent_env.Persistent_signature.t) =
      let keep sign = { found with cmi = { found.cmi with cmi_sign = sign } } in
      Option.map keep (filter unit_name found.cmi.cmi_sign)
    in
    Option.bind (load ~allow_hidden ~unit_name) restrict
  in
  Persistent_env.Persistent_signature.load := filtered

(* [effect] stays an identifier, as before OCaml 5.3: completions may not handle effects, and older problems may use the
   name for a variable. *)
let initial_environment ~unit_name =
  Clflags.keyword_edition := Some "5.2";
  Compmisc.init_path ();
  let prefix = String.uncapitalize_ascii unit_name in
  Env.set_current_unit (Unit_info.make ~source_file:(prefix ^ ".ml") Unit_info.Impl prefix);
  Compmisc.initial_env ()

let text_of (message : Location.msg) = Format.asprintf "%a" Format_doc.Doc.format message.txt

let lambda pattern body : Parsetree.expression =
  let parameter : Parsetree.function_param =
    { pparam_loc = Location.none; pparam_desc = Pparam_val (Asttypes.Nolabel, None, pattern) }
  in
  Ast_helper.Exp.function_ [ parameter ] None (Pfunction_body body)

let relocation = function
  | Cmo_format.Reloc_literal value -> Literal value
  | Reloc_getcompunit (Compunit name) | Reloc_getpredef (Predef_exn name) -> Get_global name
  | Reloc_setcompunit (Compunit name) -> Set_global name
  | Reloc_primitive name -> Primitive name

let compile ~unit_name structure =
  let instructions, _can_free = Bytegen.compile_phrase (lambda_code ~unit_name structure) in
  let code, relocations, _events = Emitcode.to_memory instructions in
  {
    code = Bytes.init (Bigarray.Array1.dim code) (Bigarray.Array1.get code);
    relocations = List.map (fun (kind, position) -> (relocation kind, position)) relocations;
  }

type global_table = { cnt : int; tbl : int Symtable.Global.Map.t }

let read_image =
  let read sections channel ~add =
    let table : global_table = Bytesections.read_section_struct sections channel SYMB in
    Symtable.Global.Map.iter (fun global slot -> add (Symtable.Global.name global) slot) table.tbl;
    table.cnt
  in
  read_image_with read
