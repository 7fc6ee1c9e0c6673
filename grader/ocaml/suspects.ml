(* The cuts that could repair an error: at its place, and at whatever gave it the expected type. *)

open Parsetree
open Places
open Holes

let is_word name = name <> "" && match name.[0] with 'a' .. 'z' | 'A' .. 'Z' | '_' -> true | _ -> false

let reads_its_argument (f : expression) =
  match f.pexp_desc with
  | Pexp_ident { txt = Lident "!" | Ldot (Lident ("Array" | "String"), "get"); _ } -> true
  | _ -> false

(* The variable whose type determines an expression's. *)
let rec head_name (e : expression) =
  match e.pexp_desc with
  | Pexp_ident { txt = Lident name; _ } when is_word name -> [ name ]
  | Pexp_apply (f, (_, inner) :: _) when reads_its_argument f -> head_name inner
  | Pexp_apply (inner, _) | Pexp_constraint (inner, _) | Pexp_field (inner, _) -> head_name inner
  | _ -> []

let upto limit list = List.filteri (fun index _ -> index < limit) list
let loosen list = List.map (fun e -> Loosen e) list
let any_types list = List.map (fun t -> Any_type t) list
let without node list = List.filter (fun other -> other != node) list

let rec pattern_types pattern =
  match pattern.ppat_desc with
  | Ppat_constraint (_, t) -> [ Any_type t ]
  | Ppat_alias (inner, _) -> pattern_types inner
  | _ -> []

let annotations binding = pattern_types binding.pvb_pat @ any_types (below_binding binding).types
let is_cons place =
  match place.node with Expr { pexp_desc = Pexp_construct ({ txt = Lident "::"; _ }, _); _ } -> true | _ -> false

(* The ancestors that share an expression's type, as long as its value is their value. *)
let rec expecting child above =
  match above with
  | { node = Expr parent; _ } :: rest -> of_parent child parent rest
  | _ -> []

and of_parent child parent rest =
  let up more = more @ expecting parent rest in
  let siblings list = loosen (upto 4 (without child list)) in
  let { pats; types; cases; _ } = below parent in
  match parent.pexp_desc with
  | Pexp_apply (f, arguments) -> if f == child then [] else Loosen f :: siblings (List.map snd arguments)
  | Pexp_ifthenelse (condition, _, _) when condition == child -> []
  | Pexp_ifthenelse (_, yes, Some no) when no == child -> up [ Loosen yes ]
  | Pexp_constraint (_, t) -> up [ Any_type t ]
  | Pexp_tuple parts -> up (match rest with above :: _ when is_cons above -> siblings parts | _ -> [])
  | Pexp_array parts -> up (siblings parts)
  | Pexp_let (_, bindings, body) when body != child ->
      List.concat_map annotations (List.filter (fun binding -> binding.pvb_expr == child) bindings)
  | _ when cases <> [] ->
      let bodies = List.map (fun case -> case.pc_rhs) cases in
      if List.memq child bodies then up (siblings bodies @ any_types types) else []
  | _ when pats <> [] -> up (any_types types)
  | Pexp_ifthenelse _ | Pexp_construct _ | Pexp_sequence _ | Pexp_letmodule _ | Pexp_open _ | Pexp_newtype _
  | Pexp_record _ | Pexp_let _ ->
      up []
  | _ -> []

(* Type annotations of the item's own bindings. *)
let of_item item (place : place) =
  let covers { pvb_loc = { loc_start; loc_end; _ }; _ } =
    loc_start.pos_cnum <= place.start && place.stop <= loc_end.pos_cnum
  in
  match item.pstr_desc with
  | Pstr_value (_, bindings) -> List.concat_map annotations (List.filter covers bindings)
  | _ -> []

(* The places that may have determined a variable's type: its definition, its annotation, its other uses. *)
let origins places (here : place) name =
  let definition other =
    match other.node with
    | Expr { pexp_desc = Pexp_let (_, bindings, _); _ } ->
        let binds binding = List.mem name (variables binding.pvb_pat) in
        List.map (fun binding -> Loosen binding.pvb_expr) (List.filter binds bindings)
    | Pat { ppat_desc = Ppat_constraint (inner, t); _ } when List.mem name (variables inner) -> [ Any_type t ]
    | _ -> []
  in
  let use other =
    match (other.node, other.above) with
    | Expr ({ pexp_desc = Pexp_ident { txt = Lident used; _ }; _ } as e), above when used = name && other != here -> (
        match above with
        | { node = Expr { pexp_desc = Pexp_apply (f, _); _ }; _ } :: _ when f != e -> [ Loosen e; Loosen f ]
        | { node = Expr ({ pexp_desc = Pexp_apply _; _ } as call); _ } :: _ -> [ Loosen e; Loosen call ]
        | _ -> [ Loosen e ])
    | _ -> []
  in
  List.concat_map definition places @ upto 12 (List.concat_map use places)

(* The whole or-pattern: its sides bind the same names and are cut together. *)
let whole_or_pattern (p : pattern) above =
  let is_or (p : pattern) = match p.ppat_desc with Ppat_or _ -> true | _ -> false in
  let rec outermost found = function
    | { node = Pat parent; _ } :: rest -> outermost (if is_or parent then Some parent else found) rest
    | _ -> found
  in
  outermost (if is_or p then Some p else None) above

let rec around = function { node = Pat _; _ } :: rest -> around rest | { node = Expr e; _ } :: _ -> Some e | _ -> None
let nowhere = { node = Declaration; start = 0; stop = 0; above = [] }

let of_pattern ~clash places p above =
  let own =
    match whole_or_pattern p above with
    | Some whole -> [ Any_pattern whole ]
    | None when clash -> [ Loosen_pattern p; Any_pattern p ]
    | None -> [ Any_pattern p ]
  in
  let context parent =
    let { cases; types; _ } = below parent in
    let others = List.filter (fun other -> not (inside p other)) (List.map (fun case -> case.pc_lhs) cases) in
    let matched =
      match parent.pexp_desc with
      | Pexp_match (scrutinee, _) -> [ scrutinee ]
      | Pexp_let (_, bindings, _) ->
          List.map (fun b -> b.pvb_expr) (List.filter (fun binding -> inside p binding.pvb_pat) bindings)
      | _ -> []
    in
    loosen matched
    @ List.map (fun other -> Loosen_pattern other) (upto 4 others)
    @ any_types types
    @ List.concat_map (origins places nowhere) (List.concat_map head_name matched)
  in
  own @ Option.fold ~none:[] ~some:context (around above)

(* Variables that determine an expression's type and the expected one. *)
let names_of e place =
  let parent_head =
    match place.above with { node = Expr { pexp_desc = Pexp_apply (f, _); _ }; _ } :: _ -> head_name f | _ -> []
  in
  List.sort_uniq compare (head_name e @ parent_head)

let of_expression ~helpers item places place e =
  let names = names_of e place in
  let own =
    match e.pexp_desc with
    | Pexp_apply (f, _) -> [ Loosen e; Dissolve e; Loosen f ]
    | _ when can_dissolve e -> [ Loosen e; Dissolve e ]
    | _ -> [ Loosen e ]
  in
  own @ expecting e place.above @ of_item item place
  @ List.concat_map (origins places place) names
  @ List.filter_map (fun name -> if List.mem name helpers then Some (Assume name) else None) names

let of_type t above =
  let declared = List.exists (fun { node; _ } -> match node with Declaration -> true | _ -> false) above in
  if declared then [ Opaque_type t; Any_type t ] else [ Any_type t; Opaque_type t ]

let rec distinct = function
  | [] -> []
  | cut :: rest -> cut :: distinct (List.filter (fun other -> not (same cut other)) rest)

let max_suspects = 24

(* Most likely first; [helpers] are values defined by earlier items, [clash] means that the node is well-typed itself but
   does not fit. *)
let of_place ~helpers ~clash item places place =
  let suspects =
    match place.node with
    | Expr e -> of_expression ~helpers item places place e
    | Pat p -> of_pattern ~clash places p place.above
    | Type t -> of_type t place.above
    | Declaration -> []
  in
  upto max_suspects (distinct suspects)

(* Definitions of an item's variables. *)
let definitions places =
  let definition place =
    match place.node with
    | Expr { pexp_desc = Pexp_let (_, bindings, _); _ } -> List.map (fun binding -> Loosen binding.pvb_expr) bindings
    | Pat { ppat_desc = Ppat_constraint (_, t); _ } -> [ Any_type t ]
    | _ -> []
  in
  List.concat_map definition places

(* Any expression or annotation, the nearest first. *)
let everywhere places (here : place) =
  let distance place = abs (place.start - here.start) in
  let nearest = List.stable_sort (fun a b -> compare (distance a) (distance b)) places in
  let cut place =
    match place.node with
    | Expr e -> Some (Loosen e)
    | Type t -> Some (Any_type t)
    | Pat ({ ppat_desc = Ppat_var _ | Ppat_any; _ }) | Declaration -> None
    | Pat p -> if whole_or_pattern p place.above = None then Some (Loosen_pattern p) else None
  in
  List.filter_map cut nearest

(* True if a cut may be tried together with others: one that never type-checks alone would make all of them fail. *)
let joins item places =
  let exprs = List.filter_map (fun place -> match place.node with Expr e -> Some e | _ -> None) places in
  let values bindings = List.map (fun binding -> binding.pvb_expr) bindings in
  let fixed e =
    match e.pexp_desc with
    | Pexp_let (Recursive, bindings, _) -> values bindings
    | Pexp_construct (_, Some ({ pexp_desc = Pexp_tuple _; _ } as arguments)) -> [ arguments ]
    | _ -> []
  in
  let of_item = match item.pstr_desc with Pstr_value (Recursive, bindings) -> values bindings | _ -> [] in
  let fixed = of_item @ List.concat_map fixed exprs in
  let patterns_of_cases = lazy (List.concat_map (fun e -> List.map (fun c -> c.pc_lhs) (below e).cases) exprs) in
  let is_declaration { node; _ } = match node with Declaration -> true | _ -> false in
  let is_declared t place =
    match place.node with Type other -> other == t && List.exists is_declaration place.above | _ -> false
  in
  function
  | Loosen e -> not (List.memq e fixed)
  (* Elsewhere its variables would be unbound. *)
  | Any_pattern p | Loosen_pattern p -> variables p = [] || List.exists (inside p) (Lazy.force patterns_of_cases)
  | Any_type t -> not (List.exists (is_declared t) places)
  | Forget _ | Dissolve _ | Opaque_type _ | Assume _ | Assume_path _ -> true

(* Cuts that remove more than the error: only if nothing else helps. *)
let last_resorts place =
  let outwards { node; _ } =
    match node with
    | Expr e -> if can_dissolve e then [ Dissolve e; Forget e ] else [ Forget e ]
    | Pat p -> [ Any_pattern p ]
    | Type t -> [ Any_type t; Opaque_type t ]
    | Declaration -> []
  in
  upto 8 (List.concat_map outwards (place :: place.above))
