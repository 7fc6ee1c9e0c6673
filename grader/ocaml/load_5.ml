(* Bytecode in memory -> the function that runs it, for OCaml 5.3. *)

type code = (char, Bigarray.int8_unsigned_elt, Bigarray.c_layout) Bigarray.Array1.t
type bytecode

external reify_bytecode : code -> Obj.t list array -> string option -> bytecode * (unit -> Obj.t) = "caml_reify_bytecode"

(* The interpreter runs the code in place. *)
let kept : code list ref = ref []

let start bytes =
  let code = Bigarray.Array1.create Bigarray.char Bigarray.c_layout (Bytes.length bytes) in
  Bytes.iteri (Bigarray.Array1.set code) bytes;
  kept := code :: !kept;
  snd (reify_bytecode code [||] None)
