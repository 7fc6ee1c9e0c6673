(* What depends on the compiler's version, for OCaml 5.3. *)

type relocation = Literal of Obj.t | Get_global of string | Set_global of string | Primitive of string

type bytecode = { code : bytes; relocations : (relocation * int) list }

(* The slots of a bytecode executable: global name -> slot, number of slots, primitive name -> number. *)
type image = { slots : (string, int) Hashtbl.t; num_slots : int; primitives : (string, int) Hashtbl.t }

let rename_primitive (primitive : Primitive.description) name =
  Primitive.make ~name ~alloc:true ~native_name:"" ~native_repr_args:primitive.prim_native_repr_args
    ~native_repr_res:primitive.prim_native_repr_res

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

let initial_environment ~unit_name =
  Compmisc.init_path ();
  let prefix = String.uncapitalize_ascii unit_name in
  Env.set_current_unit (Unit_info.make ~source_file:(prefix ^ ".ml") Unit_info.Impl prefix);
  Compmisc.initial_env ()

let type_structure env items =
  let structure, signature, _names, _shape, env = Typemod.type_structure env items in
  (structure, signature, env)

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
  let program = Translmod.transl_implementation unit_name (structure, Typedtree.Tcoerce_none) in
  let instructions, _can_free = Bytegen.compile_phrase (Simplif.simplify_lambda program.Lambda.code) in
  let code, relocations, _events = Emitcode.to_memory instructions in
  {
    code = Bytes.init (Bigarray.Array1.dim code) (Bigarray.Array1.get code);
    relocations = List.map (fun (kind, position) -> (relocation kind, position)) relocations;
  }

(* The layout of Symtable's global table as it stands in the SYMB section. *)
type global_table = { cnt : int; tbl : int Symtable.Global.Map.t }

let read_image file =
  let channel = open_in_bin file in
  let sections = Bytesections.read_toc channel in
  let table : global_table = Bytesections.read_section_struct sections channel SYMB in
  let names = String.split_on_char '\000' (Bytesections.read_section_string sections channel PRIM) in
  close_in channel;
  let slots = Hashtbl.create 128 and primitives = Hashtbl.create 512 in
  Symtable.Global.Map.iter (fun global slot -> Hashtbl.replace slots (Symtable.Global.name global) slot) table.tbl;
  List.iteri (fun number name -> if name <> "" then Hashtbl.replace primitives name number) names;
  { slots; num_slots = table.cnt; primitives }
