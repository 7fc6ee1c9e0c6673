(* Errors that are consequences of other errors, between the items of a program and within one. *)

open Parsetree
open Trial
open Repair

(* Other repairs of an item with as many cuts, that is, other types its definitions may have. *)
let alternatives budget item cuts errors =
  let instead index error =
    let replaced cut = List.mapi (fun at other -> if at = index then cut else other) cuts in
    let passing cut =
      lazy (if exhausted budget then None else Result.to_option (attempt budget item (replaced cut)))
    in
    let anywhere =
      match place_of item error with
      | Some place when List.length cuts = 1 -> Suspects.everywhere (Lazy.force item.places) place
      | _ -> []
    in
    List.map passing (Suspects.distinct (fst (suspects item error) @ anywhere))
  in
  List.concat (List.mapi instead errors)

(* An item that fails only because of how an earlier item was repaired is not an error: it needs a repair of at most [limit]
   cuts with another repair of the earlier item. *)
let under budget item ~limit earlier =
  let snapshot = Btype.snapshot () in
  let with_earlier repair = { repair with trees = earlier @ repair.trees } in
  let result =
    match type_items item.env earlier with
    | Error _ -> None
    | Ok env -> (
        match type_items ~probe:true env [ item.tree ] with
        | Ok _ -> Some { cuts = []; errors = []; trees = earlier @ [ item.tree ] }
        | Error error ->
            Option.map with_earlier (Result.to_option (first_repair ~limit budget (after env item) [] [] error)))
  in
  Btype.backtrack snapshot;
  result

(* Errors that holes may cause: not counted if there are others. *)
let is_secondary error =
  let says = says error in
  says "not allowed as right-hand side of"
  || says "Some type variables are unbound in this type"
  || (says "Signature mismatch" && not (says "required but not provided"))

let primary cuts errors =
  let lost = List.concat_map (function Holes.Any_pattern p | Loosen_pattern p -> Holes.variables p | _ -> []) cuts in
  let is_lost error =
    match unbound error with Some ("value", Lident name) -> List.mem name lost | _ -> false
  in
  let errors = List.filter (fun error -> not (is_lost error)) errors in
  match List.filter (fun error -> not (is_secondary error)) errors with [] -> errors | primary -> primary

(* Helpers of earlier items whose result or parameters may be the cause of an error. *)
let blamed item error =
  match place_of item error with
  | Some { node = Expr { pexp_desc = Pexp_constant _ | Pexp_construct (_, None); _ }; _ } -> []
  | Some ({ node = Expr e; _ } as place) ->
      List.filter (fun name -> List.mem name item.helpers) (Suspects.names_of e place)
  | _ -> []
