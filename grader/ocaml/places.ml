(* The nodes of a structure item by source location, each with its ancestors. *)

open Parsetree

type node = Expr of expression | Pat of pattern | Type of core_type | Declaration
type place = { node : node; start : int; stop : int; above : place list  (* innermost first *) }

let item_places item =
  let found = ref [] and above = ref [] in
  let default = Ast_iterator.default_iterator in
  let enter node (loc : Location.t) descend =
    let place = { node; start = loc.loc_start.pos_cnum; stop = loc.loc_end.pos_cnum; above = !above } in
    found := place :: !found;
    let outer = !above in
    above := place :: outer;
    descend ();
    above := outer
  in
  let expr it e = enter (Expr e) e.pexp_loc (fun () -> default.expr it e) in
  let pat it p = enter (Pat p) p.ppat_loc (fun () -> default.pat it p) in
  let typ it t = enter (Type t) t.ptyp_loc (fun () -> default.typ it t) in
  let type_declaration it d = enter Declaration d.ptype_loc (fun () -> default.type_declaration it d) in
  let extension_constructor it c = enter Declaration c.pext_loc (fun () -> default.extension_constructor it c) in
  let class_type it c = enter Declaration c.pcty_loc (fun () -> default.class_type it c) in
  let signature it s = enter Declaration Location.none (fun () -> default.signature it s) in
  let attribute _ _ = () in
  let iterator =
    { default with expr; pat; typ; type_declaration; extension_constructor; class_type; signature; attribute }
  in
  iterator.structure_item iterator item;
  List.rev !found

(* The smallest node that covers a location; of equal ones the innermost. *)
let smallest_covering (loc : Location.t) places =
  let start = loc.loc_start.pos_cnum and stop = loc.loc_end.pos_cnum in
  let covers place =
    match place.node with
    | Declaration -> false
    | Expr _ | Pat _ | Type _ -> place.start >= 0 && place.start <= start && stop <= place.stop
  in
  let smaller best place =
    match best with
    | Some smallest when smallest.stop - smallest.start < place.stop - place.start -> best
    | _ -> Some place
  in
  List.fold_left (fun best place -> if covers place then smaller best place else best) None places

let count name places =
  let is_use place =
    match place.node with Expr { pexp_desc = Pexp_ident { txt = Lident used; _ }; _ } -> used = name | _ -> false
  in
  List.length (List.filter is_use places)

let mentions name places = count name places > 0
