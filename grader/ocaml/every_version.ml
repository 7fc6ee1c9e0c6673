(* Functions of the compiler's libraries that are the same in every supported version. *)

type relocation = Literal of Obj.t | Get_global of string | Set_global of string | Primitive of string

type bytecode = { code : bytes; relocations : (relocation * int) list }

(* The slots of a bytecode executable: global name -> slot, number of slots, primitive name -> number. *)
type image = { slots : (string, int) Hashtbl.t; num_slots : int; primitives : (string, int) Hashtbl.t }

let rename_primitive (primitive : Primitive.description) name =
  Primitive.make ~name ~alloc:true ~native_name:"" ~native_repr_args:primitive.prim_native_repr_args
    ~native_repr_res:primitive.prim_native_repr_res

let no_structure environment : Typedtree.structure = { str_items = []; str_type = []; str_final_env = environment }
