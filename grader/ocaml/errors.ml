(* All independent type errors of a program that does not type-check.

   The compiler stops at its first error.  Here each item of the structure is typed on its own; if one fails, nodes of it are
   cut (holes.ml) until it type-checks, and the smallest set of cuts are its errors: nodes that are wrong themselves, not nodes
   that disagree with a wrong one. *)

open Parsetree
open Trial

type error = Trial.error = { where : Location.t; message : string; cause : exn }

(* An error as reported, whatever its kind. *)
let of_exn = error_of
let message_of exn = snd (Messages.describe exn)

(* The result of one item. *)
type outcome = {
  item : item;
  cuts : Holes.cut list;  (* empty if it type-checks, or cannot be repaired *)
  counted : error list;
  alternatives : structure option Lazy.t list;  (* its alternative repairs, in full *)
}

type search = {
  budget : budget;
  seen : (string, unit) Hashtbl.t;  (* unbound names already counted *)
  mutable lost_open : bool;  (* an [open] or [include] failed: it may have defined any unbound name *)
  mutable helpers : string list;  (* values that earlier items define *)
  mutable num_counted : int;
  mutable outcomes : outcome list;  (* last first *)
}

let key (kind, lid) = kind ^ " " ^ String.concat "." (Longident.flatten lid)

(* True if an error is neither a repetition nor a consequence of another. *)
let is_new search item error =
  let is_open = match item.tree.pstr_desc with Pstr_open _ -> true | _ -> false in
  match unbound error with
  | _ when is_consequence error -> false
  | None -> true
  | Some name ->
      let known = Hashtbl.mem search.seen (key name) || (search.lost_open && not is_open) in
      Hashtbl.replace search.seen (key name) ();
      not known

(* If an item cannot be repaired, its names become known, with unknown types. *)
let give_up search item =
  let lose kind name = Hashtbl.replace search.seen (key (kind, Longident.Lident name)) () in
  let lose_type (declaration : type_declaration) =
    lose "type" declaration.ptype_name.txt;
    match declaration.ptype_kind with
    | Ptype_variant constructors -> List.iter (fun c -> lose "constructor" c.pcd_name.txt) constructors
    | Ptype_record labels -> List.iter (fun l -> lose "label" l.pld_name.txt) labels
    | Ptype_abstract | Ptype_open -> ()
  in
  let lose_class { pci_name; _ } = List.iter (fun kind -> lose kind pci_name.txt) [ "class"; "type"; "class type" ] in
  (match item.tree.pstr_desc with
  | Pstr_type (_, declarations) -> List.iter lose_type declarations
  | Pstr_open _ | Pstr_include _ -> search.lost_open <- true
  | Pstr_module { pmb_name; _ } -> Option.iter (lose "module") pmb_name.txt
  | Pstr_recmodule bindings -> List.iter (fun { pmb_name; _ } -> Option.iter (lose "module") pmb_name.txt) bindings
  | Pstr_modtype { pmtd_name; _ } -> lose "module type" pmtd_name.txt
  | Pstr_exception { ptyexn_constructor = { pext_name; _ }; _ } -> lose "constructor" pext_name.txt
  | Pstr_typext { ptyext_constructors; _ } ->
      List.iter (fun c -> lose "constructor" c.pext_name.txt) ptyext_constructors
  | Pstr_class classes -> List.iter lose_class classes
  | _ -> ());
  let trees = List.map Holes.assume (Scope.defined_values [ item.tree ]) in
  match type_items item.env trees with Ok after -> (trees, after) | Error _ -> ([], item.env)

let log search item ?(cuts = []) found =
  let alternatives = if cuts = [] then [] else Consequences.alternatives search.budget item cuts found in
  let counted = List.filter (is_new search item) (List.rev (Consequences.primary cuts found)) in
  search.num_counted <- search.num_counted + List.length counted;
  search.outcomes <- { item; cuts; counted; alternatives } :: search.outcomes

(* A module given as a structure: its items, and a function that rebuilds it. *)
let module_items tree =
  let body (m : module_expr) =
    match m.pmod_desc with
    | Pmod_structure items -> Some (items, fun items -> { m with pmod_desc = Pmod_structure items })
    | Pmod_constraint (({ pmod_desc = Pmod_structure items; _ } as inner), t) ->
        let body items = { inner with pmod_desc = Pmod_structure items } in
        Some (items, fun items -> { m with pmod_desc = Pmod_constraint (body items, t) })
    | _ -> None
  in
  match tree.pstr_desc with
  | Pstr_module binding ->
      let around (items, rebuild) =
        (items, fun items -> { tree with pstr_desc = Pstr_module { binding with pmb_expr = rebuild items } })
      in
      Option.map around (body binding.pmb_expr)
  | _ -> None

let rec find_item search env tree =
  let item = item_of ~env ~helpers:search.helpers tree in
  let typed =
    match (type_items env [ tree ], module_items tree) with
    | Ok after, _ -> log search item []; ([ tree ], after)
    | Error error, Some (items, rebuild) -> find_module search item error items rebuild
    | Error error, None -> repair_item search item error
  in
  search.helpers <- Scope.defined_values [ tree ] @ search.helpers;
  typed

and repair_item search item error =
  let repaired = Repair.of_item search.budget item error in
  let count = function Ok { Repair.errors; _ } | Error errors -> cost errors in
  let mentions name = Places.mentions name (Lazy.force item.places) in
  let mentioned earlier = earlier.cuts <> [] && List.exists mentions (Scope.defined_values [ earlier.item.tree ]) in
  let among best alternative =
    let limit = count best - 1 in
    let other = if limit < 0 then None else Lazy.force alternative in
    match Option.bind other (Consequences.under search.budget item ~limit) with Some repair -> Ok repair | None -> best
  in
  let from best outcome = if count best = 0 then best else List.fold_left among best outcome.alternatives in
  match List.fold_left from repaired (List.filter mentioned search.outcomes) with
  | Error errors -> log search item errors; give_up search item
  | Ok { Repair.cuts; errors; trees } -> (
      log search item ~cuts errors;
      match type_items item.env trees with Ok after -> (trees, after) | Error _ -> give_up search item)

(* A module's items one by one, then the module of the repaired items. *)
and find_module search item error items rebuild =
  let before = search.num_counted in
  let tree = rebuild (find_items search item.env items) in
  match type_items item.env [ tree ] with
  | Ok after -> ([ tree ], after)
  | Error outer ->
      if search.num_counted = before then log search item [ error ]
      else if not (is_free outer || Consequences.is_secondary outer) then log search item [ outer ];
      give_up search item

and find_items search env items =
  let each (env, kept) tree =
    if search.num_counted >= max_errors then (env, kept)
    else
      let trees, env = find_item search env tree in
      (env, trees :: kept)
  in
  List.concat (List.rev (snd (List.fold_left each (env, []) items)))

(* A helper that type-checks but that no use agrees with is one error: its first use stands for it. *)
let misuses outcomes =
  let blamed { item; counted; _ } = List.concat_map (Consequences.blamed item) counted in
  let of_helper name =
    let defines { item; _ } = List.mem name (Scope.defined_values [ item.tree ]) in
    let is_user { item; _ } = List.mem name item.helpers && Places.mentions name (Lazy.force item.places) in
    let users = List.filter is_user outcomes in
    let uses = List.fold_left (fun sum { item; _ } -> sum + Places.count name (Lazy.force item.places)) 0 users in
    let blaming { item; counted; _ } =
      List.filter (fun error -> List.mem name (Consequences.blamed item error)) counted
    in
    let errors = List.map blaming users in
    let definitions = List.filter defines outcomes in
    let all_disagree = List.for_all (fun errors -> errors <> []) errors && List.length (List.concat errors) >= uses in
    match (definitions, List.concat errors) with
    | [ { counted = []; _ } ], _ :: (_ :: _ as others) when all_disagree -> others
    | _ -> []
  in
  List.concat_map of_helper (List.sort_uniq compare (List.concat_map blamed outcomes))

let by_place a b = compare a.where.Location.loc_start.pos_cnum b.where.Location.loc_start.pos_cnum

let rec without_repeats = function
  | first :: second :: rest when same_place first second && first.where <> Location.none ->
      without_repeats (first :: rest)
  | first :: rest -> first :: without_repeats rest
  | [] -> []

let find env items ~first =
  let search =
    {
      budget = new_budget ();
      seen = Hashtbl.create 8;
      lost_open = false;
      helpers = [];
      num_counted = 0;
      outcomes = [];
    }
  in
  match find_items search (Holes.extend env) items with
  | (_ : structure) -> (
      let outcomes = List.rev search.outcomes in
      let misuses = misuses outcomes in
      let is_misuse error = List.memq error misuses in
      let counted = List.concat_map (fun { counted; _ } -> counted) outcomes in
      let independent = List.filter (fun error -> not (is_misuse error)) counted in
      match without_repeats (List.stable_sort by_place independent) with
      | [] -> [ of_exn first ]
      | errors -> List.filteri (fun index _ -> index < max_errors) errors)
  (* Stack overflow in the compiler; the syntax tree may be too deep for this module as well. *)
  | exception Stack_overflow -> [ of_exn first ]
