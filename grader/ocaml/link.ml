(* Bytecode of one job -> a blob for the runner, with every global name replaced by its slot there.  The units run in order;
   the runner calls the last value of the last one.  Tests compiled separately refer to the job's unit by the solution's name.
   *)

exception Forbidden_primitive of string

let link (image : Compat.image) ~unit_name units =
  let slots = Hashtbl.create 8 and next = ref image.num_slots and literals = ref [] in
  let new_slot () = incr next; !next - 1 in
  let own_slot name =
    match Hashtbl.find_opt slots name with
    | Some slot -> slot
    | None -> let slot = new_slot () in Hashtbl.replace slots name slot; slot
  in
  let target : Compat.relocation -> int = function
    | Literal value -> let slot = new_slot () in literals := (slot, value) :: !literals; slot
    | Set_global name -> own_slot name
    | Get_global name when name = unit_name || name = Scope.solution -> own_slot unit_name
    | Get_global name -> Hashtbl.find image.slots name
    | Primitive name when Policy.forbidden_primitive name -> raise (Forbidden_primitive name)
    | Primitive name -> Hashtbl.find image.primitives name
  in
  let code (_, (bytecode : Compat.bytecode)) =
    let patch (relocation, position) = Bytes.set_int32_le bytecode.code position (Int32.of_int (target relocation)) in
    List.iter patch bytecode.relocations;
    bytecode.code
  in
  let codes = List.map code units in
  let last_slot = own_slot (fst (List.nth units (List.length units - 1))) in
  Marshal.to_string (codes, !literals, !next, last_slot) []
